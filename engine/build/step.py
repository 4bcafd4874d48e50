"""What all steps of a build have in common: reports, the cache, and how a changed file system becomes a layer."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.build import instructions as ins
from engine.build.cache import Meaning, StepLayer, next_lineage
from engine.build.plan import Source, StagePlan, shown_text
from engine.build.request import StepResult
from engine.build.solver import Build, Made
from engine.build.state import Layer, StageState
from engine.digest import Digest
from engine.errors import Cancelled, EngineError, NoSpace
from engine.images.unpack import CommittedLayer, commit_layer
from engine.layers.compression import Compression
from engine.linux.files import DIRECTORY, opened
from engine.progress import Message, StepProgress

StateOf = Callable[[int], StageState]
"""Wait for another stage and return its final state."""


@dataclass
class Outcome:
    """How a step ended: `status` `cached` or `done`, the reason of a miss, bytes of its layer."""

    status: str
    reason: str = ""
    size: int = 0
    diff_id: str = ""


class Step(ABC):
    """One instruction of one stage; `carry_out` does what it is for."""

    def __init__(
        self,
        build: Build,
        state_of: StateOf,
        stage: StagePlan,
        position: int,
        instruction: ins.Instruction,
        state: StageState,
    ) -> None:
        self._build = build
        self._services = build.services
        self._state_of = state_of
        self._stage = stage
        self._position = position
        self._instruction = instruction
        self._state = state
        self._id = stage.step_id(position)
        self._text = shown_text(instruction)
        self._began = time.monotonic()

    def run(self) -> None:
        try:
            self._build.clock.check()
            expanded = self._build.expander.instruction(self._instruction, self._state.scope.get)
            outcome = self.carry_out(expanded)
        except Cancelled:
            self._tell("cancelled")
            raise
        except EngineError as error:
            error.context.setdefault("line", self._instruction.line)
            error.context.setdefault("step", self._id)
            self._tell("failed")
            raise
        self._tell(outcome.status, outcome.reason, outcome.size)
        duration = time.monotonic() - self._began
        result = StepResult(
            self._id, self._stage.title, self._text, self._instruction.line, outcome.status, outcome.reason, duration,
            outcome.size, outcome.diff_id,
        )  # fmt: skip
        with self._build.lock:
            self._build.results.append(result)

    def _tell(self, status: str, reason: str = "", size: int = 0) -> None:
        duration = time.monotonic() - self._began
        self._build.report(
            StepProgress(
                self._id,
                status,
                self._stage.title,
                self._text,
                self._instruction.line,
                reason,
                duration,
                "",
                size,
            )
        )

    @abstractmethod
    def carry_out(self, instruction: ins.Instruction) -> Outcome:
        """Change the stage's state as the instruction, its variables replaced, says."""

    def _note(self, text: str) -> None:
        self._build.report(Message(text, "note", self._id))

    # sources ---------------------------------------------------------------------------------------------------

    def _origin(self, source: Source, name: str) -> tuple[Digest | None, str]:
        """Return the layers of a stage or an image, and what messages call it."""
        if source.stage is not None:
            state = self._state_of(source.stage)
            self._began = time.monotonic()  # waiting for others is not the step's own time
            return state.chain, f'stage "{name}"'
        if source.image.lower() == "scratch":
            return None, "scratch"
        return self._build.bases.get(source.image, self._state.platform).image.chain, f"image {name}"

    def _missing_hint(self, path: str) -> str:
        ignore = self._build.context.ignore
        from_context = not (isinstance(self._instruction, ins.Copy) and self._instruction.origin)
        if from_context and ignore is not None and ignore.ignores(path):
            return "it is left out by .dockerignore"
        return "check the path: it is relative to the context" if from_context else ""

    # cache -----------------------------------------------------------------------------------------------------

    def _meaning(self, kind: str, lineage: str, what: dict[str, Any], **more: Any) -> Meaning:
        series = self._build.series
        place = f"{series}|{self._stage.title}|{self._position}" if series else ""
        return Meaning(
            kind, self._text, place, lineage, {**what, "platform": str(self._state.platform)}, **more
        )

    def _uses_cache(self) -> bool:
        request = self._build.request
        left_out = {name.lower() for name in request.no_cache_filter}
        return not request.no_cache and self._stage.title.lower() not in left_out

    def _find(self, key: str) -> StepLayer | None:
        found = self._services.cache.find(key) or self._build.extra_cache.get(key)
        if found is None:
            return None
        if found.chain is not None:
            self._build.lease.add(found.chain, *([found.layer.digest] if found.layer else []))
            if not self._services.snapshots.exists(found.chain):
                return None
        return found

    def _solve(self, meaning: Meaning, text: str, execute: Callable[[], CommittedLayer | None]) -> Outcome:
        """Take the step from the cache, or execute it and remember what it made."""
        key = meaning.key()
        reason = "the cache is not used, as asked for"
        if self._uses_cache():
            found = self._find(key)
            if found is not None:
                return self._take(key, found, text)
            reason = self._services.cache.reason(meaning)
        self._tell("running", reason)
        committed = execute()
        created = self._build.created or _now()
        with self._build.lock:
            self._build.made.append(Made(meaning, committed, created))
        if committed is None:
            self._advance(key, None, text, created)
            return Outcome("done", reason)
        layer = Layer(committed.diff_id, committed.chain, committed.blob, committed.size)
        self._advance(key, layer, text, created)
        self._check_disk()
        return Outcome("done", reason, committed.size, committed.diff_id)

    def _take(self, key: str, found: StepLayer, text: str) -> Outcome:
        with self._build.lock:
            self._build.used.add(key)
        layer = None
        if found.chain is not None and found.layer is not None:
            layer = Layer(Digest(found.diff_id), found.chain, found.layer, found.size)
        self._advance(key, layer, text, self._build.created or found.created)
        return Outcome("cached", "", found.size, found.diff_id)

    def _advance(self, key: str, layer: Layer | None, text: str, created: str) -> None:
        state = self._state
        if layer is not None:
            state.layers.append(layer)
        state.note(text, empty=layer is None, created=created, key=key)
        outcome = StepLayer(layer.chain if layer else None, "", None, 0, "")
        state.lineage = next_lineage(state.lineage, key, outcome)

    def _check_disk(self) -> None:
        limit = self._build.request.limits.disk_bytes
        if not limit:
            return
        with self._build.lock:
            used = sum(made.committed.size for made in self._build.made if made.committed)
        if used + self._build.context.size_bytes > limit:
            raise NoSpace(f"the build takes more than the {limit} bytes of disk that it may use")

    # layers ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _snapshot(self, what: str) -> Iterator[str]:
        """Have a new active snapshot on the stage's file system; it is removed unless it was committed."""
        snapshots = self._services.snapshots
        key = self._build.workspace.name(what)
        snapshots.prepare(key, self._state.chain)
        try:
            yield key
        finally:
            snapshots.remove(key)

    def _commit(
        self, key: str, idmap_start: int = 0, kind: Compression = Compression.GZIP
    ) -> CommittedLayer | None:
        """Make the snapshot a layer; None if it changed nothing."""
        upper = self._services.snapshots.snapshot(key).upper
        with os.scandir(upper) as entries:
            if next(entries, None) is None:
                return None
        return commit_layer(
            self._services.content,
            self._services.snapshots,
            key,
            idmap_start=idmap_start,
            kind=kind,
            lease=self._build.lease,
            check=self._build.clock.check,
        )

    @contextmanager
    def _mounted(self, key: str) -> Iterator[int]:
        """Mount a snapshot as root of the host sees it; give an open descriptor of it."""
        target = self._build.workspace.folder("merged")
        self._services.snapshots.mount(key, target, volatile=True)
        try:
            with opened(os.open(target, DIRECTORY)) as merged:
                yield merged
        finally:
            self._build.unmount(key)
            with suppress(OSError):
                target.rmdir()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

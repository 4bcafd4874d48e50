"""How far running work is, kept with its row: bars and steps are there for who opens a page later, or asks by REST.

The relay reads the operations' own streams (`wf:op:<id>`) beside the nodes' events and writes at most once a second.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import redis

from webapp.builds.models import Build
from webapp.operations.folding import Folded
from webapp.operations.models import Operation, Status
from webapp.realtime.wake import EVENTS, Note, publish
from workers.contracts import names
from workers.contracts.base import BULK, contract_of
from workers.contracts.values import ContractError

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 1.0
LOOK_EVERY_S = 1.0
MAX_FOLLOWED = 200
_FINISHED_STEP = ("done", "cached", "skipped")


@dataclass
class _Followed:
    """One operation: where its stream is read, and what it has said."""

    kind: str
    position: str = "0-0"
    folded: Folded = field(default_factory=Folded)
    message: str = ""
    changed: bool = False
    written_at: float = 0.0

    def take(self, entry: dict[str, Any]) -> None:
        self.folded.take(entry)
        if entry.get("type") == "message":
            if entry.get("stream") == "note":
                self.message = str(entry.get("text", "")).strip()[:200]
            return
        self.changed = True

    def progress(self) -> dict[str, Any]:
        """Return what the operation's row shows."""
        shown: dict[str, Any] = {"message": self.message}
        if self.folded.layers:
            shown["layers"] = {
                key: {name: layer.get(name) for name in ("id", "status", "current", "total")}
                for key, layer in self.folded.layers.items()
            }
        if self.folded.plan or self.folded.steps:
            steps = list(self.folded.steps.values())
            planned = sum(len(stage.get("steps") or []) for stage in self.folded.plan)
            running = [step for step in steps if step.get("status") == "running"]
            shown["steps_total"] = max(planned, len(steps))
            shown["steps_done"] = sum(step.get("status") in _FINISHED_STEP for step in steps)
            shown["step"] = str(running[-1].get("name", ""))[:200] if running else ""
        return shown


class ProgressFeed:
    """The operations whose streams are read. `keys` for XREAD, `take` what came, `flush` what is due."""

    def __init__(self) -> None:
        self._followed: dict[str, _Followed] = {}
        self._next_look = 0.0

    def keys(self) -> dict[str, str]:
        """Return stream keys and positions of the running operations that tell how far they are."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY_S
            self._look()
        return {names.progress_key(key): item.position for key, item in self._followed.items()}

    def _look(self) -> None:
        running = dict(
            Operation.objects.filter(status=Status.RUNNING)
            .order_by("-started_at")
            .values_list("pk", "kind")[:MAX_FOLLOWED]
        )
        for key, kind in running.items():
            if key not in self._followed and _tells(kind):
                self._followed[key] = _Followed(kind)
        for key in [key for key in self._followed if key not in running]:
            self._followed.pop(key)

    def finish(self, operation_id: str, kind: str, connection: redis.Redis) -> None:
        """Take what an operation that has just ended still said, and write it: a quick one was never followed before."""
        if not _tells(kind):
            return
        followed = self._followed.pop(operation_id, None) or _Followed(kind)
        self._followed[operation_id] = followed
        rest: Any = connection.xrange(
            names.progress_key(operation_id), min=f"({followed.position}", count=5000
        )
        self.take(operation_id, rest)
        self._write(operation_id, self._followed.pop(operation_id), final=True)

    def take(self, operation_id: str, entries: list[Any]) -> None:
        """Fold what came on one operation's stream."""
        followed = self._followed.get(operation_id)
        if followed is None:
            return
        for entry_id, fields in entries:
            followed.position = entry_id.decode() if isinstance(entry_id, bytes) else str(entry_id)
            for entry in _entries(fields):
                followed.take(entry)

    def flush(self) -> None:
        """Write what has changed and was not written lately."""
        now = time.monotonic()
        for key, followed in self._followed.items():
            if followed.changed and now - followed.written_at >= WRITE_EVERY_S:
                self._write(key, followed)

    def _write(self, key: str, followed: _Followed, *, final: bool = False) -> None:
        followed.changed, followed.written_at = False, time.monotonic()
        progress = followed.progress()
        Operation.objects.filter(pk=key).update(progress=progress)
        if followed.kind == "build.run" and (followed.folded.plan or followed.folded.steps):
            build = Build.objects.filter(pk=key)
            build.update(plan=followed.folded.plan)
            if not final:  # the result has the last word about steps
                build.update(steps=list(followed.folded.steps.values()))
        if not final:
            told = {
                "type": "operation",
                "action": "progress",
                "subject": key,
                "attributes": {"kind": followed.kind},
            }
            publish([Note(EVENTS, told)])


def _tells(kind: str) -> bool:
    try:
        return contract_of(kind).LANE == BULK or kind == "container.create"
    except ContractError:
        return False


def _entries(fields: dict[Any, Any]) -> list[dict[str, Any]]:
    try:
        entries = json.loads(fields.get(b"p") or fields.get("p") or b"[]")
    except ValueError:
        logger.warning("an operation's progress is no JSON and was dropped")
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

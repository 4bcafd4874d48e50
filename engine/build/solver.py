"""Carrying out a plan: stages at once where they do not wait for each other, each instruction from the cache where it can be.

A stage waits for its base stage before its first instruction, and for another stage only when it copies from it. Commands are
executed up to four at once for each core: one that waits costs nothing, and the kernel shares the cores among those that compute. The
first failure stops all other stages within two seconds.

What a build made is recorded in the cache when it is durable: after success, and after a failure too, so that the
next try begins where this one stopped.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from engine.build.bases import Bases
from engine.build.cache import Meaning, StepLayer
from engine.build.clock import BuildClock
from engine.build.context import BuildContext
from engine.build.expansion import Expander
from engine.build.log import LogBudget
from engine.build.ops.place import Ownership, Placement
from engine.build.plan import BaseKind, BuildPlan, StagePlan, shown_text
from engine.build.request import BuildRequest, StepResult
from engine.build.sandboxes import Sandboxes
from engine.build.services import Services
from engine.build.state import StageState
from engine.build.trees import Tree
from engine.build.workspace import Workspace
from engine.content.leases import Lease
from engine.digest import Digest
from engine.errors import Cancelled, EngineError
from engine.images.unpack import CommittedLayer
from engine.linux.files import DIRECTORY, opened, syncfs
from engine.progress import Reporter, StepProgress

MAX_STAGE_THREADS = 64
STEPS_FOR_A_CORE = 4
_BUSY_S = 5.0


@dataclass
class Made:
    """A step that was executed: its meaning, and its layer whose blob may still be in the making."""

    meaning: Meaning
    committed: CommittedLayer | None
    created: str

    def layer(self) -> StepLayer:
        """Return what the cache keeps; waits for the blob."""
        if self.committed is None:
            return StepLayer(None, "", None, 0, self.created)
        descriptor = self.committed.blob.wait()
        return StepLayer(
            self.committed.chain, self.committed.diff_id, descriptor, self.committed.size, self.created
        )


@dataclass
class Build:
    """Everything that the parts of one running build share."""

    request: BuildRequest
    services: Services
    workspace: Workspace
    plan: BuildPlan
    context: BuildContext
    expander: Expander
    outer: Mapping[str, str]
    bases: Bases
    sandboxes: Sandboxes
    lease: Lease
    clock: BuildClock
    report: Reporter
    budget: LogBudget
    created: str = ""  # a fixed time for everything made (SOURCE_DATE_EPOCH)
    series: str = ""  # what builds of the same thing have in common, for explaining misses
    extra_cache: Mapping[str, StepLayer] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    made: list[Made] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    results: list[StepResult] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    views: dict[Digest, Tree] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        self._staged: Tree | None = None
        self.slots = threading.BoundedSemaphore(STEPS_FOR_A_CORE * cores)

    def tree_of_chain(self, chain: Digest | None, title: str) -> Tree:
        """Show the file system of a stage or an image, read-only, until the build ends."""
        with self.lock:
            if chain is None:
                return Tree(self.workspace.folder("empty"), title, fixed=True)
            if chain not in self.views:
                place = self.workspace.folder("view")
                self.services.snapshots.mount_view(chain, place)
                self.stack.callback(self.services.snapshots.unmount_view, place)
                self.views[chain] = Tree(place, title, fixed=True, chain=chain)
            return self.views[chain]

    def unmount(self, key: str) -> None:
        """Unmount a snapshot. A process that another thread is just starting holds our descriptors until it executes, so
        a busy mount is tried again for a while."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                return self.services.snapshots.unmount(key)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)

    def sync_early(self, folder: Path) -> None:
        """Begin to write a layer's files to the disk, while its archive is still being made."""
        thread = threading.Thread(target=syncfs, args=(folder,), name="sync")
        thread.start()
        self.stack.callback(thread.join)

    def staged_context(self) -> Tree:
        """Return the context as a folder of our own without what is ignored, for mounts that show all of it."""
        tree = self.context.tree
        if tree.fixed:
            return tree
        with self.lock:
            if self._staged is None:
                folder = self.workspace.folder("context", on_disk=True)
                with opened(os.open(folder, DIRECTORY)) as root:
                    placement = Placement(root, Ownership(), self.clock.check)
                    for fact in tree.facts("", "", with_root=False, check=self.clock.check):
                        placement.add(tree, fact, "/" + fact.path)
                placement.write(folder)
                self._staged = Tree(folder, tree.title, keeps_owners=False, fixed=True)
            return self._staged


StageRunner = Callable[[StagePlan, StageState], None]


class Solver:
    """Solves one plan. `steps` carries out the instructions of one stage on its state."""

    def __init__(self, build: Build, steps: StageRunner) -> None:
        self._build = build
        self._steps = steps
        self._futures: dict[int, Future[StageState]] = {}

    def solve(self) -> StageState:
        """Build all planned stages and return the target's state. Raises the first failure."""
        plan = self._build.plan
        if len(plan.stages) == 1:
            return self._stage(plan.stages[plan.target])
        with ThreadPoolExecutor(min(len(plan.stages), MAX_STAGE_THREADS), "build") as pool:
            # by number: a stage only waits for lower ones, which have their threads already
            for index in sorted(plan.stages):
                self._futures[index] = Future()
            running = [
                pool.submit(self._guarded, plan.stages[index], self._futures[index])
                for index in sorted(plan.stages)
            ]
            for job in running:
                job.result()
        failures = [future.exception() for _, future in sorted(self._futures.items())]
        self._raise_first(failures)
        return self._futures[plan.target].result()

    def state_of(self, index: int) -> StageState:
        """Return the final state of a stage, waiting for it."""
        return self._futures[index].result()

    def _guarded(self, stage: StagePlan, future: Future[StageState]) -> None:
        try:
            future.set_result(self._stage(stage))
        except BaseException as error:
            self._build.clock.cancel()
            future.set_exception(error)
        finally:
            self._build.services.db.close()

    def _raise_first(self, failures: list[BaseException | None]) -> None:
        errors = [error for error in failures if error is not None]
        for error in errors:
            if not isinstance(error, Cancelled):
                raise error
        if errors:
            raise errors[0]

    def _stage(self, stage: StagePlan) -> StageState:
        build = self._build
        build.clock.check()
        began = time.monotonic()
        state = self._begin(stage)
        state.ensure_path()
        step = stage.step_id(0)
        build.report(
            StepProgress(
                step,
                "done",
                stage.title,
                shown_text(stage.head),
                stage.head.line,
                "",
                time.monotonic() - began,
            )
        )
        self._steps(stage, state)
        return state

    def _begin(self, stage: StagePlan) -> StageState:
        if stage.base_kind is BaseKind.STAGE and stage.base_stage is not None:
            state = self._futures[stage.base_stage].result().fork()
            state.platform = stage.platform
            return state
        if stage.base_kind is BaseKind.IMAGE:
            try:
                base = self._build.bases.get(stage.base, stage.platform)
            except EngineError as error:
                error.context.setdefault("line", stage.head.line)
                raise
            return StageState.of_image(base.image.config, base.layers())
        return StageState(stage.platform)

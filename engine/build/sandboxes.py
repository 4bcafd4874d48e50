"""User and network namespaces for the steps of one build, made when first needed and used again by its later steps.

Each has a range of ids of its own; no two steps that run at once share one. A network namespace is owned by its user namespace
and joined to the default network, so a step reaches out like a container and is reached by nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from engine.build.workspace import Workspace
from engine.config import EngineConfig
from engine.db import Database
from engine.linux.userns import RANGE_SIZE, IdMap, RangeAllocator, make_userns, open_idmap, unpin
from engine.network.manager import NetworkManager

NETWORK = "bridge"


@dataclass(frozen=True)
class Sandbox:
    """Namespaces for one step at a time; `netns` None when it has no way out."""

    idmap: IdMap
    netns: Path | None


class Sandboxes:
    """The sandboxes of one build; use as a context manager."""

    def __init__(
        self, config: EngineConfig, db: Database, network: NetworkManager, workspace: Workspace
    ) -> None:
        self._network = network
        self._workspace = workspace
        self._ranges = RangeAllocator(db, config)
        self._stack = ExitStack()
        self._free: dict[bool, list[Sandbox]] = {True: [], False: []}
        self._lock = threading.Lock()

    def __enter__(self) -> Sandboxes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def borrow(self, *, networked: bool) -> Iterator[Sandbox]:
        """Have a sandbox for the time of the block."""
        with self._lock:
            sandbox = self._free[networked].pop() if self._free[networked] else None
        if sandbox is None:
            sandbox = self._make(networked)
        try:
            yield sandbox
        finally:
            with self._lock:
                self._free[networked].append(sandbox)

    def _make(self, networked: bool) -> Sandbox:
        owner = self._workspace.name("sandbox")
        folder = self._workspace.folder("sandbox")
        with ExitStack() as undo:
            start = self._ranges.allocate(owner)
            undo.callback(self._ranges.release, owner)
            pin, netns = folder / "user", folder / "net" if networked else None
            make_userns(start, RANGE_SIZE, pin, netns=netns)
            undo.callback(unpin, pin)
            if netns is not None:
                undo.callback(unpin, netns)
                undo.callback(self._network.release, owner)
                endpoint = self._network.allocate(NETWORK, owner)
                self._network.attach(netns, owner, endpoint)
            sandbox = Sandbox(undo.enter_context(open_idmap(start, pin)), netns)
            kept = undo.pop_all()
        with self._lock:
            self._stack.push(kept.__exit__)
        return sandbox

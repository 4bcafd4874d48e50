"""What one running build has on the host, and the removal of what a killed one left.

`RUN/builds/<id>` (tmpfs: mount points, secrets, namespaces) holds the file `owner`, locked while the build's process lives; the kernel lets go
of it whatever kills the process. `DATA/builds/<id>` lies on the disk of the layers: the unpacked context, downloads. Everything
else that a build makes carries its id in its name: snapshots (`build-<id>-...`), ranges of ids, addresses on the network. So the
sweeper finds it all, for builds whose lock nobody holds.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from engine.config import EngineConfig
from engine.db import Database
from engine.errors import AlreadyExists, EngineError, InvalidInput
from engine.linux.files import remove_tree, space_translated
from engine.linux.inode_flags import spread_children
from engine.linux.locks import file_lock, is_locked
from engine.linux.mount import LinuxMounts, unmount_below
from engine.linux.userns import RangeAllocator
from engine.network.manager import NetworkManager
from engine.runtime.step import StepRunner
from engine.snapshots.overlay import OverlaySnapshotter

logger = logging.getLogger(__name__)

_TRASH = ".trash-"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}\Z")


class Workspace:
    """The folders of one build; use as a context manager. `run` is on a tmpfs, `data` on the disk of the layers."""

    def __init__(self, config: EngineConfig, build_id: str = "") -> None:
        self.id = build_id or secrets.token_hex(8)
        if not _ID.match(self.id):
            raise InvalidInput(f"not an id of a build: {self.id[:80]!r}")
        self.run = _run_folder(config) / self.id
        self.data = _data_folder(config) / self.id
        self._guard = config.run_root / "builds.lock"
        self._stack = ExitStack()
        self._count = 0
        self._counter = threading.Lock()

    def __enter__(self) -> Workspace:
        with self._stack, file_lock(self._guard), space_translated("a build's folders"):
            if is_locked(self.run / "owner"):
                raise AlreadyExists(f"build {self.id} is running already")
            for folder in (self.run, self.data):
                remove_tree(folder)
                self._stack.callback(remove_tree, folder)
                folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if folder == self.data:
                    spread_children(folder.parent)
                folder.mkdir(mode=0o700)
            self._stack.enter_context(file_lock(self.run / "owner"))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stack:
            unmount_below(LinuxMounts(), self.run, detach=True)
            _remove_later(self.data)
            remove_tree(self.run)

    def name(self, what: str) -> str:
        """Return a new name that belongs to this build."""
        with self._counter:
            self._count += 1
            return f"build-{self.id}-{what}-{self._count}"

    def folder(self, what: str, *, on_disk: bool = False) -> Path:
        """Make a new folder and return it."""
        with self._counter:
            self._count += 1
            path = (self.data if on_disk else self.run) / f"{what}-{self._count}"
        path.mkdir(mode=0o700)
        return path


def live_builds(config: EngineConfig) -> list[str]:
    """Return the ids of the builds that run on this node."""
    folder = _run_folder(config)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in found if is_locked(folder / name / "owner")]


def sweep_dead_builds(
    config: EngineConfig,
    db: Database,
    snapshots: OverlaySnapshotter,
    steps: StepRunner,
    network: NetworkManager,
) -> list[str]:
    """End what builds left whose process is gone: processes, mounts, namespaces, addresses, folders. Return their ids.

    Idempotent, and safe beside running builds. The layers that such a build finished stay until the next collection.
    """
    with file_lock(config.run_root / "builds.lock"):
        steps.sweep()
        names = {
            path.name
            for folder in (_run_folder(config), _data_folder(config))
            if folder.is_dir()
            for path in folder.iterdir()
            if not path.name.startswith(_TRASH)
        }
        for trash in _data_folder(config).glob(f"{_TRASH}*"):
            remove_tree(trash)
        dead = sorted(names - set(live_builds(config)))
        for name in dead:
            _clear(config, db, snapshots, network, name)
            logger.info("swept what build %s left", name)
    return dead


def _clear(
    config: EngineConfig, db: Database, snapshots: OverlaySnapshotter, network: NetworkManager, name: str
) -> None:
    prefix = f"build-{name}-"
    run = _run_folder(config) / name
    unmount_below(LinuxMounts(), run, detach=True)
    for info in list(snapshots.walk()):
        if info.kind == "active" and info.name.startswith(prefix):
            snapshots.remove(info.name)
    ranges = RangeAllocator(db, config)
    for owner in ranges.owners():
        if owner.startswith(prefix):
            with suppress(EngineError):
                network.release(owner)
            ranges.release(owner)
    remove_tree(_data_folder(config) / name)
    remove_tree(run)


def _remove_later(folder: Path) -> None:
    """Remove a folder; nobody waits for a large one, which a thread (or else the sweeper) takes away."""
    if not any(folder.iterdir()):
        folder.rmdir()
        return
    trash = folder.with_name(f"{_TRASH}{folder.name}.{secrets.token_hex(4)}")
    folder.rename(trash)
    threading.Thread(target=remove_tree, args=(trash,), name="build-trash").start()


def _run_folder(config: EngineConfig) -> Path:
    return config.run_root / "builds"


def _data_folder(config: EngineConfig) -> Path:
    return config.data_root / "builds"

"""Folders that `RUN --mount=type=cache` keeps between builds.

Each lies under a name made of its id by hashing, so no id leads anywhere. A lock file beside it says who uses it: a `shared` one is used by all at
once, a `locked` one by one step after the other, and a `private` one is given to nobody else: whoever finds it taken gets another
instance of it. They belong to no image and no layer; what is in them may vanish at any time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.build.runmounts import Sharing
from engine.errors import InvalidInput
from engine.linux.files import DIRECTORY, atomic_write, opened, remove_tree
from engine.progress import CancelToken
from engine.snapshots.overlay import tree_usage

_INSTANCES = 64
_POLL_S = 0.1


@dataclass(frozen=True)
class CacheMountInfo:
    """One such folder as it is shown; sizes in bytes, times in seconds since the epoch."""

    id: str
    name: str
    size: int
    used: float
    in_use: bool


class CacheMounts:
    """The cache folders of one node."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def hold(
        self, cache_id: str, sharing: Sharing, *, mode: int, owner: tuple[int, int], cancel: CancelToken
    ) -> Iterator[tuple[Path, bool]]:
        """Give the folder of a cache for the time of the block, and whether it is new."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = hashlib.sha256(cache_id.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        with self._locked(name, sharing, cancel) as instance:
            folder = self._root / instance / "data"
            is_new = not folder.exists()
            if is_new:
                folder.parent.mkdir(exist_ok=True, mode=0o700)
                atomic_write(
                    folder.parent / "about.json", json.dumps({"id": cache_id}).encode(), 0o600, sync=False
                )
                folder.mkdir(mode=0o700)
                os.chown(folder, *owner)
                folder.chmod(mode)
            os.utime(folder.parent)
            yield folder, is_new

    @contextmanager
    def _locked(self, name: str, sharing: Sharing, cancel: CancelToken) -> Iterator[str]:
        wanted = fcntl.LOCK_SH if sharing is Sharing.SHARED else fcntl.LOCK_EX
        instances = _INSTANCES if sharing is Sharing.PRIVATE else 1
        while True:
            for number in range(instances):
                instance = name if number == 0 else f"{name}.{number}"
                fd = os.open(self._root / f"{instance}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                with opened(fd):
                    try:
                        fcntl.flock(fd, wanted | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    yield instance
                    return
            cancel.check()
            cancel.wait(_POLL_S)

    def list(self) -> list[CacheMountInfo]:
        """Return all cache folders, those used last first. Walks their files."""
        found = []
        for about in self._root.glob("*/about.json"):
            folder = about.parent
            usage = tree_usage(folder / "data").size if (folder / "data").is_dir() else 0
            info = json.loads(about.read_text())
            found.append(
                CacheMountInfo(
                    info["id"], folder.name, usage, folder.stat().st_mtime, self._in_use(folder.name)
                )
            )
        return sorted(found, key=lambda item: -item.used)

    def prune(self, *, older_than_s: float = 0.0) -> int:
        """Remove the folders that no step uses and none used for that long; return the bytes freed."""
        freed = 0
        limit = time.time() - older_than_s
        for info in self.list():
            if info.used > limit:
                continue
            fd = os.open(self._root / f"{info.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with opened(fd):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                remove_tree(self._root / info.name)
                freed += info.size
        return freed

    def _in_use(self, name: str) -> bool:
        fd = os.open(self._root / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with opened(fd):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def inner_folder(folder: Path, path: str) -> str:
    """Make the folder `path` inside a cache folder where missing and return it; a link on the way is refused.

    A step may have put links into its cache: following one would show it a place of the host (CVE-2024-9675).
    """
    parts = [part for part in path.split("/") if part and part != "."]
    if ".." in parts:
        raise InvalidInput(f"the source {path[:100]!r} of a cache mount leads out of it")
    fd = os.open(folder, DIRECTORY)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            try:
                inner = os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise InvalidInput(
                        f"the source {path[:100]!r} of a cache mount is not a folder"
                    ) from error
                raise
            os.close(fd)
            fd = inner
    finally:
        os.close(fd)
    return "/".join(parts)

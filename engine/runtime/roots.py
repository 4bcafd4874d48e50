"""Where the roots of containers are mounted: folders that only the container's own mapped root may pass through.

A runtime changes into the container's user namespace and then mounts its root, as an id that owns nothing of ours. So the
way there must be open to just that id: `RUN/roots` (0711, not to be listed) holds a folder for each container, 0700 and owned
by the first id of its range. Nobody else on the host gets in, not even knowing the name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.config import EngineConfig
from engine.linux.mount import LinuxMounts, Mounts, unmount_below


class Roots:
    """The folders of all roots of this engine."""

    def __init__(self, config: EngineConfig, mounts: Mounts | None = None) -> None:
        self._run_root = config.run_root
        self._base = config.run_root / "roots"
        self._mounts = mounts or LinuxMounts()

    def folder(self, name: str) -> Path:
        """Return the container's folder; files beside `rootfs` in it can be read by the container's root."""
        return self._base / name

    def rootfs(self, name: str) -> Path:
        """Return where the root is mounted."""
        return self._base / name / "rootfs"

    def make(self, name: str, owner: int) -> Path:
        """Make the folders for a container whose root is the host id `owner`; return the mount point. Idempotent."""
        self._base.mkdir(exist_ok=True, mode=0o711)
        for place in (self.folder(name), self.rootfs(name)):
            place.mkdir(exist_ok=True, mode=0o700)
        os.chown(self.folder(name), owner, owner)
        return self.rootfs(name)

    def remove(self, name: str) -> None:
        """Unmount what is mounted there and remove the folder. Idempotent.

        Never lazily, which would hide that somebody still uses it (`OSError`); and nothing is removed recursively: a
        mount that is still there, against all expectation, must not be emptied.
        """
        folder = self.folder(name)
        with suppress(FileNotFoundError):
            for path in list(folder.iterdir()):
                self._mounts.unmount(str(path))
                try:
                    _remove(path)
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                    unmount_below(self._mounts, folder)  # several mounts on one place, or one inside
                    _remove(path)
            folder.rmdir()

    @contextmanager
    def hold(self, name: str, owner: int) -> Iterator[Path]:
        """Have the folders for the time of the block."""
        place = self.make(name, owner)
        try:
            yield place
        finally:
            self.remove(name)

    def names(self) -> list[str]:
        return sorted(os.listdir(self._base)) if self._base.is_dir() else []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()

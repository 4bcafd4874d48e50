"""The disk is everybody's: who fills it is stopped before the engine itself cannot write any more.

Below `low` bytes (a twentieth of the disk, at most 256 MiB) nothing new is created or started, and a container whose own files or
volumes still grow is paused; its record says why. With the space that is left the engine can record exits, remove containers
and prune images. Somebody who has made room lets the container go on.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from engine.containers.model import Container
from engine.containers.parts import Parts
from engine.errors import EngineError, NoSpace

LOW_SHARE, MOST_LOW_BYTES = 20, 256 * 1024 * 1024
_GROWN_BYTES = 256 * 1024
_WATCH = 4  # times the low mark: from here on growth is measured
_LEAST_INODES = 1000
REASON = "paused: it was filling the disk of this node"


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def low_bytes(found: os.statvfs_result) -> int:
    return min(found.f_blocks * found.f_frsize // LOW_SHARE, MOST_LOW_BYTES)


def is_low(folder: Path) -> bool:
    """Tell whether the file system of `folder` is nearly full, of bytes or of inodes."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize < low_bytes(found) or _few_inodes(found)


def _few_inodes(found: os.statvfs_result) -> bool:
    return found.f_files > 0 and found.f_favail < min(_LEAST_INODES, found.f_files // LOW_SHARE)


def refuse_when_low(folder: Path) -> None:
    """Raise `NoSpace` when the disk is nearly full."""
    if is_low(folder):
        raise NoSpace(
            f"the disk of this node is nearly full: {free_bytes(folder) // (1024 * 1024)} MiB are free",
            hint="remove containers, images or volumes that are not needed",
        )


class DiskGuard:
    """Looks at the disk now and then; remembers what containers had written, to see who grows."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sizes: dict[str, int] = {}

    def watches(self) -> bool:
        """Tell whether the disk has become so full that it is worth measuring who grows."""
        found = os.statvfs(self._parts.config.data_root)
        if found.f_bavail * found.f_frsize < _WATCH * low_bytes(found) or _few_inodes(found):
            return True
        self._sizes = {}
        return False

    def growing(self, living: list[Container]) -> list[Container]:
        """Measure what containers have written; return those that grew since the last look, if the disk is nearly full."""
        before, self._sizes = self._sizes, {container.id: self._size(container) for container in living}
        if not is_low(self._parts.config.data_root):
            return []
        return [
            container for container in living
            if container.id in before and self._sizes[container.id] - before[container.id] >= _GROWN_BYTES
        ]  # fmt: skip

    def _size(self, container: Container) -> int:
        """Measure what a container has written: its own layer, its volumes, its log."""
        total = 0
        with suppress(EngineError, OSError):
            total += self._parts.snapshots.usage(container.id).size
            total += self._parts.log_files(container).size_bytes()
            for point in container.mounts:
                if point.type == "volume":
                    total += self._parts.volumes.usage(point.name)
        return total

"""Walking a folder by descriptors: what others do to it meanwhile cannot lead the walk out of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.linux.files import (
    DIRECTORY,
    NOFOLLOW,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
    opened,
    opened_directory,
)

_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class Folder(NamedTuple):
    """A directory on the way: its descriptor (closed after the step), its path below the root, its entries by name."""

    fd: int
    path: str
    entries: list[tuple[str, os.stat_result]]

    def child(self, name: str) -> str:
        """Return the path below the root of the entry `name`."""
        return f"{self.path}/{name}" if self.path else name


def walk(root_fd: int, start: str = "") -> Iterator[Folder]:
    """Give every directory below (and with) `start`, parents first, entries sorted; links are not followed.

    What disappears during the walk, or becomes a link, is left out. A path longer than 4,095 bytes raises `OSError(ENAMETOOLONG)`.
    """
    pending = [start]
    while pending:
        path = pending.pop()
        try:
            fd = openat2(root_fd, path or ".", DIRECTORY | os.O_NOFOLLOW, resolve=_INSIDE)
        except OSError as error:
            if path == start or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            continue
        with opened(fd):
            folder = Folder(fd, path, _entries(fd))
            folders = [folder.child(name) for name, info in folder.entries if stat.S_ISDIR(info.st_mode)]
            yield folder
        pending.extend(reversed(folders))


def fsync_trees(folders: Sequence[Path], *, limit: int) -> bool:
    """Make folders and all in them durable file by file; return False, with nothing promised, where that is not possible.

    It is not when there are more than `limit` files and folders, or links and devices, which cannot be synced alone.
    """
    parts: list[tuple[Path, str, bool]] = []
    for folder in folders:
        with opened_directory(folder) as root:
            parts.append((folder, ".", True))
            for part in walk(root):
                for name, info in part.entries:
                    if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)) or len(parts) >= limit:
                        return False
                    parts.append((folder, part.child(name), stat.S_ISDIR(info.st_mode)))
    for folder, path, is_directory in parts:
        flags = DIRECTORY if is_directory else os.O_RDONLY | os.O_NONBLOCK | NOFOLLOW
        with opened(os.open(folder / path, flags)) as fd:
            os.fsync(fd)
    return True


def _entries(fd: int) -> list[tuple[str, os.stat_result]]:
    found = []
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                found.append((entry.name, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue
    found.sort(key=lambda item: os.fsencode(item[0]))
    return found

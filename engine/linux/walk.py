"""Walking a folder by descriptors: what others do to it meanwhile cannot lead the walk out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from engine.linux.files import (
    DIRECTORY,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
    opened,
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

    What disappears during the walk is left out. A path longer than 4,095 bytes raises `OSError(ENAMETOOLONG)`.
    """
    pending = [start]
    while pending:
        path = pending.pop()
        try:
            fd = openat2(root_fd, path or ".", DIRECTORY | os.O_NOFOLLOW, resolve=_INSIDE)
        except (FileNotFoundError, NotADirectoryError):
            if path == start:
                raise
            continue
        with opened(fd):
            folder = Folder(fd, path, _entries(fd))
            folders = [folder.child(name) for name, info in folder.entries if stat.S_ISDIR(info.st_mode)]
            yield folder
        pending.extend(reversed(folders))


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

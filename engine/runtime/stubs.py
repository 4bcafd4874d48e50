"""Mount points that the runtime makes inside a root, and their removal afterwards.

A runtime makes missing mount targets (`/proc`, `/etc/hosts` ...) in the root, which would turn up in the layer made of it.
`absent` notes what is missing before; `remove` takes away what is still an empty file or folder after, without following
links, so whatever the container put there in the meantime stays (and nothing outside the root is ever touched).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePosixPath

from engine.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2, opened

_RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS


def absent(root_fd: int, targets: Iterable[str]) -> list[str]:
    """Return which of the paths and of the folders above them do not exist in the root, parents first."""
    wanted: dict[str, None] = {}
    for target in targets:
        path = PurePosixPath("/") / target
        for place in [*reversed(path.parents), path]:
            wanted[str(place)] = None
    return [place for place in wanted if place != "/" and not _exists(root_fd, place)]


def remove(root_fd: int, places: Iterable[str]) -> None:
    """Remove those places that are an empty regular file or an empty folder. Idempotent."""
    for place in sorted(places, key=len, reverse=True):
        path = PurePosixPath(place)
        with (
            suppress(OSError),
            opened(
                openat2(root_fd, str(path.parent), os.O_PATH | os.O_DIRECTORY, resolve=_RESOLVE)
            ) as parent,
        ):
            status = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(path.name, dir_fd=parent)  # refused by the kernel unless it is empty
            elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                os.unlink(path.name, dir_fd=parent)


def unused(root_fd: int, places: Iterable[str]) -> set[str]:
    """Return those places, relative to the root, that nobody has put anything into: empty files, folders of nothing else."""
    found: set[str] = set()
    for place in sorted(places, key=len, reverse=True):
        path = place.strip("/")
        with (
            suppress(OSError),
            opened(openat2(root_fd, path, os.O_PATH | os.O_NOFOLLOW, resolve=_RESOLVE)) as descriptor,
        ):
            status = os.fstat(descriptor)
            empty = stat.S_ISREG(status.st_mode) and status.st_size == 0
            if stat.S_ISDIR(status.st_mode):
                names = os.listdir(f"/proc/self/fd/{descriptor}")
                empty = all(f"{path}/{name}" in found for name in names)
            if empty:
                found.add(path)
    return found


def _exists(root_fd: int, place: str) -> bool:
    """A symbolic link on the way counts as there: the image brought it."""
    try:
        descriptor = openat2(root_fd, place, os.O_PATH | os.O_NOFOLLOW, resolve=_RESOLVE)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    os.close(descriptor)
    return True

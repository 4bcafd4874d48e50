"""Looking into a volume from outside: what lies in a folder, and one file's bytes.

A container may change the volume at the same moment, so every path is walked by descriptors without following a link,
and only regular files are opened for reading: a pipe or device never makes us wait.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from engine.errors import BadSpec, Denied, NotFound
from engine.layers.tar import Writable
from engine.linux.files import DIRECTORY, openat2, opened
from engine.volumes.binds import STRICT

MAX_ENTRIES = 10_000
_CHUNK = 1024 * 1024
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


@dataclass(frozen=True)
class FileEntry:
    """One name in a folder. Owners are those inside containers; `target` is where a link leads, as written."""

    name: str
    kind: str
    size_bytes: int
    mode: int
    uid: int
    gid: int
    modified_at: float
    target: str = ""


@dataclass(frozen=True)
class Listing:
    """A folder of a volume, folders first, by name. `truncated` says that there is more."""

    path: str
    entries: list[FileEntry]
    truncated: bool = False


def list_folder(root_fd: int, path: str) -> Listing:
    """Return what lies in the folder `path` of the volume `root_fd`."""
    with opened(_open(root_fd, path, DIRECTORY)) as folder:
        names = os.listdir(folder)
        names.sort()
        entries = [entry for name in names[:MAX_ENTRIES] if (entry := _entry(folder, name)) is not None]
    entries.sort(key=lambda entry: (entry.kind != "directory", entry.name))
    return Listing("/" + _relative(path), entries, len(names) > MAX_ENTRIES)


def read_file(root_fd: int, path: str, out: Writable) -> int:
    """Write the bytes of the regular file `path` to `out`; return how many (what it grows meanwhile is left out)."""
    with opened(_open(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)) as fd:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise BadSpec(f"{path} is not a file", hint="only regular files can be downloaded")
        left = info.st_size
        while left and (data := os.read(fd, min(left, _CHUNK))):
            out.write(data)
            left -= len(data)
        return info.st_size - left


def _open(root_fd: int, path: str, flags: int) -> int:
    relative = _relative(path)
    try:
        return openat2(root_fd, relative or ".", flags, resolve=STRICT)
    except FileNotFoundError:
        raise NotFound(f"no {path[:200]!r} in this volume") from None
    except NotADirectoryError:
        raise BadSpec(f"{path[:200]!r} is not a folder") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV):
            raise Denied(
                f"{path[:200]!r} leads through a symbolic link", hint="open the place that it leads to"
            ) from error
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise BadSpec(f"{path[:200]!r} is not a file") from error
        if error.errno == errno.ENAMETOOLONG:
            raise BadSpec("the path is too long") from error
        raise


def _relative(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise BadSpec(f"not a path inside a volume: {path[:200]!r}")
    return "/".join(parts)


def _entry(folder: int, name: str) -> FileEntry | None:
    try:
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        target = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(info.st_mode) else ""
    except (FileNotFoundError, OSError):
        return None  # went away while we looked
    kind = _KINDS.get(stat.S_IFMT(info.st_mode), "other")
    shown = os.fsencode(name).decode(errors="replace")
    return FileEntry(
        shown, kind, info.st_size, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime,
        os.fsencode(target).decode(errors="replace"),
    )  # fmt: skip

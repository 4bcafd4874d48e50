"""Files that nobody can lead us away from: paths resolved inside a root, atomic writes, trees removed by descriptors.

Sources: openat2(2), open(2), rename(2), fsync(2), syncfs(2), xattr(7). A "root" is a directory descriptor; every path
given with it is resolved as if the process had done `chroot` there, so an absolute link or `..` stays inside, also
while somebody else moves directories about (the kernel then answers EAGAIN and we ask again).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from engine.errors import NoSpace

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
NOFOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC

_SYS_OPENAT2 = 437
_AGAIN_LIMIT = 1000
_HELD_LEVELS = 100

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW_SIZE = ctypes.c_size_t(ctypes.sizeof(_OpenHow))


def openat2(dir_fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int) -> int:
    """Open `path` from `dir_fd` under the rules `resolve`; return a descriptor or raise `OSError`."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    for _ in range(_AGAIN_LIMIT):
        fd = int(_libc.syscall(_SYS_OPENAT2, dir_fd, raw, ctypes.byref(how), _HOW_SIZE))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), os.fsdecode(raw))


def open_in_root(root_fd: int, path: str | bytes, flags: int, *, mode: int = 0) -> int:
    """Open `path` with `root_fd` as the root directory: links are followed, but never out of it."""
    return openat2(root_fd, path, flags, mode=mode, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """Close `fd` at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_directory(path: Path | str | int) -> Iterator[int]:
    """Give a descriptor of the directory `path`; a descriptor given is handed back and left open."""
    if isinstance(path, int):
        yield path
        return
    with opened(os.open(path, DIRECTORY)) as fd:
        yield fd


def child_path(dir_fd: int, name: str) -> str:
    """Return a path that names `name` in the directory `dir_fd`, for calls that have no `*at` form (xattrs)."""
    return f"/proc/self/fd/{dir_fd}/{name}"


def fsync_dir(path: Path | str) -> None:
    """Make the names in the directory `path` durable."""
    with opened(os.open(path, DIRECTORY)) as fd:
        os.fsync(fd)


def syncfs(path: Path | str | int) -> None:
    """Make everything written to the file system that holds `path` durable."""
    with opened_directory(path) as fd:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))


def atomic_write(path: Path | str, data: bytes, mode: int = 0o644, *, sync: bool = True) -> None:
    """Write the whole file or leave what was there. With `sync` it also survives a power cut."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o600)
    try:
        with opened(fd):
            write_all(fd, data)
            os.fchmod(fd, mode)
            if sync:
                os.fsync(fd)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        fsync_dir(path.parent)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` to `fd`."""
    written = os.write(fd, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(view):
            written += os.write(fd, view[written:])


def remove_tree(path: Path | str, *, dir_fd: int | None = None) -> None:
    """Remove the file or directory `path` and all below it; what is not there counts as done.

    Works by descriptors, never follows a link, and needs neither recursion nor many descriptors for deep trees.
    """
    name = os.path.basename(os.path.normpath(path))
    try:
        if dir_fd is not None:
            _remove_at(dir_fd, os.fspath(path))
        else:
            with opened(os.open(os.path.dirname(os.path.abspath(path)), DIRECTORY)) as parent:
                _remove_at(parent, name)
    except FileNotFoundError:
        return


def _remove_at(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        pass
    else:
        return
    with opened(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)) as top:
        for entry in _emptied(top, top, 0):
            _remove_lifted(top, entry)
    os.rmdir(name, dir_fd=parent)


def _remove_lifted(top: int, name: str) -> None:
    pending = [name]
    while pending:
        current = pending.pop()
        with opened(os.open(current, DIRECTORY | os.O_NOFOLLOW, dir_fd=top)) as fd:
            pending.extend(_emptied(fd, top, 0))
        os.rmdir(current, dir_fd=top)


def _emptied(fd: int, top: int, level: int) -> list[str]:
    """Empty the directory `fd`; return the names in `top` to which too deep directories were lifted."""
    lifted: list[str] = []
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        try:
            if not is_directory:
                os.unlink(name, dir_fd=fd)
            elif not _removed_empty(fd, name):
                lifted.extend(_removed_full(fd, name, top, level))
        except FileNotFoundError:
            continue  # somebody else removes the same tree
    return lifted


def _removed_empty(fd: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _removed_full(fd: int, name: str, top: int, level: int) -> list[str]:
    if level >= _HELD_LEVELS:
        new_name = f".lifted.{os.urandom(8).hex()}"
        os.rename(name, new_name, src_dir_fd=fd, dst_dir_fd=top)
        return [new_name]
    with opened(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)) as child:
        lifted = _emptied(child, top, level + 1)
    os.rmdir(name, dir_fd=fd)
    return lifted


def process_umask() -> int:
    """Return this process's umask without changing it."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777


def raise_translated(error: OSError, what: str) -> NoReturn:
    """Raise a full disk or quota as `NoSpace`, every other `error` as it is. `what` says what was being written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise NoSpace(
            f"no space left while writing {what}", hint="free space on the node's disk, then try again"
        ) from error
    raise error


@contextmanager
def space_translated(what: str) -> Iterator[None]:
    """Raise a full disk inside the block as `NoSpace`."""
    try:
        yield
    except OSError as error:
        raise_translated(error, what)

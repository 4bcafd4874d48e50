"""Mounts: the system calls, the table of mounts, and idmapped mounts.

Sources: mount(2), umount2(2), open_tree(2), move_mount(2), mount_setattr(2), proc_pid_mountinfo(5).
`Mounts` is the seam: `LinuxMounts` is the kernel, `RecordingMounts` remembers what it was asked to do.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 32, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_SYMLINKS = 4, 0x10
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_IDMAP = 0x1, 0x00100000

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class MountEntry:
    """A line of `/proc/PID/mountinfo`: where it is mounted, file system type, source and options."""

    target: str
    fstype: str
    source: str
    options: str
    super_options: str


class Mounts(Protocol):
    """What the engine asks of the kernel about mounts. Errors are `OSError` with the path in `filename`."""

    def mount(self, source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None: ...
    def bind(self, source: str, target: str, *, read_only: bool = False, recursive: bool = False) -> None: ...
    def idmap(
        self, source: str, target: str, userns_fd: int, *, read_only: bool = False, recursive: bool = False
    ) -> None: ...
    def unmount(self, target: str, *, detach: bool = False) -> None: ...
    def entries(self) -> list[MountEntry]: ...


class LinuxMounts:
    """The running kernel."""

    def mount(self, source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
        result = _libc.mount(
            source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), data.encode()
        )
        _check(result, target)

    def bind(self, source: str, target: str, *, read_only: bool = False, recursive: bool = False) -> None:
        """Mount `source` on `target`. Symbolic links in `source` are the caller's to refuse."""
        self._attach(source, target, _MOUNT_ATTR_RDONLY if read_only else 0, 0, recursive)

    def idmap(
        self, source: str, target: str, userns_fd: int, *, read_only: bool = False, recursive: bool = False
    ) -> None:
        """Mount `source` on `target` with its owners mapped as user namespace `userns_fd` maps them.

        Raises `OSError(EINVAL)` where the file system of `source` cannot be idmapped.
        """
        attributes = _MOUNT_ATTR_IDMAP | (_MOUNT_ATTR_RDONLY if read_only else 0)
        self._attach(source, target, attributes, userns_fd, recursive)

    def unmount(self, target: str, *, detach: bool = False) -> None:
        """Unmount `target`; what is not mounted (EINVAL) or not there (ENOENT) counts as done."""
        flags = UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0)
        if _libc.umount2(os.fsencode(target), flags) != 0:
            number = ctypes.get_errno()
            if number not in (errno.EINVAL, errno.ENOENT):
                raise OSError(number, os.strerror(number), target)

    def entries(self) -> list[MountEntry]:
        return parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))

    def _attach(self, source: str, target: str, attributes: int, userns_fd: int, recursive: bool) -> None:
        depth = _AT_RECURSIVE if recursive else 0
        tree = _libc.syscall(
            _SYS_OPEN_TREE,
            _AT_FDCWD,
            os.fsencode(source),
            ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | depth),
        )
        _check(tree, source)
        try:
            if attributes:
                values = _MountAttr(attributes, 0, 0, userns_fd)
                where = ctypes.c_uint(_AT_EMPTY_PATH | depth)
                size = ctypes.c_size_t(ctypes.sizeof(values))
                _check(
                    _libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", where, ctypes.byref(values), size), source
                )
            flags = _MOVE_MOUNT_F_EMPTY_PATH
            if target.startswith("/proc/self/fd/"):
                flags |= _MOVE_MOUNT_T_SYMLINKS  # a place named by its descriptor, which no one can move
            moved = _libc.syscall(
                _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)
            )
            _check(moved, target)
        finally:
            os.close(tree)


@dataclass
class RecordingMounts:
    """A kernel that only remembers: `calls` holds a tuple a call, `mounted` the targets now mounted."""

    calls: list[tuple[str, ...]] = field(default_factory=list)
    mounted: list[MountEntry] = field(default_factory=list)

    def mount(self, source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
        self.calls.append(("mount", source, target, fstype, str(flags), data))
        self.mounted.append(MountEntry(target, fstype, source, "", data))

    def bind(self, source: str, target: str, *, read_only: bool = False, recursive: bool = False) -> None:
        self.calls.append(("bind", source, target, "ro" if read_only else "rw"))
        self.mounted.append(MountEntry(target, "none", source, "ro" if read_only else "rw", ""))

    def idmap(
        self, source: str, target: str, userns_fd: int, *, read_only: bool = False, recursive: bool = False
    ) -> None:
        self.calls.append(("idmap", source, target, "ro" if read_only else "rw"))
        self.mounted.append(MountEntry(target, "none", source, "idmapped", ""))

    def unmount(self, target: str, *, detach: bool = False) -> None:
        self.calls.append(("unmount", target))
        self.mounted = [entry for entry in self.mounted if entry.target != target]

    def entries(self) -> list[MountEntry]:
        return list(self.mounted)


def parse_mountinfo(text: str) -> list[MountEntry]:
    """Return the entries of a mountinfo file, oldest mount first, with octal escapes undone."""
    entries = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        entries.append(MountEntry(_unescape(fields[4]), tail[0], _unescape(tail[1]), fields[5], tail[2]))
    return entries


def unmount_below(mounts: Mounts, folder: Path, *, detach: bool = False) -> list[str]:
    """Unmount everything mounted on or below `folder`, newest first; return what was unmounted."""
    prefix = str(folder)
    targets = [
        entry.target
        for entry in mounts.entries()
        if entry.target == prefix or entry.target.startswith(prefix + "/")
    ]
    for target in reversed(targets):
        mounts.unmount(target, detach=detach)
    return targets


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _check(result: int, path: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)

"""Checks of a root before anything runs on it: its shape, the working directory, targets of mounts.

Two old escapes are closed here whatever the runtime's version: a root whose `/proc` or `/dev` is a link or a file, and a
working directory that leads through `/proc/self/fd` to a descriptor of the runtime.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import PurePosixPath

from engine.errors import BadSpec
from engine.linux.files import open_in_root, opened

_KERNEL_FOLDERS = ("/proc", "/sys", "/dev")
_MAX_PATH = 4096


def check_root(root_fd: int) -> None:
    """Refuse a root whose `/dev`, `/proc`, `/sys` or `/etc` is there but no real folder."""
    for name in ("dev", "proc", "sys", "etc"):
        try:
            status = os.stat(name, dir_fd=root_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise BadSpec(f"/{name} of the image is not a folder", hint="such an image cannot be run safely")


def clean_path(path: str, what: str) -> str:
    """Return an absolute path without `.`, `..` and double slashes; refuse what is none."""
    if not path.startswith("/") or len(path) > _MAX_PATH or any(ord(character) < 32 for character in path):
        raise BadSpec(f"{what} must be an absolute path: {path[:100]!r}")
    return os.path.normpath("/" + path.lstrip("/"))


def checked_cwd(root_fd: int, cwd: str, *, must_exist: bool = False) -> str:
    """Return the working directory; refuse one that is, or leads to, a place of the kernel's file systems.

    One that is not there yet is fine unless `must_exist`; a link on the way that leads nowhere is not.
    """
    path = clean_path(cwd or "/", "the working directory")
    _refuse_kernel(path, "the working directory")
    try:
        place = open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError as error:
        if must_exist or _is_dangling(root_fd, path):
            raise BadSpec(f"the working directory {path} is not there") from error
        return path
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise BadSpec(f"the working directory {path} cannot be entered") from error
        raise
    with opened(place), opened(os.dup(root_fd)) as root:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            raise BadSpec(f"the working directory {path} is not a folder")
        real, base = os.readlink(f"/proc/self/fd/{place}"), os.readlink(f"/proc/self/fd/{root}")
    _refuse_kernel(real.removeprefix(base.rstrip("/")) or "/", "the working directory")
    return path


def _is_dangling(root_fd: int, path: str) -> bool:
    """Tell whether the first part of `path` that cannot be entered is a link, which must not be followed into being."""
    parts = PurePosixPath(path).parts[1:]
    for count in range(len(parts)):
        parent = "/" + "/".join(parts[:count])
        with opened(open_in_root(root_fd, parent, os.O_PATH | os.O_DIRECTORY)) as folder:
            try:
                info = os.stat(parts[count], dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
        try:
            os.close(open_in_root(root_fd, f"{parent}/{parts[count]}", os.O_PATH))
        except OSError:
            return stat.S_ISLNK(info.st_mode)
    return False


def check_mount_target(target: str) -> str:
    """Return a mount target in its short form; refuse the root and all of `/proc`, `/sys`, `/dev` but `/dev/shm`."""
    path = clean_path(target, "a mount's target")
    if path == "/":
        raise BadSpec("nothing can be mounted on the root of a container")
    if path != "/dev/shm" and not path.startswith("/dev/shm/"):
        _refuse_kernel(path, "a mount's target")
    return path


def _refuse_kernel(path: str, what: str) -> None:
    parts = PurePosixPath(path).parts
    if len(parts) > 1 and "/" + parts[1] in _KERNEL_FOLDERS:
        raise BadSpec(f"{what} must not lie in {'/' + parts[1]}: {path}")

"""Doing by hand what overlayfs does: laying one layer's folder over another tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engine.linux import xattrs
from engine.linux.files import DIRECTORY, NOFOLLOW, child_path, opened, opened_directory, remove_tree
from engine.linux.idshift import IdShift
from engine.linux.walk import Folder, walk

OPAQUE = "trusted.overlay.opaque"
_COPY = 1 << 30


def lay_over(layer: Path, target: Path, shift: IdShift) -> None:
    """Copy `layer` (overlayfs' form: whiteouts, opaque directories) over the tree in `target`, owners mapped by `shift`.

    Nobody else may write to either meanwhile.
    """
    with opened_directory(layer) as source, opened_directory(target) as root:
        links: dict[tuple[int, int], str] = {}
        folders: list[tuple[str, os.stat_result, dict[str, bytes]]] = []
        for folder in walk(source):
            folders.append((folder.path, os.fstat(folder.fd), xattrs.read(folder.fd, shift)))
            with opened(os.open(folder.path or ".", DIRECTORY | os.O_NOFOLLOW, dir_fd=root)) as into:
                if is_opaque(folder.fd) and folder.path:
                    for name in os.listdir(into):
                        remove_tree(name, dir_fd=into)
                _copy_entries(folder, into, root, shift, links)
        for path, info, attributes in reversed(folders):
            with opened(os.open(path or ".", DIRECTORY | os.O_NOFOLLOW, dir_fd=root)) as fd:
                _set_metadata(fd, info, attributes, shift)


def is_opaque(fd: int) -> bool:
    """Tell whether the open directory hides what layers below have in it."""
    return OPAQUE in os.listxattr(fd) and os.getxattr(fd, OPAQUE) == b"y"


def is_whiteout(info: os.stat_result) -> bool:
    """Tell whether a file is overlayfs' mark for a removed name."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _copy_entries(
    folder: Folder, into: int, root: int, shift: IdShift, links: dict[tuple[int, int], str]
) -> None:
    for name, info in folder.entries:
        if stat.S_ISDIR(info.st_mode) and _is_directory(into, name):
            continue
        remove_tree(name, dir_fd=into)
        if stat.S_ISDIR(info.st_mode):
            os.mkdir(name, 0o700, dir_fd=into)
        elif not is_whiteout(info):
            first = links.setdefault((info.st_dev, info.st_ino), folder.child(name))
            if first != folder.child(name):
                os.link(first, name, src_dir_fd=root, dst_dir_fd=into, follow_symlinks=False)
            else:
                _copy_entry(folder.fd, into, name, info, shift)


def _copy_entry(source: int, into: int, name: str, info: os.stat_result, shift: IdShift) -> None:
    if stat.S_ISREG(info.st_mode):
        with (
            opened(os.open(name, os.O_RDONLY | NOFOLLOW, dir_fd=source)) as old,
            opened(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o600, dir_fd=into)) as new,
        ):
            while os.copy_file_range(old, new, _COPY):
                pass
            _set_metadata(new, info, xattrs.read(old, shift), shift)
    elif stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=into)
        _set_plain_metadata(into, name, info, shift)
    elif stat.S_ISFIFO(info.st_mode):
        os.mkfifo(name, 0o600, dir_fd=into)
        Path(child_path(into, name)).chmod(stat.S_IMODE(info.st_mode))
        _set_plain_metadata(into, name, info, shift)


def _set_metadata(fd: int, info: os.stat_result, attributes: dict[str, bytes], shift: IdShift) -> None:
    os.fchown(fd, shift.apply(info.st_uid), shift.apply(info.st_gid))
    os.fchmod(fd, stat.S_IMODE(info.st_mode))
    for name, value in attributes.items():
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))


def _set_plain_metadata(into: int, name: str, info: os.stat_result, shift: IdShift) -> None:
    os.chown(name, shift.apply(info.st_uid), shift.apply(info.st_gid), dir_fd=into, follow_symlinks=False)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=into, follow_symlinks=False)


def _is_directory(fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False

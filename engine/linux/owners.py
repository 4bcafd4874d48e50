"""Giving a whole tree the owners that it has inside a user namespace (see `engine.linux.idshift`)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engine.linux import xattrs
from engine.linux.files import child_path, opened_directory
from engine.linux.idshift import IdShift, to_container
from engine.linux.walk import walk


def shift_owners(folder: Path | int, start: int) -> int:
    """Give everything in `folder` (and itself) its owner as seen inside the namespace that begins at host id `start`.

    Touches only what needs it; keeps setuid bits, capabilities, access lists and times. May be run again after a crash
    in between. Returns how many files were changed. Nobody else may write to `folder` meanwhile.
    """
    if not start:
        return 0
    shift = to_container(start)
    changed = 0
    with opened_directory(folder) as root:
        changed += _shift(root, f"/proc/self/fd/{root}", os.fstat(root), shift, follow=True)
        for part in walk(root):
            for name, info in part.entries:
                changed += _shift(part.fd, child_path(part.fd, name), info, shift, follow=False)
    return changed


def _shift(fd: int, path: str, info: os.stat_result, shift: IdShift, *, follow: bool) -> int:
    uid, gid = shift.apply(info.st_uid), shift.apply(info.st_gid)
    if (uid, gid) == (info.st_uid, info.st_gid):
        return 0
    is_link = stat.S_ISLNK(info.st_mode)
    kept = {} if is_link else xattrs.read(fd if follow else path, shift)
    os.chown(path, uid, gid, follow_symlinks=follow)
    if info.st_mode & (stat.S_ISUID | stat.S_ISGID) and not is_link:
        Path(path).chmod(stat.S_IMODE(info.st_mode))  # chown(2) took the bits away
    for name, value in kept.items():
        if not name.startswith("user."):
            os.setxattr(path, name, value, follow_symlinks=follow)  # chown(2) took the capabilities away
    return 1

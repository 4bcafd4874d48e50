"""Flags of inodes that ext4 understands (chattr(1)); other file systems are left as they are."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

# linux/fs.h
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_TOPDIR_FL = 0x00020000


def spread_children(folder: Path) -> None:
    """Let the file system keep the trees below `folder` apart from one another, where it can.

    Folders made in `folder` then begin in another part of the disk instead of beside their siblings. On ext4 without a
    journal an inode freed a moment ago is passed over by a search, so unpacking a layer beside one that was just removed
    took 7 s instead of 0.4 s.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = struct.unpack("L", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, struct.pack("L", 0)))[0]
        if not flags & _FS_TOPDIR_FL:
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("L", flags | _FS_TOPDIR_FL))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.ENOSYS):
            raise
    finally:
        os.close(fd)

"""Filling a new volume from what the image holds at its place.

The image's path is resolved with the image as the root, so a link in it cannot lead to the host; the files are packed
and unpacked by the same code as layers, so owners, modes, times, links and attributes survive, and device nodes do not.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from engine.layers.confined import extract
from engine.layers.diff import pack_tree
from engine.layers.limits import LAYER
from engine.layers.policy import ROOTFS_POLICY
from engine.linux import xattrs
from engine.linux.files import DIRECTORY, open_in_root, opened
from engine.linux.idshift import to_container


def open_image_directory(image_root_fd: int, path: str) -> int | None:
    """Return a descriptor of the directory at `path` in the image, None where the image has none."""
    try:
        return open_in_root(image_root_fd, path, DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def copy_tree(source_fd: int, target: Path, *, idmap_start: int = 0) -> None:
    """Copy everything in the directory `source_fd` into the empty folder `target`, the folder's own metadata included.

    `idmap_start` is the host id that the source's root user has, where its owners are mapped.
    """
    read_end, write_end = os.pipe()
    failed: list[BaseException] = []

    def pack() -> None:
        try:
            with open(write_end, "wb") as sink:
                pack_tree(source_fd, sink, idmap_start=idmap_start)
        except BrokenPipeError:
            return  # the reader failed and says why
        except BaseException as error:
            failed.append(error)

    packer = threading.Thread(target=pack, name="copy-up")
    packer.start()
    try:
        with open(read_end, "rb") as stream:
            extract(stream, target, LAYER, ROOTFS_POLICY)
    finally:
        packer.join()
    if failed:
        raise failed[0]
    _copy_metadata(source_fd, target, idmap_start)


def is_empty(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _copy_metadata(source_fd: int, target: Path, idmap_start: int) -> None:
    info, shift = os.fstat(source_fd), to_container(idmap_start)
    with opened(os.open(target, DIRECTORY)) as fd:
        os.fchown(fd, shift.apply(info.st_uid), shift.apply(info.st_gid))
        os.fchmod(fd, info.st_mode & 0o7777)
        for name, value in xattrs.read(source_fd, shift).items():
            os.setxattr(fd, name, value)
        os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))

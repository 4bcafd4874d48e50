"""Small ext4 file systems of a test's own (H5), and the plug pulled out of them (H6)."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EXT4_IOC_SHUTDOWN = 0x8004587D  # fs/ext4/ext4.h: _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2


@contextmanager
def ext4(folder: Path, megabytes: int = 64, *, inodes: int = 0, options: str = "") -> Iterator[Path]:
    """Give the root of a new ext4 file system that exists for the length of the block."""
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(megabytes * 1024 * 1024)
    count = ["-N", str(inodes)] if inodes else []
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", *count, str(image)], check=True, capture_output=True)
    target = folder / "disk"
    target.mkdir()
    mount(image, target, options)
    try:
        yield target
    finally:
        unmount(target)


@contextmanager
def after_a_cut(disk: Path) -> Iterator[Path]:
    """Give the file system of `disk` as the next boot finds it: a copy of what reached its device, mounted elsewhere.

    A copy, because somebody else's mount namespace may keep the stopped one alive for a while.
    """
    copied = disk.with_name("after.img")
    subprocess.run(["cp", "--sparse=always", str(disk.with_name("disk.img")), str(copied)], check=True)
    target = disk.with_name("after")
    target.mkdir()
    mount(copied, target)
    try:
        yield target
    finally:
        unmount(target)
        copied.unlink()


def mount(image: Path, target: Path, options: str = "") -> None:
    argv = ["mount", "-o", ",".join(part for part in ("loop", options) if part), str(image), str(target)]
    subprocess.run(argv, check=True, capture_output=True)


def unmount(target: Path) -> None:
    """Unmount, also what a failed test still holds open (the kernel then lets go when that is closed)."""
    if subprocess.run(["umount", str(target)], check=False, capture_output=True).returncode != 0:
        subprocess.run(["umount", "--lazy", str(target)], check=True, capture_output=True)


def pull_the_plug(target: Path) -> None:
    """Stop the file system at once: what is not on its disk now never will be."""
    fd = os.open(target, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)


def fill(folder: Path) -> Path:
    """Write until nothing fits any more, down to single bytes; return the file that holds it all."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1024 * 1024, 4096, 512, 1):
            block = bytes(size)
            try:
                while True:
                    file.write(block)
            except OSError:
                continue
    return path


def fill_inodes(folder: Path) -> Path:
    """Make empty files until there is no inode left; return their folder."""
    root = folder / "inodes"
    root.mkdir()
    number = 0
    try:
        while True:
            (root / str(number)).touch()
            number += 1
    except OSError:
        return root

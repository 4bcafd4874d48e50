"""A piece of the disk kept back, so that removing things still works when the disk is full.

Removing writes too: rows, the journal, a folder's new name. The reserve is a file of some megabytes and a few empty
files (for file systems that run out of inodes); it is given up for the length of a removal and taken again afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from engine.errors import NoSpace
from engine.linux.files import NOFOLLOW, opened

T = TypeVar("T")

SIZE_BYTES = 8 * 1024 * 1024
FILES = 16
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """Space held in `folder` until it is needed."""

    def __init__(self, folder: Path, size_bytes: int = SIZE_BYTES, files: int = FILES) -> None:
        self._folder = folder
        self._size = size_bytes
        self._files = files
        self.take()

    def take(self) -> bool:
        """Take the space; return False where the disk is too full for it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for number in range(self._files):
                (self._folder / f"inode-{number}").touch()
            with opened(os.open(self._folder / "bytes", os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o600)) as fd:
                if os.fstat(fd).st_size < self._size:
                    os.posix_fallocate(fd, 0, self._size)
        except OSError:
            return False
        return True

    @contextmanager
    def given_up(self) -> Iterator[None]:
        """Free the space for the length of the block."""
        for name in ("bytes", *(f"inode-{number}" for number in range(self._files))):
            with contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()
        try:
            yield
        finally:
            self.take()

    def run(self, action: Callable[[], T]) -> T:
        """Do something that frees space; when there is no space for it, once more with the reserve."""
        try:
            return action()
        except NoSpace:
            pass
        except OSError as error:
            if error.errno not in _FULL:
                raise
        with self.given_up():
            return action()

"""Being told of changes in folders and files: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

MODIFY, CLOSE_WRITE, MOVED_TO, CREATE, DELETE = 0x2, 0x8, 0x80, 0x100, 0x200
OVERFLOW = 0x4000
_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Change:
    """Something happened to `name` in the watched folder (`name` is empty for a watched file). `path` is what was watched."""

    path: Path
    mask: int
    name: str


class Watch:
    """A set of watched paths; a context manager. `fileno()` can be put into any event loop."""

    def __init__(self) -> None:
        self._fd = int(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "inotify")
        self._paths: dict[int, Path] = {}

    def add(self, path: Path, mask: int) -> None:
        """Watch one more path; one that is not there is not watched. Adding the same again changes its mask."""
        number = int(_libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask)))
        if number >= 0:
            self._paths[number] = path
        elif ctypes.get_errno() not in (2, 20):  # ENOENT, ENOTDIR
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))

    def remove(self, path: Path) -> None:
        for number, known in list(self._paths.items()):
            if known == path:
                _libc.inotify_rm_watch(self._fd, number)
                del self._paths[number]

    def fileno(self) -> int:
        return self._fd

    def wait(self, timeout_s: float) -> list[Change]:
        """Return what has changed, waiting up to `timeout_s` for something; an empty list when nothing did."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(max(0, int(timeout_s * 1000))):
            return []
        return self.read()

    def read(self) -> list[Change]:
        """Return the changes that are waiting. After too many of them, one with `OVERFLOW` says that some were dropped."""
        changes: list[Change] = []
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return changes
            offset = 0
            while offset < len(data):
                number, mask, _, length = _HEADER.unpack_from(data, offset)
                offset += _HEADER.size
                name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
                offset += length
                changes.append(Change(self._paths.get(number, Path()), mask, name))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""A blob that one thread still writes while another already reads it, and the unpacked stream of a layer.

A download writes into the content store; unpacking follows it through the same file, one page cache away. So neither waits
for the other more than it must, nothing is held in memory, and a download that must begin again says so to its reader.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from engine.digest import Digest
from engine.layers.compression import UnpackedReader, open_any
from engine.layers.limits import LAYER, Limits, too_big
from engine.layers.pipe import ReadAhead

_POLL_S = 0.25
_CHUNK = 1024 * 1024


class Restarted(Exception):
    """The bytes read so far were wrong and have been thrown away; read again from the beginning."""


class Growing:
    """The state of a blob's file that both sides share. `check` may raise to end a wait (a `CancelToken.check`)."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._changed = threading.Condition()
        self._fd = -1
        self._size = 0
        self._generation = 0
        self._finished = False
        self._error: BaseException | None = None

    def begin(self, path: Path, size: int) -> None:
        """Say where the bytes are, and how many are there already. The file may be renamed afterwards."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with self._changed:
            self._close()
            self._fd, self._size = fd, size
            self._generation += 1
            self._changed.notify_all()

    def grow(self, size: int) -> None:
        """Say that the file has `size` bytes now."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def finish(self) -> None:
        """Say that all bytes are there and right."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let every reader raise `error`."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def reader(self) -> GrowingReader:
        """Return a reader from the first byte on; waits until there is a file."""
        with self._changed:
            self._wait(lambda: self._fd >= 0)
            return GrowingReader(self, os.dup(self._fd), self._generation)

    def close(self) -> None:
        """Let go of the file; readers keep it."""
        with self._changed:
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def finished(self) -> bool:
        """Tell whether all bytes are there and right."""
        return self._finished

    def settle(self) -> int:
        """Wait until all bytes are there and right; return the number of their beginning. Raises what `fail` was told."""
        with self._changed:
            self._wait(lambda: self._finished)
            return self._generation

    def wait_beyond(self, offset: int, generation: int) -> int:
        """Return how many bytes there are when these are more than `offset` or all; raises `Restarted`."""
        with self._changed:
            self._wait(lambda: self._size > offset or self._finished or self._generation != generation)
            if self._generation != generation:
                raise Restarted
            return self._size

    def _wait(self, ready: Callable[[], bool]) -> None:
        while self._error is None and not ready():
            self._changed.wait(_POLL_S)
            self._check()
        if self._error is not None:
            raise self._error


class GrowingReader:
    """Reads a growing blob in order; an empty read means that the blob ended and was right."""

    def __init__(self, growing: Growing, fd: int, generation: int) -> None:
        self._growing = growing
        self._fd = fd
        self.generation = generation
        self.offset = 0

    def read(self, size: int = _CHUNK) -> bytes:
        there = self._growing.wait_beyond(self.offset, self.generation)
        data = os.pread(self._fd, min(size, there - self.offset), self.offset)
        self.offset += len(data)
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class DiffStream:
    """The unpacked tar of a layer, unpacked and hashed by a thread that runs ahead of who reads it.

    The end of the `with` block ends the thread. After `drain`, `diff_id` is the layer's.
    """

    def __init__(self, packed: GrowingReader, limits: Limits = LAYER) -> None:
        self._packed = packed
        self._limits = limits
        self._hash = hashlib.sha256()
        self._total = 0
        self._unpacked: UnpackedReader | None = None
        self._ahead = ReadAhead(self._read, self._note)

    @property
    def packed_offset(self) -> int:
        """How many packed bytes were taken."""
        return self._packed.offset

    @property
    def diff_id(self) -> Digest:
        return Digest("sha256:" + self._hash.hexdigest())

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, empty at the end; raises what the thread met."""
        return self._ahead.read(size)

    def drain(self) -> None:
        """Read what follows the archive, so that all of the layer is hashed and the blob is known to be right."""
        while self._ahead.read(_CHUNK):
            pass

    def __enter__(self) -> DiffStream:
        self._ahead.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ahead.__exit__(kind, error, traceback)

    def _read(self) -> bytes:
        if self._unpacked is None:
            self._unpacked = open_any(self._packed, self._limits)
        return self._unpacked.read(_CHUNK)

    def _note(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._total += len(chunk)
        if self._total > self._limits.max_bytes:
            raise too_big(f"{self._total} bytes", self._limits.max_bytes)

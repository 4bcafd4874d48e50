"""Two threads for one stream: one unpacks and hashes ahead, the other uses the bytes, both cores busy.

isal, hashing and system calls run without Python's lock, so this really overlaps. A queue of a few chunks between the
two keeps memory flat; an error in reading reaches the reader.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

_CHUNKS = 8


class ReadAhead:
    """Reads `source` in a background thread; a context manager that ends the thread whatever happens.

    `note` is called in that thread with every chunk (to hash it).
    """

    def __init__(self, read: Callable[[], bytes], note: Callable[[bytes], object]) -> None:
        self._read = read
        self._note = note
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_CHUNKS)
        self._stop = threading.Event()
        self._chunk = b""
        self._position = 0
        self._done = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes (at most `size`), empty at the end; raises what reading the source raised."""
        if self._position >= len(self._chunk):
            if self._done:
                return b""
            item = self._queue.get()
            if isinstance(item, BaseException):
                self._done = True
                raise item
            self._chunk, self._position = item, 0
            if not item:
                self._done = True
                return b""
        if not self._position and (size < 0 or len(self._chunk) <= size):
            chunk, self._chunk = self._chunk, b""
            return chunk
        end = len(self._chunk) if size < 0 else self._position + size
        data = self._chunk[self._position : end]
        self._position += len(data)
        return data

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                chunk = self._read()
                self._note(chunk)
                self._put(chunk)
                if not chunk:
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: bytes | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=1.0)
            except queue.Full:
                continue
            return

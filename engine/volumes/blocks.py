"""An archive on its way to the packer: gathered in blocks of one size, packed in a thread of its own.

Files are read right into the blocks, so their bytes are moved once on the whole way. A few blocks go round: memory is
flat, and a slow packer holds the reader up.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from engine.layers.compression import PACK_BLOCK

_BLOCKS = 8


class Blocks:
    """Hands blocks to `use` in a background thread, in order; a block is only valid inside `use`.

    `write` and `read_from` raise what `use` raised for an earlier block. `finish` waits for the end.
    """

    def __init__(self, use: Callable[[memoryview], object]) -> None:
        self._use = use
        self._free: queue.Queue[bytearray] = queue.Queue()
        self._full: queue.Queue[tuple[bytearray, int]] = queue.Queue()
        for _ in range(_BLOCKS):
            self._free.put(bytearray(PACK_BLOCK))
        self._block = self._free.get()
        self._filled = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="backup-packer", daemon=True)
        self._thread.start()

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        rest = memoryview(data)
        while len(rest):
            room = self._room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self._filled += count
            rest = rest[count:]

    def read_from(self, fd: int, size: int) -> memoryview:
        """Append up to `size` bytes of a file and return them, valid until the next call; empty at its end."""
        room = self._room()[:size]
        count = os.readv(fd, [room])
        self._filled += count
        return room[:count]

    def finish(self) -> None:
        """Hand over what is left and wait until everything is used; raise what `use` raised."""
        self._hand_over()
        self.stop()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread after what was handed over; raises nothing."""
        if self._thread.is_alive():
            self._full.put((bytearray(), 0))
            self._thread.join()

    def _room(self) -> memoryview:
        if self._error is not None:
            raise self._error
        if self._filled == len(self._block):
            self._hand_over()
            self._block = self._free.get()
        return memoryview(self._block)[self._filled :]

    def _hand_over(self) -> None:
        if self._filled:
            self._full.put((self._block, self._filled))
            self._filled = 0

    def _run(self) -> None:
        while True:
            block, filled = self._full.get()
            if not filled:
                return
            if self._error is None:
                try:
                    self._use(memoryview(block)[:filled])
                except BaseException as error:  # carried over to the caller's thread
                    self._error = error
            self._free.put(block)

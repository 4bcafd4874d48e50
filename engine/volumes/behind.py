"""Writing behind: chunks are used in a thread of their own while the next ones are made."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_CHUNKS = 8


class WriteBehind:
    """Hands chunks to `use` in a background thread, in order. `finish` waits, and raises what `use` raised."""

    def __init__(self, use: Callable[[bytes], object]) -> None:
        self._use = use
        self._queue: queue.Queue[bytes] = queue.Queue(_CHUNKS)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._thread.start()

    def write(self, chunk: bytes) -> None:
        """Hand over a chunk; raises what an earlier one raised."""
        if self._error is not None:
            raise self._error
        if chunk:
            self._queue.put(chunk)

    def finish(self) -> None:
        """Wait until everything is used; raise what `use` raised."""
        self.stop()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread after what was handed over; raises nothing."""
        if self._thread.is_alive():
            self._queue.put(b"")
            self._thread.join()

    def _run(self) -> None:
        while chunk := self._queue.get():
            if self._error is None:
                try:
                    self._use(chunk)
                except BaseException as error:  # carried over to the caller's thread
                    self._error = error

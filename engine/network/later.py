"""Work that nobody needs to wait for: done a moment later, by one thread of this process.

Losing it (the process ends first) must only cost something that `sweep` finds again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable

from engine.errors import EngineError

logger = logging.getLogger(__name__)

DELAY_S = 0.5


class Later:
    """A queue of jobs, each run `delay_s` after it was added."""

    def __init__(self, delay_s: float = DELAY_S) -> None:
        self._delay_s = delay_s
        self._jobs: deque[tuple[float, Callable[[], object]]] = deque()
        self._lock = threading.Lock()
        self._running = 0  # the process whose thread empties the queue

    def add(self, job: Callable[[], object]) -> None:
        with self._lock:
            if self._running != os.getpid():
                self._running = os.getpid()
                threading.Thread(target=self._run, name="later", daemon=True).start()
            self._jobs.append((time.monotonic() + self._delay_s, job))

    def flush(self) -> None:
        """Do now what is left to do."""
        while self._jobs:
            try:
                _, job = self._jobs.popleft()
            except IndexError:
                return
            _do(job)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._running = 0
                    return
                due = self._jobs[0][0]
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            try:
                _, job = self._jobs.popleft()
            except IndexError:
                continue
            _do(job)


def _do(job: Callable[[], object]) -> None:
    try:
        job()
    except (OSError, sqlite3.Error, EngineError) as error:
        logger.warning("cleaning up behind a container: %s", error)

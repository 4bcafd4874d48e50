"""Locks between processes: `flock(2)` on a file, let go by the kernel when the holder dies, even by kill -9."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import Unavailable

_threads: dict[str, threading.Lock] = {}
_threads_guard = threading.Lock()


@contextmanager
def file_lock(path: Path, *, timeout_s: float = 60.0) -> Iterator[None]:
    """Hold the lock file `path` (made if missing) against other processes and threads; not re-entrant.

    Raises `Unavailable` after `timeout_s`. The file is left in place: removing it would let two holders in.
    """
    deadline = time.monotonic() + timeout_s
    with _threads_guard:
        thread_lock = _threads.setdefault(str(path), threading.Lock())
    if not thread_lock.acquire(timeout=timeout_s):
        raise Unavailable(f"{path.name} is busy", hint="another operation holds it; try again")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _flock(descriptor, path, deadline)
            yield
        finally:
            os.close(descriptor)
    finally:
        thread_lock.release()


def is_locked(path: Path) -> bool:
    """Tell whether some process holds the lock file `path`."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _flock(descriptor: int, path: Path, deadline: float) -> None:
    pause = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"{path.name} is busy", hint="another operation holds it; try again"
                ) from None
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        else:
            return

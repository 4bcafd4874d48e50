"""Looking at the processes that unpack archives, holding one in the middle of its work, and breaking what guards it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.layers import helper
from engine.linux.process import wait_until

_IMPORTS = "import engine.layers.apply as apply, engine.layers.unpacker as unpacker, os, time; "


@contextmanager
def altered_helper(code: str) -> Iterator[None]:
    """Let a fresh helper run `code` before it serves; it sees the modules `apply` and `unpacker`, `os` and `time`."""
    boot = helper._BOOT
    helper._stop()
    helper._BOOT = boot.replace(
        "from engine.layers.unpacker import main; ", f"{_IMPORTS}{code}; main = unpacker.main; "
    )
    assert boot != helper._BOOT
    try:
        yield
    finally:
        helper._BOOT = boot
        helper._stop()


def job_processes() -> list[int]:
    """Return the ids of the processes that work for this process's helper now, not of the one that waits for a job."""
    pid = helper.start().process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if is_confined(int(child))]


def is_confined(pid: int) -> bool:
    """Tell whether a process has come so far that it unpacks."""
    try:
        return "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def the_job() -> int:
    """Return the id of the one job there is, when it has come so far that it reads the archive."""
    assert wait_until(job_processes, 10)
    (pid,) = job_processes()
    return pid


class Interrupted(io.RawIOBase):
    """An archive that calls `between` once, when its first half has been taken."""

    def __init__(self, data: bytes, between: Callable[[], object]) -> None:
        super().__init__()
        half = len(data) // 1024 * 512
        self._parts = [data[:half], b"", data[half:]]
        self._between = between

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not self._parts:
            return b""
        part = self._parts.pop(0)
        if not part:
            self._between()
            part = self._parts.pop(0)
        return part

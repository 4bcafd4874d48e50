"""Lines of a build's log: what a step writes becomes messages, without its secrets and within a bound."""

from __future__ import annotations

import threading

from engine.build.secrecy import Masker
from engine.progress import Message, Reporter

_LINE_BYTES = 16 * 1024


class LogBudget:
    """How many bytes of output a whole build may still log."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes if limit_bytes else 1 << 62
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take `size` bytes from the budget; False when it is used up."""
        with self._lock:
            self._left -= size
            return self._left >= 0


class StepLog:
    """Turns a step's output into messages, a line each; call `close` at the end."""

    def __init__(self, report: Reporter, step: str, budget: LogBudget, secrets: list[bytes]) -> None:
        self._report = report
        self._step = step
        self._budget = budget
        self._maskers = {stream: Masker(secrets) for stream in ("stdout", "stderr")}
        self._partial = {"stdout": b"", "stderr": b""}
        self._full = False

    def write(self, stream: str, data: bytes) -> None:
        self._lines(stream, self._maskers[stream].feed(data))

    def close(self) -> None:
        for stream, masker in self._maskers.items():
            self._lines(stream, masker.flush())
            if self._partial[stream]:
                self._say(stream, self._partial[stream])

    def _lines(self, stream: str, data: bytes) -> None:
        *lines, rest = (self._partial[stream] + data).split(b"\n")
        for line in lines:
            self._say(stream, line)
        while len(rest) > _LINE_BYTES:
            self._say(stream, rest[:_LINE_BYTES])
            rest = rest[_LINE_BYTES:]
        self._partial[stream] = rest

    def _say(self, stream: str, line: bytes) -> None:
        if self._full:
            return
        if not self._budget.take(len(line) + 1):
            self._full = True
            self._report(
                Message("the log of this build is full; more output is not kept", "note", self._step)
            )
            return
        self._report(Message(line.removesuffix(b"\r").decode("utf-8", "replace"), stream, self._step))

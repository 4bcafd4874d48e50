"""A program in a pseudo-terminal of its own, as a person at a keyboard has it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from types import TracebackType


class Terminal:
    """Runs `argv` in a terminal of `rows` by `columns`; reads what it shows, types into it."""

    def __init__(self, argv: list[str], env: dict[str, str], *, rows: int = 24, columns: int = 80) -> None:
        self.shown = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, env)
        self.resize(rows, columns)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size; the kernel tells the program with SIGWINCH."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str, timeout_s: float = 25) -> str:
        """Read until `text` has been shown; return all shown since the last call."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            assert self._read(deadline), f"{text!r} was not shown, but {self.shown!r}"
        seen, self.shown = self.shown, ""
        return seen

    def wait(self, timeout_s: float = 25) -> int:
        """Read to the end and return the exit status."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline):
            pass
        assert time.monotonic() < deadline, f"it goes on, having shown {self.shown!r}"
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: the other side has closed (pty(7))
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

"""A monitor's log writer as conmon behaves: lines with a time, a new file over the old one at the size limit."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from engine.runtime.logs import LogFiles


def stamp(time_ns: int) -> str:
    whole = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{time_ns % 1_000_000_000:09d}+00:00"


class Writer:
    """Writes lines as conmon does; `links` tells whether somebody refreshes after each new file."""

    def __init__(self, files: LogFiles, *, limit: int = 0, refresh: bool = True) -> None:
        self.files = files
        self._limit = limit or files.segment_bytes
        self._refresh = refresh
        self._written = 0
        files.prepare()
        self._fd = os.open(files.active, os.O_WRONLY | os.O_APPEND)

    def write(self, text: bytes, *, time_ns: int = 1_700_000_000_000_000_000, stream: str = "stdout") -> None:
        for part in text.splitlines(keepends=True):
            tag = "F" if part.endswith(b"\n") else "P"
            line = f"{stamp(time_ns)} {stream} {tag} ".encode() + part.removesuffix(b"\n") + b"\n"
            if self._written + len(line) > self._limit:
                self._reopen()
            self._written += os.write(self._fd, line)

    def _reopen(self) -> None:
        os.close(self._fd)
        staging = Path(f"{self.files.active}.tmp")
        self._fd = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        staging.rename(self.files.active)
        self._written = 0
        if self._refresh:
            self.files.refresh()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    __del__ = close

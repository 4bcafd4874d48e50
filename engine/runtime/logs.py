"""The files of a container's log: written by its monitor, kept as segments, bounded on disk.

Each line is `TIME STREAM TAG TEXT`: an RFC 3339 time with nanoseconds, `stdout` or `stderr`, and `F` when the text ended
with a newline, `P` when it goes on in the next line of that stream. So the exact bytes come back, a terminal's too.

Rotation without losing a line: the monitor writes to `log` and, at its size limit, renames a new file over it. Every file that
ever was `log` is also hard-linked as `segments/N`, where N is the number of bytes logged before it, so a full one stays under
its name. `refresh` links the new file and removes the oldest beyond the limit; whoever comes by calls it. If nobody does, the disk
stays bounded all the same: the monitor's file and the segments already linked are all there is.

A *position* is a number of bytes since the log began. It names a place between two lines for good: readers resume from it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.linux.files import remove_tree
from engine.linux.locks import file_lock

_SHARE = 8  # a segment is at most this part of the whole limit
_LEAST_SEGMENT = 16 * 1024


@dataclass(frozen=True)
class LogFiles:
    """The files of one log in `folder`; together they stay below `max_bytes`."""

    folder: Path
    max_bytes: int

    @property
    def active(self) -> Path:
        return self.folder / "log"

    @property
    def segment_bytes(self) -> int:
        """Where the monitor shall begin a new file."""
        return max(self.max_bytes // _SHARE, _LEAST_SEGMENT)

    def segments(self) -> list[int]:
        """Return the positions where the kept segments begin, oldest first."""
        with suppress(FileNotFoundError):
            return sorted(int(name) for name in os.listdir(self.folder / "segments") if name.isdigit())
        return []

    def path(self, segment: int) -> Path:
        return self.folder / "segments" / str(segment)

    def prepare(self) -> None:
        """Make the log ready for a start: the active file is there and linked.

        The monitor counts only what it writes itself, so a file that is already half full makes way for a new one.
        """
        (self.folder / "segments").mkdir(parents=True, exist_ok=True, mode=0o700)
        self.refresh()
        with suppress(FileNotFoundError):
            if self.active.stat().st_size > self.segment_bytes // 2:
                self.active.unlink()
        if not self.active.exists():
            os.close(os.open(self.active, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
            self.refresh()

    def refresh(self) -> bool:
        """Link the active file if it is new, and remove segments beyond the limit; return whether it was new.

        Idempotent, safe to call from several processes, and quick when nothing is new.
        """
        if not self._is_new():
            return False
        with file_lock(self.folder / "lock"):
            if not self._is_new():
                return False
            with suppress(
                FileNotFoundError
            ):  # the monitor has replaced it once more: the next call sees to that
                os.link(self.active, self.path(self._next()))
            self._trim()
        return True

    def size_bytes(self) -> int:
        return sum(self.size_of(segment) for segment in self.segments())

    def size_of(self, segment: int) -> int:
        try:
            return self.path(segment).stat().st_size
        except FileNotFoundError:
            return 0

    def remove(self) -> None:
        remove_tree(self.folder)

    def _is_new(self) -> bool:
        try:
            return os.stat(self.active).st_nlink == 1
        except FileNotFoundError:
            return False

    def _next(self) -> int:
        segments = self.segments()
        if not segments:
            return 0
        return segments[-1] + max(self.size_of(segments[-1]), 1)

    def _trim(self) -> None:
        """Remove the oldest segments; what stays leaves room for the active one to grow to its limit and half more."""
        room = self.max_bytes - self.segment_bytes * 3 // 2
        for segment in reversed(self.segments()[:-1]):
            room -= self.size_of(segment)
            if room < 0:
                self.path(segment).unlink(missing_ok=True)

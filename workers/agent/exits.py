"""Notices exits: conmon writes the exit status of a container to `<run root>/exits/<id>`, and inotify tells us at once.

What happened while nobody watched is found by looking: at the start, after an overflow of the queue, and every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from engine.linux.inotify import CLOSE_WRITE, MOVED_TO, OVERFLOW, Watch

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0


class ExitWatch:
    """Calls `reap(id)` for every exit file, once at a time for each container, until it says that it is done with it."""

    def __init__(self, folder: Path, reap: Callable[[str], Awaitable[None]]) -> None:
        self._folder = folder
        self._reap = reap
        self._running: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, tuple[int, int]] = {}  # id: inode and mtime of the exit file that was reaped

    async def run(self) -> None:
        """Watch until cancelled."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        loop = asyncio.get_running_loop()
        with Watch() as watch:
            watch.add(self._folder, MOVED_TO | CLOSE_WRITE)
            loop.add_reader(watch.fileno(), self._changed, watch)
            try:
                while True:
                    self._look()
                    await asyncio.sleep(LOOK_EVERY_S)
            finally:
                loop.remove_reader(watch.fileno())

    def _changed(self, watch: Watch) -> None:
        for change in watch.read():
            if change.mask & OVERFLOW:
                self._look()
            else:
                self._begin(change.name)

    def _look(self) -> None:
        present = set(os.listdir(self._folder))
        self._seen = {name: mark for name, mark in self._seen.items() if name in present}
        for name in present:
            self._begin(name)

    def _begin(self, name: str) -> None:
        """Start reaping unless that is under way or done; conmon's temporary files have a dot in their names."""
        mark = _mark(self._folder / name)
        if "." in name or mark is None or name in self._running or self._seen.get(name) == mark:
            return
        self._running[name] = asyncio.get_running_loop().create_task(self._one(name, mark))

    async def _one(self, name: str, mark: tuple[int, int]) -> None:
        try:
            await self._reap(name)
            self._seen[name] = mark
        except Exception:  # it is tried again at the next look
            logger.exception("container %s: its exit was not processed", name[:12])
        finally:
            del self._running[name]
        if _mark(self._folder / name) not in (None, mark):
            self._begin(name)


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns

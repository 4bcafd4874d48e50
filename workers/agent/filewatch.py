"""One inotify for the whole agent: feeds wait for files to grow without a thread or a descriptor each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from engine.linux.inotify import OVERFLOW, Watch


class FileWatch:
    """Sets events when watched paths change. A context manager, used in one event loop."""

    def __init__(self) -> None:
        self._watch = Watch()
        self._events: dict[Path, list[asyncio.Event]] = {}

    def __enter__(self) -> FileWatch:
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._changed)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._watch.fileno())
        self._watch.close()

    @contextlib.contextmanager
    def watching(self, event: asyncio.Event, path: Path, mask: int) -> Iterator[None]:
        """Set `event` whenever `path` changes, until the end of the block. All who watch a path must use the same mask.

        A path that is not there is not watched: watch its folder too.
        """
        waiting = self._events.setdefault(path, [])
        waiting.append(event)
        self._watch.add(path, mask)
        try:
            yield
        finally:
            waiting.remove(event)
            if not waiting:
                del self._events[path]
                self._watch.remove(path)

    def _changed(self) -> None:
        for change in self._watch.read():
            if change.mask & OVERFLOW:
                for events in self._events.values():
                    for event in events:
                        event.set()
            for event in self._events.get(change.path, ()):
                event.set()

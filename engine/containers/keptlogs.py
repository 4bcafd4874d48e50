"""Logs that outlive their containers: kept on request when a container is removed, until somebody removes them.

Each is a folder of the data root that holds the log's files as they were, and a note of whose they are. The folder is moved in one
step, with the note already in it, so a log is kept or it is not.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.config import EngineConfig
from engine.containers.model import Container
from engine.errors import InvalidInput, NotFound
from engine.linux.files import atomic_write, fsync_dir, remove_tree
from engine.runtime.logs import LogFiles

_NOTE = "container.json"
_LEAST_PREFIX = 4


@dataclass(frozen=True)
class KeptLog:
    """The log of a container that is gone; `removed_at` is seconds since the epoch."""

    id: str
    name: str
    image: str
    removed_at: float
    size_bytes: int = 0


class KeptLogs:
    """The kept logs of one node."""

    def __init__(self, config: EngineConfig) -> None:
        self._folder = config.data_root / "kept-logs"
        self._max_bytes = config.log_max_bytes

    def keep(self, container: Container, log: Path) -> None:
        """Take over the folder of a container's log. Idempotent: one that has been taken over already stays."""
        if not log.is_dir():
            return
        note = {"name": container.name, "image": container.spec.image, "removed_at": time.time()}
        atomic_write(log / _NOTE, json.dumps(note).encode(), 0o600)
        self._folder.mkdir(exist_ok=True, mode=0o700)
        log.rename(self._folder / container.id)
        fsync_dir(self._folder)

    def list(self) -> list[KeptLog]:
        """Return the kept logs, the newest first."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return sorted(filter(None, map(self._read, names)), key=lambda found: found.removed_at, reverse=True)

    def get(self, ref: str) -> KeptLog:
        """Find a kept log by its container's id, a unique beginning of it, or its name (of several the newest).

        Raises `NotFound`, and `InvalidInput` for the beginning of several.
        """
        found = self.list()
        if named := [log for log in found if ref in (log.id, log.name)]:
            return named[0]
        begun = [log for log in found if len(ref) >= _LEAST_PREFIX and log.id.startswith(ref)]
        if len(begun) > 1:
            raise InvalidInput(
                f"{ref[:64]!r} is the beginning of several kept logs", hint="give more of the id"
            )
        if not begun:
            raise NotFound(f"no log of a container {ref[:64]!r} was kept", hint="list the kept logs")
        return begun[0]

    def files(self, ref: str) -> LogFiles:
        """Return the files of a kept log, for a `LogReader`."""
        return LogFiles(self._folder / self.get(ref).id, self._max_bytes)

    def remove(self, ref: str) -> str:
        """Remove a kept log for good; return the id of its container."""
        found = self.get(ref)
        remove_tree(self._folder / found.id)
        return found.id

    def _read(self, name: str) -> KeptLog | None:
        with suppress(OSError, ValueError, KeyError):
            note = json.loads((self._folder / name / _NOTE).read_text())
            size = LogFiles(self._folder / name, self._max_bytes).size_bytes()
            return KeptLog(name, note["name"], note["image"], note["removed_at"], size)
        return None

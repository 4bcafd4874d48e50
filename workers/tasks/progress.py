"""What an operation says while it runs: a log file on the node, and a Redis stream for those who watch.

The file is the truth (`<data root>/operations/<id>.log`, one JSON object a line); the stream is capped, expires, and is left alone when
Redis is away. One thread a process writes for all operations, every few milliseconds, many entries at once, so that reporting
costs the work next to nothing. Reports of the same layer or step that follow each other within one such interval are merged.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import redis

from engine.progress import LayerProgress, Report, report_to_json
from workers.contracts import names
from workers.contracts.problems import Problem
from workers.contracts.values import dumps, to_json

logger = logging.getLogger(__name__)

FLUSH_S = 0.015
LAYER_EVERY_S = 0.1
STREAM_ENTRIES = 5_000
STREAM_KEPT_S = 3600
MOST_LOG_BYTES = 64 * 1024 * 1024
MOST_WAITING = 50_000  # entries: beyond it a reporter waits for the writer


def log_path(data_root: Path, operation_id: str) -> Path:
    return data_root / "operations" / f"{names.check_id(operation_id)}.log"


@dataclass
class OperationLog:
    """The log of one operation; `report` is the `Reporter` that the engine calls. Opened for appending: attempts follow each other."""

    id: str
    path: Path
    writer: ProgressWriter
    index: int = 0
    written_bytes: int = 0
    _file: IO[bytes] | None = None
    _layers: dict[str, tuple[str, float]] = field(default_factory=dict)

    def report(self, report: Report) -> None:
        """Take a report; quick, from any thread."""
        if isinstance(report, LayerProgress) and not self._is_worth_saying(report):
            return
        self.writer.put(self, {**report_to_json(report), "at": round(time.time(), 3)})

    def add(self, kind: str, **facts: Any) -> None:  # JSON
        """Add an entry of our own."""
        self.writer.put(self, {"type": kind, **facts, "at": round(time.time(), 3)})

    @property
    def has_waiting(self) -> bool:
        """Whether there are entries not yet written."""
        return self.writer.has_waiting(self)

    def close(self, status: str, problem: Problem | None = None) -> None:
        """Write the last entry and everything before it; returns when both are readable."""
        self.add("end", status=status, problem=to_json(problem) if problem else None)
        self.writer.flush(self)
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write entries to the file (called by the writer); return those that fit under the limit of the log."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self.path.open("ab", buffering=0)
            self.written_bytes = self.path.stat().st_size
            if self.written_bytes:
                self.index = self.path.read_bytes().count(b"\n")
        if self.written_bytes > MOST_LOG_BYTES:
            entries = [entry for entry in entries if entry["type"] in ("end", "attempt", "stepprogress")]
        text = "".join(dumps(entry) + "\n" for entry in entries).encode()
        if text and self.written_bytes <= MOST_LOG_BYTES < self.written_bytes + len(text):
            note = {
                "type": "message",
                "stream": "note",
                "step": "",
                "text": "the log is full: what follows is left out",
            }
            entries = [*entries, {**note, "at": round(time.time(), 3)}]
            text += (dumps(entries[-1]) + "\n").encode()
        self._file.write(text)
        self.written_bytes += len(text)
        return entries

    def _is_worth_saying(self, report: LayerProgress) -> bool:
        status, said_at = self._layers.get(report.id, ("", 0.0))
        now = time.monotonic()
        if report.status == status and now - said_at < LAYER_EVERY_S:
            return False
        self._layers[report.id] = (report.status, now)
        return True


class ProgressWriter:
    """The one thread that writes all logs of this process."""

    def __init__(self, connection: redis.Redis, data_root: Path) -> None:
        self._redis = connection
        self._data_root = data_root
        self._waiting: list[tuple[OperationLog, dict[str, Any]]] = []
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._arrived = threading.Event()
        self._room = threading.Event()
        self._room.set()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def open(self, operation_id: str) -> OperationLog:
        """Return the log of an operation; nothing is made before its first entry."""
        return OperationLog(operation_id, log_path(self._data_root, operation_id), self)

    def put(self, log: OperationLog, entry: dict[str, Any]) -> None:
        self._room.wait(timeout=30)
        with self._guard:
            self._waiting.append((log, entry))
            if len(self._waiting) > MOST_WAITING:
                self._room.clear()
        self._arrived.set()

    def has_waiting(self, log: OperationLog) -> bool:
        with self._writing, self._guard:
            return any(item[0] is log for item in self._waiting)

    def flush(self, log: OperationLog) -> None:
        """Write everything of one log that is still waiting."""
        with self._writing:
            with self._guard:
                mine = [item for item in self._waiting if item[0] is log]
                self._waiting = [item for item in self._waiting if item[0] is not log]
            self._write(mine)

    def _run(self) -> None:
        while True:
            self._arrived.wait()
            time.sleep(FLUSH_S)
            self._arrived.clear()
            with self._writing:
                with self._guard:
                    items, self._waiting = self._waiting, []
                    self._room.set()
                self._write(items)

    def _write(self, items: Iterable[tuple[OperationLog, dict[str, Any]]]) -> None:
        by_log: dict[str, tuple[OperationLog, list[dict[str, Any]]]] = {}
        for log, entry in items:
            by_log.setdefault(log.id, (log, []))[1].append(entry)
        for log, entries in by_log.values():
            first = log.index
            try:
                entries = log.append(entries)
            except OSError as error:
                logger.error("operation %s: its log cannot be written: %s", log.id, error)
            first = log.index if log.index > first else first
            log.index = first + len(entries)
            self._publish(log, first, entries)

    def _publish(self, log: OperationLog, first: int, entries: list[dict[str, Any]]) -> None:
        key = names.progress_key(log.id)
        with contextlib.suppress(redis.RedisError, OSError):  # watchers fall back to the file
            pipe = self._redis.pipeline(transaction=False)
            pipe.xadd(key, {"i": first, "p": dumps(entries)}, maxlen=STREAM_ENTRIES, approximate=True)
            pipe.expire(key, STREAM_KEPT_S)
            pipe.execute()

"""A container's life as one list: what was done to it, what it did, and the log lines around each moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.containers.model import Container, from_json
from engine.containers.parts import Parts
from engine.db import Database
from engine.runtime.log_reader import Entry, LogQuery, LogReader

_MOMENTS = ("start", "die", "oom", "kill", "stop", "restart", "health_status", "start_failed")
_BEFORE_NS, _AFTER_NS = 5_000_000_000, 1_000_000_000
_LEFT_OUT = {"record", "labels", "image", "name"}


@dataclass(frozen=True)
class Moment:
    """Something that happened. `log` are the last lines before it and the first after it, as texts with their stream."""

    time_ns: int
    seq: int
    action: str
    attributes: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)


def timeline(parts: Parts, container: Container, *, limit: int = 200, log_lines: int = 5) -> list[Moment]:
    """Return the newest `limit` moments, oldest first."""
    reader = LogReader(parts.log_files(container))
    moments = []
    for event in parts.db.events_of(container.id, limit):
        attributes = {name: value for name, value in event.attributes.items() if name not in _LEFT_OUT}
        around = _around(reader, event.time_ns, log_lines) if event.action.split(":")[0] in _MOMENTS else []
        moments.append(Moment(event.time_ns, event.seq, event.action, attributes, around))
    return moments


def last_record(database: Database, container_id: str) -> Container | None:
    """Return the newest record of a container in the journal, None where the journal has none."""
    for event in reversed(database.events_of(container_id, 20)):
        record = event.attributes.get("record")
        if event.type == "container" and isinstance(record, dict):
            return from_json(Container, record)
    return None


def _around(reader: LogReader, time_ns: int, count: int) -> list[dict[str, Any]]:
    query = LogQuery(since_ns=time_ns - _BEFORE_NS, until_ns=time_ns + _AFTER_NS)
    before: list[Entry] = []
    after: list[Entry] = []
    for batch in reader.entries(query):
        for entry in batch:
            if isinstance(entry, Entry):
                (before if entry.time_ns <= time_ns else after).append(entry)
        del before[:-count]
        if len(after) >= count:
            break
    return [
        {
            "time_ns": entry.time_ns,
            "stream": entry.stream,
            "text": entry.text.decode(errors="replace").rstrip("\r\n"),
        }
        for entry in [*before, *after[:count]]
    ]

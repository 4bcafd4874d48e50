"""Reading the book."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from webapp.audit.models import Entry, Outcome, Recording
from webapp.core.errors import Missing

COLUMNS = (
    "seq", "at", "actor", "token", "address", "face", "action", "target_type", "target_id", "target", "node", "outcome",
    "operation", "detail", "body", "previous", "hash",
)  # fmt: skip


@dataclass(frozen=True)
class EntryFilter:
    """Empty fields filter nothing. `action` ending in a dot takes all below it; `target` is a name, an id or its start."""

    actor: str = ""
    action: str = ""
    target: str = ""
    target_type: str = ""
    outcome: str = ""
    face: str = ""
    node: str = ""
    operation: str = ""
    search: str = ""
    since: datetime | None = None
    until: datetime | None = None


def entry_list(wanted: EntryFilter = EntryFilter()) -> QuerySet[Entry]:
    """Return the entries that fit, newest first."""
    entries = Entry.objects.all()
    for name in ("actor", "target_type", "outcome", "face", "node", "operation"):
        if value := getattr(wanted, name):
            entries = entries.filter(**{name: value})
    if wanted.action:
        entries = entries.filter(
            **{"action__startswith" if wanted.action.endswith(".") else "action": wanted.action}
        )
    if wanted.target:
        entries = entries.filter(
            Q(target=wanted.target) | Q(target_id=wanted.target) | Q(target_id__startswith=wanted.target)
        )
    if wanted.search:
        entries = entries.filter(
            Q(target__icontains=wanted.search)
            | Q(detail__icontains=wanted.search)
            | Q(action__icontains=wanted.search)
        )
    if wanted.since:
        entries = entries.filter(at__gte=wanted.since)
    if wanted.until:
        entries = entries.filter(at__lte=wanted.until)
    return entries


def entries_of(target_type: str, target_id: str, limit: int = 200) -> list[Entry]:
    """Return the newest entries about one thing, newest first."""
    return list(Entry.objects.filter(target_type=target_type, target_id=target_id)[:limit])


def entry_get(seq: int) -> Entry:
    entry = Entry.objects.filter(seq=seq).first()
    if entry is None:
        raise Missing(f"no audit entry {seq}")
    return entry


def outcome_of(entry: Entry) -> Entry | None:
    """Return the entry that tells how the operation of an accepted request ended; None: it has not, or needs none."""
    if entry.outcome != Outcome.ACCEPTED or not entry.operation:
        return None
    return (
        Entry.objects.filter(operation=entry.operation, seq__gt=entry.seq)
        .exclude(outcome=Outcome.ACCEPTED)
        .first()
    )


def recording_list(container_id: str = "") -> QuerySet[Recording]:
    """Return recorded terminal sessions, newest first."""
    return Recording.objects.filter(container_id=container_id) if container_id else Recording.objects.all()


def to_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as REST and exports show it."""
    shown = {name: getattr(entry, name) for name in COLUMNS}
    shown["at"] = entry.at.isoformat()
    shown["body"] = json.loads(entry.body)
    return shown


# --- exports ----------------------------------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> str:
    """Return a value for a CSV cell: no formula for a spreadsheet, no escape sequence for a terminal, no line break."""
    text = "" if value is None else str(value)
    text = _CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def as_csv(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the lines of a CSV file."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for entry in entries:
        writer.writerow(
            [safe_cell(entry.at.isoformat() if name == "at" else getattr(entry, name)) for name in COLUMNS]
        )
        if buffer.tell() > 32768:
            yield _drain(buffer)
    yield _drain(buffer)


def as_jsonl(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield JSON lines (control characters are escaped by JSON itself)."""
    for entry in entries:
        yield json.dumps(to_json(entry), ensure_ascii=True) + "\n"


def _drain(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text

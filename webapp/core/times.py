"""Times as they come from nodes and from people."""

from __future__ import annotations

import datetime
import re

from webapp.core.errors import Invalid

_AGO = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?\Z")


def from_seconds(seconds: float | None) -> datetime.datetime | None:
    """Return the moment that many seconds after the epoch; 0 and None mean never."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC) if seconds else None


def from_ns(nanoseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(nanoseconds / 1e9, datetime.UTC)


def parse_moment(text: str, *, field: str = "since") -> datetime.datetime | None:
    """Parse what people write: an ISO time, seconds since the epoch, or how long ago (`10m`, `1h30m`, `2d`)."""
    if not text:
        return None
    try:
        return datetime.datetime.fromtimestamp(float(text), datetime.UTC)
    except (ValueError, OverflowError, OSError):
        pass
    if match := _AGO.match(text):
        days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
        ago = datetime.timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        return datetime.datetime.now(datetime.UTC) - ago
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(
            f"{field} is no time: {text[:50]!r}",
            fields={field: ["no time"]},
            hint="like 2026-01-31T12:00:00Z, 1738324800 or 10m",
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)

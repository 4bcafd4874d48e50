"""Small values in the forms that the Docker Engine API gives them: truth, times, durations, states."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from webapp.dockerapi.errors import BadParameter

ZERO_TIME = "0001-01-01T00:00:00Z"

_DURATION = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {
    "ns": "0.000000001",
    "us": "0.000001",
    "µs": "0.000001",
    "ms": "0.001",
    "s": "1",
    "m": "60",
    "h": "3600",
}
_UNIX = re.compile(r"\d+(\.\d{1,20})?\Z")
_DATE = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:T(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2})(?P<fraction>\.\d{1,9})?)?)?)?"
    r"(?P<zone>Z|[+-]\d{2}:\d{2})?\Z"
)


def is_true(text: str | None) -> bool:
    """Tell whether a query parameter means yes: everything but nothing, 0, no, false and none does."""
    return (text or "").strip().lower() not in ("", "0", "no", "false", "none")


def parse_time(text: str, now: float | None = None) -> Decimal:
    """Return the seconds since the epoch that `since`/`until` means: a time, a unix time, or a duration before now.

    Raises `BadParameter`. Decimal keeps nanoseconds.
    """
    if _UNIX.match(text):
        return Decimal(text).quantize(Decimal("0.000000001"))
    if found := _DATE.match(text):
        return _parse_date(found, text)
    return Decimal(repr(time.time() if now is None else now)) - parse_duration(text)


def parse_duration(text: str) -> Decimal:
    """Return the seconds in a Go duration (`1h30m`, `1.5h`, `-1m`). Raises `BadParameter`."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    parts = _DURATION_PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise BadParameter(f"failed to parse value as time or duration: {text!r}")
    return sign * sum((Decimal(number) * Decimal(_SECONDS[unit]) for number, unit in parts), Decimal(0))


def _parse_date(found: re.Match[str], text: str) -> Decimal:
    zone: timezone = UTC
    if (offset := found["zone"]) and offset != "Z":
        minutes = int(offset[1:3]) * 60 + int(offset[4:6])
        zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    try:
        day = datetime.fromisoformat(found["date"])
        moment = day.replace(
            hour=int(found["hour"] or 0),
            minute=int(found["minute"] or 0),
            second=int(found["second"] or 0),
            tzinfo=zone,
        )
    except ValueError as error:
        raise BadParameter(f"failed to parse value as time or duration: {text!r}") from error
    return Decimal(int(moment.timestamp())) + Decimal(found["fraction"] or 0)


def rfc3339(seconds: float | Decimal | int) -> str:
    """Return a time as Go writes it (RFC 3339, nanoseconds without trailing zeros); 0 is Go's zero time."""
    if not seconds:
        return ZERO_TIME
    whole, nanoseconds = divmod(
        int(Decimal(repr(seconds) if isinstance(seconds, float) else seconds) * 10**9), 10**9
    )
    base = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{base}{fraction}Z"


def human_duration(seconds: float) -> str:
    """Return a duration in the rough words of `docker ps`: "3 hours", "About a minute"."""
    whole = int(seconds)
    minutes, hours = whole // 60, int(seconds / 3600 + 0.5)
    days = hours // 24
    for fits, words in (
        (whole < 1, "Less than a second"),
        (whole == 1, "1 second"),
        (whole < 60, f"{whole} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 7 * 2, f"{days} days"),
        (hours < 24 * 30 * 2, f"{days // 7} weeks"),
        (hours < 24 * 365 * 2, f"{days // 30} months"),
    ):
        if fits:
            return words
    return f"{days // 365} years"


def nanoseconds(seconds: float | None) -> int:
    """Return whole nanoseconds, the unit of durations in the API."""
    return round((seconds or 0) * 10**9)

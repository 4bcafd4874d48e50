"""Lengths of time as Dockerfiles write them: `1h30m`, `500ms`, `1.5s` (Go's time.ParseDuration)."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})([a-zµμ]*)")


def parse_duration(text: str) -> int:
    """Return nanoseconds; raise ValueError with the usual message."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total = Decimal(0)
    position = 0
    while position < len(rest):
        match = _PART.match(rest, position)
        if not match:
            raise ValueError(f'time: invalid duration "{text}"')
        if not match[2]:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if match[2] not in _UNITS:
            raise ValueError(f'time: unknown unit "{match[2]}" in duration "{text}"')
        total += Decimal(match[1] if not match[1].startswith(".") else "0" + match[1]) * _UNITS[match[2]]
        position = match.end()
    if not rest or total >= 1 << 63:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * int(total)


def format_duration(nanoseconds: int) -> str:
    """Return the shortest form that people write: `5s`, `1m30s`, `500ms`."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 10**9:
        unit = next(unit for unit in ("ms", "us", "ns") if nanoseconds >= _UNITS[unit])
        return f"{Decimal(nanoseconds) / _UNITS[unit]:f}{unit}"
    hours, rest = divmod(nanoseconds, _UNITS["h"])
    minutes, rest = divmod(rest, _UNITS["m"])
    seconds = f"{(Decimal(rest) / 10**9).normalize():f}s" if rest else ""
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "") + seconds

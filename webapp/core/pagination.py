"""Pages of lists by cursor: `{"results": [...], "next": cursor}`. A cursor is the sort key of the last row, so rows that
come and go between two pages neither repeat nor hide others.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from webapp.core.errors import Invalid

DEFAULT_LIMIT = 100
MAX_LIMIT = 5000


@dataclass(frozen=True)
class Page:
    rows: list[Any]
    next: str | None


@dataclass(frozen=True)
class Window:
    """What part of a list is asked for."""

    limit: int = DEFAULT_LIMIT
    cursor: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str], default: int = DEFAULT_LIMIT) -> Window:
        """Return the window that `?limit=&cursor=` asks for, else raise `Invalid`."""
        text = query.get("limit", "")
        if not text:
            return cls(default, query.get("cursor", ""))
        if not text.isdecimal() or not 1 <= int(text) <= MAX_LIMIT:
            raise Invalid(f"limit must be a number from 1 to {MAX_LIMIT}", fields={"limit": ["out of range"]})
        return cls(int(text), query.get("cursor", ""))


def paginate(
    queryset: QuerySet[Any], window: Window, *, keys: tuple[str, ...] = ("created_at", "id")
) -> Page:
    """Return one page of `queryset`, newest first by `keys` (the last of which is unique)."""
    ordered = queryset.order_by(*[f"-{key}" for key in keys])
    if window.cursor:
        ordered = ordered.filter(_after(keys, _decode(window.cursor, len(keys))))
    rows = list(ordered[: window.limit + 1])
    if len(rows) <= window.limit:
        return Page(rows, None)
    rows = rows[: window.limit]
    return Page(rows, _encode([getattr(rows[-1], key) for key in keys]))


def _after(keys: tuple[str, ...], values: list[Any]) -> Q:
    condition = Q()
    for index, key in enumerate(keys):
        equal = Q(**dict(zip(keys[:index], values[:index], strict=True)))
        condition |= equal & Q(**{f"{key}__lt": values[index]})
    return condition


def _encode(values: list[Any]) -> str:
    plain = [{"t": value.isoformat()} if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")


def _decode(cursor: str, count: int) -> list[Any]:
    try:
        plain = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        values = [datetime.fromisoformat(value["t"]) if isinstance(value, dict) else value for value in plain]
        if len(values) != count or not all(isinstance(value, str | int | datetime) for value in values):
            raise ValueError("not a key")
    except (ValueError, TypeError, KeyError, binascii.Error) as error:
        raise Invalid(
            "the cursor is not one of ours", code="bad_cursor", hint="start again without a cursor"
        ) from error
    return values

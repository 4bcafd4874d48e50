"""JSON from strangers: one meaning or none.

Refused besides what is no JSON: more than `limit` bytes, the same key twice (two readers could see two documents),
NaN and infinities, nesting deeper than Python's parser goes.
"""

from __future__ import annotations

import json
from typing import Any

from engine.errors import InvalidInput

DOCUMENT_LIMIT = 4 * 1024 * 1024


def parse_json(data: bytes, what: str, limit: int = DOCUMENT_LIMIT) -> Any:  # any JSON value
    """Return the JSON value in `data`, else raise `InvalidInput` naming `what`."""
    if len(data) > limit:
        raise InvalidInput(f"{what} has {len(data)} bytes, more than the {limit} allowed")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(f"{what} is not valid JSON: {reason}") from error


def parse_object(data: bytes, what: str, limit: int = DOCUMENT_LIMIT) -> dict[str, Any]:
    """Return the JSON object in `data`, else raise `InvalidInput`."""
    value = parse_json(data, what, limit)
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object")
    return value


def canonical_json(value: Any) -> bytes:  # any JSON value
    """Return the one form that we write: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:60]!r} twice in one object")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")

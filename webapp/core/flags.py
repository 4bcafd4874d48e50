"""Words of query strings and forms as values."""

from __future__ import annotations

from collections.abc import Mapping

from webapp.core.errors import Invalid

_TRUE = frozenset({"1", "true", "yes", "on", "t"})
_FALSE = frozenset({"", "0", "false", "no", "off", "f"})


def flag(query: Mapping[str, str], name: str, default: bool = False) -> bool:
    """Return the truth of `?name=`; `?name` alone is true. Raises `Invalid` for other words."""
    if name not in query:
        return default
    word = query[name].strip().lower()
    if word in _TRUE or word == "":
        return True
    if word in _FALSE:
        return False
    raise Invalid(f"{name} must be true or false", fields={name: ["not true or false"]})


def number(
    query: Mapping[str, str],
    name: str,
    default: float | None = None,
    *,
    lowest: float = 0,
    highest: float = 1e15,
) -> float | None:
    """Return the number of `?name=`, else raise `Invalid`."""
    text = query.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not lowest <= value <= highest:
        raise Invalid(f"{name} must be a number", fields={name: [f"from {lowest:g} to {highest:g}"]})
    return value

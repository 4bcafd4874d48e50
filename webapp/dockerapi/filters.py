"""The `filters` parameter: parsed from both of its JSON forms, and matched as the engine does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from webapp.dockerapi.errors import BadParameter

Filters = dict[str, set[str]]


def parse_filters(text: str | None, known: Iterable[str] | None = None) -> Filters:
    """Return the values of each filter. `{"label":["a"]}` and `{"label":{"a":true}}` mean the same.

    Raises `BadParameter` for what is neither, and for a filter that is not `known`.
    """
    if not text:
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadParameter("invalid filter: not JSON") from error
    if not isinstance(data, dict):
        raise BadParameter("invalid filter: an object of lists is expected")
    filters = {name: _values(name, values) for name, values in data.items()}
    if known is not None:
        for name in filters:
            if name not in set(known):
                raise BadParameter(f"invalid filter '{name}'")
    return filters


def _values(name: str, values: object) -> set[str]:
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return set(values)
    if isinstance(values, dict) and all(isinstance(value, bool) for value in values.values()):
        return {value for value, wanted in values.items() if wanted}
    raise BadParameter(f"invalid filter '{name}'")


def matches_labels(filters: Filters, field: str, labels: Mapping[str, str]) -> bool:
    """Tell whether all wanted labels (`key` or `key=value`) are there."""
    for wanted in filters.get(field, ()):
        key, has_value, value = wanted.partition("=")
        if key not in labels or (has_value and labels[key] != value):
            return False
    return True


def without_labels(filters: Filters, field: str, labels: Mapping[str, str]) -> bool:
    """Tell whether none of the labels of a `label!` filter is there."""
    return all(not matches_labels({field: {wanted}}, field, labels) for wanted in filters.get(field, ()))


def matches_text(filters: Filters, field: str, *candidates: str) -> bool:
    """Tell whether a wanted value equals one of the candidates, or as a regular expression is found in one."""
    wanted = filters.get(field)
    if not wanted:
        return True
    return any(_found(pattern, candidate) for pattern in wanted for candidate in candidates)


def matches_exactly(filters: Filters, field: str, *candidates: str) -> bool:
    wanted = filters.get(field)
    return not wanted or bool(wanted & set(candidates))


def matches_prefix(filters: Filters, field: str, *candidates: str) -> bool:
    wanted = filters.get(field)
    return not wanted or any(candidate.startswith(prefix) for prefix in wanted for candidate in candidates)


def boolean(filters: Filters, field: str, default: bool) -> bool:
    """Return the truth of a yes-or-no filter. Raises `BadParameter` for other words or both at once."""
    values = filters.get(field)
    if not values:
        return default
    truths = {value in ("1", "true") for value in values}
    if not values <= {"0", "1", "true", "false"} or len(truths) != 1:
        raise BadParameter(f"invalid filter '{field}={sorted(values)}'")
    return truths.pop()


_LONGEST_PATTERN = 256


def _found(pattern: str, text: str) -> bool:
    if pattern == text:
        return True
    if len(pattern) > _LONGEST_PATTERN or re.search(r"[*+}]\)?[*+{]", pattern):
        return False  # nested repetition backtracks for ever in Python, where Go's engine does not
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False

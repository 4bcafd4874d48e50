"""Makes JSON of the engine's values: the public records that answers, results and pages are made of."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import PurePath
from typing import Any


def to_record(value: Any) -> Any:  # any value of the engine; the result is JSON
    """Return `value` as JSON: its own `to_json()` where it has one, else a dataclass's fields."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str | PurePath):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {str(name): to_record(item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_record(value._asdict())
    if isinstance(value, list | tuple | set | frozenset):
        return [to_record(item) for item in value]
    if hasattr(value, "to_json"):
        return to_record(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_record(getattr(value, item.name)) for item in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def file_record(stat: Any) -> dict[str, Any]:
    """Return what is known of a file inside a container: sizes have their unit in the name, as everywhere outside."""
    record = to_record(stat)
    return {"size_bytes": record.pop("size"), **record}

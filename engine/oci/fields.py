"""Reading typed fields out of parsed JSON, with errors that name the document and the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from engine.errors import InvalidInput

T = TypeVar("T")


class Fields:
    """One JSON object being read. A missing or null field gives the default; a wrong type raises `InvalidInput`."""

    def __init__(self, values: Any, where: str) -> None:  # any JSON value: checked here
        if not isinstance(values, dict):
            raise InvalidInput(f"{where} must be an object")
        self.values: dict[str, Any] = values
        self.where = where

    def text(self, name: str, default: str = "") -> str:
        return self._scalar(name, str, default, "text")

    def flag(self, name: str) -> bool:
        return self._scalar(name, bool, False, "true or false")

    def number(self, name: str, default: int = 0) -> int:
        value = self._scalar(name, int, default, "a whole number")
        if isinstance(value, bool) or not -(2**63) <= value < 2**63:
            raise InvalidInput(f"{self.where}.{name} must be a whole number of 64 bits")
        return value

    def child(self, name: str) -> Fields | None:
        value = self.values.get(name)
        return None if value is None else Fields(value, f"{self.where}.{name}")

    def children(self, name: str, convert: Callable[[Fields], T], *, limit: int) -> tuple[T, ...]:
        """Return the objects of a list, each converted; more than `limit` are refused."""
        items = self._scalar(name, list, [], "a list")
        if len(items) > limit:
            raise InvalidInput(f"{self.where}.{name} has {len(items)} entries, more than the {limit} allowed")
        return tuple(
            convert(Fields(item, f"{self.where}.{name}[{index}]")) for index, item in enumerate(items)
        )

    def texts(self, name: str) -> tuple[str, ...] | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidInput(f"{self.where}.{name} must be a list of texts")
        return tuple(value)

    def mapping(self, name: str) -> dict[str, str]:
        value = self._scalar(name, dict, {}, "an object")
        if not all(isinstance(item, str) for item in value.values()):
            raise InvalidInput(f"{self.where}.{name} must be an object of texts")
        return dict(value)

    def names(self, name: str) -> tuple[str, ...]:
        """Return the keys of an object that is used as a set (`{"80/tcp": {}}`)."""
        return tuple(self._scalar(name, dict, {}, "an object"))

    def _scalar(self, name: str, kind: type[T], default: T, expected: str) -> T:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise InvalidInput(f"{self.where}.{name} must be {expected}")
        return value

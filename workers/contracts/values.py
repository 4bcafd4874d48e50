"""Strict JSON for frozen dataclasses: what is not declared is refused, and every refusal names the field.

Only the types that contracts use are known: text, integers, floats, booleans, `X | None`, lists, dictionaries with text
keys, nested dataclasses, and `Any` for JSON that somebody else judges (a container's spec is judged by the engine).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Hashable
from typing import Any, TypeVar

T = TypeVar("T")

MAX_DEPTH = 64
MAX_TEXT_BYTES = 16 * 1024 * 1024


class ContractError(ValueError):
    """A message is not what its contract says; it can never succeed as it is."""


def loads(text: str | bytes) -> Any:  # any JSON value
    """Parse JSON; duplicate keys, NaN, great depth and great length are refused."""
    if len(text) > MAX_TEXT_BYTES:
        raise ContractError(f"message of {len(text)} bytes is longer than {MAX_TEXT_BYTES}")
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"not JSON: {error}") from error
    _check_depth(value)
    return value


def dumps(value: Any) -> str:  # any JSON value
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def to_json(value: Any) -> Any:  # any JSON value
    """Return a dataclass (or lists and dictionaries of them) as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], data: Any, where: str = "") -> T:  # data: foreign JSON
    """Build the dataclass `kind` from JSON, else raise `ContractError` naming the field."""
    if not isinstance(data, dict):
        raise ContractError(f"{where or kind.__name__} must be an object")
    hints = _hints(typing.cast(Hashable, kind))
    prefix = f"{where}." if where else ""
    values: dict[str, Any] = {}
    for name, item in data.items():
        if name not in hints:
            raise ContractError(f"unknown field {prefix}{str(name)[:100]}")
        values[name] = _convert(hints[name], item, prefix + name)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ContractError(f"{where or kind.__name__}: {error}") from error


@functools.cache
def _hints(kind: Hashable) -> dict[str, Any]:
    declared = typing.cast("type[Any]", kind)
    fields = {item.name for item in dataclasses.fields(declared)}
    return {name: hint for name, hint in typing.get_type_hints(declared).items() if name in fields}


def _convert(hint: Any, value: Any, where: str) -> Any:  # both come from data
    if hint is Any:
        return value
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        return _convert(next(option for option in options if option is not type(None)), value, where)
    if origin is list:
        if not isinstance(value, list):
            raise ContractError(f"{where} must be a list")
        return [_convert(options[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise ContractError(f"{where} must be an object")
        return {key: _convert(options[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast("type[Any]", hint), value, where)
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ContractError(f"{where} must be {'text' if hint is str else hint.__name__}")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ContractError("an object names a field twice")
    return result


def _no_constant(name: str) -> Any:
    raise ContractError(f"{name} is not JSON")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in _children(outer)]
        if not level:
            return
    raise ContractError(f"message is nested deeper than {MAX_DEPTH}")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [item for item in value.values() if isinstance(item, dict | list)]
    if isinstance(value, list):
        return [item for item in value if isinstance(item, dict | list)]
    return []

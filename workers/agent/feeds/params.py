"""Reads the parameters of a stream: foreign JSON, each field judged here."""

from __future__ import annotations

from typing import Any

from workers.contracts.values import ContractError

Params = dict[str, Any]


def text(params: Params, name: str, default: str | None = None) -> str:
    value = params.get(name, default)
    if not isinstance(value, str):
        raise ContractError(f"{name} must be text")
    return value


def truth(params: Params, name: str, default: bool = False) -> bool:
    value = params.get(name, default)
    if not isinstance(value, bool):
        raise ContractError(f"{name} must be true or false")
    return value


def number(params: Params, name: str, default: float = 0.0) -> float:
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:
        raise ContractError(f"{name} must be a number")
    return float(value)


def texts(params: Params, name: str) -> list[str]:
    value = params.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ContractError(f"{name} must be a list of texts")
    return value


def mapping(params: Params, name: str) -> dict[str, str]:
    value = params.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ContractError(f"{name} must map texts to texts")
    return value

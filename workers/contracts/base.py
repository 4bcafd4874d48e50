"""`Contract`: one kind of work that a node does, as a frozen dataclass whose fields are the payload.

A subclass gives `KIND` and, where the defaults do not fit, `LANE` and `DEADLINE_S`. A field with the metadata `SECRET` never lies
in Redis or in a database in clear: `workers.client` seals it for the node before it is sent.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from workers.contracts.values import ContractError

QUICK = "quick"  # answers in moments: life cycle, tags, networks
BULK = "bulk"  # moves many bytes: builds, pulls, archives, backups

SECRET = {"sealed": True}  # metadata of a field that is sealed on its way

_kinds: dict[str, type[Contract]] = {}


@dataclasses.dataclass(frozen=True)
class Contract:
    """Base of all contracts. `LANE` chooses the queue; work is cancelled after `DEADLINE_S` seconds."""

    KIND: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1
    LANE: ClassVar[str] = QUICK
    DEADLINE_S: ClassVar[float] = 300.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.KIND in _kinds:
            raise TypeError(f"two contracts of kind {cls.KIND}")
        _kinds[cls.KIND] = cls

    @classmethod
    def task_name(cls) -> str:
        """Return the name of the Celery task."""
        return task_name(cls.KIND)


def sealed_fields(kind: type[Contract]) -> list[str]:
    """Return the names of the fields that travel sealed."""
    return [item.name for item in dataclasses.fields(kind) if item.metadata.get("sealed")]


def contract_of(kind: str) -> type[Contract]:
    """Return the contract of a kind, else raise `ContractError`."""
    try:
        return _kinds[kind]
    except KeyError:
        raise ContractError(f"unknown kind of work {kind[:100]!r}") from None


def all_kinds() -> list[str]:
    """Return every kind, sorted."""
    return sorted(_kinds)


def task_name(kind: str) -> str:
    return f"wharfinger.{kind}"

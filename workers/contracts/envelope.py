"""The envelope in which a contract travels: `<hex signature>.<JSON>`, one text, the only argument of each Celery task.

JSON: `{"v", "operation", "kind", "node", "fence", "issued_at", "deadline_s", "payload"}`. `fence` counts how often the web site
sent this operation (from 1); the node refuses one lower than the highest it has seen. Fields marked `SECRET` are taken out of
`payload` and travel encrypted in `sealed`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from workers.contracts.base import Contract, contract_of, sealed_fields
from workers.contracts.names import check_id, check_node
from workers.contracts.signing import NodeKey
from workers.contracts.values import ContractError, dumps, from_json, loads, to_json

PURPOSE = "task"


@dataclass(frozen=True)
class Envelope:
    """A parsed envelope. `sealed` is what `Seal.open` of `workers.keys` turns into the payload's secret fields."""

    v: int
    operation: str
    kind: str
    node: str
    fence: int
    issued_at: float
    deadline_s: float
    payload: dict[str, Any] = field(default_factory=dict)  # judged by `contract`
    sealed: str = ""

    def contract(self, secrets: dict[str, Any] | None = None) -> Contract:
        """Return the contract in this envelope; `secrets` are the opened sealed fields."""
        kind = contract_of(self.kind)
        hidden = set(sealed_fields(kind))
        if hidden & set(self.payload):
            raise ContractError(f"{self.kind}: {sorted(hidden & set(self.payload))[0]} must travel sealed")
        if secrets and set(secrets) - hidden:
            raise ContractError(f"{self.kind}: unknown sealed field")
        return from_json(kind, {**self.payload, **(secrets or {})})


def split(contract: Contract) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a contract's open payload and its secret fields (only those that are not empty), as JSON values."""
    payload = to_json(contract)
    hidden = sealed_fields(type(contract))
    secrets = {name: payload.pop(name) for name in hidden}
    return payload, {name: value for name, value in secrets.items() if value}


def write(
    key: NodeKey,
    contract: Contract,
    *,
    operation_id: str,
    fence: int = 1,
    sealed: str = "",
    deadline_s: float | None = None,
) -> str:
    """Return the signed envelope of a contract for the node of `key`."""
    envelope = Envelope(
        v=contract.VERSION,
        operation=check_id(operation_id),
        kind=contract.KIND,
        node=key.node,
        fence=fence,
        issued_at=time.time(),
        deadline_s=contract.DEADLINE_S if deadline_s is None else deadline_s,
        payload=split(contract)[0],
        sealed=sealed,
    )
    return key.wrap(PURPOSE, dumps(to_json(envelope)))


def read(key: NodeKey, text: str) -> Envelope:
    """Verify and parse an envelope, else raise `ContractError` (`BadSignature` when it is not the web site's)."""
    envelope = from_json(Envelope, loads(key.unwrap(PURPOSE, text)))
    check_id(envelope.operation)
    if check_node(envelope.node) != key.node:
        raise ContractError(f"message for node {envelope.node!r} came to {key.node!r}")
    kind = contract_of(envelope.kind)
    if envelope.v != kind.VERSION:
        raise ContractError(
            f"{envelope.kind}: version {envelope.v} is not {kind.VERSION}, the one this node speaks"
        )
    if envelope.fence < 1 or envelope.deadline_s <= 0:
        raise ContractError(f"{envelope.kind}: fence and deadline must be positive")
    return envelope

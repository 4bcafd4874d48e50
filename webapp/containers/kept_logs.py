"""Logs that were kept when their containers were removed. The node is the truth about them: nothing is recorded here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from webapp.accounts.actor import Actor
from webapp.core.errors import Missing
from webapp.core.times import from_seconds
from webapp.nodes.models import Node
from webapp.operations import services as operations
from webapp.operations.models import Operation
from webapp.operations.services import Target
from workers import contracts


@dataclass(frozen=True)
class KeptLog:
    id: str
    name: str
    image: str
    removed_at: datetime | None
    size_bytes: int

    def to_json(self, node: Node) -> dict[str, Any]:
        return {**vars(self), "node": node.name}


def kept_log_list(node: Node) -> list[KeptLog]:
    """Return the kept logs of a node, the newest first."""
    answer = operations.ask(node, "kept_log.list")
    return [
        KeptLog(
            str(item["id"]), str(item["name"]), str(item["image"]), from_seconds(item["removed_at"]), int(item["size_bytes"])
        )
        for item in (answer or {}).get("logs") or []
    ]  # fmt: skip


def kept_log_get(node: Node, ref: str) -> KeptLog:
    """Find one by its container's id, the beginning of it, or its name: of several the newest."""
    found = kept_log_list(node)
    named = [log for log in found if ref in (log.id, log.name)]
    begun = [log for log in found if len(ref) >= 4 and log.id.startswith(ref)]
    if not (named or begun):
        raise Missing(f"no log of a container {ref[:64]!r} was kept", hint="list the kept logs")
    return (named or begun)[0]


def kept_log_remove(actor: Actor, node: Node, log: KeptLog) -> Operation:
    target = Target("container", log.id, log.name)
    return operations.submit(actor, contracts.KeptLogRemove(log=log.id), node=node, target=target)

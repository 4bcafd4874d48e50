"""Making nodes known and switching them on and off."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from webapp.accounts.actor import SYSTEM, Actor
from webapp.audit import services as audit
from webapp.core.errors import Conflict, Invalid
from webapp.nodes.models import Node
from workers.contracts.names import check_node
from workers.contracts.values import ContractError


def ensure_node(name: str) -> Node:
    """Make the machine's own node known; the first one is the default."""
    with transaction.atomic():
        node, made = Node.objects.get_or_create(
            name=_name(name), defaults={"is_default": not Node.objects.filter(is_default=True).exists()}
        )
        if made:
            audit.record(
                SYSTEM, "node.create", target_type="node", target_id=str(node.pk), target=name, node=name
            )
    return node


def node_create(actor: Actor, name: str) -> Node:
    """Make another machine known. Its key file must be copied to it and lie here too (`script/node` says how)."""
    with transaction.atomic():
        if Node.objects.filter(name=_name(name)).exists():
            raise Conflict(f"there is a node {name!r} already", code="already_exists")
        node = Node.objects.create(name=name, is_default=not Node.objects.exists())
        audit.record(actor, "node.create", target_type="node", target_id=str(node.pk), target=name, node=name)
    return node


def node_update(actor: Actor, node: Node, changes: dict[str, Any]) -> Node:
    """Change `is_enabled` or make it the default (`is_default`: true)."""
    with transaction.atomic():
        if changes.get("is_default"):
            Node.objects.exclude(pk=node.pk).update(is_default=False)
            node.is_default = True
        if "is_enabled" in changes:
            node.is_enabled = bool(changes["is_enabled"])
        node.save(update_fields=["is_default", "is_enabled"])
        audit.record(
            actor,
            "node.update",
            target_type="node",
            target_id=str(node.pk),
            target=node.name,
            node=node.name,
            body=changes,
        )
    return node


def _name(name: str) -> str:
    try:
        return check_node(name)
    except ContractError as error:
        raise Invalid(str(error), fields={"name": ["lower-case letters, digits, - and _"]}) from error

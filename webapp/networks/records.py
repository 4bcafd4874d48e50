"""From the node's record of a network to our row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from webapp.containers.records import PROJECT_LABEL
from webapp.core.times import from_seconds
from webapp.networks.models import Network
from webapp.nodes.models import Node


def apply(node: Node, record: dict[str, Any]) -> Network:
    """Store what the node says of a network."""
    subnets = record.get("subnets") or []
    first = next((item for item in subnets if isinstance(item, dict)), {})
    labels = record.get("labels") or {}
    values = {
        "node": node,
        "name": record.get("name", ""),
        "driver": record.get("driver") or "bridge",
        "subnet": first.get("subnet") or record.get("subnet") or "",
        "gateway": first.get("gateway") or record.get("gateway") or "",
        "internal": bool(record.get("internal")),
        "ipv6": bool(record.get("ipv6") or record.get("enable_ipv6")),
        "labels": labels,
        "project": labels.get(PROJECT_LABEL, "")[:128],
        "created_at": _created(record),
        "record": record,
        "confirmed_at": timezone.now(),
    }
    with transaction.atomic():
        Network.objects.filter(node=node, name=values["name"]).exclude(pk=record["id"]).delete()
        network, _ = Network.objects.update_or_create(pk=record["id"], defaults=values)
    return network


def removed(node: Node, network_id: str) -> None:
    Network.objects.filter(node=node, pk=network_id).delete()


def _created(record: dict[str, Any]) -> datetime:
    value = record.get("created_at") or record.get("created")
    return (from_seconds(value) if isinstance(value, int | float) else None) or timezone.now()

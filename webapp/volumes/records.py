"""From the node's record of a volume to our row."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from webapp.containers.records import PROJECT_LABEL
from webapp.core.times import from_seconds
from webapp.nodes.models import Node
from webapp.operations.models import Operation
from webapp.volumes.models import Backup, Volume


def apply(node: Node, record: dict[str, Any]) -> Volume:
    """Store what the node says of a volume."""
    labels = record.get("labels") or {}
    values: dict[str, Any] = {
        "driver": record.get("driver") or "local",
        "anonymous": bool(record.get("anonymous")),
        "labels": labels,
        "project": labels.get(PROJECT_LABEL, "")[:128],
        "created_at": from_seconds(record.get("created_at") or 0) or timezone.now(),
        "record": record,
        "confirmed_at": timezone.now(),
    }
    if used := from_seconds(record.get("last_used_at") or record.get("used_at") or 0):
        values["used_at"] = used
    if record.get("size_bytes") is not None:
        values |= {"size_bytes": record["size_bytes"], "measured_at": timezone.now()}
    volume, _ = Volume.objects.update_or_create(node=node, name=record["name"], defaults=values)
    return volume


def removed(node: Node, name: str) -> None:
    Volume.objects.filter(node=node, name=name).delete()


def operation_ended(operation: Operation) -> None:
    """A backup is ready when its operation says so; a failed one is kept as a failed line, without a file."""
    if operation.kind == "backup.remove" and operation.status == "succeeded":
        Backup.objects.filter(pk=operation.target_id, node=operation.node).update(status="removed")
    if operation.kind != "volume.backup":
        return
    backup = Backup.objects.filter(operation=operation.id, status="making").first()
    if backup is None:
        return
    if operation.status != "succeeded":
        backup.status = "failed"
        backup.save(update_fields=["status"])
        return
    result = operation.result
    backup.status = "ready"
    backup.proven = bool(result.get("proven", True))  # the node reports success only after reading it back
    backup.size_bytes = int(result.get("size_bytes") or 0)
    backup.content_bytes = int(result.get("content_bytes") or 0)
    backup.entries = int(result.get("files") or result.get("entries") or 0)
    backup.digest = str(result.get("digest") or "")
    backup.location = str(result.get("path") or backup.location)
    backup.save()
    _let_go(backup, result)


def _let_go(newest: Backup, result: dict[str, Any]) -> None:
    """The node keeps what the schedule says, and names what it removed; so do we."""
    folder = newest.location.rpartition("/")[0]
    gone = [f"{folder}/{name}" for name in result.get("removed") or []]
    kept = Backup.objects.filter(
        node=newest.node, schedule=newest.schedule, status="ready", location__in=gone
    )
    kept.update(status="removed")

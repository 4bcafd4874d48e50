"""From the node's record of a container to our row, and back to what people see."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone

from webapp.containers.models import Container, ContainerNetwork, ContainerVolume, Status
from webapp.core.times import from_seconds
from webapp.nodes.models import Node
from webapp.operations.models import Operation

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"


def apply(node: Node, record: dict[str, Any]) -> Container | None:
    """Store what the node says of a container; an older generation than ours changes nothing."""
    generation = int(record.get("generation") or 0)
    values = _columns(record) | {
        "record": record,
        "generation": generation,
        "confirmed_at": timezone.now(),
        "node": node,
    }
    same = Container.objects.filter(pk=record["id"])
    with transaction.atomic():
        Container.objects.filter(node=node, name=values["name"]).exclude(pk=record["id"]).delete()
        if not same.filter(generation__lte=generation).update(**values):
            if same.exists():
                return None  # ours is newer
            Container.objects.create(id=record["id"], **values)
        container = Container(id=record["id"], **values)
        _store_relations(container, record)
    return container


def removed(node: Node, container_id: str) -> None:
    Container.objects.filter(node=node, pk=container_id).delete()


def operation_ended(operation: Operation) -> None:
    """A container that could not be made, and that the node never knew, leaves no row behind."""
    if operation.kind == "container.create" and operation.status != "succeeded":
        Container.objects.filter(pk=operation.target_id, confirmed_at=None).delete()
    elif operation.kind == "container.remove" and operation.status != "succeeded":
        container = Container.objects.filter(pk=operation.target_id, status=Status.REMOVING).first()
        if container is not None and container.record:
            Container.objects.filter(pk=container.pk).update(
                status=container.record.get("status", Status.DEAD)
            )


def _columns(record: dict[str, Any]) -> dict[str, Any]:
    labels = _labels(record)
    started, finished = from_seconds(record.get("started_at")), from_seconds(record.get("finished_at"))
    status = record.get("status", Status.CREATED)
    ended = status in (Status.EXITED, Status.DEAD, Status.RESTARTING) and finished is not None
    health = (record.get("health") or {}).get("status", "none")
    return {
        "name": record.get("name", ""),
        "image": record.get("image", ""),
        "image_id": record.get("image_id", ""),
        "status": status,
        "health": "" if health == "none" else health,
        "exit_code": record.get("exit_code") if ended else None,
        "oom_killed": bool(record.get("oom_killed")),
        "error": record.get("error", ""),
        "restart_count": int(record.get("restart_count") or 0),
        "created_at": from_seconds(record.get("created_at")) or timezone.now(),
        "started_at": started,
        "finished_at": finished,
        "project": labels.get(PROJECT_LABEL, "")[:128],
        "service": labels.get(SERVICE_LABEL, "")[:128],
        "summary": _summary(record, labels),
    }


def _labels(record: dict[str, Any]) -> dict[str, str]:
    """Return the container's labels, the image's among them."""
    spec, config = record.get("spec") or {}, record.get("config") or {}
    return {**(config.get("Labels") or {}), **(spec.get("labels") or {})}


def _summary(record: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    spec = record.get("spec") or {}
    return {
        "command": " ".join([record.get("path", ""), *record.get("args", [])]).strip()[:500],
        "ports": record.get("ports") or [],
        "networks": [
            {
                "id": e.get("network_id", ""),
                "name": e.get("network", ""),
                "ipv4_address": e.get("ipv4_address", ""),
            }
            for e in record.get("endpoints") or []
        ],
        "network_mode": spec.get("network_mode", "bridge"),
        "mounts": [
            {
                "type": m["type"],
                "source": m.get("name") or m.get("source", ""),
                "target": m["target"],
                "read_only": m.get("read_only", False),
            }
            for m in record.get("mounts") or []
        ],
        "labels": labels,
        "restart": (spec.get("restart") or {}).get("name", "no"),
        "tty": bool(spec.get("tty")),
        "auto_remove": bool(spec.get("auto_remove")),
        "privileged": bool(spec.get("privileged")),
        "pid": record.get("pid") or 0,
    }


def _store_relations(container: Container, record: dict[str, Any]) -> None:
    networks = {(e.get("network_id", ""), e.get("network", "")) for e in record.get("endpoints") or []}
    if networks != set(container.memberships.values_list("network_id", "network")):
        container.memberships.all().delete()
        ContainerNetwork.objects.bulk_create(
            ContainerNetwork(container=container, network_id=network_id, network=name)
            for network_id, name in sorted(networks)
        )
    volumes = {
        (m["name"], m["target"], bool(m.get("read_only")))
        for m in record.get("mounts") or []
        if m.get("type") == "volume" and m.get("name")
    }
    if volumes != set(container.volume_uses.values_list("volume", "target", "read_only")):
        container.volume_uses.all().delete()
        ContainerVolume.objects.bulk_create(
            ContainerVolume(container=container, volume=name, target=target, read_only=read_only)
            for name, target, read_only in sorted(volumes)
        )

"""Reading volumes and backups."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, Max, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from webapp.containers.models import ContainerVolume
from webapp.core.errors import Conflict, Missing
from webapp.volumes.models import Backup, BackupSchedule, Volume


def volume_list(
    *, name: str = "", project: str = "", node: str = "", label: str = "", dangling: bool | None = None
) -> QuerySet[Volume]:
    """Return volumes, newest first, each with `users` (containers) and `backed_up_at` (last proven backup)."""
    uses = ContainerVolume.objects.filter(volume=OuterRef("name"), container__node=OuterRef("node"))
    users = uses.order_by().values("volume").annotate(n=Count("container", distinct=True)).values("n")
    backups = Backup.objects.filter(
        volume=OuterRef("name"), node=OuterRef("node"), status="ready", proven=True
    )
    newest = backups.order_by().values("volume").annotate(at=Max("created_at")).values("at")
    found = Volume.objects.select_related("node", "created_by").annotate(
        users=Coalesce(Subquery(users), 0), backed_up_at=Subquery(newest)
    )
    if name:
        found = found.filter(name__icontains=name)
    if project:
        found = found.filter(project=project)
    if node:
        found = found.filter(node__name=node)
    if dangling is not None:
        found = found.filter(users=0) if dangling else found.filter(users__gt=0)
    if label:
        key, equal, value = label.partition("=")
        found = found.filter(
            pk__in=[v.pk for v in found if key in v.labels and (not equal or v.labels[key] == value)]
        )
    return found


def volume_get(name: str, node: str = "") -> Volume:
    """Return the volume with this name (of the node, if several have it), else raise `Missing` or `Conflict`."""
    found = list(volume_list(node=node).filter(name=name)[:2])
    if not found:
        raise Missing(
            f"no volume {name[:128]!r}", code="volume_not_found", hint="list the volumes to see their names"
        )
    if len(found) > 1:
        raise Conflict(
            f"several nodes have a volume {name!r}", code="ambiguous", hint="say which node: ?node="
        )
    return found[0]


def users_of(volume: Volume) -> list[dict[str, Any]]:
    """Return which containers use a volume, where and how."""
    uses = ContainerVolume.objects.filter(volume=volume.name, container__node=volume.node).select_related(
        "container"
    )
    return [
        {
            "container_id": use.container_id,
            "container": use.container.name,
            "status": use.container.status,
            "target": use.target,
            "read_only": use.read_only,
        }
        for use in uses.order_by("container__name")
    ]


def backup_list(volume: str = "") -> QuerySet[Backup]:
    """Return backups, newest first (those that were removed are gone from here too)."""
    found = Backup.objects.select_related("node", "created_by", "schedule").exclude(status="removed")
    return found.filter(volume=volume) if volume else found


def backup_get(backup_id: str) -> Backup:
    found = Backup.objects.select_related("node").exclude(status="removed").filter(pk=backup_id).first()
    if found is None:
        raise Missing(f"no backup {backup_id[:32]!r}", code="backup_not_found")
    return found


def schedule_list(volume: Volume) -> QuerySet[BackupSchedule]:
    return BackupSchedule.objects.filter(volume=volume)


def to_json(volume: Volume) -> dict[str, Any]:
    """Return a volume as lists show it (no query)."""
    return {
        "name": volume.name,
        "node": volume.node.name,
        "driver": volume.driver,
        "anonymous": volume.anonymous,
        "labels": volume.labels,
        "project": volume.project or None,
        "size_bytes": volume.size_bytes,
        "measured_at": volume.measured_at,
        "used_at": volume.used_at,
        "users": getattr(volume, "users", None),
        "backed_up_at": getattr(volume, "backed_up_at", None),
        "created_at": volume.created_at,
        "created_by": volume.created_by.username if volume.created_by else None,
        "confirmed_at": volume.confirmed_at,
    }


def detail_json(volume: Volume) -> dict[str, Any]:
    return {
        **to_json(volume),
        "containers": users_of(volume),
        "backups": [backup_json(backup) for backup in backup_list(volume.name).filter(node=volume.node)[:50]],
        "schedules": [schedule_json(schedule) for schedule in schedule_list(volume)],
        "record": volume.record,
    }


def backup_json(backup: Backup) -> dict[str, Any]:
    return {
        "id": backup.id,
        "volume": backup.volume,
        "node": backup.node.name,
        "status": backup.status,
        "proven": backup.proven,
        "size_bytes": backup.size_bytes,
        "content_bytes": backup.content_bytes,
        "entries": backup.entries,
        "digest": backup.digest,
        "compression": backup.compression,
        "created_at": backup.created_at,
        "operation": backup.operation,
        "schedule": backup.schedule_id,
    }


def schedule_json(schedule: BackupSchedule) -> dict[str, Any]:
    return {
        "id": schedule.pk,
        "every_hours": schedule.every_hours,
        "keep": schedule.keep,
        "keep_daily": schedule.keep_daily,
        "keep_weekly": schedule.keep_weekly,
        "keep_monthly": schedule.keep_monthly,
        "compression": schedule.compression,
        "is_enabled": schedule.is_enabled,
        "next_at": schedule.next_at,
    }

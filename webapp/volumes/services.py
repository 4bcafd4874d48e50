"""What people do with volumes and backups."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from webapp.accounts.actor import SYSTEM, Actor
from webapp.audit import services as audit
from webapp.containers.policy import judge_backup, judge_volume
from webapp.core.errors import Conflict, Invalid
from webapp.core.ids import is_name
from webapp.nodes.models import Node
from webapp.nodes.selectors import default_node
from webapp.operations import services as operations
from webapp.operations.models import Operation
from webapp.operations.services import Target
from webapp.volumes.models import Backup, BackupSchedule, Volume
from workers.contracts import volumes as contracts

COMPRESSIONS = ("gzip", "zstd")
ENDINGS = {"gzip": "tar.gz", "zstd": "tar.zst"}
KEEPS = ("keep", "keep_daily", "keep_weekly", "keep_monthly")


def target_of(volume: Volume) -> Target:
    return Target("volume", volume.name, volume.name)


def backup_folder(volume: str, schedule: BackupSchedule | None = None) -> str:
    """Return the folder on the node in which kept backups lie: one a volume and schedule, so old ones that are let go are its own."""
    return str(
        settings.WHARFINGER_HOME / "backups" / volume / (f"schedule-{schedule.pk}" if schedule else "kept")
    )


def volume_create(
    actor: Actor,
    *,
    name: str = "",
    driver: str = "local",
    options: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    node: Node | None = None,
) -> Operation:
    """Make a volume; an empty name is chosen by the node. The operation's result has the record."""
    node = node or default_node()
    if name and not is_name(name):
        raise Invalid(
            f"{name[:60]!r} is no name for a volume",
            fields={"name": ["letters, digits, dot, dash, underscore"]},
        )
    if name and Volume.objects.filter(node=node, name=name).exists():
        raise Conflict(
            f"there is a volume {name!r} already", code="already_exists", hint="choose another name"
        )
    rights = judge_volume(actor, name, options or {})
    contract = contracts.VolumeCreate(
        name=name, driver=driver, options=options or {}, labels=labels or {}, rights=rights
    )
    return operations.submit(actor, contract, node=node, target=Target("volume", name, name or "new volume"))


def volume_remove(actor: Actor, volume: Volume, *, force: bool = False) -> Operation:
    contract = contracts.VolumeRemove(volume=volume.name, force=force)
    return operations.submit(actor, contract, node=volume.node, target=target_of(volume))


def volume_prune(
    actor: Actor, *, all: bool = False, labels: list[str] | None = None, node: Node | None = None
) -> Operation:
    """Remove unused volumes: anonymous ones, with `all` named ones too."""
    contract = contracts.VolumePrune(all=all, labels=labels or [])
    return operations.submit(
        actor, contract, node=node or default_node(), target=Target("volume", "", "unused volumes")
    )


# --- backups ------------------------------------------------------------------------------------------------------


def volume_backup(
    actor: Actor,
    volume: Volume,
    *,
    compression: str = "zstd",
    directory: str = "",
    schedule: BackupSchedule | None = None,
) -> tuple[Backup, Operation]:
    """Make a backup that is kept on the node, proven by reading it back.

    `directory` is a folder of the node to keep it in: it needs the right to mount the host, and the node to allow it.
    """
    if compression not in COMPRESSIONS:
        raise Invalid(
            f"no compression {compression[:20]!r}",
            fields={"compression": [f"one of {', '.join(COMPRESSIONS)}"]},
        )
    now = timezone.now()
    file_name = f"{volume.name}-{now:%Y%m%d-%H%M%S-%f}.{ENDINGS[compression]}"
    folder = _checked_folder(actor, volume, directory) if directory else backup_folder(volume.name, schedule)
    contract = contracts.VolumeBackup(
        volume=volume.name,
        directory=folder,
        file_name=file_name,
        compression=compression,
        **({name: getattr(schedule, name) for name in KEEPS} if schedule else {}),
    )
    with transaction.atomic():
        operation = operations.submit(actor, contract, node=volume.node, target=target_of(volume))
        backup = Backup.objects.create(
            node=volume.node,
            volume=volume.name,
            schedule=schedule,
            operation=operation.id,
            compression=compression,
            location=f"{folder}/{file_name}",
            created_at=now,
            created_by=actor.user,
        )
    return backup, operation


def _checked_folder(actor: Actor, volume: Volume, directory: str) -> str:
    if (
        not directory.startswith("/")
        or ".." in directory.split("/")
        or "\0" in directory
        or len(directory) > 4000
    ):
        raise Invalid(
            f"{directory[:60]!r} is no folder of a node",
            fields={"directory": ["an absolute path, without .."]},
        )
    judge_backup(actor, volume.name, directory)
    return directory.rstrip("/") or "/"


def volume_restore(
    actor: Actor,
    name: str,
    *,
    spool_id: str = "",
    backup: Backup | None = None,
    files: list[str] | None = None,
    node: Node | None = None,
) -> Operation:
    """Fill the volume `name` (made if it is not there) from an upload or a kept backup, all or nothing."""
    if not is_name(name):
        raise Invalid(
            f"{name[:60]!r} is no name for a volume",
            fields={"name": ["letters, digits, dot, dash, underscore"]},
        )
    node = node or (backup.node if backup else default_node())
    volume = Volume.objects.filter(node=node, name=name).first()
    directory, _, file_name = backup.location.rpartition("/") if backup else ("", "", "")
    contract = contracts.VolumeRestore(
        volume=name,
        source=spool_id,
        directory=directory,
        file_name=file_name,
        create=volume is None,
        files=files or [],
    )
    body = {"volume": name, "from": f"backup {backup.id}" if backup else "upload", "files": files or []}
    uploads = (spool_id,) if spool_id else ()
    return operations.submit(
        actor, contract, node=node, target=Target("volume", name, name), body=body, uploads=uploads
    )


def backup_remove(actor: Actor, backup: Backup) -> Operation:
    """Remove a kept backup from its node. What is read from it meanwhile is read to the end."""
    if backup.status == "making":
        raise Conflict(
            "this backup is still being made", code="wrong_state", hint="wait for it, or cancel its operation"
        )
    directory, _, file_name = backup.location.rpartition("/")
    contract = contracts.BackupRemove(volume=backup.volume, directory=directory, file_name=file_name)
    return operations.submit(
        actor, contract, node=backup.node, target=Target("backup", backup.id, backup.volume)
    )


def schedule_create(
    actor: Actor,
    volume: Volume,
    *,
    every_hours: int = 24,
    keep: int = 7,
    keep_daily: int = 0,
    keep_weekly: int = 0,
    keep_monthly: int = 0,
    compression: str = "zstd",
) -> BackupSchedule:
    """Have a volume backed up regularly, the first time now.

    Kept are the last `keep` backups, and the newest of each of so many days, weeks and months.
    """
    keeps = dict(zip(KEEPS, (keep, keep_daily, keep_weekly, keep_monthly), strict=True))
    wrong = [name for name, number in keeps.items() if not (name == "keep") <= number <= 1000]
    if not 1 <= every_hours <= 24 * 366 or wrong:
        raise Invalid(
            "every 1 to 8784 hours; keep the last 1 to 1000, and 0 to 1000 days, weeks and months",
            fields={name: ["out of range"] for name in wrong or ["every_hours"]},
        )
    if compression not in COMPRESSIONS:
        raise Invalid(f"no compression {compression[:20]!r}", fields={"compression": ["gzip or zstd"]})
    with transaction.atomic():
        schedule = BackupSchedule.objects.create(
            volume=volume, every_hours=every_hours, **keeps, compression=compression, created_by=actor.user
        )
        audit.record(
            actor,
            "schedule.create",
            target_type="volume",
            target_id=volume.name,
            target=volume.name,
            body={"every_hours": every_hours, **keeps},
        )
    return schedule


def schedule_remove(actor: Actor, schedule: BackupSchedule) -> None:
    """Stop regular backups; those that were made stay."""
    name = schedule.volume.name
    with transaction.atomic():
        schedule.delete()
        audit.record(actor, "schedule.remove", target_type="volume", target_id=name, target=name)


def run_due_schedules() -> int:
    """Begin the backups that are due (called by the relay's clock); return how many."""
    begun = 0
    due = BackupSchedule.objects.select_related("volume__node", "created_by").filter(
        is_enabled=True, next_at__lte=timezone.now()
    )
    for schedule in due:
        with transaction.atomic():
            claimed = BackupSchedule.objects.filter(pk=schedule.pk, next_at=schedule.next_at).update(
                next_at=timezone.now() + timedelta(hours=schedule.every_hours)
            )
            if not claimed:
                continue
            volume_backup(SYSTEM, schedule.volume, compression=schedule.compression, schedule=schedule)
        begun += 1
    return begun


# --- questions to the node ------------------------------------------------------------------------------------------


def browse(volume: Volume, path: str = "/") -> Any:
    """Return what lies in a folder of the volume."""
    if "\0" in path or len(path) > 4096:
        raise Invalid("not a path", fields={"path": ["not a path"]})
    return operations.ask(volume.node, "volume.browse", {"volume": volume.name, "path": path or "/"})

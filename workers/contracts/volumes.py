"""Volumes. `source` and `target` are ids of spooled files; `directory` is a backup folder that the node allows."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.contracts.base import BULK, Contract


@dataclass(frozen=True)
class VolumeCreate(Contract):
    """Make a volume; an empty name is chosen by the node. Result: `{"volume": record}`."""

    KIND = "volume.create"

    name: str = ""
    driver: str = "local"
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    rights: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VolumeRemove(Contract):
    """Result: `{"name"}`."""

    KIND = "volume.remove"

    volume: str
    force: bool = False


@dataclass(frozen=True)
class VolumePrune(Contract):
    """Remove unused volumes, only anonymous ones unless `all`. Result: `{"removed": [name], "freed_bytes"}`."""

    KIND = "volume.prune"
    DEADLINE_S = 1800.0

    all: bool = False
    labels: list[str] = field(default_factory=list)
    without_labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VolumeBackup(Contract):
    """Write a proven backup, into the spool (`target`) or into `directory`/`file_name` on the node.

    `compression`: `gzip` or `zstd`. With a directory, `keep` and the others say how many backups of it stay: the last so
    many, and the newest of each of so many days, weeks and months; all zero keeps every one.
    Result: `{"target"|"path", "size_bytes", "files", "digest", "removed": [file name]}`.
    """

    KIND = "volume.backup"
    LANE = BULK
    DEADLINE_S = 4 * 3600.0

    volume: str
    target: str = ""
    directory: str = ""
    file_name: str = ""
    compression: str = "gzip"
    keep: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0


@dataclass(frozen=True)
class VolumeRestore(Contract):
    """Fill a volume from a backup, all or nothing. `files` restricts it to some paths. Result: `{"volume": record}`."""

    KIND = "volume.restore"
    LANE = BULK
    DEADLINE_S = 4 * 3600.0

    volume: str
    source: str = ""
    directory: str = ""
    file_name: str = ""
    create: bool = False
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BackupRemove(Contract):
    """Remove one backup that is kept on the node; one that is gone counts as removed. Result: `{"path"}`."""

    KIND = "backup.remove"

    volume: str
    directory: str
    file_name: str

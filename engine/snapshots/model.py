"""What is said about snapshots, and the table that says which there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.db import Schema
from engine.digest import Digest

SCHEMA = Schema(
    "snapshots",
    (
        """CREATE TABLE snapshots (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, parent TEXT,
            diff_id TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0, target TEXT NOT NULL DEFAULT '',
            created REAL NOT NULL, boot TEXT NOT NULL DEFAULT '') STRICT""",
        "CREATE INDEX snapshots_parent ON snapshots (parent)",
        # numbers begin anywhere: a folder's name decides where on the disk its tree begins (`spread_children`), so that
        # two homes on one disk do not crowd each other
        """INSERT INTO sqlite_sequence (name, seq) SELECT 'snapshots', abs(random() % 30000)
            WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'snapshots')""",
    ),
)


@dataclass(frozen=True)
class Snapshot:
    """An active snapshot: where its own files are, and overlayfs' work folder beside them."""

    key: str
    parent: Digest | None
    upper: Path
    work: Path


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known of a snapshot. `size` is the bytes of a layer's files; `kind` is `layer` or `active`."""

    name: str
    kind: str
    parent: Digest | None
    diff_id: str
    size: int
    target: str
    created: float
    folder: Path


@dataclass(frozen=True)
class Usage:
    """Bytes on disk and number of inodes of one snapshot's own files."""

    size: int
    inodes: int

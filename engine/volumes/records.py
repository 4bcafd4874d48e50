"""The tables of volumes: the volumes themselves, and which containers have them among their mounts."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from engine.db import Schema
from engine.errors import VolumeNotFound
from engine.volumes.model import Volume, VolumeUse

SCHEMA = Schema(
    "volumes",
    (
        """CREATE TABLE volumes (
            name TEXT PRIMARY KEY, driver TEXT NOT NULL, labels TEXT NOT NULL, options TEXT NOT NULL,
            created_at REAL NOT NULL, last_used_at REAL NOT NULL DEFAULT 0, anonymous INTEGER NOT NULL DEFAULT 0,
            filled TEXT NOT NULL DEFAULT 'no') STRICT""",
        """CREATE TABLE volume_uses (
            volume TEXT NOT NULL REFERENCES volumes (name), container_id TEXT NOT NULL, target TEXT NOT NULL,
            read_only INTEGER NOT NULL, PRIMARY KEY (volume, container_id, target)) STRICT""",
        "CREATE INDEX volume_uses_container ON volume_uses (container_id)",
    ),
)


def insert_volume(connection: sqlite3.Connection, volume: Volume) -> None:
    connection.execute(
        "INSERT INTO volumes (name, driver, labels, options, created_at, anonymous) VALUES (?, ?, ?, ?, ?, ?)",
        (
            volume.name, volume.driver, json.dumps(volume.labels), json.dumps(volume.options), volume.created_at,
            int(volume.anonymous),
        ),
    )  # fmt: skip


def select_volume(connection: sqlite3.Connection, name: str, root: Path) -> Volume:
    """Return one volume with its uses, else raise `VolumeNotFound`."""
    row = connection.execute("SELECT * FROM volumes WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise VolumeNotFound(f"no volume {name[:80]!r} on this node", hint="list volumes to see their names")
    uses = connection.execute("SELECT * FROM volume_uses WHERE volume = ? ORDER BY rowid", (name,))
    return _volume(row, [_use(use) for use in uses], root)


def select_volumes(connection: sqlite3.Connection, root: Path) -> list[Volume]:
    """Return every volume with its uses, by name."""
    uses: dict[str, list[VolumeUse]] = {}
    for row in connection.execute("SELECT * FROM volume_uses ORDER BY rowid"):
        uses.setdefault(row["volume"], []).append(_use(row))
    rows = connection.execute("SELECT * FROM volumes ORDER BY name")
    return [_volume(row, uses.get(row["name"], []), root) for row in rows]


def _use(row: sqlite3.Row) -> VolumeUse:
    return VolumeUse(row["container_id"], row["target"], bool(row["read_only"]))


def _volume(row: sqlite3.Row, uses: list[VolumeUse], root: Path) -> Volume:
    return Volume(
        row["name"], row["driver"], str(root / row["name"] / "data"), json.loads(row["labels"]),
        json.loads(row["options"]), row["created_at"], bool(row["anonymous"]), row["last_used_at"], uses,
    )  # fmt: skip

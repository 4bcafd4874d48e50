"""The records of containers in the engine's database. Each change and its event are one transaction.

A row holds the public record (`Container`, as JSON) and what only the engine needs to know (`Private`): the processes by number
and start time, what was set up in the kernel, when to start again. Columns repeat what is looked for.
"""

from __future__ import annotations

import builtins
import dataclasses
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from engine.containers.model import Container, Status, from_json, to_json
from engine.db import Database, Schema
from engine.errors import AlreadyExists, ContainerNotFound, InvalidInput
from engine.events import Event
from engine.linux.process import ProcessId

SCHEMA = Schema(
    "containers",
    (
        """CREATE TABLE containers (
            id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, status TEXT NOT NULL, image_id TEXT NOT NULL,
            created_at REAL NOT NULL, generation INTEGER NOT NULL, record TEXT NOT NULL, private TEXT NOT NULL) STRICT""",
        "CREATE INDEX containers_image ON containers (image_id)",
        "CREATE INDEX containers_status ON containers (status)",
    ),
)


@dataclass(frozen=True)
class Private:
    """What the engine remembers of a container beside its record. Times are seconds since the epoch.

    `stubs` are mount points that the runtime made in the root. `restart_at` is when to start again, 0: not by itself.
    `restart_delay_s` is the last pause of the back-off. `boot` is the kernel's boot id when it was started.
    """

    init_pid: int = 0
    init_start: int = 0
    monitor_pid: int = 0
    monitor_start: int = 0
    stubs: list[str] = field(default_factory=list)
    restart_at: float = 0.0
    restart_delay_s: float = 0.0
    boot: str = ""
    keep_log: bool = False

    @property
    def init(self) -> ProcessId | None:
        return ProcessId(self.init_pid, self.init_start) if self.init_pid else None

    @property
    def monitor(self) -> ProcessId | None:
        return ProcessId(self.monitor_pid, self.monitor_start) if self.monitor_pid else None


class ContainerStore:
    """Rows of containers. The caller holds the container's lock while it reads, decides and saves."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, ref: str) -> Container:
        """Return the container with this id, name, or unambiguous beginning of an id; raises `ContainerNotFound`."""
        return _container(self._row(ref))

    def find(self, container_id: str) -> Container | None:
        """Return the container with exactly this id."""
        row = (
            self._db.read().execute("SELECT record FROM containers WHERE id = ?", (container_id,)).fetchone()
        )
        return None if row is None else _container(row)

    def private(self, container_id: str) -> Private:
        row = (
            self._db.read().execute("SELECT private FROM containers WHERE id = ?", (container_id,)).fetchone()
        )
        return Private() if row is None else Private(**json.loads(row["private"]))

    def id_of(self, ref: str) -> str:
        return str(self._row(ref, "id")["id"])

    def list(self, statuses: Iterable[Status] = ()) -> builtins.list[Container]:
        """Return the containers in these states (all without any), the newest first."""
        wanted = builtins.list(statuses)
        where = f"WHERE status IN ({', '.join('?' * len(wanted))})" if wanted else ""
        rows = self._db.read().execute(
            f"SELECT record FROM containers {where} ORDER BY created_at DESC, id", wanted
        )
        return [_container(row) for row in rows]

    def ids(self) -> set[str]:
        return {row["id"] for row in self._db.read().execute("SELECT id FROM containers")}

    def users_of_image(self, image_id: str, *, alive: bool = False) -> builtins.list[str]:
        """Return the names of the containers made from an image; `alive`: only those that run."""
        rows = self._db.read().execute(
            "SELECT name, status FROM containers WHERE image_id = ? ORDER BY name", (image_id,)
        )
        return [row["name"] for row in rows if not alive or Status(row["status"]).is_alive()]

    def insert(self, container: Container) -> None:
        """Add a row; raises `AlreadyExists` when the name is taken."""
        record = json.dumps(to_json(container))
        values = (
            container.id,
            container.name,
            container.status,
            container.image_id,
            container.created_at,
            0,
            record,
            "{}",
        )
        try:
            with self._db.transaction() as connection:
                connection.execute("INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        except sqlite3.IntegrityError as error:
            raise self._taken(container.name) from error

    def save(
        self, container: Container, action: str = "", *, private: Private | None = None, **attributes: Any
    ) -> Container:
        """Write the record, and the event `action` with the record in it; return it with its new generation."""
        container = dataclasses.replace(container, generation=container.generation + 1)
        columns = "name = ?, status = ?, image_id = ?, generation = ?, record = ?"
        record = to_json(container)
        values = [
            container.name,
            container.status,
            container.image_id,
            container.generation,
            json.dumps(record),
        ]
        if private is not None:
            columns += ", private = ?"
            values.append(json.dumps(dataclasses.asdict(private)))
        try:
            with self._db.transaction() as connection:
                done = connection.execute(
                    f"UPDATE containers SET {columns} WHERE id = ?", (*values, container.id)
                )
                if done.rowcount == 0:
                    raise ContainerNotFound(f"container {container.name!r} has been removed")
                if action:
                    self._db.append_event(connection, event(container, action, record=record, **attributes))
        except sqlite3.IntegrityError as error:
            raise self._taken(container.name) from error
        return container

    def save_private(self, container_id: str, private: Private) -> None:
        with self._db.transaction() as connection:
            text = json.dumps(dataclasses.asdict(private))
            connection.execute("UPDATE containers SET private = ? WHERE id = ?", (text, container_id))

    def announce(self, container: Container, action: str, **attributes: Any) -> None:
        """Append an event that changes nothing in the record (`exec_start`, `attach` ...)."""
        with self._db.transaction() as connection:
            self._db.append_event(connection, event(container, action, **attributes))

    def delete(self, container: Container, action: str = "destroy") -> None:
        """Remove the row. Without an action no event is written: for containers that never came to be."""
        with self._db.transaction() as connection:
            done = connection.execute("DELETE FROM containers WHERE id = ?", (container.id,))
            if done.rowcount and action:
                self._db.append_event(connection, event(container, action))

    def _row(self, ref: str, columns: str = "record") -> sqlite3.Row:
        ref = ref.removeprefix("/")
        read = self._db.read()
        row = read.execute(
            f"SELECT {columns} FROM containers WHERE id = ? OR name = ? ORDER BY id = ? DESC", (ref, ref, ref)
        ).fetchone()
        if row is None and ref and all(character in "0123456789abcdef" for character in ref):
            rows = read.execute(
                f"SELECT {columns} FROM containers WHERE id >= ? AND id < ? LIMIT 2", (ref, ref + "g")
            ).fetchall()
            if len(rows) > 1:
                raise InvalidInput(
                    f"several containers have an id that begins with {ref}", hint="give more of the id"
                )
            row = rows[0] if rows else None
        if row is None:
            raise ContainerNotFound(
                f"no container {ref[:128]!r} on this node", hint="list containers to see their names"
            )
        found: sqlite3.Row = row
        return found

    def _taken(self, name: str) -> AlreadyExists:
        row = self._db.read().execute("SELECT id FROM containers WHERE name = ?", (name,)).fetchone()
        holder = f" by container {row['id'][:12]}" if row else ""
        return AlreadyExists(
            f"the name {name!r} is in use{holder}",
            hint="choose another name, or remove or rename that container",
            name=name,
        )


def event(container: Container, action: str, **attributes: Any) -> Event:
    """Return an event of a container with the attributes that all of them carry."""
    common = {"name": container.name, "image": container.image, "labels": container.spec.labels}
    return Event("container", action, container.id, {**common, **attributes})


def _container(row: sqlite3.Row) -> Container:
    return _parsed(row["record"])


@lru_cache(maxsize=512)
def _parsed(record: str) -> Container:
    """Return what a record says. Most are read again and again before they change, and nobody changes what is read."""
    return from_json(Container, json.loads(record))

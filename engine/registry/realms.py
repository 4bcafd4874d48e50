"""The book of token servers: where the passwords of registry accounts have been sent.

A registry may say that its tokens come from another host (Docker Hub's do). The first time that an account's secret goes to
such a host is an event, so that an administrator sees it.

    book = RealmBook(db)
    registries = Registries(insecure=config.insecure_registries, on_realm=book.seen)
"""

from __future__ import annotations

import time

from engine.db import Database, Schema
from engine.events import Event

SCHEMA = Schema(
    "registry_realms",
    (
        """CREATE TABLE registry_realms (registry TEXT NOT NULL, host TEXT NOT NULL, first_seen REAL NOT NULL,
            PRIMARY KEY (registry, host)) STRICT""",
    ),
)


class RealmBook:
    """Remembers pairs of registry and token server."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def seen(self, registry: str, host: str) -> None:
        """Note that an account of `registry` is about to authenticate at `host`; the first time makes the event."""
        query = "SELECT 1 FROM registry_realms WHERE registry = ? AND host = ?"
        if self._db.read().execute(query, (registry, host)).fetchone():
            return
        with self._db.transaction() as connection:
            row = (registry, host, time.time())
            if connection.execute("INSERT OR IGNORE INTO registry_realms VALUES (?, ?, ?)", row).rowcount:
                attributes = {"name": registry, "host": host}
                self._db.append_event(connection, Event("registry", "realm", registry, attributes))

    def hosts(self, registry: str) -> list[str]:
        """Return the token servers that a registry's accounts have used."""
        query = "SELECT host FROM registry_realms WHERE registry = ? ORDER BY first_seen"
        return [row["host"] for row in self._db.read().execute(query, (registry,))]

"""The engine's own metadata in one SQLite file, and the journal of its events.

Every process of the node (workers, agent, the command line) opens the same file. Writers use `transaction()`, which
takes SQLite's write lock at once (BEGIN IMMEDIATE), so a read inside it is never stale; readers use `read()`.
Each subsystem owns its tables and declares them as `Schema` steps; a step that has run is never changed, only followed.

    SCHEMA = Schema("volumes", ("CREATE TABLE volumes (name TEXT PRIMARY KEY, ...) STRICT",))

The journal is the outbox of the node: `append_event` inside a transaction makes the event exactly as durable as the
change it tells of. After the commit the agent is woken through a datagram; a lost datagram costs a delay, not an event.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from engine.errors import NoSpace, Unavailable
from engine.events import Event

BUSY_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Work:
    """The piece of work that the current thread does, for somebody who may take it away again.

    `check` runs at the start of every write transaction and raises when the work is no longer ours (fencing): a worker
    that slept through its lease writes nothing. Events get `operation` as an attribute, so one sees what caused them.
    """

    operation: str
    check: Callable[[sqlite3.Connection], None]


current_work: ContextVar[Work | None] = ContextVar("current_work", default=None)


@dataclass(frozen=True)
class Schema:
    """The tables of one subsystem as SQL steps, each run once and in order."""

    name: str
    steps: tuple[str, ...]


JOURNAL = Schema(
    "journal",
    (
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, time_ns INTEGER NOT NULL, type TEXT NOT NULL, action TEXT NOT NULL,
            subject TEXT NOT NULL, attributes TEXT NOT NULL) STRICT""",
        "CREATE INDEX events_subject ON events (type, subject, seq)",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    ),
)


class Database:
    """Connections to `engine.db`, one per thread. Safe to share between threads; a fork must open its own."""

    def __init__(self, path: Path, schemas: Sequence[Schema] = (), wake: Path | None = None) -> None:
        self._path = path
        self._wake = wake
        self._local = threading.local()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._migrate((JOURNAL, *schemas))
        self.epoch = self._epoch()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in one write transaction: committed at its end, rolled back if it raises. Do not nest."""
        with _translated(self._path.parent):
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            before = connection.total_changes
            self._local.appended = False
            try:
                if work := current_work.get():
                    work.check(connection)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite ends it by itself when the disk is full
                    connection.execute("ROLLBACK")
                raise
        if self._local.appended and connection.total_changes != before:
            self._wake_agent()

    def read(self) -> sqlite3.Connection:
        """Return this thread's connection for plain SELECTs (rows are `sqlite3.Row`)."""
        return self._connection()

    def append_event(self, connection: sqlite3.Connection, event: Event) -> int:
        """Write `event` to the journal as part of the running transaction; return its sequence number."""
        attributes = event.attributes
        if work := current_work.get():
            attributes = {"operation": work.operation, **attributes}
        cursor = connection.execute(
            "INSERT INTO events (time_ns, type, action, subject, attributes) VALUES (?, ?, ?, ?, ?)",
            (
                event.time_ns or time.time_ns(),
                event.type,
                event.action,
                event.subject,
                json.dumps(attributes),
            ),
        )
        self._local.appended = True
        return int(cursor.lastrowid or 0)

    def events_after(self, seq: int, limit: int = 500) -> list[Event]:
        """Return up to `limit` events with a higher sequence number than `seq`, oldest first."""
        rows = self.read().execute("SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
        return [_event(row) for row in rows]

    def events_of(self, subject: str, limit: int = 1000) -> list[Event]:
        """Return the newest `limit` events of one subject, oldest first."""
        rows = self.read().execute(
            "SELECT * FROM events WHERE subject = ? ORDER BY seq DESC LIMIT ?", (subject, limit)
        )
        return [_event(row) for row in rows][::-1]

    def last_seq(self) -> int:
        row = self.read().execute("SELECT max(seq) FROM events").fetchone()
        return int(row[0] or 0)

    def prune_events(self, keep: int = 200_000) -> None:
        """Forget all but the newest `keep` events."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?", (keep,))

    def flush(self) -> None:
        """Make everything committed so far survive a power cut (a commit alone survives only the process's death)."""
        try:
            fd = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # checkpointed, and synced with that
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None or self._local.pid != os.getpid():
            connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._local.connection = connection
            self._local.pid = os.getpid()
        return connection

    def _migrate(self, schemas: Sequence[Schema]) -> None:
        with self.transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_steps (name TEXT PRIMARY KEY, done INTEGER NOT NULL) STRICT"
            )
            done = {
                row["name"]: row["done"] for row in connection.execute("SELECT name, done FROM schema_steps")
            }
            for schema in schemas:
                for step in schema.steps[done.get(schema.name, 0) :]:
                    connection.execute(step)
                connection.execute(
                    "INSERT OR REPLACE INTO schema_steps VALUES (?, ?)", (schema.name, len(schema.steps))
                )

    def _epoch(self) -> str:
        """Return the name of this journal's life: another one after the data root was made anew."""
        with self.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('epoch', ?)", (secrets.token_hex(8),))
            return str(connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])

    def _wake_agent(self) -> None:
        if self._wake is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(b"!", str(self._wake))
            except OSError:
                return  # nobody listens: the agent polls the journal when it comes back


def _event(row: sqlite3.Row) -> Event:
    return Event(
        row["type"], row["action"], row["subject"], json.loads(row["attributes"]), row["time_ns"], row["seq"]
    )


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error) or ("I/O error" in str(error) and _is_full(folder)):
            raise NoSpace(
                "the disk of the engine's database is full", hint="free space, then try again"
            ) from error
        if "locked" in str(error) or "busy" in str(error):
            raise Unavailable("the engine's database is busy", hint="try again in a moment") from error
        raise


def _is_full(folder: Path) -> bool:
    """Tell whether a write that SQLite calls an I/O error failed for want of space (of its shared memory file)."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize < 1024 * 1024 or not state.f_favail

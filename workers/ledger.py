"""The node's memory of operations: what was asked, who holds it, how it ended. A table in the engine's own database.

An operation is *claimed* before its work and *finished* after it, each in one transaction together with the journal's event, so
the outcome that the web site hears is the outcome that the node remembers. A second delivery finds the row and does nothing.

A claim is held by two things: a lock file that the kernel lets go when its process dies, and a lease that the process renews. A claim
whose lock is free is over at once. A claim whose lease ran out while its lock is held belongs to a process that sleeps (SIGSTOP, swap);
that process is killed before anybody else takes over, and should it wake up all the same, the check at the start of every
write transaction of the engine refuses its writes (`engine.db.Work`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from engine.db import Database, Schema
from engine.errors import Cancelled
from engine.events import Event
from engine.linux.locks import is_locked
from workers.contracts.envelope import Envelope
from workers.contracts.events import CANCELLED, FAILED, FINAL, OPERATION, RUNNING, SUCCEEDED
from workers.contracts.problems import INTERRUPTED, Problem
from workers.contracts.values import to_json

logger = logging.getLogger(__name__)

LEASE_S = float(os.environ.get("WHARFINGER_LEASE_S") or 20)
RENEW_EVERY_S = LEASE_S / 4
MOST_ATTEMPTS = 3
KILL_WAIT_S = 10.0

SCHEMA = Schema(
    "operations",
    (
        """CREATE TABLE operations (
            id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, fence INTEGER NOT NULL, attempt INTEGER NOT NULL,
            holder TEXT NOT NULL, pid INTEGER NOT NULL, lease_until REAL NOT NULL, boot TEXT NOT NULL, first_seq INTEGER NOT NULL,
            envelope TEXT NOT NULL, result TEXT, error TEXT, created_at REAL NOT NULL, finished_at REAL NOT NULL) STRICT""",
        "CREATE INDEX operations_open ON operations (status) WHERE status = 'running'",
        "CREATE INDEX operations_finished ON operations (finished_at)",
    ),
)


class Verdict(Enum):
    """Why an operation was not claimed."""

    DONE = "it has ended before"
    HELD = "somebody works on it"
    STALE = "a newer sending of it was seen"
    GIVEN_UP = "it was interrupted too often"


class Fenced(Cancelled):
    """The claim was taken over by somebody else; nothing more may be written under it."""

    code = "fenced"


@dataclass
class Claim:
    """The right to do one operation. `attempt` counts from 1; `first_seq` is the journal's end before the first one."""

    id: str
    kind: str
    fence: int
    attempt: int
    holder: str
    first_seq: int
    lock: int  # descriptor of the lock file

    def release(self) -> None:
        """Let the lock go."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


@dataclass(frozen=True)
class Abandoned:
    """A running operation that nobody works on any more, with what is needed to send it again."""

    id: str
    kind: str
    envelope: str


class Ledger:
    """Operations of one node; `locks` is a folder on a tmpfs, so no lock outlives a reboot."""

    def __init__(self, database: Database, locks: Path) -> None:
        self._database = database
        self._locks = locks
        locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def claim(self, envelope: Envelope, text: str) -> Claim | Verdict:
        """Take an operation, first or after its holder died; `text` is the envelope as it came."""
        while True:
            sleeper = self._sleeping_holder(envelope.operation)
            if sleeper is not None:
                self._kill(envelope.operation, sleeper)
            with self._database.transaction() as connection:
                row = connection.execute(
                    "SELECT * FROM operations WHERE id = ?", (envelope.operation,)
                ).fetchone()
                if row is None:
                    return self._begin(connection, envelope, text)
                if envelope.fence < row["fence"]:
                    return Verdict.STALE
                if row["status"] in FINAL:
                    self._say_again(connection, row, envelope.fence)
                    return Verdict.DONE
                if not self._is_held(row):
                    return self._take_over(connection, row, envelope, text)
                if row["lease_until"] > _now():
                    self._say_again(connection, row, envelope.fence)
                    return Verdict.HELD

    def finish(
        self,
        claim: Claim,
        status: str,
        *,
        result: dict[str, Any] | None = None,
        problem: Problem | None = None,
    ) -> bool:
        """Write the outcome and its event; False when the claim was lost, and then nothing is written."""
        error = to_json(problem) if problem else None
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE operations SET status = ?, result = ?, error = ?, finished_at = ?, envelope = '' "
                "WHERE id = ? AND holder = ? AND status = 'running'",
                (status, _dump(result), _dump(error), time.time(), claim.id, claim.holder),
            ).rowcount
            if changed:
                self._append(
                    connection, claim.id, status, claim.kind, claim.fence, claim.attempt, result, error
                )
        if not changed:
            logger.warning("operation %s: outcome %s refused, the claim was lost", claim.id, status)
            return False
        self._lock_path(claim.id, claim.attempt).unlink(missing_ok=True)
        return True

    def check(self, claim: Claim, connection: sqlite3.Connection) -> None:
        """Raise `Fenced` unless the claim still stands; for `engine.db.Work`."""
        row = connection.execute("SELECT holder, status FROM operations WHERE id = ?", (claim.id,)).fetchone()
        if row is None or row["holder"] != claim.holder or row["status"] != RUNNING:
            raise Fenced(f"operation {claim.id} is no longer this worker's")

    def renew(self, claims: list[Claim]) -> list[Claim]:
        """Extend the leases; return the claims that were lost."""
        if not claims:
            return []
        lost = []
        with self._database.transaction() as connection:
            for claim in claims:
                changed = connection.execute(
                    "UPDATE operations SET lease_until = ? WHERE id = ? AND holder = ? AND status = 'running'",
                    (_now() + LEASE_S, claim.id, claim.holder),
                ).rowcount
                if not changed:
                    lost.append(claim)
        return lost

    def running(self) -> list[str]:
        """Return the ids of operations that a living worker holds."""
        return [row["id"] for row in self._open() if self._is_held(row) and row["lease_until"] > _now()]

    def abandoned(self) -> list[Abandoned]:
        """Return the running operations whose worker died or sleeps."""
        return [
            Abandoned(row["id"], row["kind"], row["envelope"])
            for row in self._open()
            if not self._is_held(row) or row["lease_until"] <= _now()
        ]

    def status_of(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        """Return what is known of operations, by id; the unknown are left out."""
        marks = ",".join("?" * len(ids))
        rows = self._database.read().execute(f"SELECT * FROM operations WHERE id IN ({marks})", ids)
        return {row["id"]: _public(row) for row in rows}

    def events_of(self, claim: Claim) -> list[Event]:
        """Return the events that earlier attempts at this operation wrote, oldest first."""
        rows = self._database.read().execute(
            "SELECT * FROM events WHERE seq > ? AND json_extract(attributes, '$.operation') = ? ORDER BY seq",
            (claim.first_seq, claim.id),
        )
        return [
            Event(
                row["type"],
                row["action"],
                row["subject"],
                json.loads(row["attributes"]),
                row["time_ns"],
                row["seq"],
            )
            for row in rows
        ]

    def forget_before(self, finished_before: float) -> list[str]:
        """Forget operations that ended before a time (seconds since the epoch); return their ids."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "DELETE FROM operations WHERE status != 'running' AND finished_at < ? RETURNING id",
                (finished_before,),
            ).fetchall()
        return [row["id"] for row in rows]

    def _begin(self, connection: sqlite3.Connection, envelope: Envelope, text: str) -> Claim:
        first_seq = int(connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])
        claim = self._new_claim(envelope, attempt=1, first_seq=first_seq)
        values = (claim.id, claim.kind, RUNNING, claim.fence, 1, claim.holder, os.getpid(), _now() + LEASE_S)
        connection.execute(
            "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?, 0)",
            (*values, self._boot, first_seq, text, time.time()),
        )
        self._append(connection, claim.id, RUNNING, claim.kind, claim.fence, 1)
        return self._locked(claim)

    def _take_over(
        self, connection: sqlite3.Connection, row: sqlite3.Row, envelope: Envelope, text: str
    ) -> Claim | Verdict:
        if row["attempt"] >= MOST_ATTEMPTS:
            problem = Problem(
                INTERRUPTED,
                f"the worker died {MOST_ATTEMPTS} times while doing this",
                hint="look into the node's log, then try again",
                retryable=True,
            )
            self._give_up(connection, row, envelope.fence, problem)
            return Verdict.GIVEN_UP
        claim = self._new_claim(envelope, attempt=row["attempt"] + 1, first_seq=row["first_seq"])
        self._lock_path(row["id"], row["attempt"]).unlink(missing_ok=True)
        connection.execute(
            "UPDATE operations SET fence = ?, attempt = ?, holder = ?, pid = ?, lease_until = ?, boot = ?, envelope = ? WHERE id = ?",
            (
                claim.fence,
                claim.attempt,
                claim.holder,
                os.getpid(),
                _now() + LEASE_S,
                self._boot,
                text,
                claim.id,
            ),
        )
        self._append(connection, claim.id, RUNNING, claim.kind, claim.fence, claim.attempt)
        return self._locked(claim)

    def _give_up(
        self, connection: sqlite3.Connection, row: sqlite3.Row, fence: int, problem: Problem
    ) -> None:
        error = to_json(problem)
        connection.execute(
            "UPDATE operations SET status = ?, fence = ?, error = ?, finished_at = ?, envelope = '', holder = '' WHERE id = ?",
            (FAILED, fence, _dump(error), time.time(), row["id"]),
        )
        self._append(connection, row["id"], FAILED, row["kind"], fence, row["attempt"], None, error)

    def _say_again(self, connection: sqlite3.Connection, row: sqlite3.Row, fence: int) -> None:
        """A higher fence means that the web site has not heard: tell it what is known, once for each sending."""
        if fence <= row["fence"]:
            return
        connection.execute("UPDATE operations SET fence = ? WHERE id = ?", (fence, row["id"]))
        known = _public(row)
        self._append(
            connection,
            row["id"],
            row["status"],
            row["kind"],
            fence,
            row["attempt"],
            known["result"],
            known["error"],
        )

    def _append(
        self,
        connection: sqlite3.Connection,
        operation: str,
        status: str,
        kind: str,
        fence: int,
        attempt: int,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        attributes = {
            "status": status,
            "kind": kind,
            "fence": fence,
            "attempt": attempt,
            "result": result,
            "error": error,
        }
        self._database.append_event(connection, Event(OPERATION, status, operation, attributes))

    def _new_claim(self, envelope: Envelope, *, attempt: int, first_seq: int) -> Claim:
        holder = secrets.token_hex(8)
        return Claim(envelope.operation, envelope.kind, envelope.fence, attempt, holder, first_seq, lock=-1)

    def _locked(self, claim: Claim) -> Claim:
        """Take the claim's lock, as the last thing before the commit."""
        path = self._lock_path(claim.id, claim.attempt)
        claim.lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(claim.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return claim

    def _lock_path(self, operation: str, attempt: int) -> Path:
        return self._locks / f"{operation}.{attempt}.lock"

    def _open(self) -> list[sqlite3.Row]:
        return self._database.read().execute("SELECT * FROM operations WHERE status = 'running'").fetchall()

    def _is_held(self, row: sqlite3.Row) -> bool:
        return bool(row["boot"] == self._boot) and is_locked(self._lock_path(row["id"], row["attempt"]))

    def _sleeping_holder(self, operation: str) -> sqlite3.Row | None:
        row = self._database.read().execute("SELECT * FROM operations WHERE id = ?", (operation,)).fetchone()
        if row is None or row["status"] != RUNNING or row["lease_until"] > _now() or not self._is_held(row):
            return None
        return row  # type: ignore[no-any-return]

    def _kill(self, operation: str, row: sqlite3.Row) -> None:
        """End the process that holds an operation past its lease, so that two never work on the same thing."""
        path = self._lock_path(operation, row["attempt"])
        if row["pid"] != os.getpid() and _holds(row["pid"], path):
            logger.warning(
                "operation %s: killing worker %d, which slept past its lease", operation, row["pid"]
            )
            with contextlib.suppress(ProcessLookupError):
                os.kill(row["pid"], signal.SIGKILL)
        deadline = time.monotonic() + KILL_WAIT_S
        while is_locked(path):
            if time.monotonic() > deadline:
                raise Cancelled(f"operation {operation} is held by a process that does not end")
            time.sleep(0.02)


def _holds(pid: int, path: Path) -> bool:
    """Tell whether process `pid` has the file open: a number that was given to somebody else meanwhile has not."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) == str(path):
                    return True
    return False


def _public(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "status": row["status"],
        "kind": row["kind"],
        "fence": row["fence"],
        "attempt": row["attempt"],
        "result": json.loads(row["result"]) if row["result"] else None,
        "error": json.loads(row["error"]) if row["error"] else None,
    }


def _dump(value: Any) -> str | None:  # JSON
    return None if value is None else json.dumps(value)


def _now() -> float:
    """One clock for all leases: it never jumps, runs on while the machine sleeps, and is the same in every process."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@contextlib.contextmanager
def held(claim: Claim) -> Iterator[Claim]:
    """Let the claim's lock go at the end of the block."""
    try:
        yield claim
    finally:
        claim.release()


__all__ = [
    "CANCELLED",
    "FAILED",
    "SCHEMA",
    "SUCCEEDED",
    "Abandoned",
    "Claim",
    "Fenced",
    "Ledger",
    "Verdict",
    "held",
]

"""Programs started in a running container: their records, their sessions, and running one to its end.

    record = execs.create(container, ExecSpec(["sh"], tty=True))
    session = execs.start(record.id)      # streams; or execs.start(record.id, detach=True)
    execs.inspect(record.id).exit_code

A program gets the sandbox of its container (capabilities, seccomp, ids), handed to the runtime as a whole process object, never as
options. Records go with the container; of those that ended the last thousand are kept.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from engine.containers.model import Container, from_json, to_json
from engine.containers.parts import Parts
from engine.containers.policy import parse_security
from engine.containers.sandbox import environment
from engine.db import Database, Schema
from engine.errors import BadSpec, CommandFailed, ExecNotFound, WrongState
from engine.linux.files import opened
from engine.progress import CancelToken
from engine.runtime import capabilities
from engine.runtime.exec_session import ExecFolder, ExecSession, ExecStarter
from engine.runtime.paths import checked_cwd
from engine.runtime.spec import ProcessSpec
from engine.runtime.streams import check_size
from engine.runtime.users import resolve_user

OUTPUT_LIMIT_BYTES = 1024 * 1024
_KEEP_ENDED = 1000
_MAX_ID = 2**31 - 1

SCHEMA = Schema(
    "execs",
    (
        """CREATE TABLE execs (id TEXT PRIMARY KEY, container_id TEXT NOT NULL, status TEXT NOT NULL, created_at REAL NOT NULL,
            record TEXT NOT NULL) STRICT""",
        "CREATE INDEX execs_container ON execs (container_id)",
        "CREATE INDEX execs_status ON execs (status)",
    ),
)


@dataclass(frozen=True)
class ExecSpec:
    """What to run. `env` comes on top of the container's; `user` and `workdir` empty: the container's own.

    `quiet` ones, the engine's own health checks, write no events.
    """

    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    tty: bool = False
    stdin: bool = False
    privileged: bool = False
    detach_keys: str = "ctrl-p,ctrl-q"
    rows: int = 0
    columns: int = 0
    quiet: bool = False


@dataclass(frozen=True)
class ExecRecord:
    """An exec as it is. `status`: `created`, `running`, `exited`; the exit code counts only then. Times as in `Container`."""

    id: str
    container_id: str
    spec: ExecSpec
    status: str = "created"
    pid: int = 0
    exit_code: int = 0
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class ExecResult:
    """What a program wrote (each stream up to a megabyte) and its exit code."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


class Execs:
    """The execs of all containers of one engine."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._starter = ExecStarter(parts.runtime, parts.cgroups, parts.group)
        self._sessions: dict[str, ExecSession] = {}
        self._guard = threading.Lock()

    def create(self, ref: str, spec: ExecSpec, *, exec_id: str = "") -> ExecRecord:
        """Note a program to be run; with an id that exists already, return that record. Raises `WrongState`."""
        container = self._parts.store.get(ref)
        if exec_id and (found := self._find(exec_id)) is not None:
            return found
        _require_running(container)
        _check(spec)
        record = ExecRecord(exec_id or secrets.token_hex(32), container.id, spec, created_at=time.time())
        with self._parts.db.transaction() as connection:
            values = (
                record.id,
                record.container_id,
                record.status,
                record.created_at,
                json.dumps(to_json(record)),
            )
            connection.execute("INSERT INTO execs VALUES (?, ?, ?, ?, ?)", values)
            self._forget_old(connection)
        self._announce(
            record.spec, container, f"exec_create: {' '.join(spec.command)}"[:200], execID=record.id
        )
        return record

    def start(self, exec_id: str, *, size: tuple[int, int] | None = None) -> ExecSession:
        """Start it and return its streams, which the caller closes. Raises `CommandFailed` (status 127 or 126), `WrongState`."""
        record = self.get(exec_id)
        container = self._parts.store.get(record.container_id)
        _require_running(container)
        record = self._claim(record)
        try:
            process = self._process(container, record.spec, size)
            session = self._starter.start(
                self._files(record),
                process.to_oci(),
                tty=record.spec.tty,
                stdin=record.spec.stdin,
                owner=(container.subuid + process.uid, container.subuid + process.gid),
            )
        except BaseException as error:
            code = error.status if isinstance(error, CommandFailed) else 126
            self._finish(record, code, str(error))
            raise
        self._save(dataclasses.replace(record, pid=session.pid))
        self._announce(
            record.spec, container, f"exec_start: {' '.join(record.spec.command)}"[:200], execID=exec_id
        )
        with self._guard:
            self._sessions[exec_id] = session
        return session

    def finish(self, exec_id: str, session: ExecSession) -> int:
        """Take the exit code of a session whose output has ended, record it, and close the session."""
        try:
            code = session.wait()
        finally:
            session.close()
            with self._guard:
                self._sessions.pop(exec_id, None)
        self._finish(self.get(exec_id), code)
        return code

    def leave(self, exec_id: str, session: ExecSession) -> None:
        """Let go of a session whose program goes on; its end is recorded by `settle` or `inspect`."""
        session.close()
        with self._guard:
            self._sessions.pop(exec_id, None)

    @contextmanager
    def session(self, exec_id: str, *, size: tuple[int, int] | None = None) -> Iterator[ExecSession]:
        """Start it for the time of the block; afterwards its exit code is recorded if it has ended."""
        session = self.start(exec_id, size=size)
        try:
            yield session
        finally:
            session.close()
            with self._guard:
                self._sessions.pop(exec_id, None)
            self.inspect(exec_id)

    def run(
        self,
        ref: str,
        spec: ExecSpec,
        *,
        exec_id: str = "",
        timeout_s: float | None = None,
        cancel: CancelToken | None = None,
    ) -> ExecResult:
        """Run a program to its end and return what it wrote. After `timeout_s`, or when cancelled, it is killed.

        Raises `TimeoutError`, or `Cancelled`; `CommandFailed` when it could not be started.
        """
        record = self.create(ref, spec, exec_id=exec_id)
        session = self.start(record.id)
        collected = _Collector()
        late = threading.Event()
        watch = _Deadline(session, late, timeout_s, cancel)
        try:
            for piece in session.output():
                collected.add(piece.stream, piece.data)
        finally:
            watch.stop()
            code = self.finish(record.id, session)
        if cancel is not None:
            cancel.check()
        if late.is_set():
            raise TimeoutError(f"the program did not end within {timeout_s:g} s")
        return ExecResult(code, bytes(collected.stdout), bytes(collected.stderr), collected.truncated)

    def detach(self, exec_id: str) -> ExecRecord:
        """Start it without looking at its output, which is thrown away."""
        session = self.start(exec_id)

        def drain() -> None:
            for _ in session.output():
                continue
            self.finish(exec_id, session)

        threading.Thread(target=drain, name="exec-drain", daemon=True).start()
        return self.get(exec_id)

    def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Change the terminal of a running exec, from whatever process it was started."""
        rows, columns = check_size(rows, columns)
        record = self.inspect(exec_id)
        if record.status != "running" or not record.spec.tty:
            raise WrongState(f"exec {exec_id[:12]} has no terminal just now")
        self._files(record).as_bundle.send_control(f"1 {rows} {columns}\n")

    def get(self, exec_id: str) -> ExecRecord:
        found = self._find(exec_id)
        if found is None:
            raise ExecNotFound(f"no exec {exec_id[:64]!r} on this node")
        return found

    def inspect(self, exec_id: str) -> ExecRecord:
        """Return the record; an end that nobody has noticed is recorded first."""
        record = self.get(exec_id)
        with self._guard:
            watched = exec_id in self._sessions
        if record.status != "running" or watched:
            return record
        return self._settled(record)

    def of(self, container_id: str) -> list[ExecRecord]:
        rows = self._parts.db.read().execute(
            "SELECT record FROM execs WHERE container_id = ? ORDER BY created_at", (container_id,)
        )
        return [from_json(ExecRecord, json.loads(row["record"])) for row in rows]

    def running(self) -> list[ExecRecord]:
        rows = self._parts.db.read().execute("SELECT record FROM execs WHERE status = 'running'")
        return [from_json(ExecRecord, json.loads(row["record"])) for row in rows]

    def settle(self) -> list[str]:
        """Record the ends of programs whose starter has gone; for the agent, every few seconds."""
        settled = []
        for record in self.running():
            with self._guard:
                watched = record.id in self._sessions
            if not watched and self._settled(record).status == "exited":
                settled.append(f"exec {record.id[:12]} has ended")
        return settled

    def _claim(self, record: ExecRecord) -> ExecRecord:
        """Make the record a running one; only one caller ever can."""
        running = dataclasses.replace(record, status="running", started_at=time.time())
        with self._parts.db.transaction() as connection:
            done = connection.execute(
                "UPDATE execs SET status = 'running', record = ? WHERE id = ? AND status = 'created'",
                (json.dumps(to_json(running)), record.id),
            )
        if done.rowcount == 0:
            raise WrongState(f"exec {record.id[:12]} has been started already")
        return running

    def _settled(self, record: ExecRecord) -> ExecRecord:
        files = self._files(record)
        code = files.exit_status()
        if code is None and files.monitor_alive():
            return record
        if code is None and time.time() - record.started_at < 10.0:
            return record  # its monitor is being started just now
        code = files.exit_status() if code is None else code
        return self._finish(record, 137 if code is None else code)

    def _finish(self, record: ExecRecord, code: int, error: str = "") -> ExecRecord:
        """Record the end, once, and remove the files."""
        current = self._find(record.id)
        if current is None or current.status == "exited":
            return current or record
        ended = self._save(
            dataclasses.replace(
                current, status="exited", exit_code=code, pid=0, finished_at=time.time(), error=error
            )
        )
        self._files(record).remove()
        container = self._parts.store.find(record.container_id)
        if container is not None:
            self._announce(record.spec, container, "exec_die", execID=record.id, exitCode=str(code))
        return ended

    def _process(self, container: Container, spec: ExecSpec, size: tuple[int, int] | None) -> ProcessSpec:
        most = 65535 if container.subuid else _MAX_ID
        wanted = container.spec
        given = capabilities.resolve(
            wanted.cap_add, wanted.cap_drop, privileged=wanted.privileged or spec.privileged
        )
        root = os.open(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with opened(root) as root_fd:
            ids = resolve_user(root_fd, spec.user or container.config["User"], wanted.groups, max_id=most)
            cwd = checked_cwd(root_fd, spec.workdir or container.config["WorkingDir"] or "/", must_exist=True)
        env = {line.partition("=")[0]: line for line in environment(container, ids.home)}
        if spec.user and "HOME" not in {line.partition("=")[0] for line in container.config["Env"]}:
            env["HOME"] = f"HOME={ids.home or '/'}"
        if spec.tty:
            env.setdefault("TERM", "TERM=xterm")
        env.update({name: f"{name}={value}" for name, value in spec.env.items()})
        return ProcessSpec(
            argv=spec.command, env=list(env.values()), cwd=cwd, uid=ids.uid, gid=ids.gid, groups=ids.groups, tty=spec.tty,
            size=size or (spec.rows, spec.columns), capabilities=given,
            no_new_privileges=parse_security(wanted.security_opt).no_new_privileges, ulimits=wanted.resources.ulimits,
            oom_score_adj=wanted.resources.oom_score_adj or None,
        )  # fmt: skip

    def _announce(self, spec: ExecSpec, container: Container, action: str, **attributes: Any) -> None:
        if not spec.quiet:
            self._parts.store.announce(container, action, **attributes)

    def _files(self, record: ExecRecord) -> ExecFolder:
        return ExecFolder(self._parts.bundle(record.container_id), record.id)

    def _find(self, exec_id: str) -> ExecRecord | None:
        row = self._parts.db.read().execute("SELECT record FROM execs WHERE id = ?", (exec_id,)).fetchone()
        return None if row is None else from_json(ExecRecord, json.loads(row["record"]))

    def _save(self, record: ExecRecord) -> ExecRecord:
        with self._parts.db.transaction() as connection:
            values = (record.status, json.dumps(to_json(record)), record.id)
            connection.execute("UPDATE execs SET status = ?, record = ? WHERE id = ?", values)
        return record

    def _forget_old(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            """DELETE FROM execs WHERE status = 'exited' AND id NOT IN
                (SELECT id FROM execs WHERE status = 'exited' ORDER BY created_at DESC LIMIT ?)""",
            (_KEEP_ENDED,),
        )


def forget(db: Database, container_id: str) -> None:
    """Remove the records of a container that is removed."""
    with db.transaction() as connection:
        connection.execute("DELETE FROM execs WHERE container_id = ?", (container_id,))


class _Collector:
    """Keeps the first megabyte of each stream."""

    def __init__(self) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self.truncated = False

    def add(self, stream: str, data: bytes) -> None:
        into = self.stdout if stream == "stdout" else self.stderr
        room = OUTPUT_LIMIT_BYTES - len(into)
        into += data[:room]
        self.truncated = self.truncated or len(data) > room


class _Deadline:
    """Kills a session's program when its time is over or somebody cancels."""

    def __init__(
        self, session: ExecSession, late: threading.Event, timeout_s: float | None, cancel: CancelToken | None
    ) -> None:
        self._over = threading.Event()
        self._session, self._late, self._cancel = session, late, cancel
        self._until = None if timeout_s is None else time.monotonic() + timeout_s
        self._thread: threading.Thread | None = None
        if timeout_s is not None or cancel is not None:
            self._thread = threading.Thread(target=self._watch, name="exec-deadline", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._pause()):
            late = self._until is not None and time.monotonic() >= self._until
            if late:
                self._late.set()
            if late or (self._cancel is not None and self._cancel.cancelled):
                with suppress(ProcessLookupError):
                    self._session.kill()
                return

    def _pause(self) -> float:
        left = 0.2 if self._until is None else max(0.0, self._until - time.monotonic())
        return left if self._cancel is None else min(0.2, left)


def _require_running(container: Container) -> None:
    if not container.status.can_exec():
        raise WrongState(
            f"container {container.name!r} is {container.status}, not running",
            hint="start or unpause it first",
        )


def _check(spec: ExecSpec) -> None:
    if not spec.command or not spec.command[0]:
        raise BadSpec("an exec needs a command")
    texts: Sequence[str] = [*spec.command, spec.user, *spec.env.values()]
    if any("\0" in text for text in texts):
        raise BadSpec("an exec cannot hold a zero byte")
    for name in spec.env:
        if not name or "=" in name or "\n" in name or "\0" in name:
            raise BadSpec(f"not an environment variable: {name[:64]!r}")

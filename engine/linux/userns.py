"""User namespaces: each container's own range of 65,536 host ids, and namespaces that outlive the process that made them.

Root inside a container is an id of its range outside, which owns nothing. `RangeAllocator` gives the ranges out,
`make_userns` makes a namespace with such a range mapped to 0 and pins it to a file by a bind mount, so it lives without a
process. A network namespace that the container shall rule over (ports below 1024, its own routes, ping) must be *owned by*
that user namespace: have it made in the same call. Sources: user_namespaces(7), namespaces(7), nsenter.c of runc.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.config import EngineConfig
from engine.db import Database, Schema
from engine.errors import NoSpace, Unavailable
from engine.linux.mount import MS_BIND, LinuxMounts, Mounts
from engine.linux.process import CLEAN_ENV

RANGE_SIZE = 65536
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

SCHEMA = Schema(
    "subuid",
    (
        "CREATE TABLE subuid_ranges (start INTEGER NOT NULL, owner TEXT PRIMARY KEY) STRICT",
        "CREATE INDEX subuid_ranges_start ON subuid_ranges (start)",
    ),
)


@dataclass(frozen=True)
class IdMap:
    """Ids 0 .. `size`-1 inside are `host_start` .. outside. `userns_fd` is an open user namespace that maps just so.

    `pin` is the file that the namespace is pinned to; without one `path` still names the open descriptor.
    """

    host_start: int
    size: int = RANGE_SIZE
    userns_fd: int = -1
    pin: Path | None = None

    @property
    def path(self) -> str:
        """A path that other processes of this machine can open while this process holds the descriptor."""
        return str(self.pin) if self.pin else f"/proc/{os.getpid()}/fd/{self.userns_fd}"

    def to_host(self, inside: int) -> int:
        return self.host_start + inside

    def from_host(self, outside: int) -> int:
        """Return the id inside; what is not mapped is 65534, as the kernel says."""
        inside = outside - self.host_start
        return inside if 0 <= inside < self.size else 65534


class RangeAllocator:
    """Gives ranges of host ids to owners (container ids, build steps). Several owners may share one range."""

    def __init__(self, db: Database, config: EngineConfig) -> None:
        self._db = db
        self._base = config.subuid_base
        self._count = config.subuid_count

    def allocate(self, owner: str) -> int:
        """Return the first host id of the owner's range, the same one however often it is asked."""
        with self._db.transaction() as connection:
            if (held := _held(connection, owner)) is not None:
                return held
            start = self._free(connection)
            connection.execute("INSERT INTO subuid_ranges VALUES (?, ?)", (start, owner))
            return start

    def share(self, start: int, owner: str) -> None:
        """Make `owner` one more owner of the range at `start`: for containers that join another's namespaces."""
        with self._db.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO subuid_ranges VALUES (?, ?)", (start, owner))

    def release(self, owner: str) -> None:
        """Take the range from `owner`; it is free when no other owner has it. Idempotent."""
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM subuid_ranges WHERE owner = ?", (owner,))

    def owners(self) -> dict[str, int]:
        """Return every owner and the start of its range."""
        return {
            row["owner"]: row["start"]
            for row in self._db.read().execute("SELECT owner, start FROM subuid_ranges")
        }

    def _free(self, connection: sqlite3.Connection) -> int:
        """Return the range after the highest in use, or the first gap when the end is reached."""
        highest = connection.execute("SELECT max(start) FROM subuid_ranges").fetchone()[0]
        candidate = self._base if highest is None else highest + RANGE_SIZE
        if candidate < self._base + self._count * RANGE_SIZE:
            return int(candidate)
        used = {row[0] for row in connection.execute("SELECT DISTINCT start FROM subuid_ranges")}
        for index in range(self._count):
            if (start := self._base + index * RANGE_SIZE) not in used:
                return start
        raise NoSpace(
            f"all {self._count} ranges of user ids are in use", hint="remove containers that are not needed"
        )


def _held(connection: sqlite3.Connection, owner: str) -> int | None:
    row = connection.execute("SELECT start FROM subuid_ranges WHERE owner = ?", (owner,)).fetchone()
    return None if row is None else int(row[0])


def make_userns(
    start: int, size: int, pin: Path, *, netns: Path | None = None, mounts: Mounts | None = None
) -> None:
    """Pin a new user namespace (0.. inside = `start`.. outside) to the file `pin`, and a network namespace owned by it.

    Takes 2-4 ms. Raises `Unavailable` when the kernel refuses; then nothing is left behind. What is already
    pinned there is replaced.
    """
    mounts = mounts or LinuxMounts()
    wanted = CLONE_NEWUSER | (CLONE_NEWNET if netns else 0)
    with ExitStack() as undo, _unshared(wanted) as pid:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 {start} {size}\n")
        for kind, path in (("user", pin), ("net", netns)):
            if path is None:
                continue
            unpin(path, mounts=mounts)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            undo.callback(unpin, path, mounts=mounts)
            mounts.mount(f"/proc/{pid}/ns/{kind}", str(path), "none", MS_BIND)
        undo.pop_all()


def make_netns_inside(userns: Path, netns: Path, *, mounts: Mounts | None = None) -> None:
    """Pin a new network namespace that is owned by a user namespace which is there already."""
    mounts = mounts or LinuxMounts()
    with ExitStack() as undo, _unshared(CLONE_NEWNET, userns) as pid:
        unpin(netns, mounts=mounts)
        netns.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        netns.touch(mode=0o600)
        undo.callback(unpin, netns, mounts=mounts)
        mounts.mount(f"/proc/{pid}/ns/net", str(netns), "none", MS_BIND)
        undo.pop_all()


def unpin(path: Path, *, mounts: Mounts | None = None) -> None:
    """Let go of a pinned namespace: unmount and remove the file. Idempotent; processes inside keep it alive."""
    (mounts or LinuxMounts()).unmount(str(path), detach=True)
    path.unlink(missing_ok=True)


@contextmanager
def open_idmap(start: int, pin: Path, size: int = RANGE_SIZE) -> Iterator[IdMap]:
    """Open a pinned user namespace for the time of the block."""
    descriptor = os.open(pin, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield IdMap(start, size, descriptor, pin)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_userns(
    allocator: RangeAllocator, owner: str, folder: Path, *, netns: Path | None = None
) -> Iterator[IdMap]:
    """Hold a user namespace with a range of its own for the time of the block; afterwards nothing of it is left."""
    with ExitStack() as undo:
        start = allocator.allocate(owner)
        undo.callback(allocator.release, owner)
        pin = folder / "user"
        make_userns(start, RANGE_SIZE, pin, netns=netns)
        undo.callback(unpin, pin)
        if netns is not None:
            undo.callback(unpin, netns)
        yield undo.enter_context(open_idmap(start, pin))


@contextmanager
def _unshared(flags: int, owner: Path | None = None) -> Iterator[int]:
    """Keep a process in new namespaces for the time of the block and yield its process id.

    It is util-linux' `unshare` in front of `cat`, which answers once it is there. A fork of ours would not do: a user
    namespace is refused to a process with threads, and a copy of a large process costs more than two small programs.
    """
    argv = [
        "unshare",
        *(["--user"] if flags & CLONE_NEWUSER else []),
        *(["--net"] if flags & CLONE_NEWNET else []),
        "cat",
    ]
    if owner is not None:
        argv = ["nsenter", f"--user={owner}", *argv]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=CLEAN_ENV
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        try:
            with suppress(BrokenPipeError):
                program.stdin.write(b"?")
            if program.stdout.read(1) != b"?":
                reason = program.stderr.read(500).decode(errors="replace").strip()
                raise Unavailable(
                    f"the kernel refused a new user namespace: {reason}",
                    hint="check user.max_user_namespaces and user.max_net_namespaces of this machine",
                )
            yield program.pid
        finally:
            program.kill()

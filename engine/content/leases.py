"""Leases: how work in progress keeps garbage collection away from what it is about to use.

A lease is a file that its holder keeps locked with flock(2) and to which it appends the names (blob digests and chain
ids) it relies on. The kernel drops the lock when the holder dies, so a lease never outlives its process.

The order is what makes it safe. The worker *first* adds the name, *then* looks whether the thing is there. The
collector holds `gc.lock` exclusively from before it reads the leases until after the last removal; adding a name
takes it shared. So a thing seen after `add` cannot be removed any more.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.digest import Digest
from engine.linux.files import opened

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


class Lease:
    """A lease that is held; see `Leases.hold`."""

    def __init__(self, fd: int, lock: Path) -> None:
        self._fd = fd
        self._lock = lock

    def add(self, *names: Digest) -> None:
        """Protect blobs or chains from now on; call it *before* looking whether they are there."""
        with _flocked(self._lock, fcntl.LOCK_SH):
            os.write(self._fd, "".join(f"{name}\n" for name in names).encode())


class Leases:
    """The leases of one data root."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "leases"
        self._lock = root / "gc.lock"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def hold(self, owner: str) -> Iterator[Lease]:
        """Hold a new lease; `owner` is a word for people who look into the folder."""
        path = self._folder / f"{_UNSAFE.sub('-', owner)[:60]}.{secrets.token_hex(8)}"
        with _flocked(self._lock, fcntl.LOCK_SH):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield Lease(fd, self._lock)
        finally:
            path.unlink(missing_ok=True)
            os.close(fd)

    @contextmanager
    def collecting(self) -> Iterator[set[Digest]]:
        """Stop new protection for the length of the block; give the names that are protected now."""
        with _flocked(self._lock, fcntl.LOCK_EX):
            yield self._held()

    def _held(self) -> set[Digest]:
        names: set[Digest] = set()
        for path in self._folder.iterdir():
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            with opened(fd):
                if _is_dead(fd):
                    path.unlink(missing_ok=True)
                else:
                    names.update(Digest(line) for line in _text(fd).splitlines())
        return names


def _text(fd: int) -> str:
    """Return the text of an open file, from its beginning."""
    data = b""
    while chunk := os.pread(fd, 1024 * 1024, len(data)):
        data += chunk
    return data.decode()


def _is_dead(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _flocked(path: Path, mode: int) -> Iterator[None]:
    with opened(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as fd:
        fcntl.flock(fd, mode)
        yield

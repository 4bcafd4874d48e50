"""The standard streams belong to the program: only then it may open `/dev/stdout` and `/dev/stderr` again by name.

A pipe belongs to whoever made it, which is the monitor outside of the container's user namespace; there the program, root
or not, could write to its descriptor but not open it anew, as many images do whose log files are links to `/dev/stdout`.
Runtimes give the streams away themselves, but from inside of the user namespace, where they may not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from engine.linux.userns import IdMap

Owner = tuple[int, int]


def owner_of(process: dict[str, Any], idmap: IdMap | None) -> Owner:
    """Return uid and gid, as this host counts, of an OCI process object."""
    user, start = process["user"], idmap.host_start if idmap else 0
    return start + user["uid"], start + user["gid"]


def give_streams(pid: int, owner: Owner) -> None:
    """Give those standard streams of a created process that are pipes to `owner`. Its program must not run yet."""
    _give((f"/proc/{pid}/fd/{number}" for number in range(3)), owner)


def give_pipes(pid: int, owner: Owner) -> None:
    """Give all nameless pipes of a monitor to `owner`: before it starts a program, these are that one's streams."""
    folder = f"/proc/{pid}/fd"
    with suppress(FileNotFoundError):
        _give((f"{folder}/{name}" for name in os.listdir(folder)), owner)


def _give(paths: Iterable[str], owner: Owner) -> None:
    for path in paths:
        with suppress(FileNotFoundError, ProcessLookupError):
            if not os.readlink(path).startswith("pipe:"):
                continue  # a file, a terminal, a pipe with a name
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                    os.chown(f"/proc/self/fd/{descriptor}", *owner)
            finally:
                os.close(descriptor)

"""Doing work on files as another user of the machine, in a thread of its own, with all of root's rights kept.

On an idmapped mount, and on file systems that a user namespace has mounted, a file can be made only by an id that is mapped there:
host root is not. `as_owner` gives a thread the file-system ids of a mapped root; the rest of the process stays what it is.
Sources: setfsuid(2), capabilities(7) ("the file-system user id and capabilities"), mount_setattr(2) "ID-mapped mounts".
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def as_owner(uid: int, gid: int, work: Callable[[], T]) -> T:
    """Run `work` in a thread whose new files belong to `uid` and `gid`, and return what it returns or raise what it raises."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            become(uid, gid)
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="as-owner")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def become(uid: int, gid: int) -> None:
    """Change this thread's file-system ids. The kernel then takes its file rights; they are taken back."""
    _libc.setfsgid(ctypes.c_uint(gid))
    _libc.setfsuid(ctypes.c_uint(uid))
    header, sets = (
        ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0)),
        ctypes.create_string_buffer(24),
    )
    _check(_libc.capget(header, sets), "capget")
    fields = struct.unpack(
        "=6I", sets.raw
    )  # effective, permitted, inheritable: the low halves, then the high ones
    wanted = struct.pack("=6I", fields[1], fields[1], fields[2], fields[4], fields[4], fields[5])
    _check(_libc.capset(header, ctypes.create_string_buffer(wanted, 24)), "capset")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)

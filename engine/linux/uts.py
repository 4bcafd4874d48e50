"""The names in another process's UTS namespace. Sources: uts_namespaces(7), setns(2), setdomainname(2)."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from engine.linux.files import opened

_CLONE_NEWUTS = 0x04000000
_libc = ctypes.CDLL(None, use_errno=True)


def set_domain(pid: int, name: str) -> None:
    """Set the domain name that `pid` and those who share its namespace see; a process that has ended needs none.

    The runtimes of Debian 12 cannot: runc 1.1 knows no such field, and `kernel.domainname` is not writable with ids of one's own.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        with opened(os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
            if os.fstat(namespace).st_ino == os.stat("/proc/self/ns/uts").st_ino:
                return  # the host's own name is nobody's to change
            with ThreadPoolExecutor(1) as thread:  # of its own: what it enters, it never leaves
                thread.submit(_set, namespace, name.encode()).result()


def _set(namespace: int, name: bytes) -> None:
    if _libc.setns(namespace, _CLONE_NEWUTS) != 0 or _libc.setdomainname(name, len(name)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setting a domain name: {os.strerror(number)}")

"""A mount namespace beside the host's, for programs that must not see some of its mounts.

Only threads of a pool live in it; whatever they start lives in it too and keeps it alive. What the host mounts and unmounts
below a shared mount (`share`) appears and disappears in it as well, so nothing stays in use there that is gone outside.

Sources: mount_namespaces(7) ("shared subtrees"), unshare(2), setns(2): both act on the calling thread alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from engine.linux.locks import file_lock
from engine.linux.mount import MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, LinuxMounts

_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_THREADS = 8
_libc = ctypes.CDLL(None, use_errno=True)
_P = ParamSpec("_P")
_R = TypeVar("_R")


class MountNamespace:
    """The namespace, made at the first call; `without` are the mounts that it does not have."""

    def __init__(self, without: Sequence[str]) -> None:
        self._without = tuple(without)
        self._lock = threading.Lock()
        self._namespace = -1
        self._pool = ThreadPoolExecutor(_THREADS, "mount-namespace", self._enter)

    def call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `function` in a thread that lives in the namespace and return its result, or raise what it raised."""
        return self._pool.submit(function, *args, **kwargs).result()

    def _enter(self) -> None:
        with self._lock:
            if self._namespace >= 0:
                _check(_libc.unshare(_CLONE_FS), "unshare")
                _check(_libc.setns(self._namespace, _CLONE_NEWNS), "setns")
                return
            _check(_libc.unshare(_CLONE_NEWNS), "unshare")
            mounts = LinuxMounts()
            mounts.mount("none", "/", "", MS_REC | MS_SLAVE)
            for target in self._without:
                mounts.unmount(target, detach=True)
            self._namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def share(folder: Path) -> None:
    """Make `folder` a place whose mounts appear in namespaces made from this one. Idempotent.

    A folder that does not lie on a shared mount is mounted onto itself, as a shared mount. Raises `OSError(EBUSY)` when that
    would hide mounts that are in it already.
    """
    with file_lock(folder / "share.lock"):
        target, shared = _mount_of(folder)
        if shared:
            return
        mounts = LinuxMounts()
        if target != str(folder):
            if any(entry.target.startswith(f"{folder}/") for entry in mounts.entries()):
                raise OSError(errno.EBUSY, "something is mounted in it", str(folder))
            mounts.bind(str(folder), str(folder))
        mounts.mount("none", str(folder), "", MS_PRIVATE)
        mounts.mount("none", str(folder), "", MS_SHARED)


def _mount_of(folder: Path) -> tuple[str, bool]:
    """Return where the mount is that holds `folder`, and whether it is a shared one (proc_pid_mountinfo(5), optional fields)."""
    best, shared = "", False
    for line in Path("/proc/thread-self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.partition(" - ")[0].split(" ")
        target = fields[4]
        inside = str(folder) == target or str(folder).startswith(target.rstrip("/") + "/")
        if inside and len(target) >= len(best):
            best, shared = target, any(field.startswith("shared:") for field in fields[6:])
    return best, shared


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")

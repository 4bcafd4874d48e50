"""Bind mounts: which host paths a container may have, and how they are opened so that nobody swaps them.

A source is allowed when it lies in an allowed root and shows nothing of the engine's own. It is opened step by step
from that root, without following any link, and mounted by the descriptor: what was judged is what is mounted
(openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS).
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from engine.errors import BadSpec, Denied
from engine.linux.files import (
    DIRECTORY,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
    opened,
)

STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_NEVER = ("/proc", "/sys", "/dev", "/run", "/var/run", "/boot")


class BindPolicy:
    """The allowed roots of one node, and the folders that stay closed even inside them."""

    def __init__(self, allowed: Iterable[str], closed: Iterable[Path]) -> None:
        self._roots = sorted({os.path.realpath(root) for root in allowed}, key=len, reverse=True)
        self._closed = [os.path.realpath(path) for path in closed]

    def open(self, source: str, *, create: bool = False) -> int:
        """Return an `O_PATH` descriptor of the source; with `create` a missing one is made as a directory.

        Raises `Denied` for what policy forbids, `BadSpec` for a path that is not there or not absolute.
        """
        root, relative = self._judge(source)
        with opened(os.open(root, DIRECTORY)) as root_fd:
            if not relative:
                return os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=root_fd)
            try:
                return openat2(root_fd, relative, os.O_PATH, resolve=STRICT)
            except FileNotFoundError:
                if not create:
                    raise BadSpec(
                        f"bind source path does not exist: {source}", hint="make it on the node first"
                    ) from None
            except OSError as error:
                raise _refused(source, error) from error
            try:
                return _make(root_fd, relative)
            except OSError as error:
                raise _refused(source, error) from error

    def check(self, source: str) -> None:
        """Raise `Denied` or `BadSpec` for a source that cannot be had, without touching the file system."""
        self._judge(source)

    def _judge(self, source: str) -> tuple[str, str]:
        if not source.startswith("/") or "\0" in source:
            raise BadSpec(f"bind source must be an absolute path: {source[:200]!r}")
        if ".." in source.split("/"):
            raise Denied(f"bind source must not hold '..': {source[:200]}")
        path = posixpath.normpath(source).replace("//", "/")
        if path == "/" or any(_within(path, never) for never in _NEVER):
            raise Denied(f"{path} of the node is never given to containers", hint="bind a folder with data")
        if any(_within(path, closed) or _within(closed, path) for closed in self._closed):
            raise Denied(f"{path} holds the engine's own files", hint="bind another folder")
        for root in self._roots:
            if _within(path, root):
                return root, posixpath.relpath(path, root) if path != root else ""
        allowed = ", ".join(self._roots) or "none"
        raise Denied(
            f"{path} of the node is not open to containers",
            hint=f"allowed folders are: {allowed} (WHARFINGER_BIND_ROOTS on the node)",
        )


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _make(root_fd: int, relative: str) -> int:
    """Make the missing directories one by one, never through a link, and return the last."""
    current = os.dup(root_fd)
    for part in relative.split("/"):
        with opened(current) as parent:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=parent)
            current = openat2(parent, part, DIRECTORY, resolve=STRICT)
    with opened(current):
        return os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=current)


def _refused(source: str, error: OSError) -> Exception:
    if error.errno in (errno.ELOOP, errno.EXDEV):
        return Denied(
            f"bind source {source} leads through a symbolic link", hint="name the folder that it leads to"
        )
    return BadSpec(f"bind source {source} cannot be opened: {os.strerror(error.errno or 0)}")

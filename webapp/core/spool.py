"""The spool: files on their way between the web account and the node (`in` is written here, `out` by the node)."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from webapp.core.errors import AppError
from webapp.core.ids import new_id
from workers.contracts.names import GROUP, spool_path

logger = logging.getLogger(__name__)


class NoRoom(AppError):
    status, code, title = 507, "no_space", "The disk is full"


def path_in(file_id: str) -> Path:
    return spool_path(settings.WHARFINGER_HOME, "in", file_id)


def path_out(file_id: str) -> Path:
    return spool_path(settings.WHARFINGER_HOME, "out", file_id)


def create() -> tuple[str, BinaryIO]:
    """Open a new file for the node; return its id and the file (mode 0640, group of the node's processes)."""
    file_id = new_id()
    path = path_in(file_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        shutil.chown(path, group=GROUP)
    except (LookupError, PermissionError):
        logger.debug("spool file %s keeps its group", file_id)
    return file_id, os.fdopen(descriptor, "w+b")


def discard(file_id: str) -> None:
    """Remove an upload that is no longer needed; one that the node removed already is no error."""
    try:
        path_in(file_id).unlink(missing_ok=True)
    except OSError as error:
        logger.warning("spool file %s stays: %s", file_id, error)


def check_room(wanted: int = 0) -> None:
    """Raise `NoRoom` when the spool's disk would keep less than `settings.MIN_FREE_BYTES`."""
    folder = Path(settings.SPOOL)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free - wanted < settings.MIN_FREE_BYTES:
        raise NoRoom(
            f"the disk of uploads has {free} bytes left",
            hint="remove images, volumes or backups, then try again",
        )


def sweep(older_than_s: float, now: float) -> int:
    """Remove uploads that nobody took for so long; return how many."""
    removed = 0
    folder = Path(settings.SPOOL) / "in"
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            if now - path.stat().st_mtime > older_than_s:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed

"""Spooled files, opened so that the less trusted writer of the folder cannot point us elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from engine.errors import InvalidInput, NotFound
from workers.contracts.names import GROUP, spool_path


@contextlib.contextmanager
def incoming(home: Path, file_id: str) -> Iterator[BinaryIO]:
    """Open what the web site spooled for us: a plain file, no link, nobody else's."""
    path = spool_path(home, "in", file_id)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound("the uploaded file is not here any more", hint="upload it again") from error
    except OSError as error:
        raise InvalidInput("the uploaded file is no plain file") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_nlink != 1:
            raise InvalidInput("the uploaded file is no plain file")
        yield file


def discard(home: Path, file_id: str) -> None:
    """Remove an upload that has been used."""
    spool_path(home, "in", file_id).unlink(missing_ok=True)


@contextlib.contextmanager
def outgoing(home: Path, file_id: str) -> Iterator[BinaryIO]:
    """Write a file for the web site: it appears under its name when the block ends well, and not at all otherwise."""
    path = spool_path(home, "out", file_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield cast(BinaryIO, file)
            file.flush()
            with contextlib.suppress(LookupError, PermissionError):
                shutil.chown(part, group=GROUP)
            part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def size_of(home: Path, file_id: str) -> int:
    """Return the size of a finished outgoing file in bytes."""
    return spool_path(home, "out", file_id).stat().st_size

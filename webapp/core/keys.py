"""Secret keys in files of their own (0600), never in the database or the environment."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def read_or_make_key(path: Path) -> str:
    """Return the key in `path`, 64 hex digits, made on first use. Safe when several processes start at once."""
    return read_or_make(path, lambda: secrets.token_hex(32).encode()).decode().strip()


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the secret in `path`, made on first use; of several processes that make one, the first wins."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = _draft(path, make())
    try:
        os.link(draft, path)  # the first one wins; unlike rename, link never replaces
    except FileExistsError:
        pass
    finally:
        os.unlink(draft)
    return path.read_bytes()


def replace_secret(path: Path, data: bytes) -> None:
    """Put `data` in the place of what `path` held, whole or not at all."""
    _draft(path, data).replace(path)


def _draft(path: Path, data: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return draft

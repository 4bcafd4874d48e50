"""Secret keys in files of their own (0600), never in the database or the environment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def read_or_make_key(path: Path) -> str:
    """Return the key in `path`, 64 hex digits, made on first use. Safe when several processes start at once."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_hex(32).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(draft, path)  # the first one wins; unlike rename, link never replaces
    except FileExistsError:
        pass
    finally:
        os.unlink(draft)
    return path.read_text().strip()

"""Identifiers: random, hexadecimal, long enough never to meet again, short enough to read in part."""

from __future__ import annotations

import re
import secrets

SHORT = 12
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")
_HEX = re.compile(r"[0-9a-f]{2,64}\Z")


def new_id() -> str:
    """Return a new 32-digit id, as operations have."""
    return secrets.token_hex(16)


def new_container_id() -> str:
    """Return a new 64-digit id, as containers and networks have."""
    return secrets.token_hex(32)


def short(identifier: str) -> str:
    """Return the part of an id that people read."""
    return identifier.removeprefix("sha256:")[:SHORT]


def is_name(text: str) -> bool:
    """Say whether `text` may name a container, a network, a volume or a node (Docker's rule, at most 128 letters)."""
    return bool(_NAME.match(text))


def is_id_prefix(text: str) -> bool:
    return bool(_HEX.match(text))

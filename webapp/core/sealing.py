"""Encryption of secrets that must lie in the database: the key lies beside it, in a file of the web account."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

from webapp.core.keys import read_or_make_key


class CannotOpen(Exception):
    """The value was sealed with another key (a database restored without its key file)."""


def _fernet() -> Fernet:
    return Fernet(base64.urlsafe_b64encode(bytes.fromhex(read_or_make_key(settings.KEYS / "credentials"))))


def seal(values: dict[str, Any]) -> bytes:
    """Return `values` (JSON) encrypted; nothing for nothing."""
    return _fernet().encrypt(json.dumps(values).encode()) if values else b""


def unseal(data: bytes | memoryview) -> dict[str, Any]:
    """Return what was sealed, else raise `CannotOpen`."""
    raw = bytes(data)
    if not raw:
        return {}
    try:
        return dict(json.loads(_fernet().decrypt(raw)))
    except InvalidToken as error:
        raise CannotOpen("the key in the web account's folder does not open this secret") from error

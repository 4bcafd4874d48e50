"""Credentials for a registry, as clients send them: base64url of JSON in a header."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass

from webapp.dockerapi.errors import BadParameter

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*={0,2}\Z")


@dataclass(frozen=True)
class RegistryAuth:
    """What a client offers a registry; all empty means anonymous. Never logged."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    server_address: str = ""

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)


def decode_auth(header: str) -> RegistryAuth:
    """Return the credentials in an `X-Registry-Auth` header. Raises `BadParameter`."""
    if not header:
        return RegistryAuth()
    data = _document(header, "X-Registry-Auth")
    return _auth(data)


def decode_auths(header: str) -> dict[str, RegistryAuth]:
    """Return the credentials in an `X-Registry-Config` header (of a build), by registry."""
    if not header:
        return {}
    return {
        host: _auth(entry)
        for host, entry in _document(header, "X-Registry-Config").items()
        if isinstance(entry, dict)
    }


def _document(header: str, name: str) -> dict[str, object]:
    if not _BASE64URL.match(header) or len(header) % 4:
        raise BadParameter(f"invalid {name} header: must be a valid base64url-encoded string")
    try:
        text = base64.urlsafe_b64decode(header).decode()
    except (binascii.Error, ValueError) as error:
        raise BadParameter(f"invalid {name} header: must be a valid base64url-encoded string") from error
    if not text.strip():
        return {}
    try:
        data, end = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError) as error:
        raise BadParameter(f"invalid {name} header: invalid JSON: unexpected EOF") from error
    if text.lstrip()[end:].strip():
        raise BadParameter(f"invalid {name} header: multiple JSON documents not allowed")
    if not isinstance(data, dict):
        raise BadParameter(f"invalid {name} header: an object is expected")
    return data


def _auth(data: dict[str, object]) -> RegistryAuth:
    def text(key: str) -> str:
        value = data.get(key, "")
        return value if isinstance(value, str) else ""

    username, password = text("username"), text("password")
    if not username and (encoded := text("auth")):
        try:
            username, _, password = base64.b64decode(encoded).decode().partition(":")
        except (binascii.Error, ValueError) as error:
            raise BadParameter("invalid registry credentials: auth is not base64") from error
    return RegistryAuth(
        username, password, text("identitytoken"), text("registrytoken"), text("serveraddress")
    )

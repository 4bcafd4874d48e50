"""Errors of the distribution protocol as errors of the engine, free of secrets.

What a registry writes in an error is shown to people and kept in logs, so it is cut, stripped of control characters and of
everything that looks like a credential (a registry may echo the header that it was sent).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from engine.errors import Denied, EngineError, ImageNotFound, InvalidInput, RegistryError

_MAX_MESSAGE = 300
_CREDENTIAL = re.compile(r"(?i)\b(bearer|basic|negotiate)[\s:=]+[A-Za-z0-9+/=._~-]{4,}")
_QUERY = re.compile(r"\?[^\s\"'<>]+")
_USERINFO = re.compile(r"//[^/\s@]+@")
_NAMED = re.compile(
    r"(?i)\b(password|passwd|token|secret|authorization|api[-_]?key)(\"?\s*[:=]\s*\"?)[^\s\",;&]+"
)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_.-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")


class AccessRefused(Denied):
    """The registry wants other credentials, or gives these ones no such right; `status` is 401 or 403."""

    code = "registry_access"

    def __init__(self, message: str, *, status: int = 401, hint: str = "") -> None:
        super().__init__(message, hint=hint, status=status)
        self.status = status


class Untrusted(Denied):
    """A registry sent us where our rules forbid to go (realm, redirect, private address, bad certificate)."""

    code = "registry_untrusted"


class BadContent(InvalidInput):
    """What the registry sent is not what its name says: a wrong digest, size or form."""

    code = "registry_content"


class NotARegistry(InvalidInput):
    """Something answered, but it does not speak the distribution protocol."""

    code = "not_a_registry"


class Interrupted(RegistryError):
    """There was no answer, or the connection broke in the middle of one; trying again may help."""

    code = "registry_interrupted"


class Refused(Interrupted):
    """Nobody listens at the registry's port: that is worth one more try, not a long wait."""

    code = "registry_refused"


class UnknownHost(RegistryError):
    """The registry's name has no address."""

    code = "registry_unknown_host"


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` fit for people and logs: one line, cut, without `secrets` and what looks like one."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    text = _CREDENTIAL.sub(r"\1 ***", text)
    text = _USERINFO.sub("//***@", _QUERY.sub("?***", text))
    text = _NAMED.sub(r"\1\2***", _JWT.sub("***", text))
    text = _CONTROL.sub(" ", text).strip()
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"


def error_text(body: bytes, secrets: Iterable[str] = ()) -> tuple[str, str]:
    """Return code and message of a registry's error document, both possibly empty; HTML pages give nothing."""
    try:
        document = json.loads(body)
        first = document["errors"][0]
        code, message = str(first.get("code", ""))[:60], str(first.get("message", ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return "", ""
    return redact(code, secrets), redact(message, secrets)


def error_of(
    status: int, body: bytes, *, host: str, what: str, logged_in: bool, secrets: Iterable[str] = ()
) -> EngineError:
    """Return the error for an answer that is no success; `what` names the thing that was asked for."""
    code, message = error_text(body, secrets)
    said = f": {message}" if message else ""
    if status in (401, 403):
        return _refused(status, host, what, logged_in, said)
    if status == 404:
        return _missing(code, host, what)
    if status == 407:
        hint = "check HTTP_PROXY of the node"
        return RegistryError("the proxy does not accept the user name and password", status=status, hint=hint)
    if status == 429:
        hint = "the registry limits how often it is asked; log in, or try again later"
        return RegistryError(f"{host} is asked too often{said}", status=status, hint=hint)
    if status >= 500:
        hint = "the registry has a problem; try again later"
        return RegistryError(f"{host} failed with status {status} for {what}{said}", status=status, hint=hint)
    return RegistryError(f"{host} refused {what} with status {status}{said}", status=status)


def _refused(status: int, host: str, what: str, logged_in: bool, said: str) -> AccessRefused:
    if not logged_in:
        hint = "log in to the registry, or check the name for a typing error"
        return AccessRefused(
            f"{host} gives {what} to nobody without a login, or does not have it", status=status, hint=hint
        )
    if status == 401:
        hint = "check user name and password of this registry's account"
        return AccessRefused(
            f"{host} does not accept the user name and password{said}", status=status, hint=hint
        )
    return AccessRefused(
        f"{host} does not allow this account {what}{said}",
        status=status,
        hint="ask for the right, or use another account",
    )


def _missing(code: str, host: str, what: str) -> EngineError:
    if code == "NAME_UNKNOWN":
        return ImageNotFound(f"{host} has no repository for {what}", hint="check the name for a typing error")
    return ImageNotFound(f"{host} has no {what}", hint="check name and tag for a typing error")

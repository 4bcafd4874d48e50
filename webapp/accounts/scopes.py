"""Who asks, judged from an ASGI scope: for websockets and for uploads before their body is read."""

from __future__ import annotations

from collections.abc import MutableMapping
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from typing import Any

from django.conf import settings

from webapp.accounts import authentication
from webapp.accounts.actor import Actor
from webapp.audit.models import Face


def header(scope: MutableMapping[str, Any], name: str) -> str:
    """Return a header's value, the last if there are several; empty if there is none."""
    found = [value for key, value in scope.get("headers", ()) if key == name.encode()]
    return found[-1].decode("latin-1") if found else ""


def actor_of_scope(scope: MutableMapping[str, Any], face: str = "") -> Actor:
    """Return who asks; a bearer token stands in the header and nowhere else. Raises `NotSignedIn` for a token that is not valid."""
    face = face or (Face.REST if str(scope.get("path", "")).startswith("/api/") else Face.PAGE)
    peer = (scope.get("client") or ("",))[0]
    address = authentication.address_of(peer, header(scope, "x-forwarded-for"))
    secret = authentication.bearer_secret(header(scope, "authorization"))
    if secret is not None:
        return authentication.actor_of_token(
            secret, face=Face.REST if face == Face.PAGE else face, address=address
        )
    key = _cookie(header(scope, "cookie"), settings.SESSION_COOKIE_NAME)
    if not key:
        return Actor(face=face, address=address)
    store = import_module(settings.SESSION_ENGINE).SessionStore(key)
    return authentication.actor_of_session(store, face=face, address=address)


def _cookie(text: str, name: str) -> str:
    try:
        morsel = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""

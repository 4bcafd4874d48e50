"""Turn a request, or the scope of a websocket, into an `Actor`.

A bearer token stands in the `Authorization` header and nowhere else; with it, cookies do not count. Failures of any
layer deny: there is no path on which an error leaves the asker signed in.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import logging
from collections.abc import Iterable

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.models import Session
from django.db import OperationalError, transaction
from django.utils import timezone

from webapp.accounts.actor import NOBODY, Actor
from webapp.accounts.models import Token, TokenKind, User
from webapp.audit.models import Face
from webapp.core.errors import NotSignedIn

logger = logging.getLogger(__name__)

TOKEN_PREFIX = "wft_"
SIGNED_IN_AT = "wf_signed_in_at"
USED_RESOLUTION = datetime.timedelta(minutes=1)  # `last_used_at` is not written at every request


def digest_of(secret: str) -> str:
    """Return what is kept of a token. It holds 256 random bits, so a plain hash needs no salt and no slowness."""
    return hashlib.sha256(secret.encode()).hexdigest()


def bearer_secret(header: str) -> str | None:
    """Return the token of an `Authorization` header; None: there is none of that kind."""
    scheme, _, secret = header.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def actor_of_token(secret: str, *, face: str, address: str) -> Actor:
    """Return who holds this token, else raise `NotSignedIn` (the same words for unknown, expired and revoked)."""
    actor = _holder(TokenKind.SECRET, digest_of(secret), face=face, address=address)
    if actor is None:
        raise NotSignedIn(
            "the token is not valid", code="bad_token", hint="make a new one under your account"
        )
    return actor


def actor_of_certificate(fingerprint: str, *, face: str, address: str) -> Actor:
    """Return whose TLS client certificate this is, else raise `NotSignedIn`. (Its dates and signer were judged before.)"""
    actor = _holder(TokenKind.CERTIFICATE, fingerprint, face=face, address=address)
    if actor is None:
        raise NotSignedIn(
            f"the certificate {fingerprint[:8]} is not valid here",
            code="bad_certificate",
            hint="script/manage docker-config USER --tls makes one, or register yours under your account",
        )
    return actor


def _holder(kind: str, digest: str, *, face: str, address: str) -> Actor | None:
    token = Token.objects.select_related("user").filter(kind=kind, digest=digest).first()
    if token is None or not token.is_valid or not token.user.is_active:
        return None
    now = timezone.now()
    if token.last_used_at is None or now - token.last_used_at > USED_RESOLUTION:
        _note_use(token, now)
    return Actor(user=token.user, face=face, address=address, token=token)


def _note_use(token: Token, now: datetime.datetime) -> None:
    """Write the token's last use down; a database that others are writing to is no reason to refuse who asks."""
    try:
        with transaction.atomic():
            Token.objects.filter(pk=token.pk).update(last_used_at=now)
    except OperationalError as error:
        logger.info("the use of token %s was not noted: %s", token.pk, error)


def actor_of_session(session: object, *, face: str, address: str) -> Actor:
    """Return who is signed in with a session (a Django session object, loaded on first use)."""
    try:
        user_id = int(session.get(SESSION_KEY))  # type: ignore[attr-defined]
        signed_in_at = float(session.get(SIGNED_IN_AT))  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return Actor(face=face, address=address)
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None or signed_in_at < user.sessions_valid_after.timestamp():
        return Actor(face=face, address=address)
    return Actor(user=user, face=face, address=address, session_key=session.session_key or "")  # type: ignore[attr-defined]


def address_of(peer: str, forwarded_for: str) -> str:
    """Return the address that asked; `X-Forwarded-For` counts only when a proxy that we trust wrote it."""
    trusted = set(settings.TRUSTED_PROXIES)
    if peer not in trusted:
        return _address(peer)
    for hop in reversed([part.strip() for part in forwarded_for.split(",") if part.strip()]):
        if hop not in trusted:
            return _address(hop)
    return _address(peer)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def still_valid(actors: Iterable[Actor]) -> set[Actor]:
    """Return those whose login or token still holds, with few queries; live connections are judged by it."""
    actors = list(actors)
    tokens = {token.pk: token for token in _tokens(actors)}
    users = {
        user.pk: user
        for user in User.objects.filter(pk__in={a.user.pk for a in actors if a.user}, is_active=True)
    }
    keys = {a.session_key for a in actors if a.session_key}
    live = set(
        Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now()).values_list(
            "session_key", flat=True
        )
    )
    return {actor for actor in actors if _holds(actor, tokens, users, live)}


def _tokens(actors: list[Actor]) -> Iterable[Token]:
    return Token.objects.filter(pk__in={actor.token.pk for actor in actors if actor.token})


def _holds(actor: Actor, tokens: dict[int, Token], users: dict[int, User], sessions: set[str]) -> bool:
    if actor.user is None or actor.user.pk not in users:
        return False
    now_user = users[actor.user.pk]
    if now_user.role != actor.user.role or now_user.rights != actor.user.rights:
        return False  # reconnect with what one may do now
    if actor.token is not None:
        token = tokens.get(actor.token.pk)
        return token is not None and token.is_valid
    if actor.face == Face.DOCKER:  # by the local socket: the peer's uid is all there is
        return now_user.unix_uid is not None and now_user.unix_uid == actor.user.unix_uid
    if now_user.sessions_valid_after != actor.user.sessions_valid_after:
        return False
    return actor.session_key in sessions


__all__ = [
    "NOBODY",
    "Face",
    "actor_of_certificate",
    "actor_of_session",
    "actor_of_token",
    "address_of",
    "bearer_secret",
    "digest_of",
    "still_valid",
]

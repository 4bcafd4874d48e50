"""Reading people and tokens."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from webapp.accounts.actor import Actor
from webapp.accounts.models import Token, TokenKind, User
from webapp.core.errors import Missing


def user_list() -> QuerySet[User]:
    return User.objects.all()


def user_get(username: str) -> User:
    user = User.objects.filter(username=username).first()
    if user is None:
        raise Missing(f"no user {username[:64]!r}", code="user_not_found")
    return user


def token_list(user: User) -> QuerySet[Token]:
    """Return a person's tokens, newest first."""
    return Token.objects.select_related("user").filter(user=user)


def all_tokens() -> QuerySet[Token]:
    return Token.objects.select_related("user")


def token_get(actor: Actor, token_id: int) -> Token:
    """Return one's own token (an admin: anybody's); what is another's does not exist."""
    tokens = Token.objects.select_related("user").filter(pk=token_id)
    token = tokens.first() if actor.is_admin else tokens.filter(user=actor.user).first()
    if token is None:
        raise Missing(f"no token {token_id}", code="token_not_found")
    return token


def user_json(user: User) -> dict[str, Any]:
    return {
        "username": user.username,
        "display_name": user.display_name,
        "role": user.role,
        "rights": {
            right: getattr(user, f"right_{right}")
            for right in ("host_mounts", "privileged", "host_namespaces", "devices")
        },
        "is_active": user.is_active,
        "unix_uid": user.unix_uid,
        "created_at": user.created_at,
        "last_sign_in_at": user.last_login,
    }


def token_json(token: Token) -> dict[str, Any]:
    return {
        "id": token.pk,
        "user": token.user.username,
        "name": token.name,
        "kind": token.kind,
        "scope": token.scope,
        "hint": token.hint,
        "fingerprint": token.digest if token.kind == TokenKind.CERTIFICATE else None,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "last_used_at": token.last_used_at,
        "revoked_at": token.revoked_at,
        "is_valid": token.is_valid,
    }

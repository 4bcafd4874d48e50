"""Who asks: the person, by which key, from where, by which face. Every service takes an `Actor` first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from webapp.accounts.models import Token, User
from webapp.accounts.permissions import ROLE_PERMISSIONS, SCOPE_PERMISSIONS, Permission, Right
from webapp.audit.models import Face

NOBODY_PERMISSIONS = frozenset({Permission.PUBLIC})


@dataclass(frozen=True)
class Idempotency:
    """The key of a request that may be repeated, and the fingerprint of what it asked for."""

    key: str
    fingerprint: str


@dataclass(frozen=True)
class Actor:
    """`user` is None for nobody (or for Wharfinger itself, when `face` is system)."""

    user: User | None = None
    face: str = Face.REST
    address: str = ""
    token: Token | None = None
    session_key: str = ""
    idempotency: Idempotency | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return self.user.username if self.user else ("wharfinger" if self.face == Face.SYSTEM else "")

    @property
    def is_signed_in(self) -> bool:
        return self.user is not None

    @property
    def permissions(self) -> frozenset[Permission]:
        """The permissions of the person's role, less what the token's scope takes away."""
        if self.face == Face.SYSTEM and self.user is None:
            return frozenset(Permission)
        if self.user is None:
            return NOBODY_PERMISSIONS
        allowed = ROLE_PERMISSIONS[self.user.role]
        return allowed & SCOPE_PERMISSIONS[self.token.scope] if self.token else allowed

    def can(self, permission: Permission) -> bool:
        return permission in self.permissions

    @property
    def rights(self) -> frozenset[Right]:
        """The risky rights: all for an admin (by session or a token of admin scope), else those given one by one."""
        if self.can(Permission.ADMIN):
            return frozenset(Right)
        if self.user is None or not self.can(Permission.OPERATE):
            return frozenset()
        return frozenset(right for right in Right if getattr(self.user, f"right_{right.value}"))

    @property
    def is_admin(self) -> bool:
        return self.can(Permission.ADMIN)

    @property
    def can_operate(self) -> bool:
        return self.can(Permission.OPERATE)

    def to_json(self) -> dict[str, Any]:
        """Return what an operation remembers of who asked for it."""
        return {
            "name": self.name,
            "id": self.user.pk if self.user else None,
            "token": str(self.token) if self.token else "",
            "token_id": self.token.pk if self.token else None,
            "address": self.address,
            "face": str(self.face),
        }


NOBODY = Actor()
SYSTEM = Actor(face=Face.SYSTEM)

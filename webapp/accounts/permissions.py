"""What one may do: roles, the scopes of tokens, and the risky rights beside them.

A *permission* is what a route asks for. A role has permissions; a token's scope takes some of them away, and never
gives one that its owner's role lacks. A *right* allows one kind of dangerous container; admins have all of them.
"""

from __future__ import annotations

from enum import StrEnum

from django.db import models


class Permission(StrEnum):
    PUBLIC = "public"  # no sign-in needed
    SELF = "self"  # one's own account and tokens; a token below admin scope has no self to speak for
    VIEW = "view"
    OPERATE = "operate"
    ADMIN = "admin"


class Role(models.TextChoices):
    VIEWER = "viewer", "Viewer"
    OPERATOR = "operator", "Operator"
    ADMIN = "admin", "Admin"


class Scope(models.TextChoices):
    READ = "read", "Read"
    OPERATE = "operate", "Operate"
    ADMIN = "admin", "Admin"


class Right(StrEnum):
    """Beyond the role, and off by default for operators; judged on the container asked for (`containers.policy`)."""

    HOST_MOUNTS = "host_mounts"
    PRIVILEGED = "privileged"
    HOST_NAMESPACES = "host_namespaces"
    DEVICES = "devices"


ROLE_PERMISSIONS: dict[str, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.PUBLIC, Permission.SELF, Permission.VIEW}),
    Role.OPERATOR: frozenset({Permission.PUBLIC, Permission.SELF, Permission.VIEW, Permission.OPERATE}),
    Role.ADMIN: frozenset(Permission),
}
SCOPE_PERMISSIONS: dict[str, frozenset[Permission]] = {
    Scope.READ: frozenset({Permission.PUBLIC, Permission.VIEW}),
    Scope.OPERATE: frozenset({Permission.PUBLIC, Permission.VIEW, Permission.OPERATE}),
    Scope.ADMIN: frozenset(Permission),
}

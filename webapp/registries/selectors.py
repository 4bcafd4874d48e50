"""Reading registry accounts. Secrets are never read here; `access_for` opens them for the contract that needs them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from webapp.accounts.actor import Actor
from webapp.core.errors import Missing
from webapp.core.sealing import unseal
from webapp.registries.models import Registry
from workers.contracts.images import RegistryAccess


def registry_list() -> QuerySet[Registry]:
    return Registry.objects.select_related("created_by")


def registry_get(host: str) -> Registry:
    registry = registry_list().filter(host=host).first()
    if registry is None:
        raise Missing(f"no account for registry {host[:255]!r}", code="registry_not_found")
    return registry


def access_for(actor: Actor, hosts: Iterable[str] | None = None) -> list[RegistryAccess]:
    """Return how to reach these registries (all: None) with what the actor may use.

    Without the right to its credentials a registry is still reached, without signing in, by the settings an admin made for it.
    """
    found = Registry.objects.all() if hosts is None else Registry.objects.filter(host__in=set(hosts))
    access = [_open(registry, actor) for registry in found]
    Registry.objects.filter(
        host__in=[item.host for item in access if item.username or item.identity_token]
    ).update(used_at=timezone.now())
    return access


def may_use(registry: Registry, actor: Actor) -> bool:
    return actor.is_admin or (actor.can_operate and registry.usable_by == Registry.UsableBy.OPERATORS)


def _open(registry: Registry, actor: Actor) -> RegistryAccess:
    settings = {"host": registry.host, "insecure": registry.insecure, "ca_pem": registry.ca_pem}
    if not registry.has_secret or not may_use(registry, actor):
        return RegistryAccess(**settings)
    secret = unseal(registry.sealed_secret).get("secret", "")
    field = "identity_token" if registry.secret_kind == "token" else "password"
    return RegistryAccess(**settings, username=registry.username, **{field: secret})


def to_json(registry: Registry) -> dict[str, Any]:
    """Return an account without its secret."""
    return {
        "host": registry.host,
        "username": registry.username,
        "has_secret": registry.has_secret,
        "secret_kind": registry.secret_kind,
        "usable_by": registry.usable_by,
        "insecure": registry.insecure,
        "has_ca": bool(registry.ca_pem),
        "created_at": registry.created_at,
        "updated_at": registry.updated_at,
        "used_at": registry.used_at,
        "created_by": registry.created_by.username if registry.created_by else None,
    }

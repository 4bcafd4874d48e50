"""Keeping registry accounts. Only admins change them; a secret is written, never read back."""

from __future__ import annotations

import re
from typing import Any

from django.db import transaction
from django.utils import timezone

from webapp.accounts.actor import Actor
from webapp.audit import services as audit
from webapp.core.errors import Conflict, Invalid
from webapp.core.sealing import seal
from webapp.registries.models import Registry

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::\d{1,5})?\Z")
FIELDS = ("username", "secret", "secret_kind", "usable_by", "insecure", "ca_pem")


def registry_create(actor: Actor, host: str, **values: Any) -> Registry:
    """Add an account: `username`, `secret`, `secret_kind`, `usable_by`, `insecure`, `ca_pem`."""
    host = normal_host(host)
    with transaction.atomic():
        if Registry.objects.filter(host=host).exists():
            raise Conflict(
                f"there is an account for {host} already", code="already_exists", hint="change that one"
            )
        registry = Registry(host=host, created_by=actor.user)
        _apply(registry, values)
        registry.save(force_insert=True)
        audit.record(
            actor,
            "registry.create",
            target_type="registry",
            target_id=str(registry.pk),
            target=host,
            body=_shown(values),
        )
    return registry


def registry_update(actor: Actor, registry: Registry, **values: Any) -> Registry:
    """Change an account; a secret that is not given stays."""
    with transaction.atomic():
        _apply(registry, values)
        registry.updated_at = timezone.now()
        registry.save()
        audit.record(
            actor,
            "registry.update",
            target_type="registry",
            target_id=str(registry.pk),
            target=registry.host,
            body=_shown(values),
        )
    return registry


def registry_remove(actor: Actor, registry: Registry) -> None:
    with transaction.atomic():
        audit.record(
            actor, "registry.remove", target_type="registry", target_id=str(registry.pk), target=registry.host
        )
        registry.delete()


def normal_host(host: str) -> str:
    """Return the host as references have it (`docker.io` for Docker Hub's other names), else raise `Invalid`."""
    host = host.strip().lower().removeprefix("https://").removeprefix("http://").split("/")[0]
    if host in ("index.docker.io", "registry-1.docker.io", "hub.docker.com"):
        return "docker.io"
    if not _HOST.match(host) or len(host) > 255:
        raise Invalid(
            f"{host[:60]!r} is no registry host", fields={"host": ["like docker.io or 127.0.0.1:5000"]}
        )
    return host


def _apply(registry: Registry, values: dict[str, Any]) -> None:
    if unknown := sorted(set(values) - set(FIELDS)):
        raise Invalid(f"unknown field {unknown[0][:40]!r}", fields={unknown[0]: ["unknown"]})
    for name in ("username", "secret_kind", "usable_by", "insecure", "ca_pem"):
        if name in values:
            setattr(registry, name, values[name])
    if registry.secret_kind not in ("password", "token"):
        raise Invalid("secret_kind is password or token", fields={"secret_kind": ["password or token"]})
    if registry.usable_by not in Registry.UsableBy.values:
        raise Invalid("usable_by is operators or admins", fields={"usable_by": ["operators or admins"]})
    if registry.ca_pem and "BEGIN CERTIFICATE" not in registry.ca_pem:
        raise Invalid("the certificate is not in PEM form", fields={"ca_pem": ["not PEM"]})
    if "secret" in values:
        registry.sealed_secret = seal({"secret": values["secret"]}) if values["secret"] else b""


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    return {name: ("changed" if name in ("secret", "ca_pem") else value) for name, value in values.items()}

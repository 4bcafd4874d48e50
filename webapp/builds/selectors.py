"""Reading builds."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from webapp.accounts.actor import Actor
from webapp.builds.models import Build
from webapp.core.errors import Missing
from webapp.core.ids import is_id_prefix
from webapp.operations import selectors as operations

MASK = "***"


def build_list(*, status: str = "", tag: str = "") -> QuerySet[Build]:
    """Return builds, newest first, without what only one build's page shows."""
    found = Build.objects.select_related("operation__node", "operation__user").defer(
        "dockerfile",
        "plan",
        "steps",
        "advice",
        "operation__payload",
        "operation__sealed_payload",
        "operation__result",
    )
    if status:
        found = found.filter(operation__status__in=status.split(","))
    if tag:
        found = found.filter(tags__contains=tag) if _has_contains() else found.filter(tags__icontains=tag)
    return found


def _has_contains() -> bool:
    from django.db import connection

    return bool(connection.features.supports_json_field_contains)


def build_get(ref: str) -> Build:
    """Return the build with this id (its operation's) or unique start of one, else raise `Missing`."""
    builds = Build.objects.select_related("operation__node", "operation__user")
    exact = builds.filter(pk=ref).first()
    if exact is not None:
        return exact
    matches = list(builds.filter(pk__startswith=ref)[:2]) if is_id_prefix(ref) and len(ref) >= 4 else []
    if len(matches) != 1:
        raise Missing(
            f"no build {ref[:64]!r}", code="build_not_found", hint="list the builds to see their ids"
        )
    return matches[0]


def to_json(build: Build) -> dict[str, Any]:
    """Return a build as lists show it (no query)."""
    operation = build.operation
    return {
        "id": operation.id,
        "status": operation.status,
        "node": operation.node.name,
        "tags": build.tags,
        "target": build.target,
        "image_id": build.image_id or None,
        "size_bytes": build.size_bytes or None,
        "context_size_bytes": build.context_size_bytes,
        "user": operation.actor.get("name", ""),
        "created_at": build.created_at,
        "started_at": operation.started_at,
        "finished_at": operation.finished_at,
        "error": operation.error or None,
        "operation": operations.brief(operation),
    }


def detail_json(build: Build, actor: Actor) -> dict[str, Any]:
    """Return everything about a build; build arguments have values only for who may operate."""
    args = build.build_args if actor.can_operate else dict.fromkeys(build.build_args, MASK)
    return {
        **to_json(build),
        "dockerfile": build.dockerfile,
        "dockerfile_path": build.dockerfile_path,
        "build_args": args,
        "labels": build.labels,
        "no_cache": build.no_cache,
        "plan": build.plan,
        "steps": build.steps,
        "advice": build.advice,
    }

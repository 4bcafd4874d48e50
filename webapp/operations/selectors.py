"""Reading operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from webapp.core.errors import Missing
from webapp.core.ids import is_id_prefix
from webapp.operations.models import Operation, Status
from webapp.operations.services import can_retry


@dataclass(frozen=True)
class OperationFilter:
    """Empty fields filter nothing. `kind` ending in a dot takes all below it."""

    kind: str = ""
    status: str = ""
    target_type: str = ""
    target: str = ""
    user: str = ""
    node: str = ""
    active: bool = False


def operation_list(wanted: OperationFilter = OperationFilter()) -> QuerySet[Operation]:
    """Return the operations that fit, newest first."""
    found = Operation.objects.select_related("node", "user").defer("payload", "sealed_payload", "result")
    if wanted.kind:
        found = found.filter(**{"kind__startswith" if wanted.kind.endswith(".") else "kind": wanted.kind})
    if wanted.status:
        found = found.filter(status__in=wanted.status.split(","))
    if wanted.active:
        found = found.filter(status__in=(Status.QUEUED, Status.RUNNING))
    if wanted.target_type:
        found = found.filter(target_type=wanted.target_type)
    if wanted.target:
        found = found.filter(target_id=wanted.target) | found.filter(target=wanted.target)
    if wanted.user:
        found = found.filter(user__username=wanted.user)
    if wanted.node:
        found = found.filter(node__name=wanted.node)
    return found


def operation_get(ref: str) -> Operation:
    """Return the operation with this id or unique start of one, else raise `Missing`."""
    operations = Operation.objects.select_related("node", "user")
    exact = operations.filter(pk=ref).first()
    if exact is not None:
        return exact
    matches = list(operations.filter(pk__startswith=ref)[:2]) if is_id_prefix(ref) and len(ref) >= 4 else []
    if len(matches) != 1:
        raise Missing(f"no operation {ref[:64]!r}", code="operation_not_found")
    return matches[0]


def operations_of(target_type: str, target_id: str, limit: int = 50) -> list[Operation]:
    """Return the newest operations on one thing."""
    return list(operation_list(OperationFilter(target_type=target_type)).filter(target_id=target_id)[:limit])


def operations_on(target_type: str, ref: str, limit: int = 10) -> list[Operation]:
    """Return the newest operations on a thing that may be gone, by its id, the start of one (4 digits) or its name."""
    found = operation_list(OperationFilter(target_type=target_type))
    by_id = is_id_prefix(ref) and len(ref) >= 4
    return list(found.filter(**{"target_id__startswith" if by_id else "target": ref})[:limit])


def active_count() -> int:
    return Operation.objects.filter(status__in=(Status.QUEUED, Status.RUNNING)).count()


def brief(operation: Operation) -> dict[str, Any]:
    """Return what the answer to a change says of its operation."""
    return {"id": operation.id, "kind": operation.kind, "status": operation.status, "url": operation.url}


def to_json(operation: Operation, *, whole: bool = False) -> dict[str, Any]:
    """Return an operation as REST shows it; `whole` adds result."""
    shown: dict[str, Any] = {
        **brief(operation),
        "node": operation.node.name,
        "target": {"type": operation.target_type, "id": operation.target_id, "name": operation.target},
        "user": operation.actor.get("name", ""),
        "face": operation.actor.get("face", ""),
        "created_at": operation.created_at,
        "started_at": operation.started_at,
        "finished_at": operation.finished_at,
        "cancel_requested": operation.cancel_requested_at is not None,
        "can_cancel": not operation.is_final,
        "can_retry": can_retry(operation),
        "retry_of": operation.retry_of,
        "progress": operation.progress,
        "error": operation.error or None,
    }
    if whole:
        shown["result"] = operation.result
    return shown

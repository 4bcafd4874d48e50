"""Asking for work, and what becomes of it.

`submit` is the one door to the nodes: it writes the operation, the audit entry and the idempotency key in one
transaction and sends after the commit. What could not be sent stays in the outbox; the reaper sends it (`reaper`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from webapp.accounts.actor import Actor
from webapp.audit import services as audit
from webapp.audit.models import Outcome as AuditOutcome
from webapp.core import spool
from webapp.core.errors import Conflict, NodeProblem, TooMany, Unavailable
from webapp.core.sealing import seal
from webapp.nodes.models import Node
from webapp.operations.models import IdempotencyKey, Operation, Status
from webapp.operations.sender import NotSent, sender
from webapp.realtime import wake
from workers.client import BrokerDown
from workers.contracts.base import Contract
from workers.contracts.envelope import split
from workers.contracts.events import Outcome
from workers.contracts.problems import NodeError

logger = logging.getLogger(__name__)

IDEMPOTENCY_KEPT = timedelta(days=2)


@dataclass(frozen=True)
class Target:
    """What an operation is about: `type` as in audit (`container`, `image` ...), id and the name at this time."""

    type: str = ""
    id: str = ""
    name: str = ""


class Replayed(Exception):
    """The request was accepted before under the same idempotency key: `operation` (or `response`) is its answer."""

    def __init__(self, key: IdempotencyKey) -> None:
        super().__init__(key.key)
        self.operation = key.operation
        self.status = key.status
        self.response = key.response


def submit(
    actor: Actor,
    contract: Contract,
    *,
    node: Node,
    target: Target = Target(),
    body: dict[str, Any] | None = None,
    uploads: tuple[str, ...] = (),
    operation_id: str = "",
    retry_of: str = "",
) -> Operation:
    """Accept work for a node. Raises `Replayed` when the actor's idempotency key was used before.

    `body` is what the audit entry shows of the request (default: the contract's open fields).
    """
    if not node.is_enabled:
        raise Unavailable(
            f"node {node.name} is switched off", code="node_disabled", hint="an admin can switch it on"
        )
    replay(actor)
    _check_share(actor)
    operation = _new_operation(actor, contract, node, target)
    operation.uploads, operation.retry_of = list(uploads), retry_of
    operation.id = operation_id or operation.id
    with transaction.atomic():
        operation.save(force_insert=True)
        _remember(actor, operation)
        audit.record(
            actor,
            contract.KIND,
            outcome=AuditOutcome.ACCEPTED,
            target_type=target.type,
            target_id=target.id,
            target=target.name,
            node=node.name,
            operation=operation.id,
            body=operation.payload if body is None else body,
        )
        transaction.on_commit(lambda: _sent_after_commit(operation))
    return operation


def _new_operation(actor: Actor, contract: Contract, node: Node, target: Target) -> Operation:
    payload, secrets = split(contract)
    now = timezone.now()  # it is sent right after the commit; what is not sent then goes back to the outbox
    return Operation(
        kind=contract.KIND,
        node=node,
        payload=payload,
        sealed_payload=seal(secrets),
        target_type=target.type,
        target_id=target.id,
        target=target.name[:300],
        user=actor.user,
        actor=actor.to_json(),
        sent_at=now,
        heard_at=now,
        attempts=1,
    )


def _check_share(actor: Actor) -> None:
    """Raise `TooMany` when one person fills the queues: the others' work would wait behind it."""
    if actor.user is None:
        return
    active = Operation.objects.filter(user=actor.user, status__in=(Status.QUEUED, Status.RUNNING)).count()
    if active >= settings.MAX_ACTIVE_OPERATIONS_A_USER:
        audit.refuse(
            actor, "access.refused", f"{active} operations of theirs have not ended", target_type="operation"
        )
        raise TooMany(
            f"{active} of your operations have not ended yet",
            retry_after_s=5,
            hint="wait for some, or cancel some",
        )


def _sent_after_commit(operation: Operation) -> None:
    wake.operation(operation)  # before the node can say more of it
    try:
        sender().send(operation)
    except NotSent as error:
        logger.warning("operation %s waits in the outbox: %s", operation.id, error)
        operation.sent_at, operation.attempts = None, 0
        Operation.objects.filter(pk=operation.pk, status=Status.QUEUED).update(sent_at=None, attempts=0)


def deliver(operation: Operation) -> bool:
    """Send an operation (again); return whether the queue took it. One that was not taken stays as it was."""
    try:
        sender().send(operation)
    except NotSent as error:
        logger.warning("operation %s waits: %s", operation.id, error)
        return False
    now = timezone.now()
    Operation.objects.filter(pk=operation.pk).update(
        sent_at=now, heard_at=now, attempts=operation.attempts + 1
    )
    operation.sent_at = now
    return True


# --- idempotency ------------------------------------------------------------------------------------------------


def replay(actor: Actor) -> None:
    """Raise `Replayed` if the actor's idempotency key was used for this request, `Conflict` if for another one."""
    if actor.idempotency is None or actor.user is None:
        return
    known = (
        IdempotencyKey.objects.select_related("operation__node")
        .filter(user=actor.user, key=actor.idempotency.key)
        .first()
    )
    if known is None:
        return
    if known.fingerprint != actor.idempotency.fingerprint:
        raise Conflict(
            f"the idempotency key {known.key!r} was used for another request",
            code="idempotency_mismatch",
            hint="use a new key for each new request",
        )
    raise Replayed(known)


def _remember(actor: Actor, operation: Operation | None, status: int = 202, response: Any = None) -> None:
    if actor.idempotency is None or actor.user is None:
        return
    try:
        with transaction.atomic():
            IdempotencyKey.objects.create(
                user=actor.user,
                key=actor.idempotency.key,
                fingerprint=actor.idempotency.fingerprint,
                operation=operation,
                status=status,
                response=response,
            )
    except IntegrityError:
        replay(actor)
        raise


def remember_response(actor: Actor, status: int, response: Any) -> None:
    """Keep the answer of a request that needed no operation, in the transaction that did it."""
    _remember(actor, None, status, response)


# --- what the node says -----------------------------------------------------------------------------------------


def apply_outcome(operation_id: str, outcome: Outcome, at: Any, began: Any = None) -> Operation | None:
    """Apply an `operation` event of a node; return the operation if its status changed. Late and repeated ones change nothing.

    `at` is when that was; `began` when the work had begun, where that was not told before its end.
    """
    operation = Operation.objects.select_for_update().filter(pk=operation_id).first()
    if operation is None or operation.is_final or outcome.fence > operation.fence:
        return None
    operation.heard_at = timezone.now()
    if outcome.status == Status.RUNNING:
        changed = operation.status != Status.RUNNING
        operation.status = Status.RUNNING
        operation.started_at = operation.started_at or at
        operation.save(update_fields=["status", "started_at", "heard_at"])
        return operation if changed else None
    operation.started_at = operation.started_at or began or at
    finish(operation, Status(outcome.status), result=outcome.result or {}, error=outcome.error or {}, at=at)
    return operation


def finish(
    operation: Operation,
    status: Status,
    *,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    at: Any = None,
) -> None:
    """Bring an operation to its end: the row, the outcome's audit entry, its secrets and uploads forgotten."""
    operation.status = status
    operation.result = result or {}
    operation.error = error or {}
    operation.finished_at = at or timezone.now()
    operation.sealed_payload = b""
    with transaction.atomic():
        operation.save(
            update_fields=[
                "status",
                "result",
                "error",
                "started_at",
                "heard_at",
                "finished_at",
                "sealed_payload",
            ]
        )
        audit.record_outcome(
            operation.actor,
            operation.kind,
            outcome=_audit_outcome(operation),
            target_type=operation.target_type,
            target_id=operation.target_id,
            target=operation.target,
            node=operation.node.name,
            operation=operation.id,
            detail=str(operation.error.get("detail", "")),
        )
        uploads = list(operation.uploads)
        transaction.on_commit(lambda: [spool.discard(name) for name in uploads])


def _audit_outcome(operation: Operation) -> str:
    if operation.error.get("code") == "interrupted":
        return AuditOutcome.INTERRUPTED
    return {
        Status.SUCCEEDED: AuditOutcome.SUCCEEDED,
        Status.FAILED: AuditOutcome.FAILED,
        Status.CANCELLED: AuditOutcome.CANCELLED,
    }[Status(operation.status)]


# --- what people do with operations -----------------------------------------------------------------------------


def cancel(actor: Actor, operation: Operation) -> Operation:
    """Ask for an operation to stop. One that was never sent ends at once; the node ends the others within seconds."""
    with transaction.atomic():
        operation = Operation.objects.select_for_update().select_related("node").get(pk=operation.pk)
        if operation.is_final:
            raise Conflict(f"the operation has already {operation.status}", code="wrong_state")
        operation.cancel_requested_at = operation.cancel_requested_at or timezone.now()
        operation.save(update_fields=["cancel_requested_at"])
        audit.record(
            actor,
            "operation.cancel",
            target_type="operation",
            target_id=operation.id,
            target=f"{operation.kind} {operation.target}",
            node=operation.node.name,
            operation=operation.id,
        )
        if operation.sent_at is None:
            finish(
                operation,
                Status.CANCELLED,
                error={"code": "cancelled", "detail": "cancelled before it was sent"},
            )
            transaction.on_commit(lambda: wake.operation(operation))
        else:
            transaction.on_commit(lambda: _pass_on_cancel(operation))
    return operation


def _pass_on_cancel(operation: Operation) -> None:
    try:
        sender().cancel(operation)
    except NotSent as error:
        logger.warning("cancelling %s waits for the queue: %s", operation.id, error)
    wake.operation(operation)


CANNOT_REPEAT = frozenset(
    {"container.exec", "container.commit"}
)  # what they did may have been done; ask anew


def can_retry(operation: Operation) -> bool:
    """Say whether the same work can be asked for again from what the row still knows."""
    return (
        operation.status in (Status.FAILED, Status.CANCELLED)
        and not operation.uploads
        and operation.kind not in CANNOT_REPEAT
    )


def retry(actor: Actor, operation: Operation) -> Operation:
    """Ask for the same work again, as a new operation under the name of who retries."""
    if not can_retry(operation):
        raise Conflict(
            "this operation cannot be repeated",
            code="wrong_state",
            hint="only failed or cancelled ones without an upload can; make the request again",
        )
    from webapp.operations.retrying import renew

    return renew(actor, operation)


# --- questions to a node ----------------------------------------------------------------------------------------


def ask(
    node: Node, kind: str, params: dict[str, Any] | None = None, *, secrets: dict[str, Any] | None = None
) -> Any:
    """Ask a node's agent (no change, answered at once); raises `NodeProblem` or `Unavailable`."""
    try:
        return sender().query(node.name, kind, params or {}, secrets or {})
    except NodeError as error:
        raise NodeProblem(error.problem) from error
    except (BrokerDown, OSError) as error:
        raise Unavailable(
            f"node {node.name} cannot be asked just now",
            code="node_silent",
            hint="Redis does not answer; try again",
        ) from error


# --- wishes about the past --------------------------------------------------------------------------------------


def forget_old_keys() -> None:
    """Forget idempotency keys that nobody will repeat any more."""
    IdempotencyKey.objects.filter(created_at__lt=timezone.now() - IDEMPOTENCY_KEPT).delete()

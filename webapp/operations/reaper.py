"""Brings every accepted operation to an end: sends what waits in the outbox, asks after what went silent, tidies up.

Called by the relay every two seconds. Sending again is safe: the node does an operation once, and one that it has ended it
only reports again.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from webapp.accounts import services as accounts
from webapp.core import spool
from webapp.nodes.models import Event
from webapp.operations import services
from webapp.operations.effects import operation_ended
from webapp.operations.models import Operation, Status
from webapp.operations.sender import NotSent, sender
from webapp.realtime import wake
from webapp.volumes.services import run_due_schedules
from workers import client
from workers.client import BrokerDown
from workers.contracts.events import FINAL, Outcome
from workers.contracts.problems import NodeError
from workers.contracts.values import ContractError, from_json

logger = logging.getLogger(__name__)

OUTBOX_AFTER = timedelta(seconds=1)  # the request itself tries first
SILENT_AFTER = timedelta(seconds=15)
MAX_ATTEMPTS = 8
NODE_AWAY_GIVE_UP = timedelta(hours=24)
HOUSEKEEPING_S = 60.0
UPLOADS_KEPT_S = 24 * 3600.0


class Reaper:
    def __init__(self) -> None:
        self._next_housekeeping = 0.0

    def tick(self) -> None:
        """Do what is due now."""
        self._send_outbox()
        self._ask_after_silent()
        self._repeat_cancels()
        if time.monotonic() >= self._next_housekeeping:
            self._next_housekeeping = time.monotonic() + HOUSEKEEPING_S
            self._housekeeping()

    def _send_outbox(self) -> None:
        waiting = Operation.objects.select_related("node").filter(
            status=Status.QUEUED, sent_at=None, created_at__lt=timezone.now() - OUTBOX_AFTER
        )
        for operation in waiting.order_by("created_at")[:200]:
            if not services.deliver(operation):
                return  # Redis is away: the next tick tries again

    def _ask_after_silent(self) -> None:
        """Ask each node after operations that it should have and that nothing was heard of."""
        silent = Operation.objects.select_related("node").filter(
            status__in=(Status.QUEUED, Status.RUNNING),
            sent_at__isnull=False,
            heard_at__lt=timezone.now() - SILENT_AFTER,
        )
        by_node: dict[str, list[Operation]] = {}
        for operation in silent.order_by("created_at")[:500]:
            by_node.setdefault(operation.node.name, []).append(operation)
        for name, operations in by_node.items():
            self._ask_node(name, operations)

    def _ask_node(self, name: str, operations: list[Operation]) -> None:
        beat = client.heartbeat(name)
        if beat is None:
            self._give_up_after_a_day(operations)
            return
        held = set(beat.running)
        alive = [item.pk for item in operations if item.pk in held]
        Operation.objects.filter(pk__in=alive).update(heard_at=timezone.now())
        asked = [item for item in operations if item.pk not in held]
        try:
            known = (
                sender().query(name, "operation.get", {"ids": [item.pk for item in asked]}, {})["operations"]
                if asked
                else {}
            )
        except (NodeError, BrokerDown, KeyError, TypeError) as error:
            logger.warning("node %s does not tell of its operations: %s", name, error)
            return
        for operation in asked:
            self._judge(operation, known.get(operation.pk))

    def _judge(self, operation: Operation, known: dict[str, Any] | None) -> None:
        """End what the node has ended; send again what it does not know or has let lie."""
        if known is not None and known.get("status") in FINAL:
            self._end_as_told(operation, known)
        elif operation.attempts >= MAX_ATTEMPTS:
            self._end_interrupted(
                operation, f"it was sent {operation.attempts} times and never came to an end"
            )
        else:
            self._send_again(operation)

    def _end_as_told(self, operation: Operation, known: dict[str, Any]) -> None:
        try:
            fields = {name: known[name] for name in Outcome.__dataclass_fields__ if name in known}
            outcome = from_json(Outcome, fields)
        except ContractError as error:
            logger.warning("node %s tells nonsense of %s: %s", operation.node.name, operation.pk, error)
            return
        with transaction.atomic():
            ended = services.apply_outcome(operation.pk, outcome, timezone.now())
            if ended is not None:
                operation_ended(ended)
        if ended is not None:
            wake.operation(ended)

    def _send_again(self, operation: Operation) -> None:
        with transaction.atomic():
            current = Operation.objects.select_for_update().select_related("node").get(pk=operation.pk)
            if current.is_final:
                return
            current.fence += 1
            current.save(update_fields=["fence"])
        logger.info("sending %s %s again (fence %s)", current.kind, current.pk, current.fence)
        services.deliver(current)

    def _end_interrupted(self, operation: Operation, detail: str) -> None:
        with transaction.atomic():
            current = Operation.objects.select_for_update().select_related("node").get(pk=operation.pk)
            if current.is_final:
                return
            error = {
                "code": "interrupted",
                "detail": detail,
                "hint": "try again; the node's log may say more",
            }
            services.finish(current, Status.FAILED, error=error)
            operation_ended(current)
        wake.operation(current)

    def _give_up_after_a_day(self, operations: list[Operation]) -> None:
        for operation in operations:
            if operation.sent_at is not None and operation.sent_at < timezone.now() - NODE_AWAY_GIVE_UP:
                self._end_interrupted(operation, f"node {operation.node.name} has been silent for a day")

    def _repeat_cancels(self) -> None:
        """A wish to cancel that Redis lost is said again; one for work that was never sent ends it."""
        wished = Operation.objects.select_related("node").filter(
            status__in=(Status.QUEUED, Status.RUNNING),
            cancel_requested_at__lt=timezone.now() - timedelta(seconds=5),
        )
        for operation in wished[:100]:
            try:
                sender().cancel(operation)
            except NotSent:
                return

    def _housekeeping(self) -> None:
        services.forget_old_keys()
        accounts.forget_old_failures()
        spool.sweep(UPLOADS_KEPT_S, time.time())
        run_due_schedules()
        _forget_old_events()


def _forget_old_events() -> None:
    newest = Event.objects.order_by("-id").values_list("id", flat=True).first()
    if newest is not None:
        Event.objects.filter(id__lte=newest - settings.EVENTS_KEPT).delete()

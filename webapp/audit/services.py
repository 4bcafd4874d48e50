"""Writing the book. An entry is written in the transaction that accepts the request: without it nothing happens."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from django.db import transaction
from django.http import HttpRequest

from webapp.accounts.actor import Actor
from webapp.audit import chain
from webapp.audit.masking import mask, mask_text
from webapp.audit.models import Entry, Outcome

logger = logging.getLogger(__name__)

REFUSALS_A_MINUTE = 60  # from one asker; more are counted, not written: the book is no way to fill the disk


def record(
    actor: Actor,
    action: str,
    *,
    outcome: str = Outcome.SUCCEEDED,
    target_type: str = "",
    target_id: str = "",
    target: str = "",
    node: str = "",
    operation: str = "",
    detail: str = "",
    body: dict[str, Any] | None = None,
) -> Entry:
    """Write one entry in the running transaction (or in one of its own)."""
    entry = Entry(
        actor=actor.name,
        actor_id=actor.user.pk if actor.user else None,
        token=str(actor.token)[:120] if actor.token else "",
        token_id=actor.token.pk if actor.token else None,
        address=actor.address,
        face=str(actor.face),
        **_what(action, outcome, target_type, target_id, target, node, operation, detail, body),
    )
    with transaction.atomic():
        return chain.append(entry)


def record_outcome(remembered: dict[str, Any], action: str, **what: Any) -> Entry:
    """Write how an operation ended, in the name of who asked for it (`Actor.to_json` as it was then)."""
    entry = Entry(
        actor=remembered.get("name", ""),
        actor_id=remembered.get("id"),
        token=remembered.get("token", "")[:120],
        token_id=remembered.get("token_id"),
        address=remembered.get("address", ""),
        face=remembered.get("face", "system"),
        **_what(action, **what),
    )
    with transaction.atomic():
        return chain.append(entry)


def _what(
    action: str,
    outcome: str,
    target_type: str = "",
    target_id: str = "",
    target: str = "",
    node: str = "",
    operation: str = "",
    detail: str = "",
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "action": action[:60],
        "outcome": str(outcome),
        "target_type": target_type[:20],
        "target_id": target_id[:128],
        "target": target[:300],
        "node": node[:64],
        "operation": operation,
        "detail": mask_text(detail),
        "body": chain.canonical(mask(body or {})),
    }


def refuse(
    actor: Actor,
    action: str,
    detail: str,
    *,
    target: str = "",
    body: dict[str, Any] | None = None,
    **what: Any,
) -> None:
    """Write that something was refused, in a transaction of its own; then the caller raises."""
    missed = _throttle.pass_or_count(f"{actor.name}|{actor.address}")
    if missed is None:
        return
    if missed:
        detail = f"{detail} ({missed} more refusals before this one were counted, not written)"
    record(actor, action, outcome=Outcome.REFUSED, detail=detail, target=target, body=body, **what)


def refused(request: HttpRequest, detail: str) -> None:
    """Write that a request was refused before any service saw it."""
    actor = getattr(request, "actor", None) or Actor()
    refuse(actor, "access.refused", detail, target=f"{request.method} {request.path}"[:300])


class _Throttle:
    """Counts refusals by asker and minute, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minute = 0
        self._seen: dict[str, int] = {}
        self._missed: dict[str, int] = {}

    def pass_or_count(self, who: str) -> int | None:
        """Return how many went unwritten before this one; None: this one goes unwritten too."""
        with self._lock:
            minute = int(time.monotonic() // 60)
            if minute != self._minute:
                self._minute, self._seen = minute, {}
            self._seen[who] = self._seen.get(who, 0) + 1
            if self._seen[who] > REFUSALS_A_MINUTE:
                self._missed[who] = self._missed.get(who, 0) + 1
                return None
            return self._missed.pop(who, 0)

    def reset(self) -> None:
        with self._lock:
            self._seen, self._missed = {}, {}


_throttle = _Throttle()

"""Applies what a node tells: events become records, outcomes end operations. Idempotent by (node, epoch, seq).

A batch is one transaction: the records, the event rows, the position in the node's journal. Afterwards the web processes
are woken. An event that cannot be applied (a record of a shape that we do not know) is logged and passed over: the next full
comparison (`confirm`) mends what it would have said; it must not stop the ones behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from webapp.containers import records as containers
from webapp.containers.models import Container
from webapp.core.times import from_ns
from webapp.images import records as images
from webapp.images.models import Image
from webapp.networks import records as networks
from webapp.networks.models import Network
from webapp.nodes.models import Event, Node
from webapp.operations import services as operations
from webapp.operations.effects import operation_ended
from webapp.operations.models import Operation
from webapp.realtime import wake
from webapp.realtime.wake import EVENTS, Note
from webapp.volumes import records as volumes
from webapp.volumes.models import Volume
from workers.contracts.events import FINAL, OPERATION, NodeEvent, read_outcome
from workers.contracts.values import ContractError

logger = logging.getLogger(__name__)

APPLY: dict[str, Callable[[Node, dict[str, Any]], Any]] = {
    "container": containers.apply,
    "image": images.apply,
    "network": networks.apply,
    "volume": volumes.apply,
}
REMOVED: dict[str, Callable[[Node, str], None]] = {
    "container": containers.removed,
    "image": images.removed,
    "network": networks.removed,
    "volume": volumes.removed,
}
KEYS: dict[str, tuple[type[Any], str]] = {
    "container": (Container, "id"),
    "image": (Image, "image_id"),
    "network": (Network, "id"),
    "volume": (Volume, "name"),
}
BUSY = ("container", "network")  # many events of one thing come at once
CHUNK = 500
GONE_WORDS = {
    "container": {"destroy", "remove"},
    "image": {"delete", "remove"},
    "network": {"destroy", "remove"},
    "volume": {"destroy", "remove"},
}


class Gap(Exception):
    """Events are missing before this batch; `after` is the last one applied."""

    def __init__(self, after: int) -> None:
        super().__init__(f"events after {after} are missing")
        self.after = after


def apply_batch(node_name: str, events: Sequence[NodeEvent]) -> int:
    """Apply events of one node in order; return how many were new. Raises `Gap` (nothing applied) where some are missing."""
    notes: list[Note] = []
    with transaction.atomic():
        node = Node.objects.select_for_update().get(name=node_name)
        fresh = _fresh(node, events)
        if not fresh:
            return 0
        rows = []
        newest = {(event.type, event.subject): event.seq for event in fresh if "record" in event.attributes}
        began = _begun_and_ended(fresh)
        for event in fresh:
            if event.type == OPERATION and event.action not in FINAL and event.subject in began:
                continue  # its end is here too
            is_newest = event.type not in BUSY or newest.get((event.type, event.subject)) == event.seq
            notes += _apply(node, event, is_newest=is_newest, began=began.get(event.subject))
            if event.type != OPERATION:
                rows.append(_row(node, event))
        _keep(rows)
        node.epoch, node.seq = fresh[-1].epoch, fresh[-1].seq
        node.seen_at = timezone.now()
        node.save(update_fields=["epoch", "seq", "seen_at"])
        by_seq = {row.seq: row.pk for row in rows}
        transaction.on_commit(lambda: wake.publish(_numbered(node, notes, by_seq)))
    return len(fresh)


def _fresh(node: Node, events: Sequence[NodeEvent]) -> list[NodeEvent]:
    """Return the events that were not applied yet; they must follow without a hole."""
    epoch, seq = node.epoch, node.seq
    fresh = []
    for event in events:
        if event.epoch != epoch:
            if event.seq != 1:
                raise Gap(0)
            epoch, seq = event.epoch, event.seq - 1
        if event.seq <= seq:
            continue
        if event.seq != seq + 1:
            raise Gap(seq)
        fresh.append(event)
        seq = event.seq
    return fresh


def _begun_and_ended(events: list[NodeEvent]) -> dict[str, datetime]:
    """Return when those operations began that also end among these events."""
    told = [event for event in events if event.type == OPERATION]
    ended = {event.subject for event in told if event.action in FINAL}
    return {
        event.subject: from_ns(event.time_ns)
        for event in told
        if event.action not in FINAL and event.subject in ended
    }


def _keep(rows: list[Event]) -> None:
    """Store the events; the database gives their ids (not with `ignore_conflicts`, the way out that is never needed)."""
    try:
        with transaction.atomic():
            Event.objects.bulk_create(rows)
    except IntegrityError:
        logger.warning("some of %s events were stored before", len(rows))
        Event.objects.bulk_create(rows, ignore_conflicts=True)


def _apply(node: Node, event: NodeEvent, *, is_newest: bool, began: datetime | None) -> list[Note]:
    """Apply one event; of several records of one thing in a batch only the first and the newest are ever to be seen.

    `began` is when the operation did whose end this is, where that is told in the same batch.
    """
    try:
        with transaction.atomic():
            if event.type == OPERATION:
                return _outcome(event, began)
            if is_newest or event.action == "create" or "record" not in event.attributes:
                _record(node, event)
    except (ContractError, KeyError, TypeError, ValueError, AttributeError):
        logger.exception(
            "event %s of node %s was passed over: %s %s", event.seq, node.name, event.type, event.action
        )
        return []
    return [Note(EVENTS, _told(node, event))]


def _record(node: Node, event: NodeEvent) -> None:
    record = event.attributes.get("record")
    if event.action in GONE_WORDS.get(event.type, ()) and (event.action == "destroy" or not record):
        REMOVED[event.type](node, event.subject)
    elif isinstance(record, dict) and event.type in APPLY:
        APPLY[event.type](node, record)
        _credit(node, event, record)


def _credit(node: Node, event: NodeEvent, record: dict[str, Any]) -> None:
    """Note who asked for what was just made."""
    operation = event.attributes.get("operation")
    if event.action != "create" or not operation or event.type not in ("network", "volume", "container"):
        return
    user = Operation.objects.filter(pk=str(operation)).values_list("user_id", flat=True).first()
    model, field = KEYS[event.type]
    key = record.get("name" if event.type == "volume" else "id")
    if user is not None:
        model.objects.filter(node=node, created_by=None, **{field: key}).update(created_by=user)


def _outcome(event: NodeEvent, began: datetime | None) -> list[Note]:
    operation = operations.apply_outcome(event.subject, read_outcome(event), from_ns(event.time_ns), began)
    if operation is None:
        return []
    if operation.is_final:
        operation_ended(operation)
    return wake.operation_notes(operation)


def _told(node: Node, event: NodeEvent) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "node": node.name,
        "at": from_ns(event.time_ns).isoformat(),
        "type": event.type,
        "action": event.action,
        "subject": event.subject,
        "attributes": _small(event.attributes),
    }


def _small(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name != "record"}


def _row(node: Node, event: NodeEvent) -> Event:
    return Event(
        node=node,
        epoch=event.epoch,
        seq=event.seq,
        at=from_ns(event.time_ns),
        type=event.type[:20],
        action=event.action[:60],
        subject=event.subject[:128],
        attributes=_small(event.attributes),
    )


def _numbered(node: Node, notes: list[Note], by_seq: dict[int, int | None]) -> list[Note]:
    return [
        Note(note.topic, {"id": by_seq.get(note.data.get("seq", 0)), **note.data})
        if "seq" in note.data
        else note
        for note in notes
    ]


# --- the whole truth of a node ------------------------------------------------------------------------------------


def confirm(node_name: str, kind: str, listed: list[dict[str, Any]], asked_at: Any) -> None:
    """Bring our records of one kind in line with the node's whole list, taken at `asked_at`.

    Only what differs is written, each record for itself, so a long list does not keep other writers out.
    """
    node = Node.objects.get(name=node_name)
    model, field = KEYS[kind]
    known = dict(model.objects.filter(node=node).values_list(field, "record"))
    keys = [record.get("name" if kind == "volume" else "id") for record in listed]
    for key, record in zip(keys, listed, strict=True):
        if known.get(key) != record:
            _confirm_one(node, kind, record)
    same = [key for key, record in zip(keys, listed, strict=True) if known.get(key) == record]
    for start in range(0, len(same), CHUNK):
        chunk = same[start : start + CHUNK]
        model.objects.filter(node=node, **{f"{field}__in": chunk}).update(confirmed_at=timezone.now())
    gone = [key for key in known if key not in set(keys)]
    if gone:
        _forget(node, kind, gone, asked_at)
    Node.objects.filter(pk=node.pk).update(confirmed_at=timezone.now())
    if gone or len(same) < len(listed):
        told = {"type": kind, "action": "confirmed", "subject": "", "node": node_name, "attributes": {}}
        wake.publish([Note(EVENTS, told)])


def _confirm_one(node: Node, kind: str, record: dict[str, Any]) -> None:
    try:
        with transaction.atomic():
            APPLY[kind](node, record)
    except (KeyError, TypeError, ValueError, AttributeError):
        logger.exception("a record of kind %s of node %s was passed over", kind, node.name)


def _forget(node: Node, kind: str, gone: list[Any], asked_at: Any) -> None:
    """Forget what the node does not have, except what was asked of it since."""
    model, field = KEYS[kind]
    since = "added_at" if kind == "image" else "created_at"
    for start in range(0, len(gone), CHUNK):
        rows = model.objects.filter(
            node=node, **{f"{field}__in": gone[start : start + CHUNK], f"{since}__lt": asked_at}
        )
        rows.exclude(confirmed_at=None).delete()

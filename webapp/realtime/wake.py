"""Tell the web processes that something changed. A message is only a hint to look at the database: losing one costs a
delay, never a truth (waiters and pages look again by themselves).

Topics: `operation:<id>` and `events` (everything that pages show), `logins` (a login or token ended).
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from django.conf import settings

from webapp.realtime.hub import hub

if TYPE_CHECKING:
    from webapp.operations.models import Operation

logger = logging.getLogger(__name__)

CHANNEL = "wf:wake"
EVENTS = "events"
LOGINS = "logins"


@dataclass(frozen=True)
class Note:
    topic: str
    data: dict[str, Any]


def publish(notes: Iterable[Note]) -> None:
    """Send notes to every web process; never raises for a silent Redis."""
    messages = [[note.topic, note.data] for note in notes]
    if not messages:
        return
    if not settings.REDIS_URL:
        hub.deliver(messages)
        return
    try:
        _client(settings.REDIS_URL, os.getpid()).publish(CHANNEL, json.dumps(messages))
    except (redis.RedisError, OSError) as error:
        logger.warning("web processes were not woken: %s", error)
        hub.deliver(messages)  # at least this one


def operation(changed: Operation) -> None:
    """Tell of an operation's new state."""
    publish(operation_notes(changed))


def operation_notes(changed: Operation) -> list[Note]:
    """Return the notes for an operation's new state: for who waits for it, and for the pages."""
    data = {
        "type": "operation",
        "action": changed.status,
        "subject": changed.id,
        "attributes": {
            "kind": changed.kind,
            "target_type": changed.target_type,
            "target_id": changed.target_id,
            "target": changed.target,
            "cancel_requested": changed.cancel_requested_at is not None,
        },
    }
    return [Note(f"operation:{changed.id}", {"status": changed.status}), Note(EVENTS, data)]


def logins_changed() -> None:
    """Tell the live connections to look whether their login or token still holds."""
    publish([Note(LOGINS, {})])


@functools.lru_cache(maxsize=2)
def _client(url: str, pid: int) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=1)

"""Events: what happened on this node, in the order in which it happened.

An event is appended to the journal in the same SQLite transaction as the change that it tells of (`engine.db`),
so journal and state cannot disagree. `seq` is given by the journal and has no gaps that hide an event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One line of the journal.

    `type` and `action` use Docker's words (`container` `start`, `image` `tag`, `network` `connect` ...; an
    `operation` event carries the outcome of one operation). `subject` is the id of the thing (a name for volumes),
    `attributes` are JSON: at least `name` where the thing has one, and for state changes `record`, the whole
    public record after the change. `time_ns` is wall-clock nanoseconds since the epoch.
    """

    type: str
    action: str
    subject: str
    attributes: dict[str, Any] = field(default_factory=dict)
    time_ns: int = 0
    seq: int = 0

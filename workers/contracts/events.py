"""Events of a node as they travel to the relay.

The agent appends the node's journal, in order and at least once, to the stream `wf:events:<node>`. An entry has the id `<seq>-0`
and the field `e`: `<hex signature>.<JSON>` with the fields of `NodeEvent`. Sequence numbers have no holes: who sees one asks the agent for the missing
ones (query `events.after`). Another `epoch` means the journal began anew: forget the last applied number and confirm everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workers.contracts.signing import NodeKey
from workers.contracts.values import dumps, from_json, loads, to_json

PURPOSE = "event"
OPERATION = "operation"  # the type of events that carry the outcome of an operation; see `Outcome`
RUNNING = "running"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"
FINAL = (SUCCEEDED, FAILED, CANCELLED)


@dataclass(frozen=True)
class NodeEvent:
    """One line of a node's journal. `attributes` may hold `record` (the whole public record after the change), `name`,
    and `operation` (the id of the operation that caused it)."""

    node: str
    epoch: str
    seq: int
    time_ns: int
    type: str
    action: str
    subject: str
    attributes: dict[str, Any] = field(default_factory=dict)  # any JSON


@dataclass(frozen=True)
class Outcome:
    """Attributes of an `operation` event; its subject is the operation's id, its action equals `status`.

    `error` is a `problems.Problem` as JSON when `status` is `failed` or `cancelled`.
    """

    status: str
    kind: str
    fence: int
    attempt: int = 1
    result: dict[str, Any] | None = None  # any JSON; each contract says which
    error: dict[str, Any] | None = None  # a Problem


@dataclass(frozen=True)
class Heartbeat:
    """The text at `wf:node:<node>`, renewed every two seconds and gone after ten: what the agent says of its node.

    `boot` changes with every start of the agent; `last_seq` is the newest event in the journal; `running` are the ids of
    the operations that a living worker holds right now.
    """

    node: str
    boot: str
    epoch: str
    last_seq: int
    at: float
    running: list[str] = field(default_factory=list)
    version: str = ""


def write_event(key: NodeKey, event: NodeEvent) -> str:
    return key.wrap(PURPOSE, dumps(to_json(event)))


def read_event(key: NodeKey, text: str | bytes) -> NodeEvent:
    """Verify and parse the field `e` of a stream entry, else raise `ContractError`."""
    return from_json(NodeEvent, loads(key.unwrap(PURPOSE, text)))


def write_heartbeat(key: NodeKey, heartbeat: Heartbeat) -> str:
    return key.wrap("heartbeat", dumps(to_json(heartbeat)))


def read_heartbeat(key: NodeKey, text: str | bytes) -> Heartbeat:
    """Verify and parse the text at `wf:node:<node>`, else raise `ContractError`."""
    return from_json(Heartbeat, loads(key.unwrap("heartbeat", text)))


def read_outcome(event: NodeEvent) -> Outcome:
    """Return the outcome that an `operation` event carries."""
    known = {
        name: event.attributes[name] for name in Outcome.__dataclass_fields__ if name in event.attributes
    }
    return from_json(Outcome, known)

"""Names that both sides must agree on: Redis keys, queues, spooled files."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from workers.contracts.values import ContractError

GROUP = "wharfinger"  # the group of the web account: it shares keys and the spool with the node

_ID = re.compile(r"[0-9a-f]{8,64}(-[0-9a-f]{4,12}){0,4}\Z")
_NODE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")


def check_node(name: str) -> str:
    """Return a node's name if it is one: lower-case letters, digits, `-`, `_`."""
    if not isinstance(name, str) or not _NODE.match(name):
        raise ContractError(f"not a node's name: {str(name)[:100]!r}")
    return name


def check_id(text: str) -> str:
    """Return `text` if it is an id of ours: hex digits or a UUID. It may then be part of a key or a path."""
    if not isinstance(text, str) or not _ID.match(text):
        raise ContractError(f"not an id: {str(text)[:100]!r}")
    return text


def new_id() -> str:
    """Return a fresh id of 32 hex digits."""
    return secrets.token_hex(16)


def queue(node: str, lane: str) -> str:
    """Return the Celery queue of a node: `node.<name>`, and `node.<name>.bulk` for what moves many bytes."""
    return f"node.{node}" if lane == "quick" else f"node.{node}.{lane}"


def events_key(node: str) -> str:
    """Stream of the node's journal; entry id `<seq>-0`."""
    return f"wf:events:{node}"


def node_key(node: str) -> str:
    """Text: the node's latest heartbeat, expires when it falls silent."""
    return f"wf:node:{node}"


def progress_key(operation_id: str) -> str:
    """Stream of an operation's reports, capped, expires."""
    return f"wf:op:{operation_id}"


def cancel_key(operation_id: str) -> str:
    """Text: a signed wish to stop an operation."""
    return f"wf:cancel:{operation_id}"


def requests_key(node: str) -> str:
    """Stream of queries and stream frames to a node's agent."""
    return f"wf:streams:{node}"


def reply_key(hub: str) -> str:
    """Stream of frames from agents to one reading process (a hub)."""
    return f"wf:hub:{hub}"


def hub_alive_key(hub: str) -> str:
    """Text that a hub renews while it lives; when it is gone, agents close its streams."""
    return f"wf:hub-alive:{hub}"


def answer_key(query_id: str) -> str:
    """List with the one answer to a query."""
    return f"wf:answer:{query_id}"


def spool_path(home: Path, direction: str, file_id: str) -> Path:
    """Return the spooled file: `in` is written by web and read by the node, `out` the other way round."""
    if direction not in ("in", "out"):
        raise ContractError(f"no spool {direction!r}")
    return home / "spool" / direction / check_id(file_id)

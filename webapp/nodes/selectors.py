"""Reading nodes and their events."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, QuerySet

from webapp.core.errors import Missing, Unavailable
from webapp.nodes.models import Event, Node


def node_list() -> QuerySet[Node]:
    """Return all nodes, the default one first."""
    return Node.objects.all()


def node_get(name: str) -> Node:
    node = Node.objects.filter(name=name).first()
    if node is None:
        raise Missing(
            f"no node {name[:64]!r}", code="node_not_found", hint="list the nodes to see their names"
        )
    return node


def default_node() -> Node:
    """Return the node for requests that name none."""
    node = Node.objects.filter(is_default=True).first() or Node.objects.first()
    if node is None:
        raise Unavailable(
            "there is no node yet", code="no_node", hint="run `manage.py prepare` on this machine"
        )
    return node


def node_for(name: str = "") -> Node:
    """Return the node that a request names, else the default one."""
    return node_get(name) if name else default_node()


def event_list(*, after: int = 0, type: str = "", subject: str = "") -> QuerySet[Event]:
    """Return events, oldest first, with a higher id than `after`."""
    events = Event.objects.select_related("node").filter(id__gt=after)
    if type:
        events = events.filter(type=type)
    if subject:
        events = events.filter(subject=subject)
    return events


def replay_from() -> int:
    """Return the event after which a page begins to listen: a few are told twice, none is missed.

    The page's own queries ran some milliseconds before its socket opens; what happened between is among these.
    """
    last = Event.objects.order_by("-id").values_list("id", flat=True).first() or 0
    return max(0, int(last) - 20)


def node_counts() -> dict[int, dict[str, int]]:
    """Return by node how many containers and images it has."""
    counts: dict[int, dict[str, int]] = {}
    for name in ("containers", "images"):
        for pk, count in Node.objects.annotate(n=Count(name)).values_list("pk", "n"):
            counts.setdefault(pk, {})[name] = count
    return counts


def event_json(event: Event) -> dict[str, Any]:
    """Return an event as REST and websockets show it."""
    return {
        "id": event.id,
        "node": event.node.name,
        "seq": event.seq,
        "at": event.at,
        "type": event.type,
        "action": event.action,
        "subject": event.subject,
        "attributes": event.attributes,
    }


def node_json(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "is_default": node.is_default,
        "is_enabled": node.is_enabled,
        "is_online": node.is_online,
        "seen_at": node.seen_at,
        "confirmed_at": node.confirmed_at,
        "created_at": node.created_at,
        "info": node.info,
    }

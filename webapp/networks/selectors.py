"""Reading networks."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from webapp.containers.models import Container, ContainerNetwork
from webapp.core.lookup import find
from webapp.networks.models import Network

BUILT_IN = ("bridge", "host", "none")


def network_list(
    *, name: str = "", driver: str = "", project: str = "", node: str = "", label: str = ""
) -> QuerySet[Network]:
    """Return networks, newest first, each with `members` (how many containers are on it)."""
    counts = (
        ContainerNetwork.objects.filter(network_id=OuterRef("pk"))
        .order_by()
        .values("network_id")
        .annotate(n=Count("pk"))
    )
    found = Network.objects.select_related("node", "created_by").annotate(
        members=Coalesce(Subquery(counts.values("n")), 0)
    )
    if name:
        found = found.filter(name__icontains=name)
    if driver:
        found = found.filter(driver=driver)
    if project:
        found = found.filter(project=project)
    if node:
        found = found.filter(node__name=node)
    if label:
        key, equal, value = label.partition("=")
        found = found.filter(
            pk__in=[n.pk for n in found if key in n.labels and (not equal or n.labels[key] == value)]
        )
    return found


def network_get(ref: str) -> Network:
    """Return the network with this id, name or unique start of an id, else raise `Missing` or `Conflict`."""
    found: Network = find(network_list(), ref, what="network")
    return found


def member_list(network: Network) -> list[dict[str, Any]]:
    """Return who is on a network: container, addresses, names."""
    rows = Container.objects.filter(memberships__network_id=network.pk).distinct().order_by("name")
    members = []
    for container in rows:
        for endpoint in container.record.get("endpoints") or []:
            if endpoint.get("network_id") == network.pk:
                members.append(
                    {
                        "container_id": container.id,
                        "container": container.name,
                        "status": container.status,
                        **endpoint,
                    }
                )
    return members


def to_json(network: Network) -> dict[str, Any]:
    """Return a network as lists show it (no query)."""
    return {
        "id": network.id,
        "name": network.name,
        "node": network.node.name,
        "driver": network.driver,
        "subnet": network.subnet,
        "gateway": network.gateway,
        "internal": network.internal,
        "ipv6": network.ipv6,
        "labels": network.labels,
        "project": network.project or None,
        "members": getattr(network, "members", None),
        "created_at": network.created_at,
        "created_by": network.created_by.username if network.created_by else None,
        "confirmed_at": network.confirmed_at,
        "built_in": network.name in BUILT_IN,
    }


def detail_json(network: Network) -> dict[str, Any]:
    return {**to_json(network), "containers": member_list(network), "record": network.record}

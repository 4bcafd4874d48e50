"""The node as a whole: what it is, what fills its disk, tidying up."""

from __future__ import annotations

from typing import Any

from webapp.accounts.actor import Actor
from webapp.core.errors import Invalid
from webapp.core.version import VERSION
from webapp.nodes.models import Node
from webapp.nodes.selectors import default_node
from webapp.operations import services as operations
from webapp.operations.models import Operation
from webapp.operations.services import Target
from workers.contracts.system import SystemCheck, SystemPrune, SystemRepair


def info(node: Node | None = None) -> dict[str, Any]:
    """Return the version, and what the node last said of itself (asked now if it answers)."""
    node = node or default_node()
    return {"version": VERSION, "node": node.name, "is_online": node.is_online, **_asked(node)}


def _asked(node: Node) -> dict[str, Any]:
    from webapp.core.errors import AppError

    try:
        answer = operations.ask(node, "system.info")
    except AppError:
        return dict(node.info)
    if answer != node.info and isinstance(answer, dict):
        Node.objects.filter(pk=node.pk).update(info=answer)
    return dict(answer)


def usage(node: Node | None = None) -> Any:
    """Return what takes how much room: images, containers, volumes, build cache."""
    return operations.ask(node or default_node(), "system.usage")


def prune(
    actor: Actor,
    *,
    images: str = "",
    containers: bool = False,
    volumes: bool = False,
    networks: bool = False,
    build_cache: bool = False,
    older_than_s: float = 0.0,
    labels: list[str] | None = None,
    node: Node | None = None,
) -> Operation:
    """Remove what nobody uses, of the kinds named. `images`: `dangling`, `unused` or `all`."""
    if images not in ("", "dangling", "unused", "all"):
        raise Invalid(f"no mode {images[:20]!r} for images", fields={"images": ["dangling, unused or all"]})
    contract = SystemPrune(
        images=images,
        containers=containers,
        volumes=volumes,
        networks=networks,
        build_cache=build_cache,
        older_than_s=older_than_s,
        labels=labels or [],
    )
    return operations.submit(
        actor, contract, node=node or default_node(), target=Target("system", "", "unused things")
    )


def check(actor: Actor, *, deep: bool = False, node: Node | None = None) -> Operation:
    """Compare disk, database and kernel of the node."""
    return operations.submit(
        actor, SystemCheck(deep=deep), node=node or default_node(), target=Target("system", "", "check")
    )


def repair(actor: Actor, problems: list[str] | None = None, *, node: Node | None = None) -> Operation:
    """Mend what a check found."""
    contract = SystemRepair(problems=problems or [])
    return operations.submit(
        actor, contract, node=node or default_node(), target=Target("system", "", "repair")
    )

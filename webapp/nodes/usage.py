"""How much of a node's disk is used by what, as pages show it. Measuring takes the node a moment, so it is kept a minute."""

from __future__ import annotations

import time
from typing import Any

from django.utils import timezone

from webapp.core.errors import AppError
from webapp.core.templatetags.wf import draw_bar
from webapp.nodes.models import Node
from webapp.operations.services import ask
from webapp.volumes.models import Volume

KEPT_S = 60.0
KINDS = (
    ("images", "Images", 1),
    ("containers", "Containers", 2),
    ("volumes", "Volumes", 3),
    ("build_cache", "Build cache", 4),
)
_kept: dict[str, tuple[float, dict[str, Any]]] = {}


def kept(node: Node) -> dict[str, Any] | None:
    """Return the usage measured in the last minute, or measure now; None where the node does not answer."""
    known = _kept.get(node.name)
    if known and time.time() - known[0] < KEPT_S:
        return known[1]
    if not node.is_online:
        return known[1] if known else None
    try:
        return measure(node)
    except AppError:
        return known[1] if known else None


def measure(node: Node) -> dict[str, Any]:
    """Ask the node; raises what `ask` raises."""
    answer = ask(node, "system.usage")
    _keep_sizes(node, answer.get("volume_bytes") or {})
    shown = dress(node, answer)
    _kept[node.name] = (time.time(), shown)
    return shown


def _keep_sizes(node: Node, sizes: dict[str, int]) -> None:
    """Write down how large each volume was, which only such a measurement tells."""
    changed = []
    for volume in Volume.objects.filter(node=node, name__in=list(sizes)).only("name", "size_bytes"):
        volume.size_bytes, volume.measured_at = int(sizes[volume.name]), timezone.now()
        changed.append(volume)
    Volume.objects.bulk_update(changed, ["size_bytes", "measured_at"])


def dress(node: Node, usage: dict[str, Any]) -> dict[str, Any]:
    """Return usage as the disk section shows it: kinds, their sum, what can be freed, and the bar against the whole disk."""
    kinds = []
    for key, name, tone in KINDS:
        part = usage.get(key) or {}
        kinds.append(
            {
                "key": key,
                "name": name,
                "tone": tone,
                "count": int(part.get("count") or len(part.get("items") or [])),
                "size_bytes": int(part.get("size_bytes") or 0),
                "reclaimable_bytes": int(part.get("reclaimable_bytes") or 0),
            }
        )
    used = sum(kind["size_bytes"] for kind in kinds)
    disk = usage.get("disk") or {}
    total = int(disk.get("total_bytes") or node.info.get("disk_total_bytes") or 0)
    return {
        "node": node.name,
        "kinds": kinds,
        "used": used,
        "total": total,
        "reclaimable": sum(kind["reclaimable_bytes"] for kind in kinds),
        "bar": draw_bar([(kind["size_bytes"], kind["tone"]) for kind in kinds], total or used, large=True),
        "at": time.time(),
    }


def forget() -> None:
    """Measure anew next time (after a change of what is stored)."""
    _kept.clear()

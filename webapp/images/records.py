"""From the node's record of an image to our rows."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import transaction
from django.utils import timezone

from webapp.core.errors import Invalid
from webapp.core.times import from_seconds
from webapp.images.models import Image, ImageName
from webapp.images.names import parse_name
from webapp.nodes.models import Node


def apply(node: Node, record: dict[str, Any]) -> Image:
    """Store what the node says of an image, its names moved over from any other image."""
    config = record.get("config") or {}
    values = {
        "size_bytes": int(record.get("size") or record.get("size_bytes") or 0),
        "created_at": _moment(record.get("created")) or _moment(config.get("created")) or timezone.now(),
        "platform": _platform(config),
        "summary": _summary(record, config),
        "record": record,
        "confirmed_at": timezone.now(),
    }
    with transaction.atomic():
        image, _ = Image.objects.update_or_create(node=node, image_id=record["id"], defaults=values)
        _store_names(node, image, values["summary"]["full_names"])
    return image


def removed(node: Node, image_id: str) -> None:
    Image.objects.filter(node=node, image_id=image_id).delete()


def _store_names(node: Node, image: Image, names: list[str]) -> None:
    if set(names) == set(image.name_rows.values_list("name", flat=True)):
        return
    image.name_rows.all().delete()
    moved = list(ImageName.objects.filter(node=node, name__in=names).select_related("image"))
    for row in moved:  # another image loses the name
        row.image.summary = _without(row.image.summary, row.name)
        row.image.save(update_fields=["summary"])
        row.delete()
    ImageName.objects.bulk_create(
        ImageName(node=node, image=image, name=name, familiar=familiar(name)) for name in names
    )


def _without(summary: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        **summary,
        "names": [item for item in summary.get("names", []) if item != familiar(name)],
        "full_names": [item for item in summary.get("full_names", []) if item != name],
    }


def _summary(record: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    full = [str(name) for name in record.get("names") or []]
    run = config.get("config") or {}
    return {
        "names": [familiar(name) for name in full],
        "full_names": full,
        "repo_digests": record.get("repo_digests") or [],
        "labels": run.get("Labels") or run.get("labels") or {},
        "created_seconds": record.get("created_at"),
        "layers": len(record.get("layers") or (config.get("rootfs") or {}).get("diff_ids") or []),
    }


@lru_cache(maxsize=8192)
def familiar(name: str) -> str:
    """Return a stored name as people write it; one that is none is shown as it is."""
    try:
        return parse_name(name).familiar()
    except Invalid:
        return name


def _platform(config: dict[str, Any]) -> str:
    parts = (config.get("os"), config.get("architecture"), config.get("variant"))
    return "/".join(part for part in parts if part)


def _moment(value: Any) -> datetime | None:
    if isinstance(value, int | float):
        return from_seconds(value)
    try:
        moment = datetime.fromisoformat(str(value)[:26].rstrip("Z") + "+00:00") if value else None
    except ValueError:
        return None
    return moment if moment and moment.year > 1 else None

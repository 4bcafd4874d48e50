"""Reading images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.db.models import Q, QuerySet, Sum, TextField
from django.db.models.functions import Cast

from webapp.core.errors import Conflict, Invalid, Missing
from webapp.core.ids import is_id_prefix
from webapp.core.names import Names, Related
from webapp.images.models import Image, ImageName
from webapp.images.names import parse_name


@dataclass(frozen=True)
class ImageFilter:
    """Empty fields filter nothing. `name` is a repository with or without tag, as `docker image ls NAME` takes it."""

    name: str = ""
    search: str = ""
    label: str = ""
    node: str = ""
    dangling: bool | None = None


def image_list(wanted: ImageFilter = ImageFilter()) -> QuerySet[Image]:
    """Return the images that fit, newest first, without their big records."""
    found = Image.objects.select_related("node").defer("record")
    if wanted.node:
        found = found.filter(node__name=wanted.node)
    if wanted.name:
        names = ImageName.objects.filter(
            Q(familiar=wanted.name) | Q(familiar__startswith=f"{wanted.name}:") | Q(name=wanted.name)
        )
        found = found.filter(pk__in=names.values("image_id"))
    if wanted.search:
        names = ImageName.objects.filter(familiar__icontains=wanted.search)
        found = found.filter(
            Q(pk__in=names.values("image_id")) | Q(image_id__startswith=f"sha256:{wanted.search}")
        )
    if wanted.dangling is not None:
        named = ImageName.objects.values("image_id")
        found = found.exclude(pk__in=named) if wanted.dangling else found.filter(pk__in=named)
    if wanted.label:
        key, equal, value = wanted.label.partition("=")
        rows = found.select_related(None).only("pk", "summary")
        fitting = [
            i.pk
            for i in rows
            if key in (have := i.summary.get("labels", {})) and (not equal or have[key] == value)
        ]
        found = found.filter(pk__in=fitting)
    return found


def image_get(ref: str, node: str = "") -> Image:
    """Return the image with this name, id or unique start of an id, else raise `Missing` or `Conflict`."""
    images = Image.objects.select_related("node")
    if node:
        images = images.filter(node__name=node)
    digest = ref.removeprefix("sha256:")
    if ref.startswith("sha256:") and len(digest) == 64:
        return _one(list(images.filter(image_id=ref)[:2]), ref)
    by_name = _by_name(images, ref)
    if by_name:
        return _one(by_name, ref)
    if is_id_prefix(digest):
        return _one(list(images.filter(image_id__startswith=f"sha256:{digest}")[:2]), ref)
    return _one([], ref)


def _by_name(images: QuerySet[Image], ref: str) -> list[Image]:
    try:
        name = parse_name(ref)
    except Invalid:
        return []
    if name.digest:
        wanted = f"{name.domain}/{name.path}@{name.digest}"
        exact = list(images.filter(name_rows__name=str(name)).distinct()[:2])
        return exact or [i for i in images if wanted in i.summary.get("repo_digests", [])][:2]
    return list(images.filter(name_rows__name=str(name)).distinct()[:2])


def _one(found: list[Image], ref: str) -> Image:
    if not found:
        raise Missing(
            f"no image {ref[:200]!r}",
            code="image_not_found",
            hint="pull it, or list the images to see their names",
        )
    if len({image.image_id for image in found}) > 1:
        raise Conflict(
            f"several images have an id that starts with {ref!r}", code="ambiguous", hint="give more of it"
        )
    return sorted(found, key=lambda image: not image.node.is_default)[0]


def image_totals() -> dict[str, int]:
    """Return how many images there are and the sum of their sizes (shared layers counted each time)."""
    total = Image.objects.aggregate(size=Sum("size_bytes"))["size"]
    return {"count": Image.objects.count(), "size_bytes": total or 0}


ROW = (
    "id",
    "image_id",
    "node_id",
    "size_bytes",
    "created_at",
    "added_at",
    "confirmed_at",
    "platform",
)


def rows_of(images: QuerySet[Image]) -> QuerySet[Image]:
    """Return the rows of a list as named tuples for `row_json`, their summaries as text."""
    text = Cast("summary", TextField())
    return images.select_related(None).defer(None).annotate(text=text).values_list(*ROW, "text", named=True)


@lru_cache(maxsize=4096)
def _read(text: str) -> dict[str, Any]:
    """Read a summary; lists are asked for again and again, and most rows are what they were. Not to be changed."""
    return dict(json.loads(text))


def brief_records(images: QuerySet[Image]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each image's id with what the node said of it, without its layers and most of its configuration.

    For lists: the whole records are some kilobytes each.
    """
    for row in rows_of(images):
        summary = _read(row.text)
        created = summary.get("created_seconds")
        yield (
            row.image_id,
            {
                "id": row.image_id,
                "names": summary.get("full_names", []),
                "repo_digests": summary.get("repo_digests", []),
                "created_at": row.created_at.timestamp() if created is None else created,
                "size_bytes": row.size_bytes,
                "config": {"config": {"Labels": summary.get("labels") or None}},
            },
        )


def row_json(row: Any, names: Names, containers: int = 0) -> dict[str, Any]:
    """Return a row of `rows_of` as lists show it; no query of its own."""
    return _json(row, _read(row.text), names, containers)


def _json(row: Any, summary: dict[str, Any], names: Names, containers: int) -> dict[str, Any]:
    return {
        "id": row.image_id,
        "names": summary.get("names", []),
        "repo_digests": summary.get("repo_digests", []),
        "node": names.node(row.node_id),
        "size_bytes": row.size_bytes,
        "created_at": row.created_at,
        "added_at": row.added_at,
        "confirmed_at": row.confirmed_at,
        "platform": row.platform,
        "labels": summary.get("labels", {}),
        "layers": summary.get("layers", 0),
        "containers": containers,
    }


def to_json(image: Image, containers: int = 0) -> dict[str, Any]:
    return _json(image, image.summary, Related(image), containers)


def detail_json(image: Image, containers: int = 0) -> dict[str, Any]:
    return {**to_json(image, containers), "record": image.record}

"""Protected names: an admin says which tags stay where they are; nobody's load, import, pull, build or commit moves them.

A pattern is written as names are (`nginx`, `team/app:*`, `registry.lan:5000/team/*:prod`); `*` stands for any characters of one
part. Whether a name would move is judged here where the request tells it, and on the node whatever the request tells:
each node keeps the list (`workers.contracts.images.NamesProtect`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from webapp.accounts.actor import Actor
from webapp.audit import services as audit
from webapp.core.errors import Conflict, Denied, Invalid, Missing
from webapp.images.models import Image, ImageName, ProtectedName
from webapp.images.names import Name, parse_name
from webapp.nodes.models import Node
from webapp.operations import services as operations
from webapp.operations.models import Operation
from webapp.operations.services import Target
from workers.contracts import images as contracts

PATTERNS_LIMIT = 1000
_STAND_IN = (
    "0"  # a character that every part of a name may hold, in place of the star while a pattern is read
)


# --- the list --------------------------------------------------------------------------------------------------


def protected_list() -> QuerySet[ProtectedName]:
    return ProtectedName.objects.select_related("created_by")


def protect(actor: Actor, pattern: str, note: str = "") -> tuple[ProtectedName, list[Operation]]:
    """Protect the names that fit `pattern`; return the row and the operations that tell the nodes."""
    text = normal_pattern(pattern)
    with transaction.atomic():
        nodes = _locked_nodes()
        if ProtectedName.objects.filter(pattern=text).exists():
            raise Conflict(f"{shown(text)} is protected already", code="already_exists")
        if ProtectedName.objects.count() >= PATTERNS_LIMIT:
            raise Conflict(f"at most {PATTERNS_LIMIT} patterns", hint="one with a * may stand for many")
        row = ProtectedName.objects.create(pattern=text, note=note[:300], created_by=actor.user)
        body = {"pattern": text, "note": note[:300]}
        audit.record(actor, "image.protect", target_type="image", target=shown(text), body=body)
        return row, _tell(actor, nodes, shown(text))


def unprotect(actor: Actor, pattern: str) -> list[Operation]:
    """Lift a protection; return the operations that tell the nodes."""
    text = normal_pattern(pattern)
    with transaction.atomic():
        nodes = _locked_nodes()
        if not ProtectedName.objects.filter(pattern=text).delete()[0]:
            raise Missing(f"{shown(text)} is not protected", code="not_found", hint="list what is protected")
        audit.record(
            actor, "image.unprotect", target_type="image", target=shown(text), body={"pattern": text}
        )
        return _tell(actor, nodes, shown(text))


def tell_node(actor: Actor, node: Node) -> None:
    """Tell a node that is new, or was switched off, what is protected."""
    if protected_list().exists():
        _tell(actor, [node], node.name)


def _locked_nodes() -> list[Node]:
    """Return the nodes that work, locked: two changes of the list reach all of them in the same order."""
    return list(Node.objects.select_for_update().filter(is_enabled=True))


def _tell(actor: Actor, nodes: list[Node], target: str) -> list[Operation]:
    patterns = list(ProtectedName.objects.order_by("pattern").values_list("pattern", flat=True))
    contract = contracts.NamesProtect(patterns=patterns, revision=time.time_ns() // 1000)
    return [
        operations.submit(actor, contract, node=node, target=Target("image", "", target)) for node in nodes
    ]


# --- judging ---------------------------------------------------------------------------------------------------


def pattern_of(name: str) -> str:
    """Return the pattern that protects a whole name, or an empty string."""
    return next((row for row in _patterns() if fits(row, name)), "")


def protected_of(image: Image) -> list[str]:
    """Return the names of an image that are protected, as people write them."""
    patterns = _patterns()
    names = image.name_rows.order_by("name").values_list("name", "familiar") if patterns else ()
    return [familiar for name, familiar in names if any(fits(pattern, name) for pattern in patterns)]


def refuse_moves(actor: Actor, action: str, names: Iterable[Name], node: Node, *, to_image: str = "") -> None:
    """Raise `Denied`, with an entry in the book, where a protected name would leave its image.

    `to_image` is the id of the image that is to have the names; empty: a new one.
    """
    whole = [str(name) for name in names]
    held = ImageName.objects.filter(node=node, name__in=whole).exclude(image__image_id=to_image)
    _refuse(actor, action, held.values_list("name", "familiar", "image__image_id"), "moved to another image")


def refuse_loss(actor: Actor, action: str, image: Image, names: Iterable[str] | None = None) -> None:
    """Raise `Denied`, with an entry in the book, where an image would lose a protected name (default: any of its names)."""
    held = image.name_rows.all()
    if names is not None:
        held = held.filter(name__in=list(names))
    _refuse(actor, action, held.values_list("name", "familiar", "image__image_id"), "taken away")


def _refuse(actor: Actor, action: str, held: Iterable[tuple[str, str, str]], what: str) -> None:
    patterns = _patterns()
    for name, familiar, image_id in held:
        pattern = next((row for row in patterns if fits(row, name)), "")
        if not pattern:
            continue
        detail = f"the name {familiar} is protected and cannot be {what}"
        body = {"pattern": pattern}
        audit.refuse(
            actor, action, detail, target=familiar, target_type="image", target_id=image_id, body=body
        )
        raise Denied(
            detail,
            recorded=True,
            code="name_protected",
            pattern=shown(pattern),
            hint="an administrator can lift the protection on the page of its image",
        )


def _patterns() -> list[str]:
    return list(ProtectedName.objects.values_list("pattern", flat=True))


# --- patterns --------------------------------------------------------------------------------------------------


def normal_pattern(text: str) -> str:
    """Return a pattern whole (`docker.io/library/nginx:*`), else raise `Invalid`."""
    text = text.strip()
    if "@" in text or len(text) > 300:
        raise Invalid("a protected name has a tag, no digest", fields={"pattern": ["like team/app:*"]})
    try:
        parse_name(text.replace("*", _STAND_IN))
        return str(parse_name(text)) if "*" not in text else _whole(text)
    except Invalid as error:
        raise Invalid(
            f"{text[:100]!r} is no pattern of names",
            fields={"pattern": ["like nginx, team/app:* or host:5000/team/*:prod"]},
            hint=error.hint,
        ) from error


def _whole(text: str) -> str:
    """Normalise a pattern with stars as names are: Docker Hub and its `library/` where no host is named, `:latest`."""
    first, slash, rest = text.partition("/")
    if "*" in first and slash and ("." in first or ":" in first):
        raise Invalid("a star cannot stand for a registry")
    has_domain = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    domain, path = (first, rest) if has_domain else ("docker.io", text)
    if domain == "docker.io" and "/" not in path:
        path = f"library/{path}"
    return f"{domain}/{path}" if ":" in path else f"{domain}/{path}:latest"


def fits(pattern: str, name: str) -> bool:
    """Tell whether a whole name fits a whole pattern; the same rule as the node's."""
    return _expression(pattern).fullmatch(name) is not None


@lru_cache(maxsize=PATTERNS_LIMIT)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile("[^/:]*".join(re.escape(part) for part in pattern.split("*")))


def shown(pattern: str) -> str:
    """Return a whole pattern as people write it."""
    return pattern.removeprefix("docker.io/library/").removeprefix("docker.io/")


def to_json(row: ProtectedName) -> dict[str, Any]:
    return {
        "pattern": shown(row.pattern),
        "full_pattern": row.pattern,
        "note": row.note,
        "created_at": row.created_at,
        "created_by": row.created_by.username if row.created_by else None,
    }

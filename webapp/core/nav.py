"""The figures beside the names in the navigation, in one query."""

from __future__ import annotations

from typing import Any

from django.db import connection

from webapp.accounts.models import User
from webapp.containers.models import Container
from webapp.images.models import Image
from webapp.networks.models import Network
from webapp.nodes.models import Node
from webapp.operations.models import Operation
from webapp.registries.models import Registry
from webapp.volumes.models import Volume

# the same as core.states.query_of("attention"), in words that SQLite and PostgreSQL share
ATTENTION = (
    "status IN ('restarting', 'dead') OR (status = 'running' AND health = 'unhealthy')"
    " OR (status = 'exited' AND exit_code NOT IN (0, 137, 143))"
    " OR (status IN ('exited', 'created') AND (oom_killed OR error <> ''))"
)


def counts() -> dict[str, Any]:
    """Return how many of everything there are, what runs, and how many containers need attention."""
    active = "status IN ('queued', 'running')"
    parts = {
        "containers": _count(Container),
        "attention": _count(Container, ATTENTION),
        "images": f"(SELECT COUNT(DISTINCT image_id) FROM {Image._meta.db_table})",
        "volumes": _count(Volume),
        "networks": _count(Network),
        "registries": _count(Registry),
        "people": _count(User, "is_active"),
        "nodes": _count(Node),
        "operations_running": _count(Operation, active),
        "builds_running": _count(Operation, f"{active} AND kind = 'build.run'"),
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(parts.values()))
        return dict(zip(parts, cursor.fetchone(), strict=True))


def _count(model: Any, where: str = "") -> str:
    # table names are ours and `where` is written above: nothing from outside gets here
    return f"(SELECT COUNT(*) FROM {model._meta.db_table}{' WHERE ' + where if where else ''})"

"""Reading containers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, Q, QuerySet

from webapp.accounts.actor import Actor
from webapp.containers.models import Container, ContainerNetwork, ContainerVolume, Status
from webapp.core.lookup import find
from webapp.core.names import Names, Related

HIDDEN = "***"


@dataclass(frozen=True)
class ContainerFilter:
    """Empty fields filter nothing. `status` may be several, comma separated; labels are `key` or `key=value`."""

    status: str = ""
    name: str = ""
    image: str = ""
    project: str = ""
    network: str = ""
    volume: str = ""
    health: str = ""
    node: str = ""
    search: str = ""
    labels: list[str] = field(default_factory=list)


def container_list(wanted: ContainerFilter = ContainerFilter()) -> QuerySet[Container]:
    """Return the containers that fit, newest first, without their big records. Stopped ones too."""
    found = Container.objects.select_related("node", "created_by").defer("record")
    if wanted.status:
        found = found.filter(status__in=wanted.status.split(","))
    for name in ("project", "health"):
        if value := getattr(wanted, name):
            found = found.filter(**{name: value})
    if wanted.name:
        found = found.filter(name__icontains=wanted.name)
    if wanted.node:
        found = found.filter(node__name=wanted.node)
    if wanted.image:
        found = found.filter(
            Q(image=wanted.image)
            | Q(image_id=wanted.image)
            | Q(image_id__startswith=f"sha256:{wanted.image}")
        )
    if wanted.network:
        members = ContainerNetwork.objects.filter(Q(network=wanted.network) | Q(network_id=wanted.network))
        found = found.filter(pk__in=members.values("container_id"))
    if wanted.volume:
        found = found.filter(
            pk__in=ContainerVolume.objects.filter(volume=wanted.volume).values("container_id")
        )
    if wanted.search:
        found = found.filter(
            Q(name__icontains=wanted.search)
            | Q(image__icontains=wanted.search)
            | Q(pk__startswith=wanted.search)
        )
    if wanted.labels:
        found = found.filter(
            pk__in=[
                c.pk
                for c in found.select_related(None).only("pk", "summary")
                if _has_labels(c, wanted.labels)
            ]
        )
    return found


def _has_labels(container: Container, labels: list[str]) -> bool:
    have = container.summary.get("labels", {})
    for wanted in labels:
        key, equal, value = wanted.partition("=")
        if key not in have or (equal and have[key] != value):
            return False
    return True


def container_get(ref: str) -> Container:
    """Return the container with this id, name or unique start of an id, else raise `Missing` or `Conflict`."""
    found: Container = find(Container.objects.select_related("node", "created_by"), ref, what="container")
    return found


def container_census() -> dict[str, int]:
    """Return how many containers are in each state; `unhealthy` counts running ones whose health check fails."""
    counts = dict(Container.objects.values_list("status").annotate(n=Count("pk")))
    census = {status.value: counts.get(status.value, 0) for status in Status}
    census["unhealthy"] = Container.objects.filter(status=Status.RUNNING, health="unhealthy").count()
    census["failed"] = (
        Container.objects.filter(status=Status.EXITED).exclude(exit_code=0).exclude(exit_code=None).count()
    )
    census["total"] = sum(counts.values())
    return census


def containers_of_image(image_id: str) -> list[Container]:
    return list(container_list().filter(image_id=image_id))


def containers_on_network(network_id: str) -> list[Container]:
    return list(container_list().filter(memberships__network_id=network_id).distinct())


def containers_using_volume(volume: str) -> list[Container]:
    return list(container_list().filter(volume_uses__volume=volume).distinct())


def image_use_counts() -> Counter[str]:
    """Return by image id how many containers use it."""
    return Counter(
        dict(Container.objects.exclude(image_id="").values_list("image_id").annotate(n=Count("pk")))
    )


def project_list() -> list[dict[str, Any]]:
    """Return the applications (containers with one project label): name, members by state."""
    rows = (
        Container.objects.exclude(project="")
        .values_list("project", "status")
        .annotate(n=Count("pk"))
        .order_by("project")
    )
    projects: dict[str, dict[str, Any]] = {}
    for name, status, count in rows:
        project = projects.setdefault(name, {"name": name, "total": 0, "running": 0, "statuses": {}})
        project["total"] += count
        project["statuses"][status] = count
        if status == Status.RUNNING:
            project["running"] += count
    return list(projects.values())


# --- as people see them -----------------------------------------------------------------------------------------


ROW = (
    "id", "name", "node_id", "image", "image_id", "status", "health", "exit_code", "oom_killed", "error", "restart_count",
    "created_at", "started_at", "finished_at", "confirmed_at", "created_by_id", "project", "service", "summary",
)  # fmt: skip


def rows_of(containers: QuerySet[Container]) -> QuerySet[Container]:
    """Return the rows of a list as named tuples for `row_json`: with thousands of them objects cost more than the query."""
    return containers.select_related(None).defer(None).values_list(*ROW, named=True)


def row_json(row: Any, names: Names) -> dict[str, Any]:
    """Return a container (an object, or a row of `rows_of`) as lists show it; no query of its own."""
    summary = row.summary
    return {
        "id": row.id,
        "name": row.name,
        "node": names.node(row.node_id),
        "image": row.image,
        "image_id": row.image_id,
        "status": row.status,
        "health": row.health or None,
        "exit_code": row.exit_code,
        "oom_killed": row.oom_killed,
        "error": row.error,
        "restart_count": row.restart_count,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "confirmed_at": row.confirmed_at,
        "created_by": names.user(row.created_by_id),
        "project": row.project or None,
        "service": row.service or None,
        "command": summary.get("command", ""),
        "ports": summary.get("ports", []),
        "networks": summary.get("networks", []),
        "mounts": summary.get("mounts", []),
        "labels": summary.get("labels", {}),
        "restart": summary.get("restart", "no"),
        "tty": summary.get("tty", False),
    }


def to_json(container: Container) -> dict[str, Any]:
    return row_json(container, Related(container))


def detail_json(container: Container, actor: Actor) -> dict[str, Any]:
    """Return everything about a container; who may not operate sees the names of environment variables, not their values."""
    record = container.record if actor.can_operate else hide_env(container.record)
    return {**to_json(container), "actions": actions_of(container), "record": record}


def hide_env(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record in which environment variables have names only."""
    shown = dict(record)
    if isinstance(spec := record.get("spec"), dict):
        shown["spec"] = {**spec, "env": dict.fromkeys(spec.get("env") or {}, HIDDEN)}
    if isinstance(config := record.get("config"), dict):
        shown["config"] = {
            **config,
            "Env": [f"{item.partition('=')[0]}={HIDDEN}" for item in config.get("Env") or []],
        }
    return shown


def actions_of(container: Container) -> list[str]:
    """Return the verbs that the container's state allows."""
    state = container.state
    verbs = {
        "start": state.can_start,
        "stop": state.can_stop,
        "restart": state.can_restart,
        "kill": state.can_kill,
        "pause": state.can_pause,
        "unpause": state.can_unpause,
        "exec": state.can_exec,
        "remove": state.can_remove,
    }
    return [verb for verb, allowed in verbs.items() if allowed]

"""Nodes, and the system as a whole: versions, what fills the disk, tidying up with the losses named, checks."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.builds.models import Build
from webapp.containers.models import Container
from webapp.core.answers import accepted, ask_or_do, attempt, done, redirected, refused
from webapp.core.errors import AppError, Invalid
from webapp.core.routes import page
from webapp.images.models import Image
from webapp.nodes import selectors, services, system, usage
from webapp.nodes.models import Node
from webapp.operations import selectors as operations
from webapp.volumes import selectors as volumes


@page(Permission.VIEW)
def node_list(request: HttpRequest) -> HttpResponse:
    rows = list(selectors.node_list())
    counts = selectors.node_counts()
    for row in rows:
        row.counts = counts.get(row.pk, {})
    return render(request, "nodes/list.html", {"rows": rows})


@page(Permission.VIEW)
def node(request: HttpRequest, name: str) -> HttpResponse:
    found = selectors.node_get(name)
    measured, problem = (
        attempt(lambda: usage.measure(found)) if found.is_online else (usage.kept(found), None)
    )
    context = {
        "node": found,
        "facts": facts_of(found),
        "disk": measured,
        "problem": problem,
        "counts": selectors.node_counts().get(found.pk, {}),
        "events": list(selectors.event_list().filter(node=found).order_by("-id")[:15]),
        "operations": operations.operation_list(operations.OperationFilter(node=found.name))[:8],
    }
    return render(request, "nodes/node.html", context)


LABELS = {
    "version": "Wharfinger",
    "runtime": "OCI runtime",
    "conmon_version": "conmon",
    "kernel": "Kernel",
    "operating_system": "System",
    "architecture": "Architecture",
    "hostname": "Machine",
    "cpus": "Cores",
    "memory_bytes": "Memory",
    "storage_driver": "Layers",
    "filesystem": "File system",
    "data_root": "Data",
    "cgroup_version": "Control groups",
    "user_namespaces": "User namespaces",
    "seccomp": "Seccomp",
    "publish_address": "Ports are published on",
    "bind_roots": "Folders that may be mounted",
}


def facts_of(node: Node) -> list[dict[str, Any]]:
    """Return what a node says of itself, under names that people use."""
    info = dict(node.info or {})
    if info.get("runtime_version"):
        info["runtime"] = f"{info.get('runtime', '')} {info['runtime_version']}".strip()
    empty = (None, "", [], {})
    return [
        {"name": label, "value": _fact(key, info[key])}
        for key, label in LABELS.items()
        if info.get(key) not in empty
    ]


def _fact(key: str, value: Any) -> str:
    from webapp.core.templatetags.wf import memory_text, size_text

    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "memory_bytes":
        return memory_text(value)
    if key.endswith("_bytes") and isinstance(value, int):
        return size_text(value)
    if isinstance(value, dict):
        return " ".join(str(item) for item in value.values())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@page(POST=Permission.ADMIN)
def node_change(request: HttpRequest, name: str) -> HttpResponse:
    """Switch a node on or off, or make it the one that requests go to by default."""
    found = selectors.node_get(name)
    what = request.POST.get("what", "")
    changes = {
        "enable": {"is_enabled": True},
        "disable": {"is_enabled": False},
        "default": {"is_default": True},
    }.get(what)
    if changes is None:
        raise Invalid(f"no change {what[:20]!r}")
    services.node_update(request.actor, found, changes)  # type: ignore[attr-defined]
    words = {"enable": "takes work again", "disable": "takes no new work", "default": "is the default now"}[
        what
    ]
    return done(request, f"{name} {words}", to=f"/nodes/{name}/")


@page(GET=Permission.ADMIN, POST=Permission.ADMIN)
def node_new(request: HttpRequest) -> HttpResponse:
    name = request.POST.get("name", "").strip()

    def do() -> HttpResponse:
        made = services.node_create(request.actor, name)  # type: ignore[attr-defined]
        return done(
            request, f"{made.name} is known; start it there with script/node", to=f"/nodes/{made.name}/"
        )

    return ask_or_do(request, "nodes/new.html", {"name": name}, do, back="/nodes/")


# --- the system -----------------------------------------------------------------------------------------------


@page(Permission.VIEW)
def system_page(request: HttpRequest) -> HttpResponse:
    places = list(selectors.node_list())
    disks, problems = [], []
    for place in places:
        measured, problem = (
            attempt(lambda place=place: usage.measure(place))
            if place.is_online
            else (usage.kept(place), None)
        )  # type: ignore[misc]
        if measured:
            disks.append(measured)
        if problem:
            problems.append({"node": place, "problem": problem})
    context = {
        "nodes": places,
        "disks": disks,
        "problems": problems,
        "checks": operations.operation_list(operations.OperationFilter(kind="system."))[:6],
        "facts": facts_of(places[0]) if places else [],
    }
    return render(request, "nodes/system.html", context)


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def system_prune(request: HttpRequest) -> HttpResponse:
    """Free space: each kind with what would be lost, none of it before it was named."""
    place = selectors.node_for(request.GET.get("node", "") or request.POST.get("node", ""))
    used = set(Container.objects.exclude(image_id="").values_list("image_id", flat=True))
    images = [
        image for image in Image.objects.filter(node=place).defer("record") if image.image_id not in used
    ]
    disk = usage.kept(place)
    kinds = {kind["key"]: kind for kind in disk["kinds"]} if disk else {}
    unused = list(volumes.volume_list(node=place.name, dangling=True).order_by("-size_bytes")[:200])
    context = {
        "node": place,
        "stopped": list(
            Container.objects.filter(node=place, status__in=("exited", "created", "dead"))
            .defer("record", "summary")
            .order_by("name")[:200]
        ),
        "nameless": [image for image in images if not image.names],
        "unused": images,
        "volumes": unused,
        "unsaved": [volume.name for volume in unused if volume.backed_up_at is None],
        "kinds": kinds,
        "cache": kinds.get("build_cache", {}).get("reclaimable_bytes"),
        "running": Build.objects.filter(operation__node=place, operation__status="running").count(),
    }

    def do() -> HttpResponse:
        form = request.POST
        wanted = {
            "images": form.get("images", "") if form.get("images") in ("dangling", "unused") else "",
            "containers": bool(form.get("containers")),
            "volumes": bool(form.get("volumes")),
            "networks": bool(form.get("networks")),
            "build_cache": bool(form.get("build_cache")),
        }
        if not any(wanted.values()):
            raise Invalid("nothing was chosen", hint="tick what may go")
        operation = system.prune(request.actor, node=place, **wanted)  # type: ignore[attr-defined]
        usage.forget()
        return accepted(request, operation, f"Freeing space on {place.name}", to="/system/")

    return ask_or_do(request, "nodes/prune.html", context, do, back="/system/")


@page(POST=Permission.OPERATE)
def system_check(request: HttpRequest) -> HttpResponse:
    """Have a node compare its disk, database and kernel; the operation's page has the findings."""
    try:
        place = selectors.node_for(request.POST.get("node", ""))
        operation = system.check(request.actor, deep=bool(request.POST.get("deep")), node=place)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return redirected(request, f"/operations/{operation.id}/")

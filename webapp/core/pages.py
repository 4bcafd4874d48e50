"""The overview, finding anything, the keys, and the navigation's fresh copy."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts import selectors as accounts
from webapp.accounts.permissions import Permission
from webapp.builds import selectors as builds
from webapp.containers import selectors as containers
from webapp.containers import shown
from webapp.containers.models import Container
from webapp.core import feed, states
from webapp.core.answers import dialog, host_of, wants_fragment
from webapp.core.routes import page
from webapp.images import selectors as images
from webapp.networks import selectors as networks
from webapp.nodes import selectors as nodes
from webapp.nodes import usage
from webapp.operations import selectors as operations
from webapp.operations.progress import summary_of
from webapp.volumes import selectors as volumes

FOUND_OF_A_KIND = 6
ATTENTION_SHOWN = 8
APPLICATIONS_SHOWN = 10


# --- overview -------------------------------------------------------------------------------------------------


@page(Permission.VIEW)
def overview(request: HttpRequest) -> HttpResponse:
    counts = shown.state_counts()
    active = list(operations.operation_list(operations.OperationFilter(active=True))[:8])
    for operation in active:
        operation.shown = summary_of(operation)  # type: ignore[attr-defined]
    places = list(nodes.node_list())
    context = {
        "counts": counts,
        "census": [
            {"key": kind, "count": counts[kind], "tone": states.TONE_OF[kind], "words": states.WORDS[kind]}
            for kind in states.ORDER
        ],
        "needing": _needing(request),
        "active": active,
        "applications": _applications(request),
        "feed": feed.recent(),
        "nodes": places,
        "silent": [node for node in places if not node.is_online],
        "disk": usage.kept(places[0]) if places else None,
    }
    return render(request, "core/overview.html", context)


def _needing(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the containers that need somebody: what is wrong, and what one would do first."""
    found = (
        containers.container_list()
        .filter(states.query_of("attention"))
        .order_by("-finished_at", "-started_at")[:ATTENTION_SHOWN]
    )
    return [_need(container) for container in found]


def _need(container: Container) -> dict[str, Any]:
    kind = states.kind_of(container)
    if container.oom_killed:
        words, note = "killed for memory", "it ran into its limit; the timeline has the lines before"
    elif kind == "unhealthy":
        words, note = "health check fails", ""
    elif kind == "restarting":
        words, note = (
            f"exited with code {container.exit_code}"
            if container.exit_code is not None
            else "cannot stay up",
            "",
        )
    else:
        words, note = (
            (container.error, "") if container.error else (f"exited with code {container.exit_code}", "")
        )
    if kind == "restarting" and container.restart_count:
        words += f", {container.restart_count} tries"
    if container.created_by:
        note = f"{note} · started by {container.created_by.username}".lstrip(" ·")
    at = container.started_at if kind == "unhealthy" else container.finished_at or container.created_at
    return {"container": container, "kind": kind, "words": words, "note": note, "at": at}


def _applications(request: HttpRequest) -> list[dict[str, Any]]:
    named = (
        Container.objects.exclude(project="").order_by("project").values_list("project", flat=True).distinct()
    )
    names = list(named[:APPLICATIONS_SHOWN])
    rows = list(
        containers.container_list().filter(project__in=names).order_by("project", "service", "name")[:500]
    )
    groups = shown.grouped(shown.dress(rows, host_of(request)))
    found = []
    for group in groups:
        kinds = [states.kind_of(row) for row in group.rows]
        worst = next(
            (kind for kind in states.ATTENTION if kind in kinds), "running" if group.running else "exited-ok"
        )
        newest = max(group.rows, key=lambda row: row.created_at)
        found.append(
            {
                "name": group.name,
                "kind": worst,
                "words": f"{group.running} of {len(group.rows)}",
                "ports": [port for row in group.rows for port in row.ports if port["url"]][:2],  # type: ignore[attr-defined]
                "who": newest.created_by.username if newest.created_by else "",
                "newest": newest,
            }
        )
    return found


@page(Permission.VIEW)
def navigation(request: HttpRequest) -> HttpResponse:
    """Answer the parts of the frame that change, for pages that are open."""
    return render(request, "core/nav.html")


@page(Permission.VIEW)
def keys(request: HttpRequest) -> HttpResponse:
    return dialog(request, "core/keys.html")


# --- find anything --------------------------------------------------------------------------------------------


@page(Permission.VIEW)
def search(request: HttpRequest) -> HttpResponse:
    text = request.GET.get("q", "").strip()[:200]
    found = find(text) if text else []
    template = "core/_found.html" if wants_fragment(request) else "core/search.html"
    return render(request, template, {"found": found, "search_text": text})


def find(text: str) -> list[dict[str, Any]]:
    """Return what fits a text, by kind: names that hold it and ids that begin with it."""
    few = FOUND_OF_A_KIND
    people = accounts.user_list().filter(Q(username__icontains=text) | Q(display_name__icontains=text))[:few]
    is_id = len(text) >= 4
    kinds = [
        ("Containers", "box", [
            (c.name, f"/containers/{c.id[:12]}/", states.of_container(c).words) for c in containers.container_list(containers.ContainerFilter(search=text))[:few]
        ]),
        ("Images", "layers", [
            (i.shown_name, f"/images/{i.image_id[7:19]}/", i.platform) for i in images.image_list(images.ImageFilter(search=text))[:few]
        ]),
        ("Builds", "build", [
            (str(b), f"/builds/{b.pk}/", b.operation.status) for b in builds.build_list(tag=text)[:few]
        ]),
        ("Volumes", "volume", [(v.name, f"/volumes/{v.name}/", v.node.name) for v in volumes.volume_list(name=text)[:few]]),
        ("Networks", "network", [(n.name, f"/networks/{n.name}/", n.subnet) for n in networks.network_list(name=text)[:few]]),
        ("Operations", "pulse", [
            (f"{states.verb(o.kind)} {o.target}", f"/operations/{o.pk}/", o.status)
            for o in operations.operation_list().filter(Q(target__icontains=text) | (Q(pk__startswith=text) if is_id else Q(pk="")))[:few]
        ]),
        ("People", "people", [(u.shown_name, f"/audit/?actor={u.username}", u.role) for u in people]),
    ]  # fmt: skip
    return [
        {
            "kind": kind,
            "icon": icon,
            "rows": [{"name": name, "url": url, "note": note} for name, url, note in rows],
        }
        for kind, icon, rows in kinds
        if rows
    ]

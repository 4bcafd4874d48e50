"""The list of containers, and applications: containers of one project as one thing."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.containers import selectors, shown, timeline
from webapp.core import states
from webapp.core.answers import host_of, part_of
from webapp.core.routes import page
from webapp.nodes import selectors as nodes

SORTS = {
    "name": "name",
    "state": "status",
    "image": "image",
    "since": "started_at",
    "who": "created_by__username",
    "node": "node__name",
}


@page(Permission.VIEW)
def container_list(request: HttpRequest) -> HttpResponse:
    wanted = {
        name: request.GET.get(name, "").strip()
        for name in ("q", "state", "image", "network", "volume", "node", "project")
    }
    found = _filtered(wanted)
    sort = request.GET.get("sort", "")
    is_grouped = request.GET.get("group") != "no" and sort.lstrip("-") not in SORTS
    ordered = shown.by_application(found) if is_grouped else found.order_by(*_order(sort))
    listed = part_of(request, ordered)
    counts = shown.state_counts()
    rows = shown.dress(listed.items, host_of(request))
    groups = shown.grouped(rows) if is_grouped else [shown.Group("", rows)]
    context = {
        "page": listed,
        "nodes": [node for node in nodes.node_list() if node.is_online],
        "groups": groups,
        "grouped": is_grouped and any(group.name for group in groups),
        "wanted": wanted,
        "filtered": any(wanted.values()),
        "total": counts["total"],
        "choices": _choices(wanted["state"], counts),
        "chips": _chips(request, wanted),
        "columns": _columns(sort),
        "call_path": "/api/v1/containers/" + _call_query(wanted),
    }
    return render(request, "containers/list.html", context)


def _filtered(wanted: dict[str, str]) -> Any:
    condition, labels = shown.search_query(wanted["q"])
    found = selectors.container_list(
        selectors.ContainerFilter(
            image=wanted["image"],
            network=wanted["network"],
            volume=wanted["volume"],
            node=wanted["node"],
            project=wanted["project"],
            labels=labels,
        )
    ).filter(condition)
    if wanted["state"] in (*states.ORDER, "attention", "stopped"):
        found = found.filter(states.query_of(wanted["state"]))
    return found


@page(Permission.VIEW)
def container_rows(request: HttpRequest) -> HttpResponse:
    """Answer fresh rows for `?id=…&id=…`, for a list that is open somewhere."""
    rows = list(selectors.container_list().filter(pk__in=request.GET.getlist("id")[:100]))
    return render(request, "containers/rows.html", {"rows": shown.dress(rows, host_of(request))})


def _order(sort: str) -> list[str]:
    key = SORTS.get(sort.lstrip("-"))
    return [("-" if sort.startswith("-") else "") + key, "name"] if key else ["-created_at", "-id"]


def _choices(current: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    choices = [
        ("", "All", "", "", counts["total"]),
        ("running", "Running", "running", "ok", counts["running"]),
        ("attention", "Attention", "unhealthy", "warn", counts["attention"]),
        ("stopped", "Stopped", "exited-ok", "rest", counts["stopped"]),
    ]
    if current and current not in ("running", "attention", "stopped") and current in states.ORDER:
        glyph, tone = current, states.TONE_OF[current]
        choices.append((current, states.WORDS[current].capitalize(), glyph, tone, counts[current]))
    return [
        {"key": key, "label": label, "glyph": glyph, "tone": tone, "count": count, "current": key == current}
        for key, label, glyph, tone, count in choices
    ]


def _chips(request: HttpRequest, wanted: dict[str, str]) -> list[dict[str, str]]:
    chips = []
    for name in ("image", "network", "volume", "node", "project"):
        if wanted[name]:
            rest = request.GET.copy()
            rest.pop(name, None)
            chips.append({"name": name, "value": wanted[name], "without": f"?{rest.urlencode()}"})
    return chips


def _columns(sort: str) -> list[dict[str, Any]]:
    columns = [
        ("name", "Name"), ("state", "State"), ("image", "Image"), ("", "Ports"), ("", "CPU"), ("", "Memory"),
        ("since", "Since"), ("who", "Started by"), ("node", "Node"),
    ]  # fmt: skip
    key, falling = sort.lstrip("-"), sort.startswith("-")
    return [
        {
            "key": name,
            "label": label,
            "right": label in ("CPU", "Since"),
            "drop": label in ("Started by", "Node"),
            "sorted": ("descending" if falling else "ascending") if name and name == key else "",
            "next": f"-{name}" if name == key and not falling else name,
        }
        for name, label in columns
    ]


def _call_query(wanted: dict[str, str]) -> str:
    asked = {
        "search": wanted["q"],
        **{name: wanted[name] for name in ("image", "network", "volume", "node", "project")},
    }
    if wanted["state"] in ("running", "paused", "restarting", "creating"):
        asked["status"] = wanted["state"]
    kept = {name: value for name, value in asked.items() if value}
    return f"?{urlencode(kept)}" if kept else ""


# --- applications ---------------------------------------------------------------------------------------------


@page(Permission.VIEW)
def application(request: HttpRequest, name: str) -> HttpResponse:
    """Show the containers of one project as one thing: members, who talks to whom, all logs in one view."""
    rows = list(selectors.container_list(selectors.ContainerFilter(project=name)).order_by("service", "name"))
    if not rows:
        raise Http404(name)
    rows = shown.dress(rows, host_of(request))
    paths = [
        f"/ws/containers/{row.id}/logs/#{quote(row.service or row.name)}:{1 + number % 6}"
        for number, row in enumerate(rows[:12])
    ]
    group = shown.Group(name, rows)
    return render(
        request,
        "containers/application.html",
        {
            "name": name,
            "rows": rows,
            "group": group,
            "graph": timeline.graph_of(rows),
            "log_path": " ".join(paths),
            "log_many": True,
            "log_title": name,
            "volumes": sorted(
                {
                    m["source"]
                    for row in rows
                    for m in row.summary.get("mounts") or []
                    if m.get("type") == "volume"
                }
            ),
            "can_start": any("start" in row.actions.split() for row in rows),  # type: ignore[attr-defined]
            "can_stop": any("stop" in row.actions.split() for row in rows),  # type: ignore[attr-defined]
            "call_path": f"/api/v1/containers/?project={name}",
        },
    )

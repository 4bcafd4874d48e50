"""The list of containers and the page of one, tab by tab."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import quote, urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.audit import selectors as audit
from webapp.containers import selectors, shown, timeline
from webapp.containers.models import Container
from webapp.core import states
from webapp.core.answers import attempt, part_of
from webapp.core.routes import page
from webapp.nodes import selectors as nodes
from webapp.operations.services import ask

SORTS = {"name": "name", "state": "status", "image": "image", "since": "started_at", "who": "created_by__username", "node": "node__name"}
CHANGES_SHOWN = 2000


# --- the list -------------------------------------------------------------------------------------------------


@page(Permission.VIEW)
def container_list(request: HttpRequest) -> HttpResponse:
    wanted = {name: request.GET.get(name, "").strip() for name in ("q", "state", "image", "network", "volume", "node", "project")}
    found = _filtered(wanted)
    sort = request.GET.get("sort", "")
    is_grouped = request.GET.get("group") != "no" and sort.lstrip("-") not in SORTS
    ordered = shown.by_application(found) if is_grouped else found.order_by(*_order(sort))
    listed = part_of(request, ordered)
    counts = shown.state_counts()
    rows = shown.dress(listed.items, _host(request))
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
            image=wanted["image"], network=wanted["network"], volume=wanted["volume"], node=wanted["node"], project=wanted["project"], labels=labels
        )
    ).filter(condition)
    if wanted["state"] in (*states.ORDER, "attention", "stopped"):
        found = found.filter(states.query_of(wanted["state"]))
    return found


@page(Permission.VIEW)
def container_rows(request: HttpRequest) -> HttpResponse:
    """Answer fresh rows for `?id=…&id=…`, for a list that is open somewhere."""
    rows = list(selectors.container_list().filter(pk__in=request.GET.getlist("id")[:100]))
    return render(request, "containers/rows.html", {"rows": shown.dress(rows, _host(request))})


def _host(request: HttpRequest) -> str:
    host = request.get_host()
    return host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdecimal() else host


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
    asked = {"search": wanted["q"], **{name: wanted[name] for name in ("image", "network", "volume", "node", "project")}}
    if wanted["state"] in ("running", "paused", "restarting", "creating"):
        asked["status"] = wanted["state"]
    kept = {name: value for name, value in asked.items() if value}
    return f"?{urlencode(kept)}" if kept else ""


# --- one container --------------------------------------------------------------------------------------------

TABS = (
    ("logs", "", "Logs"),
    ("terminal", "terminal/", "Terminal"),
    ("timeline", "timeline/", "Timeline"),
    ("load", "load/", "Load"),
    ("files", "files/", "Files"),
    ("processes", "processes/", "Processes"),
    ("changes", "changes/", "Changes"),
    ("details", "details/", "Details"),
    ("json", "json/", "JSON"),
)


def _show(request: HttpRequest, container: Container, tab: str, **context: Any) -> HttpResponse:
    base = {
        "container": container,
        "url": f"/containers/{container.id[:12]}/",
        "actions": selectors.actions_of(container),
        "tabs": [{"key": key, "path": path, "label": label} for key, path, label in TABS],
        "tab": tab,
        "limits": shown.limits(container),
        "user": ((container.record.get("spec") or {}).get("user") or (container.record.get("config") or {}).get("User") or ""),
        "call_path": f"/api/v1/containers/{container.name}/",
        "call_docker": "",
    }
    return render(request, f"containers/{tab}.html", base | context)


@page(Permission.VIEW)
def container_logs(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    return _show(
        request,
        container,
        "logs",
        **shown.facts(container, _host(request)),
        log_path=f"/ws/containers/{container.id}/logs/",
        log_rest=f"/api/v1/containers/{container.id}/logs/",
        log_title=container.name,
        log_ended="It has ended; these are its last lines" if not container.state.is_alive else "The log ends here",
        download=f"/api/v1/containers/{container.id}/logs/?timestamps=true",
        call_path=f"/api/v1/containers/{container.name}/logs/?tail=100&timestamps=true",
        call_docker=f"docker logs -f --tail 100 -t {container.name}",
    )


@page(Permission.VIEW)
def container_terminal(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    return _show(
        request,
        container,
        "terminal",
        recordings=audit.recording_list(container.id)[:20],
        shell="sh",
        start_now=request.GET.get("open") == "1",
        call_path=f"/api/v1/containers/{container.name}/exec/?wait=30",
        call_body={"command": ["ls", "-l", "/"]},
        call_docker=f"docker exec {container.name} ls -l /",
    )


@page(Permission.VIEW)
def container_timeline(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    wanted = request.GET.get("show", "")
    days, problem = timeline.days_of(container, wanted)
    choices = [{"key": key, "label": label, "current": key == wanted} for key, label in timeline.SOURCES.items()]
    return _show(
        request, container, "timeline", days=days, problem=problem, choices=choices,
        call_path=f"/api/v1/containers/{container.name}/timeline/",
    )  # fmt: skip


@page(Permission.VIEW)
def container_load(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    path, docker = f"/api/v1/containers/{container.name}/stats/", f"docker stats {container.name}"
    return _show(request, container, "load", call_path=path, call_docker=docker)


@page(Permission.VIEW)
def container_files(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    path = clean_path(request.GET.get("path", "/"))
    answer, problem = attempt(lambda: ask(container.node, "container.list_files", {"container": container.id, "path": path}))
    quoted = urlencode({"path": path})
    return _show(
        request,
        container,
        "files",
        path=path,
        **folder(path, (answer or {}).get("entries") or []),
        problem=problem,
        download_base=f"/api/v1/containers/{container.id}/files/?path=",
        call_path=f"/api/v1/containers/{container.name}/files/?{quoted}",
        call_docker=f"docker cp {container.name}:{path} .",
    )


def clean_path(path: str) -> str:
    """Return an absolute path without `..`; the node judges it again."""
    return posixpath.normpath("/" + path.lstrip("/"))


def folder(path: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what `core/_files.html` shows of a folder: folders first, then by name."""
    crumbs, so_far = [{"name": "/", "path": "/"}], ""
    for part in [part for part in path.split("/") if part]:
        so_far += f"/{part}"
        crumbs.append({"name": part, "path": so_far})
    files = [file_row(path, entry) for entry in entries]
    files.sort(key=lambda file: (not file["is_folder"], file["name"]))
    return {"file_crumbs": crumbs, "file_parent": posixpath.dirname(path) if path != "/" else "", "files": files}


def file_row(path: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return one line of a folder from what the node says of it."""
    mode = entry.get("mode") or 0
    kind = entry.get("type") or ""
    is_folder = kind in ("directory", "dir") or (isinstance(mode, int) and mode & 0o170000 == 0o040000)
    name = str(entry.get("name", ""))
    return {
        "name": name,
        "path": posixpath.join(path, name),
        "is_folder": is_folder,
        "mode": oct(mode & 0o7777)[2:].rjust(4, "0") if isinstance(mode, int) else mode,
        "size_bytes": entry.get("size_bytes", entry.get("size", 0)) or 0,
        "mtime": entry.get("mtime"),
        "link_target": entry.get("link_target") or "",
    }


@page(Permission.VIEW)
def container_processes(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    answer, problem = None, None
    if container.state.is_alive:
        answer, problem = attempt(lambda: ask(container.node, "container.top", {"container": container.id, "ps_args": ""}))
    answer = answer or {}
    path, docker = f"/api/v1/containers/{container.name}/processes/", f"docker top {container.name}"
    rows = answer.get("processes") or []
    return _show(
        request, container, "processes", titles=answer.get("titles") or [], rows=rows, problem=problem, call_path=path, call_docker=docker
    )


@page(Permission.VIEW)
def container_changes(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    answer, problem = attempt(lambda: ask(container.node, "container.changes", {"container": container.id}))
    changes = (answer or {}).get("changes") or []
    path, docker = f"/api/v1/containers/{container.name}/changes/", f"docker diff {container.name}"
    return _show(
        request, container, "changes", changes=changes[:CHANGES_SHOWN], total=len(changes), counts=change_counts(changes), problem=problem,
        call_path=path, call_docker=docker,
    )  # fmt: skip


def change_counts(changes: list[dict[str, Any]]) -> dict[str, int]:
    return {kind: sum(change.get("kind") == kind for change in changes) for kind in "ACD"}


@page(Permission.VIEW)
def container_details(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    sections = shown.detail_sections(container, show_env=request.actor.can_operate)  # type: ignore[attr-defined]
    return _show(request, container, "details", sections=sections, call_docker=f"docker container inspect {container.name}")


@page(Permission.VIEW)
def container_json(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    detail = selectors.detail_json(container, request.actor)  # type: ignore[attr-defined]
    return _show(
        request, container, "json", json=detail, json_title=f"{container.name}, as REST gives it",
        call_docker=f"docker container inspect {container.name}",
    )  # fmt: skip


# --- applications ---------------------------------------------------------------------------------------------


@page(Permission.VIEW)
def application(request: HttpRequest, name: str) -> HttpResponse:
    """Show the containers of one project as one thing: members, who talks to whom, all logs in one view."""
    rows = list(selectors.container_list(selectors.ContainerFilter(project=name)).order_by("service", "name"))
    if not rows:
        raise Http404(name)
    rows = shown.dress(rows, _host(request))
    paths = [f"/ws/containers/{row.id}/logs/#{quote(row.service or row.name)}:{1 + number % 6}" for number, row in enumerate(rows[:12])]
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
            "volumes": sorted({m["source"] for row in rows for m in row.summary.get("mounts") or [] if m.get("type") == "volume"}),
            "can_start": any("start" in row.actions.split() for row in rows),  # type: ignore[attr-defined]
            "can_stop": any("stop" in row.actions.split() for row in rows),  # type: ignore[attr-defined]
            "call_path": f"/api/v1/containers/?project={name}",
        },
    )

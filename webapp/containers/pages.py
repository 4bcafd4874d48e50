"""The page of one container, tab by tab."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.audit import selectors as audit
from webapp.containers import selectors, services, shown, timeline
from webapp.containers.models import Container
from webapp.core.answers import attempt, host_of
from webapp.core.errors import Missing
from webapp.core.folders import clean_path, folder, not_to_see
from webapp.core.routes import page
from webapp.operations.selectors import operations_on

CHANGES_SHOWN = 2000

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


View = Callable[..., HttpResponse]


def of_container(view: View) -> View:
    """Return a view of one container that tells what became of one that is gone: a link holds after its removal too."""

    @wraps(view)
    def shown_or_gone(request: HttpRequest, ref: str) -> HttpResponse:
        try:
            return view(request, ref)
        except Missing as error:
            done = operations_on("container", ref) if error.code == "container_not_found" else []
            if not done:
                raise
            return render(request, "containers/gone.html", {"last": done[0], "done": done}, status=404)

    return shown_or_gone


def _show(request: HttpRequest, container: Container, tab: str, **context: Any) -> HttpResponse:
    base = {
        "container": container,
        "url": f"/containers/{container.id[:12]}/",
        "actions": selectors.actions_of(container),
        "tabs": [{"key": key, "path": path, "label": label} for key, path, label in TABS],
        "tab": tab,
        "limits": shown.limits(container),
        "user": (
            (container.record.get("spec") or {}).get("user")
            or (container.record.get("config") or {}).get("User")
            or ""
        ),
        "call_path": f"/api/v1/containers/{container.name}/",
        "call_docker": "",
    }
    return render(request, f"containers/{tab}.html", base | context)


@page(Permission.VIEW)
@of_container
def container_logs(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    return _show(
        request,
        container,
        "logs",
        **shown.facts(container, host_of(request)),
        log_path=f"/ws/containers/{container.id}/logs/",
        log_rest=f"/api/v1/containers/{container.id}/logs/",
        log_title=container.name,
        log_ended="It does not run; these are its last lines",
        download=f"/api/v1/containers/{container.id}/logs/?timestamps=true",
        call_path=f"/api/v1/containers/{container.name}/logs/?tail=100&timestamps=true",
        call_docker=f"docker logs -f --tail 100 -t {container.name}",
    )


@page(Permission.VIEW)
@of_container
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
@of_container
def container_timeline(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    wanted = request.GET.get("show", "")
    days, problem = timeline.days_of(container, wanted)
    choices = [
        {"key": key, "label": label, "current": key == wanted} for key, label in timeline.SOURCES.items()
    ]
    return _show(
        request, container, "timeline", days=days, problem=problem, choices=choices,
        call_path=f"/api/v1/containers/{container.name}/timeline/",
    )  # fmt: skip


@page(Permission.VIEW)
@of_container
def container_load(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    path, docker = f"/api/v1/containers/{container.name}/stats/", f"docker stats {container.name}"
    return _show(request, container, "load", call_path=path, call_docker=docker)


@page(Permission.VIEW)
@of_container
def container_files(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    path = clean_path(request.GET.get("path", "/"))
    problem = not_to_see(request.actor)  # type: ignore[attr-defined]
    answer, problem = (None, problem) if problem else attempt(lambda: services.files(container, path))
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


@page(Permission.VIEW)
@of_container
def container_processes(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    answer, problem = None, None
    if container.state.is_alive:
        answer, problem = attempt(lambda: services.processes(container))
    answer = answer or {}
    path, docker = f"/api/v1/containers/{container.name}/processes/", f"docker top {container.name}"
    rows = answer.get("processes") or []
    return _show(
        request,
        container,
        "processes",
        titles=answer.get("titles") or [],
        rows=rows,
        problem=problem,
        call_path=path,
        call_docker=docker,
    )


@page(Permission.VIEW)
@of_container
def container_changes(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    answer, problem = attempt(lambda: services.changes(container))
    changes = shown.changes_of(answer)
    path, docker = f"/api/v1/containers/{container.name}/changes/", f"docker diff {container.name}"
    return _show(
        request, container, "changes", changes=changes[:CHANGES_SHOWN], total=len(changes), counts=change_counts(changes), problem=problem,
        call_path=path, call_docker=docker,
    )  # fmt: skip


def change_counts(changes: list[dict[str, Any]]) -> dict[str, int]:
    return {kind: sum(change.get("kind") == kind for change in changes) for kind in "ACD"}


@page(Permission.VIEW)
@of_container
def container_details(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    sections = shown.detail_sections(container, show_env=request.actor.can_operate)  # type: ignore[attr-defined]
    return _show(
        request,
        container,
        "details",
        sections=sections,
        call_docker=f"docker container inspect {container.name}",
    )


@page(Permission.VIEW)
@of_container
def container_json(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    detail = selectors.detail_json(container, request.actor)  # type: ignore[attr-defined]
    return _show(
        request, container, "json", json=detail, json_title=f"{container.name}, as REST gives it",
        call_docker=f"docker container inspect {container.name}",
    )  # fmt: skip

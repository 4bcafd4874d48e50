"""Pages of logs that were kept when their containers were removed."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.containers.kept_logs import kept_log_get, kept_log_list, kept_log_remove
from webapp.core.answers import accepted, ask_or_do, attempt
from webapp.core.routes import page
from webapp.nodes.selectors import node_for

HERE = "/containers/kept-logs/"


@page(GET=Permission.VIEW)
def kept_logs(request: HttpRequest) -> HttpResponse:
    """List them; each can be downloaded and removed."""
    node = node_for(request.GET.get("node", ""))
    logs, problem = attempt(lambda: kept_log_list(node))
    return render(
        request, "containers/kept_logs.html", {"logs": logs or [], "problem": problem, "node": node}
    )


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def kept_log_removal(request: HttpRequest, ref: str) -> HttpResponse:
    node = node_for(request.GET.get("node", ""))
    log = kept_log_get(node, ref)

    def do() -> HttpResponse:
        operation = kept_log_remove(request.actor, node, log)  # type: ignore[attr-defined]
        return accepted(request, operation, f"Removing the kept log of {log.name}", to=HERE)

    return ask_or_do(request, "containers/kept_log_remove.html", {"log": log}, do, back=HERE)

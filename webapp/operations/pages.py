"""Operations: what is being done and what was done, each at an address that still works tomorrow."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.audit.models import Entry
from webapp.core import states
from webapp.core.answers import accepted, back_to, done, part_of, refused
from webapp.core.errors import AppError
from webapp.core.routes import page
from webapp.operations import selectors, services
from webapp.operations.folding import log_of
from webapp.operations.models import Operation
from webapp.operations.progress import layers_of, summary_of

STATES = (
    ("", "All"),
    ("running,queued", "Running"),
    ("failed", "Failed"),
    ("succeeded", "Done"),
    ("cancelled", "Cancelled"),
)
KINDS = (
    ("", "Everything"),
    ("container.", "Containers"),
    ("image.", "Images"),
    ("build.", "Builds"),
    ("volume.", "Volumes"),
    ("network.", "Networks"),
    ("system.", "System"),
)
PAGES = {
    "container": "/containers/",
    "image": "/images/",
    "volume": "/volumes/",
    "network": "/networks/",
    "build": "/builds/",
}


@page(Permission.VIEW)
def operation_list(request: HttpRequest) -> HttpResponse:
    wanted = {name: request.GET.get(name, "").strip() for name in ("status", "kind", "user", "node", "q")}
    found = selectors.operation_list(
        selectors.OperationFilter(
            kind=wanted["kind"], status=wanted["status"], user=wanted["user"], node=wanted["node"]
        )
    )
    if wanted["q"]:
        found = found.filter(target__icontains=wanted["q"])
    listed = part_of(request, found)
    for operation in listed.items:
        operation.shown = summary_of(operation)
        operation.verb = states.verb(operation.kind)
    context = {
        "page": listed,
        "wanted": wanted,
        "filtered": any(wanted.values()),
        "choices": [
            {"key": key, "label": label, "current": key == wanted["status"]} for key, label in STATES
        ],
        "kinds": [{"key": key, "label": label, "current": key == wanted["kind"]} for key, label in KINDS],
    }
    return render(request, "operations/list.html", context)


@page(Permission.VIEW)
def operation(request: HttpRequest, ref: str) -> HttpResponse:
    operation = selectors.operation_get(ref)
    if operation.kind == "build.run":
        return HttpResponseRedirect(f"/builds/{operation.pk}/")
    folded = log_of(operation)
    if folded.layers:
        operation.progress = {**(operation.progress or {}), "layers": folded.layers}
    context = {
        "operation": operation,
        "verb": states.verb(operation.kind),
        "doing": states.doing(operation.kind),
        "shown": summary_of(operation),
        "layers": layers_of(operation),
        "lines": [line for lines in folded.lines.values() for line in lines],
        "silent": folded.problem,
        "target_url": target_url(operation),
        "can_retry": services.can_retry(operation),
        "entries": Entry.objects.filter(operation=operation.pk).order_by("seq")[:10],
        "retry_of": operation.retry_of,
        "call_path": f"/api/v1/operations/{operation.pk}/?wait=30",
    }
    return render(request, "operations/operation.html", context)


def target_url(operation: Operation) -> str:
    """Return the page of what the operation was about, where there is one still."""
    base = PAGES.get(operation.target_type)
    if base is None or operation.kind.endswith((".remove", ".prune")):
        return ""
    key = operation.target_id or operation.target
    if operation.target_type == "container":
        return f"{base}{key[:12]}/" if key else ""
    if operation.target_type == "image":
        image_id = str((operation.result or {}).get("image_id") or operation.target_id)
        known = operation.status == "succeeded" or operation.kind not in ("image.pull", "image.import")
        return f"{base}{image_id.removeprefix('sha256:')[:12]}/" if image_id and known else ""
    return (
        f"{base}{operation.target if operation.target_type in ('volume', 'network') else key}/" if key else ""
    )


@page(POST=Permission.OPERATE)
def operation_cancel(request: HttpRequest, ref: str) -> HttpResponse:
    operation = selectors.operation_get(ref)
    to = back_to(request, f"/operations/{operation.pk}/")
    try:
        services.cancel(request.actor, operation)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return done(request, f"{states.verb(operation.kind)} {operation.target}: asked to stop", to=to, stay=True)


@page(POST=Permission.OPERATE)
def operation_retry(request: HttpRequest, ref: str) -> HttpResponse:
    operation = selectors.operation_get(ref)
    try:
        again = services.retry(request.actor, operation)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return accepted(
        request, again, f"{states.doing(again.kind)} {again.target}", to=f"/operations/{again.pk}/"
    )

"""What page views share: pages and dialogs, what follows an accepted change, parts of a long list.

A page works without script: forms post and redirect, dialogs are pages. With script, the same views answer fragments:
htmx and `static/js/dialogs.js` say so by headers, and what they get back is a toast in `HX-Trigger` or the dialog again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.http import url_has_allowed_host_and_scheme

from webapp.core.errors import PROBLEM_TYPE, AppError
from webapp.operations.models import Operation

PAGE_SIZE = 100
T = TypeVar("T")


def wants_fragment(request: HttpRequest) -> bool:
    """Say whether a script of ours asks, which shows toasts and dialogs by itself."""
    return bool(request.headers.get("HX-Request"))


def wants_dialog(request: HttpRequest) -> bool:
    return bool(request.headers.get("X-Wharfinger-Dialog"))


def host_of(request: HttpRequest) -> str:
    """Return the name under which this site was reached, without the port."""
    host = request.get_host()
    return host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdecimal() else host


# --- dialogs --------------------------------------------------------------------------------------------------


def dialog(
    request: HttpRequest,
    template: str,
    context: dict[str, Any] | None = None,
    *,
    back: str = "/",
    status: int = 200,
) -> HttpResponse:
    """Return a question: one <dialog> for the page's script, a page with the same form for everybody else."""
    alone = wants_dialog(request)
    context = {**(context or {}), "back": back, "as_dialog": alone}
    if alone:
        return render(request, template, context, status=status)
    return render(
        request,
        "core/dialog_page.html",
        {**context, "dialog": render_to_string(template, context, request)},
        status=status,
    )


def ask_or_do(
    request: HttpRequest,
    template: str,
    context: dict[str, Any],
    do: Callable[[], HttpResponse],
    *,
    back: str = "/",
) -> HttpResponse:
    """Show a question (GET) or carry its answer out (POST); what goes wrong is said in the dialog itself."""
    if request.method != "POST":
        return dialog(request, template, context, back=back)
    try:
        return do()
    except AppError as error:
        if error.status in (401, 403):
            raise  # a refusal is written to the book and shown by the guard
        return dialog(
            request,
            template,
            {**context, "problem": error},
            back=back,
            status=422 if error.status < 500 else 409,
        )


# --- after a change -------------------------------------------------------------------------------------------


def accepted(request: HttpRequest, operation: Operation, text: str, *, to: str) -> HttpResponse:
    """Answer a change that a node carries out: a toast that follows the operation, or back to `to`."""
    return _after(request, text, to, tone="work", level=messages.INFO, operation=operation.id)


def done(request: HttpRequest, text: str, *, to: str, stay: bool = False) -> HttpResponse:
    """Answer a change that is done already. `stay` keeps a script on its page (it refreshes by itself)."""
    if wants_fragment(request) and not stay:
        messages.success(request, text)
        return redirected(request, to)
    return _after(request, text, to, tone="ok", level=messages.SUCCESS)


def _after(
    request: HttpRequest, text: str, to: str, *, tone: str, level: int, operation: str = ""
) -> HttpResponse:
    if wants_fragment(request):
        response = HttpResponse(status=204)
        url = f"/operations/{operation}/" if operation else ""
        response["HX-Trigger"] = json.dumps(
            {"wf:toast": {"text": text, "tone": tone, "operation": operation, "url": url}}
        )
        return response
    messages.add_message(request, level, text, extra_tags=operation)
    return HttpResponseRedirect(to)


def redirected(request: HttpRequest, to: str) -> HttpResponse:
    """Send the browser to `to`, whether a script asks or not."""
    if not wants_fragment(request):
        return HttpResponseRedirect(to)
    response = HttpResponse(status=204)
    response["HX-Redirect"] = to
    return response


def refused(request: HttpRequest, error: AppError) -> HttpResponse:
    """Answer an error to a script that shows toasts; anybody else gets the error page (raise it)."""
    if not wants_fragment(request):
        raise error
    return JsonResponse(error.document(), status=error.status, content_type=PROBLEM_TYPE)


def back_to(request: HttpRequest, default: str) -> str:
    """Return where a form wants to go afterwards: its own `next` if that is on this site, else `default`."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if safe and wanted.startswith("/") else default


# --- long lists -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One part of a list; `next` and `previous` are the offsets of its neighbours (None: none)."""

    items: list[Any]
    total: int
    offset: int
    size: int

    @property
    def first(self) -> int:
        return min(self.offset + 1, self.total)

    @property
    def last(self) -> int:
        return self.offset + len(self.items)

    @property
    def next(self) -> int | None:
        return self.offset + self.size if self.last < self.total else None

    @property
    def previous(self) -> int | None:
        return max(0, self.offset - self.size) if self.offset else None


def part_of(
    request: HttpRequest, found: QuerySet[Any], *, size: int = PAGE_SIZE, total: int | None = None
) -> Part:
    """Return the part of `found` that the request's `after` names: two queries, however long the list."""
    offset = number(request.GET.get("after", ""), 0)
    whole = found.count() if total is None else total
    return Part(list(found[offset : offset + size]), whole, offset, size)


def number(text: str, default: int) -> int:
    """Return `text` as a whole number of at least 0, or `default`."""
    return int(text) if text.isdecimal() and len(text) < 12 else default


def attempt(ask: Callable[[], T]) -> tuple[T | None, AppError | None]:
    """Ask a node for something that a page shows beside the rest: its answer, or why there is none."""
    try:
        return ask(), None
    except AppError as error:
        if error.status in (401, 403):
            raise
        return None, error

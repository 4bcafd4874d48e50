"""The page of protected names: what is protected, by whom, and why; an admin adds to it and takes from it."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.core.answers import accepted, back_to, done, refused
from webapp.core.errors import AppError
from webapp.core.routes import page
from webapp.images import protection
from webapp.operations.models import Operation

PAGE = "/images/protected/"


@page(GET=Permission.VIEW, POST=Permission.ADMIN)
def protected_names(request: HttpRequest) -> HttpResponse:
    """Show the list; a POST adds a pattern to it."""
    if request.method != "POST":
        rows = [{"row": row, "shown": protection.shown(row.pattern)} for row in protection.protected_list()]
        return render(request, "images/protected.html", {"rows": rows})
    pattern, note = request.POST.get("pattern", "").strip(), request.POST.get("note", "").strip()
    try:
        _, told = protection.protect(request.actor, pattern, note)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return _told(request, told, f"Protecting {pattern}")


@page(POST=Permission.ADMIN)
def protection_lift(request: HttpRequest) -> HttpResponse:
    pattern = request.POST.get("pattern", "").strip()
    try:
        told = protection.unprotect(request.actor, pattern)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return _told(request, told, f"Lifting the protection of {pattern}")


def _told(request: HttpRequest, told: list[Operation], text: str) -> HttpResponse:
    to = back_to(request, PAGE)
    return accepted(request, told[0], text, to=to) if told else done(request, text, to=to)

"""Accounts at registries: kept once for the team, the secret goes in and never comes out."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.core.answers import ask_or_do, done
from webapp.core.routes import page
from webapp.registries import selectors, services
from webapp.registries.models import Registry


@page(Permission.VIEW)
def registry_list(request: HttpRequest) -> HttpResponse:
    actor = request.actor  # type: ignore[attr-defined]
    rows = list(selectors.registry_list())
    for row in rows:
        row.usable = selectors.may_use(row, actor)
    return render(request, "registries/list.html", {"rows": rows})


@page(GET=Permission.ADMIN, POST=Permission.ADMIN)
def registry_new(request: HttpRequest) -> HttpResponse:
    def do() -> HttpResponse:
        registry = services.registry_create(request.actor, request.POST.get("host", ""), **_values(request))  # type: ignore[attr-defined]
        return done(request, f"The account at {registry.host} is stored", to="/registries/")

    return ask_or_do(
        request, "registries/edit.html", {"form": request.POST, "registry": None}, do, back="/registries/"
    )


@page(GET=Permission.ADMIN, POST=Permission.ADMIN)
def registry_edit(request: HttpRequest, host: str) -> HttpResponse:
    registry = selectors.registry_get(host)

    def do() -> HttpResponse:
        services.registry_update(request.actor, registry, **_values(request))  # type: ignore[attr-defined]
        return done(request, f"The account at {registry.host} is changed", to="/registries/")

    return ask_or_do(
        request,
        "registries/edit.html",
        {"form": request.POST or _form(registry), "registry": registry},
        do,
        back="/registries/",
    )


def _values(request: HttpRequest) -> dict[str, Any]:
    form = request.POST
    values: dict[str, Any] = {
        "username": form.get("username", "").strip(),
        "secret_kind": form.get("secret_kind") or "password",
        "usable_by": form.get("usable_by") or Registry.UsableBy.OPERATORS,
        "insecure": bool(form.get("insecure")),
        "ca_pem": form.get("ca_pem", "").strip(),
    }
    if form.get("secret"):
        values["secret"] = form["secret"]
    return values


def _form(registry: Registry) -> dict[str, Any]:
    return {
        "host": registry.host,
        "username": registry.username,
        "secret_kind": registry.secret_kind,
        "usable_by": registry.usable_by,
        "insecure": registry.insecure,
        "ca_pem": registry.ca_pem,
    }


@page(GET=Permission.ADMIN, POST=Permission.ADMIN)
def registry_remove(request: HttpRequest, host: str) -> HttpResponse:
    registry = selectors.registry_get(host)

    def do() -> HttpResponse:
        services.registry_remove(request.actor, registry)  # type: ignore[attr-defined]
        return done(request, f"The account at {host} is forgotten", to="/registries/")

    return ask_or_do(request, "registries/remove.html", {"registry": registry}, do, back="/registries/")

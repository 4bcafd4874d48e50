"""People (for admins), and one's own account: display name, password, tokens, how to use docker with this server."""

from __future__ import annotations

import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters

from webapp.accounts import selectors, services
from webapp.accounts.models import Token, User
from webapp.accounts.permissions import Permission, Right, Role, Scope
from webapp.core.answers import ask_or_do, dialog, done, number, part_of
from webapp.core.errors import AppError, Invalid
from webapp.core.routes import page

RIGHTS = {
    Right.HOST_MOUNTS: ("Host mounts", "folders of the node inside containers"),
    Right.PRIVILEGED: ("Privileged", "added capabilities, root that is root outside"),
    Right.HOST_NAMESPACES: ("Host namespaces", "the node's own network, processes or users"),
    Right.DEVICES: ("Devices", "devices of the node"),
}
ROLES = {
    Role.VIEWER: "sees everything, changes nothing",
    Role.OPERATOR: "runs, builds, stops and removes",
    Role.ADMIN: "people, registries, nodes and all rights",
}
SCOPES = {Scope.READ: "sees only", Scope.OPERATE: "sees and runs", Scope.ADMIN: "all that its owner may"}
LIVES = ((30, "30 days"), (90, "90 days"), (365, "a year"), (0, "no end"))


# --- people ---------------------------------------------------------------------------------------------------


@page(Permission.ADMIN)
def people(request: HttpRequest) -> HttpResponse:
    listed = part_of(request, selectors.user_list())
    tokens: dict[int, int] = {}
    for token in Token.objects.filter(revoked_at=None, user__in=[user.pk for user in listed.items]):
        tokens[token.user_id] = tokens.get(token.user_id, 0) + token.is_valid
    for user in listed.items:
        user.token_count = tokens.get(user.pk, 0)
        user.right_words = (
            ", ".join(RIGHTS[right][0].lower() for right in user.rights) if user.role != Role.ADMIN else "all"
        )
    every = selectors.all_tokens().filter(revoked_at=None)[:200]
    return render(
        request,
        "accounts/people.html",
        {"page": listed, "tokens": [token for token in every if token.is_valid]},
    )


def _person_context(user: User | None, form: Any) -> dict[str, Any]:
    chosen = {
        right.value: bool(form.get(f"right_{right.value}"))
        if form
        else bool(user and getattr(user, f"right_{right.value}"))
        for right in Right
    }
    return {
        "user_": user,
        "form": form
        or (
            {
                "username": user.username,
                "display_name": user.display_name,
                "role": user.role,
                "unix_uid": user.unix_uid,
            }
            if user
            else {"role": Role.OPERATOR}
        ),
        "roles": [(role.value, role.label, words) for role, words in ROLES.items()],
        "rights": [
            {"name": right.value, "label": label, "about": about, "on": chosen[right.value]}
            for right, (label, about) in RIGHTS.items()
        ],
    }


def _rights(form: Any) -> dict[str, bool]:
    return {right.value: bool(form.get(f"right_{right.value}")) for right in Right}


def _uid(form: Any) -> int | None:
    text = form.get("unix_uid", "").strip()
    if not text:
        return None
    if not text.isdecimal():
        raise Invalid("a uid is a number", fields={"unix_uid": ["a number"]})
    return int(text)


@sensitive_post_parameters("password")
@page(GET=Permission.ADMIN, POST=Permission.ADMIN)
def person_new(request: HttpRequest) -> HttpResponse:
    form = request.POST

    def do() -> HttpResponse:
        user = services.user_create(
            request.actor,  # type: ignore[attr-defined]
            username=form.get("username", "").strip(),
            password=form.get("password", ""),
            role=form.get("role", ""),
            display_name=form.get("display_name", "").strip(),
            rights=_rights(form),
            unix_uid=_uid(form),
        )
        return done(request, f"{user.username} can sign in now", to="/people/")

    return ask_or_do(request, "accounts/person.html", _person_context(None, form), do, back="/people/")


@sensitive_post_parameters("password")
@page(GET=Permission.ADMIN, POST=Permission.ADMIN)
def person_edit(request: HttpRequest, username: str) -> HttpResponse:
    user = selectors.user_get(username)
    form = request.POST

    def do() -> HttpResponse:
        changes: dict[str, Any] = {
            "display_name": form.get("display_name", "").strip(),
            "role": form.get("role", ""),
            "rights": _rights(form),
            "unix_uid": _uid(form),
            "is_active": bool(form.get("is_active")),
        }
        if form.get("password"):
            changes["password"] = form["password"]
        services.user_update(request.actor, user, changes)  # type: ignore[attr-defined]
        return done(request, f"{user.username} is changed", to="/people/")

    return ask_or_do(request, "accounts/person.html", _person_context(user, form), do, back="/people/")


# --- one's own account ----------------------------------------------------------------------------------------


@page(GET=Permission.SELF, POST=Permission.SELF)
def account(request: HttpRequest) -> HttpResponse:
    actor = request.actor  # type: ignore[attr-defined]
    if request.method == "POST":
        services.profile_update(actor, {"display_name": request.POST.get("display_name", "").strip()})
        return done(request, "Your name is changed", to="/account/")
    return _account(request)


def _account(request: HttpRequest, status: int = 200, **context: Any) -> HttpResponse:
    user = request.actor.user  # type: ignore[attr-defined]
    base = {
        "tokens": list(selectors.token_list(user)[:100]),
        "role_words": ROLES.get(user.role, ""),
        "rights": [RIGHTS[right] for right in Right if right in user.rights],
        "lacking": [RIGHTS[right] for right in Right if right not in user.rights],
        "host": request.get_host(),
        "scheme": request.scheme,
        "has_tls": settings.HAS_TLS,
    }
    return render(request, "accounts/account.html", base | context, status=status)


@sensitive_post_parameters("old", "new")
@page(POST=Permission.SELF)
def password(request: HttpRequest) -> HttpResponse:
    try:
        if request.POST.get("new", "") != request.POST.get("again", ""):
            raise Invalid("the two new passwords differ", fields={"again": ["differs"]})
        services.password_change(request, request.POST.get("old", ""), request.POST.get("new", ""))
    except AppError as error:
        return _account(request, status=error.status, password_problem=error)
    return done(request, "Your password is changed; other sessions have ended", to="/account/")


@page(GET=Permission.SELF, POST=Permission.SELF)
def token_new(request: HttpRequest) -> HttpResponse:
    """Make a token; the answer shows it this once."""
    actor = request.actor  # type: ignore[attr-defined]
    username = (request.POST if request.method == "POST" else request.GET).get("user", "")
    owner = selectors.user_get(username) if username and actor.is_admin else None
    context = {
        "form": request.POST,
        "owner": owner,
        "scopes": [(scope.value, scope.label, words) for scope, words in SCOPES.items()],
        "lives": LIVES,
        "has_tls": settings.HAS_TLS,
    }

    def do() -> HttpResponse:
        days = number(request.POST.get("days", ""), 90)
        wanted: dict[str, Any] = {
            "name": request.POST.get("name", ""),
            "scope": request.POST.get("scope", ""),
            "user": owner,
            "expires_at": timezone.now() + datetime.timedelta(days=days) if days else None,
        }
        if pem := request.POST.get("certificate", "").strip():
            token = services.certificate_register(actor, pem=pem, **wanted)
            return done(
                request, f"The certificate {token.name} counts now", to="/people/" if owner else "/account/"
            )
        token, secret = services.token_create(actor, **wanted)
        shown = {"token": token, "secret": secret, "host": request.get_host(), "scheme": request.scheme}
        return dialog(request, "accounts/token_made.html", shown, back="/people/" if owner else "/account/")

    return ask_or_do(request, "accounts/token.html", context, do, back="/account/")


@page(GET=Permission.SELF, POST=Permission.SELF)
def token_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    actor = request.actor  # type: ignore[attr-defined]
    token = selectors.token_get(actor, pk)
    to = "/account/" if token.user_id == actor.user.pk else "/people/"

    def do() -> HttpResponse:
        services.token_revoke(actor, token)
        return done(request, f"The token {token.name} has ended", to=to)

    return ask_or_do(request, "accounts/token_revoke.html", {"token": token}, do, back=to)

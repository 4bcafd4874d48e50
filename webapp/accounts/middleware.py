"""Who asks, and may they: judged here for every route, before its view runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.utils.deprecation import MiddlewareMixin
from django.utils.http import urlencode

from webapp.accounts import authentication
from webapp.accounts.actor import Actor
from webapp.accounts.permissions import Permission
from webapp.audit import services as audit
from webapp.audit.models import Face
from webapp.core.errors import AppError, Denied, NotSignedIn, busy_error, error_response, is_api
from webapp.core.routes import route_of
from webapp.core.uploads import give_back


def resolve_actor(request: HttpRequest) -> Actor:
    """Return who asks, else raise `NotSignedIn` for a token that is not valid."""
    face = Face.REST if is_api(request) else Face.PAGE
    address = authentication.address_of(
        request.META.get("REMOTE_ADDR", ""), request.headers.get("X-Forwarded-For", "")
    )
    secret = authentication.bearer_secret(request.headers.get("Authorization", ""))
    if secret is not None:
        return authentication.actor_of_token(secret, face=Face.REST, address=address)
    return authentication.actor_of_session(request.session, face=face, address=address)


class ActorMiddleware(MiddlewareMixin):
    """Set `request.actor` and `request.user`. A request with a bearer token carries no cookie's power: no CSRF check."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        request.actor = Actor(face=Face.REST if is_api(request) else Face.PAGE)  # type: ignore[attr-defined]
        try:
            request.actor = resolve_actor(request)  # type: ignore[attr-defined]
        except NotSignedIn as error:
            audit.refused(request, error.detail)
            return error_response(request, error)
        if request.actor.user is not None:  # type: ignore[attr-defined]
            request.user = request.actor.user  # type: ignore[attr-defined]
        if request.actor.token is not None:  # type: ignore[attr-defined]
            request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
        return None


class GuardMiddleware(MiddlewareMixin):
    """Deny by default: only a declared method with a permission that the asker has reaches its view."""

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HttpResponse | None:
        route = route_of(view)
        if route is None:
            return error_response(
                request, Denied("this route does not say who may use it", code="undeclared_route")
            )
        needed = route.permission_for(request.method)
        if needed is None:
            return HttpResponseNotAllowed(sorted(route.permissions))
        actor: Actor = request.actor  # type: ignore[attr-defined]
        if actor.can(needed):
            return None
        if not actor.is_signed_in:
            return _ask_to_sign_in(request)
        audit.refused(request, f"needs the permission {needed.value}")
        return error_response(
            request,
            Denied(
                f"{actor.name} lacks the permission {needed.value!r}",
                needs=needed.value,
                hint=_hint(actor, needed),
            ),
        )

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer an `AppError` that a page raised (REST views answer their own)."""
        give_back(request)
        if not isinstance(exception, AppError):
            busy = busy_error(exception)
            return error_response(request, busy) if busy else None
        if isinstance(exception, Denied) and not exception.recorded:
            audit.refused(request, exception.detail)
        return error_response(request, exception)


def _ask_to_sign_in(request: HttpRequest) -> HttpResponse:
    if is_api(request) or request.headers.get("HX-Request"):
        return error_response(
            request, NotSignedIn("sign in, or send a token", hint="Authorization: Bearer TOKEN")
        )
    if request.method in ("GET", "HEAD"):
        return redirect(f"{settings.LOGIN_URL}?{urlencode({'next': request.get_full_path()})}")
    return redirect(settings.LOGIN_URL)


def _hint(actor: Actor, needed: Permission) -> str:
    if actor.token is not None and Actor(user=actor.user, face=actor.face).can(needed):
        return f"the token's scope is {actor.token.scope!r}; use one with more"
    return "ask an admin for a role that has it"

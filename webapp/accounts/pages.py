"""Signing in and out. (People and tokens have `people_pages`.)"""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.debug import sensitive_post_parameters

from webapp.accounts import services
from webapp.accounts.permissions import Permission
from webapp.core.errors import NotSignedIn, TooMany
from webapp.core.routes import page


@sensitive_post_parameters("password")
@page(GET=Permission.PUBLIC, POST=Permission.PUBLIC)
def login(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        if request.actor.is_signed_in:  # type: ignore[attr-defined]
            return HttpResponseRedirect(_next(request))
        return render(request, "accounts/login.html")
    username = request.POST.get("username", "")
    try:
        services.sign_in(request, username, request.POST.get("password", ""))
    except (NotSignedIn, TooMany) as problem:
        response = render(
            request,
            "accounts/login.html",
            {"problem": problem, "username": username[:64]},
            status=problem.status,
        )
        if isinstance(problem, TooMany):
            response["Retry-After"] = str(problem.retry_after_s)
        return response
    return HttpResponseRedirect(_next(request))


def _next(request: HttpRequest) -> str:
    wanted = request.GET.get("next", "")
    safe = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if safe and wanted.startswith("/") else settings.LOGIN_REDIRECT_URL


@page(POST=Permission.SELF)
def logout(request: HttpRequest) -> HttpResponse:
    services.sign_out(request)
    return HttpResponseRedirect(settings.LOGIN_URL)

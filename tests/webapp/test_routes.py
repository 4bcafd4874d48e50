"""Who may call what: the table is checked in, and every row of it is tried with every kind of asker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from tests.support.routes import example, route_lines
from tests.support.web import Api
from webapp.accounts.models import User
from webapp.accounts.permissions import Permission
from webapp.audit.models import Entry
from webapp.core.routes import all_routes, require_declared, route_of
from webapp.operations.sender import RecordingSender

ApiOf = Callable[..., Api]
TABLE = Path(__file__).with_name("routes.txt").read_text().splitlines()
ROWS = [tuple(line.split()) for line in TABLE]
CHANGING = {"POST", "PUT", "PATCH", "DELETE"}


def test_the_table_is_that_of_the_url_map() -> None:
    """AP-01: a new route without a row fails here (`python -m tests.support.routes` writes the table)."""
    assert route_lines() == TABLE


def test_every_route_declares_a_permission() -> None:
    """D4: otherwise the server does not start."""
    require_declared()
    declared = [(path, route_of(view)) for path, view in all_routes()]
    assert len(declared) > 100
    assert [path for path, route in declared if route is None or not route.permissions] == []


def test_a_route_without_a_permission_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """D4."""

    def bare(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    import webapp.urls

    monkeypatch.setattr(webapp.urls, "urlpatterns", [path("bare/", bare)])
    urlconf = type("Urlconf", (), {"urlpatterns": webapp.urls.urlpatterns})
    with pytest.raises(ImproperlyConfigured, match="/bare/"):
        require_declared(urlconf)  # type: ignore[arg-type]


def test_nothing_changes_by_get() -> None:
    """AP-06: everything that changes needs another method than GET, and more than the right to see."""
    assert not [row for row in ROWS if row[0] in CHANGING and row[2] == Permission.VIEW]


def _refused(status: int, location: str = "") -> bool:
    return status in (401, 403) or (status == 302 and location.startswith("/login/"))


@pytest.mark.django_db
def test_nobody_gets_nothing(node: object) -> None:
    """AP-01: anonymous."""
    client = Client()
    for method, route, permission in ROWS:
        answer = client.generic(method, example(route), b"", content_type="application/json")
        if permission == Permission.PUBLIC:
            continue
        assert _refused(answer.status_code, answer.get("Location", "")), (method, route, answer.status_code)
    assert not RecordingSender.sent


CASES = [
    ("vera", "admin", {"public", "view", "self"}),
    ("bob", "admin", {"public", "view", "self", "operate"}),
    ("alice", "admin", {"public", "view", "self", "operate", "admin"}),
    ("alice", "read", {"public", "view"}),
    ("alice", "operate", {"public", "view", "operate"}),
    ("bob", "read", {"public", "view"}),
    ("vera", "operate", {"public", "view"}),
]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "scope", "allowed"), CASES, ids=[f"{name}-{scope}" for name, scope, _ in CASES]
)
def test_each_may_do_exactly_what_the_table_says(
    request: pytest.FixtureRequest, node: object, api: ApiOf, name: str, scope: str, allowed: set[str]
) -> None:
    """AP-01: roles and token scopes."""
    user: User = request.getfixturevalue(name)
    client = api(user, scope)
    for method, route, permission in ROWS:
        is_api = route.startswith("/api/")
        if permission in allowed and not is_api:
            continue  # pages have tests of their own
        answer = client.generic(
            method, example(route), b"{}" if method in CHANGING else b"", content_type="application/json"
        )
        refused = _refused(answer.status_code) and (
            not is_api or answer.json().get("code") in ("denied", "not_signed_in")
        )
        assert refused == (permission not in allowed), (
            method,
            route,
            permission,
            answer.status_code,
            answer.content[:200],
        )


@pytest.mark.django_db
def test_a_shut_account_is_nobody(node: object, charlie: User, api: ApiOf) -> None:
    assert api(charlie).read("/containers/").status_code == 401


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path",
    ["/api/v1//containers/", "/api/v1/%2e%2e/containers/", "/api/v1/containers", "//api/v1/containers/"],
)
def test_other_spellings_open_no_door(node: object, path: str) -> None:
    """AP-01."""
    answer = Client().get(path)
    assert answer.status_code in (301, 302, 400, 401, 403, 404)
    assert b"results" not in answer.content


@pytest.mark.django_db
def test_the_method_cannot_be_overridden(node: object, vera: User, api: ApiOf) -> None:
    """AP-01."""
    answer = api(vera).send("GET", "/containers/", None, X_HTTP_Method_Override="POST")
    assert answer.status_code == 200
    assert api(vera).send("GET", "/containers/?_method=POST").status_code == 400


@pytest.mark.django_db
def test_head_needs_what_get_needs(node: object, api: ApiOf, vera: User) -> None:
    assert Client().head("/api/v1/containers/").status_code == 401
    assert api(vera).send("HEAD", "/containers/").status_code == 200


@pytest.mark.django_db
def test_refusals_are_entries(node: object, vera: User, api: ApiOf) -> None:
    """AP-13."""
    api(vera).write("/containers/", {"image": "nginx"})
    entry = Entry.objects.latest("seq")
    assert (entry.actor, entry.action, entry.outcome) == ("vera", "access.refused", "refused")
    assert entry.target == "POST /api/v1/containers/"

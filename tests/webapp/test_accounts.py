"""Signing in, people, tokens."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from tests.support.web import PASSWORD, Api, actor_of, make_user, token_for
from webapp.accounts import services
from webapp.accounts.actor import Actor
from webapp.accounts.authentication import digest_of
from webapp.accounts.models import SignInFailure, Token, User
from webapp.audit.models import Entry
from webapp.core.errors import Conflict, Denied, Invalid

pytestmark = pytest.mark.django_db
ApiOf = Callable[..., Api]


def sign_in(client: Client, username: str, password: str) -> int:
    """Try to sign in through the page; return the status (302: signed in)."""
    return client.post("/login/", {"username": username, "password": password}).status_code


# --- tokens -----------------------------------------------------------------------------------------------------


def test_only_a_hash_of_a_token_is_kept(bob: User) -> None:
    """AP-05."""
    secret = token_for(bob)
    token = Token.objects.get()
    assert token.digest == digest_of(secret)
    assert secret not in str(Token.objects.values())


def test_an_expired_token_is_nobody(node: object, bob: User, api: ApiOf) -> None:
    """AP-05."""
    client = api(bob)
    Token.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert client.read("/containers/").status_code == 401


def test_a_revoked_token_is_nobody(node: object, bob: User, api: ApiOf) -> None:
    """AP-05."""
    client = api(bob)
    assert client.send("DELETE", f"/tokens/{Token.objects.get().pk}/").status_code == 200
    assert client.read("/containers/").status_code == 401


def test_a_token_in_the_query_counts_for_nothing(node: object, bob: User) -> None:
    """AP-05 (CVE-2026-44883)."""
    secret = token_for(bob)
    for name in ("token", "access_token", "authorization"):
        assert Client().get(f"/api/v1/containers/?{name}={secret}").status_code == 401


@pytest.mark.parametrize("scope", ["read", "operate"])
def test_a_small_token_mints_no_token(node: object, alice: User, api: ApiOf, scope: str) -> None:
    """AP-05."""
    client = api(alice, scope)
    assert client.write("/tokens/", {"name": "more", "scope": "read"}).status_code == 403
    assert Token.objects.count() == 1


def test_a_child_token_is_no_wider_and_ends_with_its_parent(node: object, alice: User, api: ApiOf) -> None:
    """AP-05."""
    end = timezone.now() + timedelta(hours=1)
    parent = Api(token_for(alice, "admin", expires_at=end))
    answer = parent.write("/tokens/", {"name": "child", "scope": "operate"})
    assert answer.status_code == 201
    child = Token.objects.get(name="child")
    assert child.expires_at == end
    client = Api(answer.json()["secret"])
    assert client.read("/containers/").status_code == 200
    services.token_revoke(actor_of(alice), Token.objects.get(name="test"))
    assert client.read("/containers/").status_code == 401


def test_a_token_loses_what_its_owner_loses(node: object, alice: User, bob: User, api: ApiOf) -> None:
    """AP-05: role lowered."""
    client = api(bob)
    assert client.write("/system/check/").status_code == 202
    services.user_update(actor_of(alice), bob, {"role": "viewer"})
    assert client.write("/system/check/").status_code == 403


def test_tokens_of_others_do_not_exist(node: object, bob: User, vera: User, api: ApiOf) -> None:
    """AP-04."""
    client = api(bob)
    token_for(vera)
    theirs = Token.objects.get(user=vera)
    assert client.read(f"/tokens/{theirs.pk}/").status_code == 404
    assert client.send("DELETE", f"/tokens/{theirs.pk}/").status_code == 404
    assert client.read("/tokens/").json()["results"][0]["user"] == "bob"
    assert client.write("/tokens/", {"name": "x", "user": "vera"}).status_code == 403


def test_the_secret_of_a_token_is_shown_once(node: object, bob: User, api: ApiOf) -> None:
    answer = api(bob).write("/tokens/", {"name": "ci", "scope": "read"})
    secret = answer.json()["secret"]
    assert Api(secret).read("/containers/").status_code == 200
    assert secret not in str(Entry.objects.values())


def test_the_command_prints_a_token_and_nothing_else(node: object, bob: User) -> None:
    out = io.StringIO()
    call_command("token", "create", "bob", "--name", "ci", "--scope", "read", stdout=out)
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    assert Api(lines[0]).read("/containers/").status_code == 200
    assert Entry.objects.latest("seq").face == "command"


def test_the_command_says_who_is_unknown(db: None) -> None:
    with pytest.raises(CommandError, match="no user 'nobody'"):
        call_command("token", "create", "nobody")


# --- signing in ---------------------------------------------------------------------------------------------------


def test_signing_in_is_an_entry(bob: User) -> None:
    """AP-13."""
    client = Client()
    assert sign_in(client, "bob", PASSWORD) == 302
    assert client.get("/api/v1/users/me/").json()["username"] == "bob"
    entry = Entry.objects.latest("seq")
    assert (entry.actor, entry.action, entry.outcome, entry.face) == (
        "bob",
        "session.open",
        "succeeded",
        "page",
    )


def test_a_wrong_password_is_a_refusal_entry(bob: User) -> None:
    client = Client()
    assert sign_in(client, "bob", "wrong") != 302
    assert client.get("/api/v1/users/me/").status_code == 401
    assert Entry.objects.latest("seq").outcome == "refused"


def test_guessing_is_stopped_with_429(bob: User) -> None:
    """AP-18."""
    client = Client()
    answers = [sign_in(client, "bob", f"guess {number}") for number in range(8)]
    assert answers[-1] == 429
    assert sign_in(client, "bob", PASSWORD) == 429  # even the right one now
    SignInFailure.objects.update(at=timezone.now() - timedelta(minutes=6))
    assert sign_in(client, "bob", PASSWORD) == 302


def test_many_names_from_one_address_are_stopped(bob: User) -> None:
    """AP-18."""
    client = Client()
    for number in range(services.TRIES_AN_ADDRESS):
        sign_in(client, f"name{number}", "guess")
    assert sign_in(client, "another", "guess") == 429


def test_an_unknown_name_costs_a_password_check_too(bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """AP-18: equal work, so equal time."""
    checked: list[str] = []
    real = services.check_password
    monkeypatch.setattr(services, "check_password", lambda *a, **k: checked.append("x") or real(*a, **k))
    sign_in(Client(), "bob", "wrong")
    sign_in(Client(), "nobody", "wrong")
    assert len(checked) == 2


def test_a_shut_account_cannot_sign_in(charlie: User) -> None:
    assert sign_in(Client(), "charlie", PASSWORD) != 302


def test_a_session_planted_before_signing_in_dies(bob: User) -> None:
    client = Client()
    client.get("/login/")
    before = client.session.session_key
    sign_in(client, "bob", PASSWORD)
    assert client.session.session_key != before


def test_shutting_an_account_ends_its_sessions(alice: User, bob: User) -> None:
    client = Client()
    sign_in(client, "bob", PASSWORD)
    services.user_update(actor_of(alice), bob, {"is_active": False})
    assert client.get("/api/v1/users/me/").status_code == 401


def test_login_does_not_redirect_away(bob: User) -> None:
    """WB-04."""
    answer = Client().post(
        "/login/?next=//evil.example/", {"username": "bob", "password": PASSWORD, "next": "//evil.example/"}
    )
    assert "evil" not in answer["Location"]


# --- people -------------------------------------------------------------------------------------------------------


def test_nobody_raises_himself(node: object, bob: User, api: ApiOf) -> None:
    """AP-17."""
    client = api(bob)
    for change in (
        {"role": "admin"},
        {"is_active": True},
        {"rights": {"privileged": True}},
        {"is_staff": True},
    ):
        assert client.send("PATCH", "/users/me/", change).status_code == 400
        assert client.send("PATCH", "/users/bob/", change).status_code == 403
    bob.refresh_from_db()
    assert (bob.role, bob.right_privileged) == ("operator", False)


def test_the_last_admin_stays(alice: User) -> None:
    """AP-17."""
    for change in ({"role": "viewer"}, {"is_active": False}):
        with pytest.raises(Conflict, match="last admin"):
            services.user_update(actor_of(alice), User.objects.get(username="alice"), change)


def test_services_judge_too(bob: User) -> None:
    """AP-12: a forgotten check in a face does not open the service."""
    with pytest.raises(Denied):
        services.user_create(actor_of(bob), username="eve", password=PASSWORD, role="admin")
    assert not User.objects.filter(username="eve").exists()
    assert Entry.objects.latest("seq").outcome == "refused"


@pytest.mark.parametrize("password", ["short", "password123", "1234567890"])
def test_weak_passwords_are_refused(alice: User, password: str) -> None:
    with pytest.raises(Invalid):
        services.user_create(actor_of(alice), username="eve", password=password)


def test_the_first_admin_has_no_known_password(db: None) -> None:
    """AP-10."""
    password = services.ensure_admin()
    assert password is not None
    assert len(password) >= 12
    assert services.ensure_admin() is None
    assert sign_in(Client(), "admin", password) == 302
    assert sign_in(Client(), "admin", "admin") != 302


def test_passwords_are_not_in_the_book(alice: User) -> None:
    """AP-13, RT-13."""
    services.user_create(actor_of(alice), username="eve", password="a very long secret")
    services.user_update(
        actor_of(alice), User.objects.get(username="eve"), {"password": "another long secret"}
    )
    assert "secret" not in str(list(Entry.objects.values_list("body", "detail")))


def test_an_operator_has_only_given_rights() -> None:
    user = make_user("ops", "operator", right_devices=True)
    assert {right.value for right in Actor(user=user).rights} == {"devices"}

"""TLS client certificates as tokens: registered, signed by our own authority, and judged by the rules of tokens."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from tests.support.certificates import ThrowawayCA
from tests.support.web import PASSWORD, Api, actor_of
from webapp.accounts import authentication, services
from webapp.accounts.certificates import Authority, own_server_names
from webapp.accounts.models import Token, User
from webapp.audit.models import Entry, Face
from webapp.core.errors import Conflict, Denied, Invalid, NotSignedIn

pytestmark = pytest.mark.django_db
ApiOf = Callable[..., Api]


def identify(fingerprint: str) -> str:
    return authentication.actor_of_certificate(fingerprint, face=Face.DOCKER, address="").name


def test_an_issued_certificate_is_its_persons_until_it_is_ended(bob: User) -> None:
    token, issued = services.certificate_issue(actor_of(bob), name="laptop")
    assert identify(issued.fingerprint) == "bob"
    assert token.expires_at == issued.certificate.not_valid_after_utc
    entry = Entry.objects.get(action="token.create")
    assert issued.fingerprint in entry.body
    assert b"PRIVATE" not in str(Entry.objects.values()).encode()
    services.token_revoke(actor_of(bob), token)
    with pytest.raises(NotSignedIn):
        identify(issued.fingerprint)


def test_a_registered_certificate_ends_on_its_own_last_day(bob: User, tmp_path: Path) -> None:
    pem = ThrowawayCA(tmp_path).issue("bob").certificate.read_text()
    far = timezone.now() + timedelta(days=1000)
    token = services.certificate_register(actor_of(bob), pem=pem, name="mine", expires_at=far)
    assert token.expires_at is not None
    assert token.expires_at < timezone.now() + timedelta(days=11)
    soon = timezone.now() + timedelta(days=1)
    other = ThrowawayCA(tmp_path).issue("bob").certificate.read_text()
    assert (
        services.certificate_register(actor_of(bob), pem=other, name="x", expires_at=soon).expires_at == soon
    )


def test_a_certificate_belongs_to_one_and_stays_ended(alice: User, bob: User, tmp_path: Path) -> None:
    pem = ThrowawayCA(tmp_path).issue("bob").certificate.read_text()
    services.token_revoke(actor_of(bob), services.certificate_register(actor_of(bob), pem=pem, name="mine"))
    for person in (alice, bob):
        with pytest.raises(Conflict):
            services.certificate_register(actor_of(person), pem=pem, name="again")


def test_only_an_admin_gives_certificates_to_others(bob: User, vera: User, tmp_path: Path) -> None:
    pem = ThrowawayCA(tmp_path).issue("vera").certificate.read_text()
    with pytest.raises(Denied):
        services.certificate_register(actor_of(bob), pem=pem, name="x", user=vera)
    with pytest.raises(Denied):
        services.certificate_issue(actor_of(bob), name="x", user=vera)
    assert not Token.objects.exists()


def test_what_is_no_persons_certificate_is_refused(bob: User, tmp_path: Path) -> None:
    authority = ThrowawayCA(tmp_path)
    good = authority.issue("bob")
    for pem in (
        "",
        "x" * 100_000,
        authority.pem,
        good.certificate.read_text() * 2,
        good.key.read_text() + good.certificate.read_text(),
        authority.issue("bob", expired=True).certificate.read_text(),
    ):
        with pytest.raises(Invalid):
            services.certificate_register(actor_of(bob), pem=pem, name="x")
    assert not Token.objects.exists()


def test_a_certificate_by_rest_and_in_the_list(node: object, bob: User, api: ApiOf, tmp_path: Path) -> None:
    pem = ThrowawayCA(tmp_path).issue("bob").certificate.read_text()
    made = api(bob).write("/tokens/", {"name": "mine", "certificate": pem, "scope": "read"})
    assert (made.status_code, made.json()["secret"]) == (201, None)
    listed = api(bob).read("/tokens/").json()["results"]
    assert [item["fingerprint"] for item in listed if item["kind"] == "certificate"] == [
        made.json()["fingerprint"]
    ]


def test_a_certificate_by_the_page(bob: User, tmp_path: Path, settings: object) -> None:
    settings.HAS_TLS = True  # type: ignore[attr-defined]
    client = Client()
    client.post("/login/", {"username": "bob", "password": PASSWORD})
    pem = ThrowawayCA(tmp_path).issue("bob").certificate.read_text()
    assert 'name="certificate"' in client.get("/account/tokens/new/").content.decode()
    client.post("/account/tokens/new/", {"name": "card", "scope": "operate", "days": "0", "certificate": pem})
    token = Token.objects.get(name="card")
    assert identify(token.digest) == "bob"
    assert token.digest in client.get("/account/").content.decode()


def test_the_servers_own_certificate_is_kept_while_it_fits(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first = authority.server(["localhost", "127.0.0.1"]).read_bytes()
    assert Authority(tmp_path).server(["localhost", "127.0.0.1"]).read_bytes() == first
    assert authority.server(["localhost", "10.0.0.1"]).read_bytes() != first
    assert (tmp_path / "server.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "authority.pem").stat().st_mode & 0o777 == 0o600


def test_the_servers_certificate_is_for_the_names_of_its_pages() -> None:
    assert set(own_server_names()) >= {name for name in settings.ALLOWED_HOSTS if name != "*"}

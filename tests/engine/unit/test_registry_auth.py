"""Who sees which secret: authentication against a registry that lies about where to go (rows RG-05, RG-06, RG-08, RG-09)."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import EngineError
from engine.registry import (
    AccessRefused,
    Credentials,
    Registries,
    RegistryClient,
    RegistrySettings,
    RetryPolicy,
    Timeouts,
    Untrusted,
)
from tests.support.certificates import ThrowawayCA
from tests.support.fake_registry import Exchange, FakeRegistry, hang_up, layer, reply

LOOPBACK = ("127.0.0.1", "localhost")
ALICE = Credentials("alice", "s3cret-word")
QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02)


def registries(
    insecure: tuple[str, ...] = LOOPBACK, on_realm: Callable[[str, str], None] = lambda registry, host: None
) -> Registries:
    return Registries(
        insecure=insecure, retry=QUICK, timeouts=Timeouts(connect_s=2, read_s=2), on_realm=on_realm
    )


def read(client: RegistryClient) -> str:
    with client:
        return client.manifest("team/app", "1").digest


def image(registry: FakeRegistry) -> str:
    return registry.add_image("team/app", "1", [layer({"hello": b"world"})]).digest


def test_nothing_secret_is_sent_before_it_is_asked_for() -> None:
    with FakeRegistry() as registry:
        digest = image(registry)
        assert read(registries().open(registry.domain, credentials=ALICE)) == digest
        assert registry.authorizations() == set()


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_401_is_answered_as_it_asks(kind: str) -> None:
    with FakeRegistry(auth=kind) as registry:
        digest = image(registry)
        assert read(registries().open(registry.domain, credentials=ALICE)) == digest


def test_a_token_is_fetched_once_for_the_same_right() -> None:
    with FakeRegistry(auth="bearer") as registry:
        image(registry)
        shared = registries()
        for _ in range(3):
            read(shared.open(registry.domain, credentials=ALICE))
        assert registry.count("GET", "^/token") == 1


def test_a_token_serves_one_account_only() -> None:
    """RG-05: the cache of tokens is keyed by credential, scope and registry."""
    with FakeRegistry(auth="bearer") as registry:
        image(registry)
        shared = registries()
        read(shared.open(registry.domain, credentials=ALICE))
        with pytest.raises(AccessRefused):
            read(shared.open(registry.domain, credentials=Credentials("mallory", "guess")))


def test_a_token_that_expired_is_fetched_again() -> None:
    with FakeRegistry(auth="bearer") as registry:
        digest = image(registry)
        shared = registries()
        read(shared.open(registry.domain, credentials=ALICE))
        registry.tokens.clear()
        assert read(shared.open(registry.domain, credentials=ALICE)) == digest
        assert registry.count("GET", "^/token") == 2


def test_an_identity_token_goes_in_a_form_and_not_in_an_address() -> None:
    with FakeRegistry(auth="bearer") as registry:
        digest = image(registry)
        account = Credentials("<token>", identity_token="s3cret-word")
        assert read(registries().open(registry.domain, credentials=account)) == digest
        assert registry.count("POST", "^/token$") == 1
        assert not [seen for seen in registry.requests if "s3cret-word" in seen.path]


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_wrong_password_is_said_in_one_sentence(kind: str) -> None:
    with FakeRegistry(auth=kind) as registry:
        image(registry)
        with pytest.raises(AccessRefused) as caught:
            read(registries().open(registry.domain, credentials=Credentials("alice", "wrong-guess")))
        assert "does not accept the user name and password" in caught.value.message
        assert caught.value.hint
        assert "wrong-guess" not in str(caught.value.context) + caught.value.message


def test_without_an_account_the_hint_is_to_log_in() -> None:
    with FakeRegistry(auth="basic") as registry:
        image(registry)
        with pytest.raises(AccessRefused) as caught:
            read(registries().open(registry.domain))
        assert "log in" in caught.value.hint


REALMS = [
    "http://{other}/token",
    "https://{other}/token",
    "https://localhost:{port}/token",
    "https://169.254.169.254/latest/meta-data",
    "https://10.0.0.1/token",
    "https://192.168.0.1/token",
    "https://[::1]/token",
    "https://[::ffff:127.0.0.1]:{port}/token",
    "https://2130706433/token",
    "https://alice:pw@{other}/token",
    "file:///etc/passwd",
    "gopher://{other}/",
    "https://{other} /token",
    "https:///token",
    "https://x:99999/",
]


@pytest.mark.parametrize("realm", REALMS)
def test_a_realm_that_leads_inside_is_never_asked(realm: str, tmp_path: Path) -> None:
    """RG-05: realm SSRF; neither the request nor the password is sent."""
    authority = ThrowawayCA(tmp_path)
    names = authority.issue("127.0.0.1", "localhost")
    with (
        FakeRegistry(host="127.0.0.2", tls=names) as other,
        FakeRegistry(tls=names, auth="bearer") as registry,
    ):
        image(registry)
        registry.realm = realm.format(other=other.domain, port=other.domain.rpartition(":")[2])
        settings = RegistrySettings(registry.domain, ca_pem=authority.pem, credentials=ALICE)
        with pytest.raises(EngineError) as caught:
            read(registries(insecure=()).open(registry.domain, settings=settings))
        assert other.requests == []
        assert registry.authorizations() == set()
        assert isinstance(caught.value, Untrusted) or "no address" in caught.value.message


def test_a_plain_realm_of_a_tls_registry_is_never_asked(tmp_path: Path) -> None:
    """RG-05: `http:` realm of an `https:` registry, even on the registry's own host."""
    authority = ThrowawayCA(tmp_path)
    with FakeRegistry() as other, FakeRegistry(tls=authority.issue("127.0.0.1"), auth="bearer") as registry:
        image(registry)
        registry.realm = f"{other.url}/token"
        settings = RegistrySettings(registry.domain, ca_pem=authority.pem, credentials=ALICE, insecure=True)
        with pytest.raises(Untrusted):
            read(registries().open(registry.domain, settings=settings))
        assert other.requests == []


def test_the_first_use_of_a_foreign_token_server_is_told() -> None:
    """RG-05: the administrator can see where an account's password went."""
    told: list[tuple[str, str]] = []
    with FakeRegistry(host="127.0.0.1", auth="bearer") as registry:
        digest = image(registry)
        registry.realm = registry.url.replace("127.0.0.1", "localhost") + "/token"
        client = registries(on_realm=lambda name, host: told.append((name, host))).open(
            registry.domain, credentials=ALICE
        )
        assert read(client) == digest
        assert told == [(registry.domain, registry.domain.replace("127.0.0.1", "localhost"))]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_is_followed_without_the_secret(status: int) -> None:
    """RG-06: redirect to another host or port."""
    with FakeRegistry() as other, FakeRegistry(auth="basic") as registry:
        digest = image(registry)
        image(other)
        location = f"{other.url}/v2/team/app/manifests/1"
        registry.on("GET", "/manifests/", redirect_when_authorised(status, location), times=9)
        assert read(registries().open(registry.domain, credentials=ALICE)) == digest
        assert registry.authorizations() == {registry.basic()}
        assert other.count("GET", "/manifests/") == 1
        assert other.authorizations() == set()


def redirect_when_authorised(status: int, location: str) -> Callable[[Exchange], None]:
    def action(exchange: Exchange) -> None:
        if exchange.handler.headers.get("Authorization"):
            exchange.reply(status, b"", {"Location": location})
        else:
            exchange.serve()

    return action


def test_a_redirect_from_tls_to_plain_http_is_refused(tmp_path: Path) -> None:
    """RG-06: redirect to another scheme."""
    authority = ThrowawayCA(tmp_path)
    with FakeRegistry() as other, FakeRegistry(tls=authority.issue("127.0.0.1")) as registry:
        image(registry)
        registry.on("GET", "/manifests/", reply(307, b"", {"Location": f"{other.url}/x"}))
        settings = RegistrySettings(registry.domain, ca_pem=authority.pem)
        with pytest.raises(Untrusted):
            read(registries().open(registry.domain, settings=settings))
        assert other.requests == []


@pytest.mark.parametrize("flaw", ["self-signed", "expired", "wrong name", "other authority"])
def test_a_bad_certificate_is_refused(flaw: str, tmp_path: Path) -> None:
    """RG-08: self-signed, expired, wrong name; and there is no way round by plain HTTP."""
    authority = ThrowawayCA(tmp_path)
    names = ("wrong.example",) if flaw == "wrong name" else ("127.0.0.1",)
    files = authority.issue(*names, expired=flaw == "expired", self_signed=flaw == "self-signed")
    (tmp_path / "other").mkdir()
    believed = ThrowawayCA(tmp_path / "other").pem if flaw == "other authority" else authority.pem
    with FakeRegistry(tls=files) as registry:
        settings = RegistrySettings(registry.domain, ca_pem=believed, credentials=ALICE)
        with pytest.raises(Untrusted) as caught:
            read(registries(insecure=()).open(registry.domain, settings=settings))
        assert "certificate" in caught.value.message
        assert registry.requests == []


def test_plain_http_needs_the_list_or_the_flag() -> None:
    """RG-08: insecure only by the administrator."""
    with FakeRegistry() as registry:
        digest = image(registry)
        plain = RegistrySettings(registry.domain)
        with pytest.raises(EngineError):
            read(registries(insecure=()).open(registry.domain, settings=plain))
        assert registry.requests == []
        flagged = RegistrySettings(registry.domain, insecure=True)
        assert read(registries(insecure=()).open(registry.domain, settings=flagged)) == digest


def test_the_flag_of_unregistered_settings_counts_for_nothing() -> None:
    """RG-07, RG-08: what merely comes with a request opens no private address."""
    with FakeRegistry() as registry:
        image(registry)
        settings = RegistrySettings(registry.domain, insecure=True, registered=False)
        with pytest.raises(Untrusted):
            read(registries(insecure=()).open(registry.domain, settings=settings))
        assert registry.requests == []


def test_an_unverified_certificate_is_fine_on_the_insecure_list(tmp_path: Path) -> None:
    with FakeRegistry(tls=ThrowawayCA(tmp_path).issue("127.0.0.1", self_signed=True)) as registry:
        digest = image(registry)
        assert read(registries().open(registry.domain)) == digest


def test_a_token_server_that_fails_is_asked_again() -> None:
    with FakeRegistry(auth="bearer") as registry:
        digest = image(registry)
        registry.on("GET", "^/token", reply(503))
        registry.on("GET", "^/token", hang_up())
        assert read(registries().open(registry.domain, credentials=ALICE)) == digest
        assert registry.count("GET", "^/token") == 3


def test_a_page_that_echoes_the_secret_does_not_spread_it(caplog: pytest.LogCaptureFixture) -> None:
    """RG-09: neither the error nor a log line holds what the registry sent back."""

    def echo(exchange: Exchange) -> None:
        given = exchange.handler.headers.get("Authorization", "")
        if not given:
            return exchange.serve()
        body = {
            "errors": [
                {
                    "code": "DENIED",
                    "message": f"{given} {ALICE.password} at {exchange.registry.url}/x?t={given}",
                }
            ]
        }
        return exchange.reply(403, json.dumps(body).encode())

    caplog.set_level("DEBUG")
    with FakeRegistry(auth="basic") as registry:
        image(registry)
        registry.on("GET", "/manifests/", echo, times=9)
        with pytest.raises(AccessRefused) as caught:
            read(registries().open(registry.domain, credentials=ALICE))
        said = f"{caught.value.message} {caught.value.hint} {caught.value.context} {caplog.text}"
        assert ALICE.password not in said
        assert registry.basic().removeprefix("Basic ") not in said


def test_a_connection_that_the_registry_closed_meanwhile_is_replaced() -> None:
    def serve_and_close(exchange: Exchange) -> None:
        exchange.serve()
        exchange.hang_up()

    with FakeRegistry() as registry:
        digest = image(registry)
        registry.on("GET", "/manifests/", serve_and_close, times=3)
        with Registries(insecure=LOOPBACK, retry=RetryPolicy(attempts=1)).open(registry.domain) as client:
            for _ in range(4):
                assert client.manifest("team/app", "1").digest == digest


def test_many_threads_ask_for_one_token() -> None:
    with FakeRegistry(auth="bearer") as registry:
        digest = image(registry)
        with (
            registries().open(registry.domain, credentials=ALICE) as client,
            ThreadPoolExecutor(8) as executor,
        ):
            found = list(executor.map(lambda _: client.manifest("team/app", "1").digest, range(24)))
        assert set(found) == {digest}
        assert registry.count("GET", "^/token") == 1

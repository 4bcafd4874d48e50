"""Registries behind an HTTP proxy: what goes through it, what does not, and what it never learns."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import Cancelled, EngineError, InvalidInput, RegistryError
from engine.progress import CancelToken
from engine.reference import parse_reference
from engine.registry.client import Registries
from engine.registry.errors import Interrupted, Untrusted
from engine.registry.proxy import Proxies, Proxy, ProxyRefused, parse_proxy
from engine.registry.retry import RetryPolicy, Timeouts
from engine.registry.settings import Credentials, Origin, RegistrySettings
from tests.support.certificates import ThrowawayCA
from tests.support.fake_registry import FakeRegistry, layer
from tests.support.image_node import image_node
from tests.support.proxy import TestProxy

HOST = "registry.invalid:5443"  # RFC 2606: no resolver knows it, so only the proxy can
ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def authority(tmp_path: Path) -> ThrowawayCA:
    return ThrowawayCA(tmp_path)


@pytest.fixture
def registry(authority: ThrowawayCA) -> Iterator[FakeRegistry]:
    with FakeRegistry(tls=authority.issue("registry.invalid"), auth="basic") as registry:
        registry.add_image("team/app", "1", [layer({"a": b"secret-bytes" * 100})])
        yield registry


def address(registry: FakeRegistry) -> tuple[str, int]:
    host, _, port = registry.domain.rpartition(":")
    return host, int(port)


def settings(registry: FakeRegistry, ca_pem: str, host: str = HOST) -> RegistrySettings:
    return RegistrySettings(
        host, ca_pem=ca_pem, credentials=Credentials(registry.username, registry.password)
    )


def registries(proxy: TestProxy, *, user: str = "", **more: str) -> Registries:
    url = proxy.url(user)
    return Registries(
        insecure=("127.0.0.1", "plain.invalid:5000"),
        retry=ONCE,
        timeouts=Timeouts(connect_s=2, read_s=2),
        proxies=Proxies(https=url, http=url, **more),
    )


@pytest.mark.root
def test_a_pull_and_a_push_go_through_the_tunnel_and_the_proxy_reads_nothing(
    registry: FakeRegistry, authority: ThrowawayCA, tmp_path: Path
) -> None:
    with TestProxy({HOST: address(registry)}, password="carol:pa ss") as proxy:
        url = f"http://carol:pa%20ss@{proxy.address}"
        node = image_node(tmp_path / "node", proxies=Proxies(https=url))
        known = settings(registry, authority.pem)
        image = node.puller.pull(parse_reference(f"{HOST}/team/app:1"), settings=known)
        node.pusher.push(image.names[0], parse_reference(f"{HOST}/other/app:2"), settings=known)
        assert set(proxy.asked) == {f"CONNECT {HOST}"}
        assert proxy.carried
        for secret in (b"secret-bytes", registry.password.encode(), b"/v2/", b"Authorization"):
            assert secret not in proxy.carried
    assert registry.tags["other/app"] == {"2": image.manifest.digest}
    assert not any("proxy-authorization" in seen.headers for seen in registry.requests)


def test_the_certificate_is_checked_inside_the_tunnel(authority: ThrowawayCA, tmp_path: Path) -> None:
    """RG-08 through a proxy: another name, or nobody's authority."""
    with (
        FakeRegistry(tls=authority.issue("another.invalid")) as wrong,
        TestProxy({HOST: address(wrong)}) as proxy,
    ):
        for ca_pem in (authority.pem, ""):
            with (
                registries(proxy).open(HOST, settings=settings(wrong, ca_pem)) as client,
                pytest.raises(Untrusted, match="certificate"),
            ):
                client.ping()
        assert wrong.requests == []


def test_a_wrong_password_of_the_proxy_is_said_and_not_shown(registry: FakeRegistry) -> None:
    with TestProxy({HOST: address(registry)}, password="carol:right") as proxy:
        for user in ("", "carol:wrong-secret"):
            with (
                registries(proxy, user=user).open(HOST) as client,
                pytest.raises(ProxyRefused, match="does not accept the user name and password") as refused,
            ):
                client.ping()
            assert "wrong-secret" not in f"{refused.value} {refused.value.hint} {refused.value.context}"


def test_a_proxy_that_refuses_the_host_is_named(registry: FakeRegistry) -> None:
    with TestProxy({}, refuse=403) as proxy, registries(proxy).open(HOST) as client:
        with pytest.raises(ProxyRefused, match=f"does not connect to {HOST}") as refused:
            client.manifest("team/app", "1")
    assert "NO_PROXY" in refused.value.hint


def test_plain_http_is_forwarded_where_an_administrator_allowed_it() -> None:
    with FakeRegistry() as registry:
        registry.add_image("team/app", "1", [layer({"a": b"1"})])
        host = "plain.invalid:5000"
        with TestProxy({host: address(registry)}, password="carol:x") as proxy:
            with registries(proxy, user="carol:x").open(host) as client:
                assert client.tags("team/app") == ["1"]
            assert f"GET http://{host}/v2/team/app/tags/list?n=1000" in proxy.asked
            with registries(proxy).open(host) as client, pytest.raises(RegistryError, match="the proxy"):
                client.tags("team/app")
        assert not any("proxy-authorization" in seen.headers for seen in registry.requests)


def test_loopback_and_what_is_listed_is_reached_directly() -> None:
    with FakeRegistry() as registry, TestProxy({}) as proxy:
        registry.add_image("team/app", "1", [layer({"a": b"1"})])
        with registries(proxy).open(registry.domain) as client:
            assert client.tags("team/app") == ["1"]
        with (
            registries(proxy, direct="invalid").open(HOST) as client,
            pytest.raises(RegistryError, match="address"),
        ):
            client.ping()
        assert proxy.asked == []


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "10.0.0.8", "[fd00::1]", "192.168.1.1:5000", "0.0.0.0:1", "[::ffff:a00:1]"]
)
def test_the_proxy_is_never_asked_for_an_inner_address(host: str) -> None:
    """RG-05, RG-07 through a proxy."""
    with TestProxy({}) as proxy, registries(proxy).open(host) as client:
        with pytest.raises(Untrusted):
            client.ping()
        assert proxy.asked == []


def test_a_name_that_is_known_here_is_judged_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that redirects to a name of the inner network does not have the proxy fetch it."""
    known = socket.getaddrinfo

    def resolver(host: str, *rest: object, **more: object) -> object:
        return known("10.1.2.3" if host == "inside.invalid" else host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with TestProxy({}) as proxy, registries(proxy).open("inside.invalid") as client:
        with pytest.raises(Untrusted, match="private address"):
            client.ping()
        assert proxy.asked == []


def test_an_administrators_registry_inside_goes_through_the_proxy_all_the_same(
    registry: FakeRegistry, authority: ThrowawayCA
) -> None:
    files = authority.issue("10.9.9.9")
    with FakeRegistry(tls=files) as inner, TestProxy({"10.9.9.9:5000": address(inner)}) as proxy:
        known = RegistrySettings("10.9.9.9:5000", ca_pem=authority.pem)
        with registries(proxy).open("10.9.9.9:5000", settings=known) as client:
            client.ping()
        assert proxy.asked == ["CONNECT 10.9.9.9:5000"]


def test_something_that_is_no_proxy_is_named(registry: FakeRegistry) -> None:
    with FakeRegistry(tls=None) as other:
        other.on("CONNECT", "", lambda exchange: exchange.hang_up())
        wrong = Registries(retry=ONCE, proxies=Proxies(https=f"http://{other.domain}"))
        with wrong.open(HOST) as client, pytest.raises(EngineError, match=r"the proxy 127.0.0.1"):
            client.ping()


def test_a_silent_proxy_is_given_up_and_a_cancel_ends_it_sooner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxies = Proxies(https=f"127.0.0.1:{silent.getsockname()[1]}")
        impatient = Registries(retry=ONCE, timeouts=Timeouts(connect_s=0.6), proxies=proxies)
        with impatient.open(HOST) as client, pytest.raises(Interrupted, match="does not answer"):
            client.ping()
        cancel = CancelToken()
        threading.Timer(0.2, cancel.cancel).start()
        started = time.monotonic()
        patient = Registries(retry=ONCE, timeouts=Timeouts(connect_s=30), proxies=proxies)
        with patient.open(HOST, cancel=cancel) as client, pytest.raises(Cancelled):
            client.ping()
        assert time.monotonic() - started < 2


# --- the settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direct", "host", "expected"),
    [
        ("", "registry.example", True),
        ("*", "registry.example", False),
        ("example", "registry.example", False),
        ("registry.example", "registry.example", False),
        ("registry.example", "sub.registry.example", False),
        ("registry.example", "notregistry.example", True),
        (".registry.example", "registry.example", True),
        (".registry.example", "sub.registry.example", False),
        ("registry.example:5000", "registry.example", True),
        ("registry.example:443", "registry.example", False),
        ("a, registry.example , b", "registry.example", False),
        ("10.0.0.0/8", "10.1.2.3", False),
        ("10.0.0.0/8", "11.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", False),
        ("fd00::/8", "fd00::1", False),
        ("", "127.0.0.1", False),
        ("", "localhost", False),
        ("", "::1", False),
    ],
)
def test_what_goes_through_the_proxy(direct: str, host: str, expected: bool) -> None:
    proxies = Proxies(https="http://proxy.example:3128", direct=direct)
    assert (proxies.to(Origin("https", host, 443)) is not None) is expected


def test_each_scheme_has_its_own_proxy() -> None:
    proxies = Proxies(https="http://one:1", http="two:2")
    assert proxies.to(Origin("https", "registry.example", 443)) == Proxy("one", 1)
    assert proxies.to(Origin("http", "registry.example", 80)) == Proxy("two", 2)
    assert Proxies().to(Origin("https", "registry.example", 443)) is None


@pytest.mark.parametrize(
    "text",
    ["https://carol:pw@proxy:1", "socks5://proxy", "http://", "http://carol:pw@proxy:99999", "http://[::1"],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(InvalidInput, match="no http:// address") as refused:
        parse_proxy(text)
    assert "pw" not in f"{refused.value} {refused.value.hint}"


def test_a_password_of_a_proxy_is_in_no_repr() -> None:
    proxies = Proxies(https="http://carol:hunter22@proxy:1", http="http://carol:hunter22@proxy:1")
    assert "hunter22" not in repr(proxies)
    assert "hunter22" not in repr(parse_proxy(proxies.https))
    assert parse_proxy(proxies.https).authorization.startswith("Basic ")
    assert parse_proxy("proxy.example:3128") == Proxy("proxy.example", 3128)

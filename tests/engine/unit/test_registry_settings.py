"""Which hosts and addresses the engine may talk to on behalf of a registry."""

from __future__ import annotations

import pytest

from engine.errors import BadReference
from engine.registry.settings import Credentials, Origin, Trust, registry_origin, split_host

PUBLIC = Trust(registry_origin("registry.example"))
REGISTERED = Trust(registry_origin("registry.lan"), registered=True)
LOOPBACK = Trust(registry_origin("127.0.0.1:5000", "http"), insecure=("127.0.0.1", "localhost", "::1"))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_a_public_registry_never_leads_inside(address: str) -> None:
    """RG-05, RG-07: loopback, private, link-local and metadata addresses are refused, also in IPv6 clothes."""
    assert PUBLIC.refuses(PUBLIC.home, address)
    assert PUBLIC.refuses(Origin("https", address, 443), address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1"])
def test_public_addresses_are_fine(address: str) -> None:
    assert not PUBLIC.refuses(PUBLIC.home, address)


def test_a_registered_registry_may_be_in_a_private_network_but_not_at_the_metadata_address() -> None:
    assert not REGISTERED.refuses(REGISTERED.home, "10.1.2.3")
    assert REGISTERED.refuses(REGISTERED.home, "169.254.169.254")


def test_a_registered_registry_gives_no_right_to_its_neighbours() -> None:
    assert REGISTERED.refuses(Origin("https", "auth.lan", 443), "10.1.2.4")


def test_the_insecure_list_opens_nothing_to_a_registry_outside_it() -> None:
    trust = Trust(registry_origin("registry.example"), insecure=("127.0.0.1", "localhost"))
    assert trust.refuses(Origin("http", "127.0.0.1", 6379), "127.0.0.1")
    assert not trust.is_insecure(Origin("http", "127.0.0.1", 6379))


def test_a_name_on_the_list_must_match_with_its_port() -> None:
    trust = Trust(registry_origin("registry.lan:5000"), insecure=("registry.lan:5000",))
    other = Trust(registry_origin("registry.lan:6000"), insecure=("registry.lan:5000",))
    assert trust.is_insecure(trust.home)
    assert not other.is_insecure(other.home)


def test_networks_on_the_list() -> None:
    trust = Trust(registry_origin("10.1.2.3:5000"), insecure=("10.0.0.0/8",))
    assert trust.is_insecure(trust.home)
    assert not trust.refuses(trust.home, "10.1.2.3")
    assert LOOPBACK.is_insecure(Origin("http", "localhost", 9))


@pytest.mark.parametrize("domain", ["registry.lan:0", "registry.lan:65536", "registry.lan:750050"])
def test_a_port_beyond_the_range_is_refused(domain: str) -> None:
    """RG-07: port overflow."""
    with pytest.raises(BadReference):
        registry_origin(domain)


def test_split_host_reads_ipv6() -> None:
    assert split_host("[2001:db8::1]:5000") == ("2001:db8::1", 5000)
    assert split_host("[2001:db8::1]") == ("2001:db8::1", 0)
    assert registry_origin("[::1]:5000").netloc == "[::1]:5000"


def test_docker_io_is_at_its_registry() -> None:
    assert str(registry_origin("docker.io")) == "https://registry-1.docker.io"


def test_secrets_are_not_in_the_text_of_credentials() -> None:
    """RG-09: whoever logs the value logs no secret."""
    text = repr(Credentials("alice", "s3cret-word", "id-token"))
    assert "s3cret-word" not in text
    assert "id-token" not in text

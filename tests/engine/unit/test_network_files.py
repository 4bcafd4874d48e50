"""What a container finds in /etc/resolv.conf and /etc/hosts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.containers.model import Container, ContainerSpec, Endpoint, Status
from engine.errors import BadSpec, NetworkNotFound
from engine.network import files
from engine.network.dns import host_resolvers, host_search
from engine.network.model import Network, Subnet

BRIDGE = Endpoint("n0", "bridge", ipv4_address="10.201.0.2", gateway="10.201.0.1")
APP = Endpoint("n1", "app", ipv4_address="10.201.4.2", gateway="10.201.4.1", ipv6_address="fd00:4::2")


def container(*endpoints: Endpoint, **spec: object) -> Container:
    wanted = replace(ContainerSpec("image"), **spec)
    return Container(
        "abcdef0123456789", "web", wanted, "", "", Status.RUNNING, 0.0, endpoints=list(endpoints)
    )


def find(ref: str) -> Network:
    if ref not in ("n0", "n1"):
        raise NetworkNotFound("gone")
    name = "bridge" if ref == "n0" else "app"
    gateway = "10.201.0.1" if ref == "n0" else "10.201.4.1"
    return Network(
        ref, name, "bridge", "br", False, False, [Subnet(gateway[:-1] + "0/24", gateway)], {}, {}, 0.0
    )


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    return replace(EngineConfig.from_home(tmp_path), dns_upstreams=("192.0.2.53", "127.0.0.53"))


@pytest.fixture(autouse=True)
def no_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "resolv.conf"
    empty.write_text("")
    monkeypatch.setattr(files, "host_search", lambda: host_search(empty))


def test_network_with_names_is_asked_first(config: EngineConfig) -> None:
    text = files.resolv_conf(container(BRIDGE, APP), find, config)
    assert text == "nameserver 10.201.4.1\noptions ndots:0\n"


def test_default_network_asks_the_resolvers_of_the_host_but_not_its_loopback(config: EngineConfig) -> None:
    assert files.resolv_conf(container(BRIDGE), find, config) == "nameserver 192.0.2.53\n"
    alone = replace(config, dns_upstreams=("127.0.0.53",))
    assert files.resolv_conf(container(BRIDGE), find, alone) == "nameserver 10.201.0.1\n"


def test_what_was_asked_for_is_written(config: EngineConfig) -> None:
    asked = container(BRIDGE, dns=["192.0.2.1"], dns_search=["corp.example"], dns_options=["timeout:1"])
    expected = "nameserver 192.0.2.1\nsearch corp.example\noptions timeout:1\n"
    assert files.resolv_conf(asked, find, config) == expected


def test_search_domains_of_the_host_are_inherited_unless_others_are_asked_for(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "host_search", lambda: ["corp.example", "lan"])
    assert "search corp.example lan\n" in files.resolv_conf(container(BRIDGE, APP), find, config)
    asked = container(BRIDGE, dns_search=["other.example"])
    assert "search other.example\n" in files.resolv_conf(asked, find, config)
    assert "search" not in files.resolv_conf(container(BRIDGE, dns_search=["."]), find, config)


def test_own_resolvers_stay_behind_the_names_of_the_network(config: EngineConfig) -> None:
    assert "nameserver 10.201.4.1\n" in files.resolv_conf(container(APP, dns=["192.0.2.1"]), find, config)


@pytest.mark.parametrize(
    "spec",
    [
        {"dns": ["1.1.1.1\nnameserver 6.6.6.6"]},
        {"dns": ["resolver"]},
        {"dns_search": ["a\nnameserver 6.6.6.6"]},
        {"dns_options": ["x\ty"]},
    ],
)
def test_line_break_in_a_value_is_refused(config: EngineConfig, spec: dict[str, list[str]]) -> None:
    """RT-15."""
    with pytest.raises(BadSpec):
        files.resolv_conf(container(BRIDGE, **spec), find, config)


def test_hosts_name_the_container_on_all_its_networks() -> None:
    text = files.hosts(
        container(BRIDGE, APP, hostname="web", extra_hosts=["db:192.0.2.7", "up=host-gateway"]), "10.201.0.1"
    )
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-5:] == [
        "192.0.2.7\tdb",
        "10.201.0.1\tup",
        "10.201.0.2\tweb",
        "10.201.4.2\tweb",
        "fd00:4::2\tweb",
    ]


def test_hosts_use_the_short_id_and_the_domain() -> None:
    assert files.hosts(container(BRIDGE), "").endswith("10.201.0.2\tabcdef012345\n")
    assert "web.example web" in files.hosts(container(BRIDGE, hostname="web", domainname="example"), "")


@pytest.mark.parametrize("entry", ["db", ":1.1.1.1", "a b:1.1.1.1", "db:nowhere", "db\n6.6.6.6 bank:1.1.1.1"])
def test_extra_host_that_is_none_is_refused(entry: str) -> None:
    """RT-15."""
    with pytest.raises(BadSpec):
        files.hosts(container(BRIDGE, extra_hosts=[entry]), "")


def test_resolvers_of_the_host_are_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a.example\nsearch b.example c.example\n"
    )
    assert host_resolvers(path) == ["192.0.2.1"]
    assert host_search(path) == ["b.example", "c.example"]
    assert host_resolvers(tmp_path / "none") == []

"""Networks on record: made, listed, found, refused, removed, pruned; free of conflicts with what the host has."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.containers.model import EndpointSpec, PortSpec
from engine.db import Database
from engine.errors import AlreadyExists, BadSpec, Denied, InUse, InvalidInput, NetworkNotFound, Unsupported
from engine.linux import links
from engine.linux.netlink import NETLINK_ROUTE, Netlink
from engine.network import SCHEMA, NetworkManager, NetworkSpec, SubnetSpec
from engine.network.model import BRIDGE_NAME, MTU
from tests.support.netlab import Lab, container, lab

pytestmark = pytest.mark.root


@pytest.fixture
def machine(tmp_path: Path, engine_config: EngineConfig) -> Iterator[Lab]:
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def db(engine_config: EngineConfig) -> Database:
    return Database(engine_config.database, [SCHEMA])


@pytest.fixture
def manager(engine_config: EngineConfig, machine: Lab, db: Database) -> NetworkManager:
    return NetworkManager(engine_config, db)


def link(name: str) -> links.Link | None:
    with Netlink(NETLINK_ROUTE) as route:
        return links.find_link(route, name)


def test_default_and_built_in_networks_are_always_there(manager: NetworkManager) -> None:
    assert [(network.name, network.driver) for network in manager.list()] == [
        ("bridge", "bridge"), ("host", "host"), ("none", "null"),
    ]  # fmt: skip
    assert manager.get("default") == manager.get("bridge")
    for name in ("bridge", "host", "none"):
        with pytest.raises(Denied):
            manager.remove(name)
    for name in ("host", "none", "default"):
        with pytest.raises(Denied):
            manager.create(NetworkSpec(name))


def test_network_is_found_by_name_id_and_short_id(manager: NetworkManager) -> None:
    made = manager.create(NetworkSpec("app", labels={"a": "b"}), "5" * 64)
    assert made.id == "5" * 64
    assert manager.get("app") == manager.get(made.id) == manager.get(made.id[:12])
    assert manager.get("app").labels == {"a": "b"}
    with pytest.raises(NetworkNotFound):
        manager.get("nothing")


def test_create_with_the_same_id_is_repeatable_and_a_taken_name_is_refused(manager: NetworkManager) -> None:
    made = manager.create(NetworkSpec("app"), "5" * 64)
    assert manager.create(NetworkSpec("app"), "5" * 64) == made
    with pytest.raises(AlreadyExists):
        manager.create(NetworkSpec("app"), "6" * 64)
    with pytest.raises(BadSpec):
        manager.create(NetworkSpec("other"), "not an id")


def test_free_subnet_avoids_routes_addresses_and_other_networks(
    manager: NetworkManager, machine: Lab
) -> None:
    """NW-07."""
    with Netlink(NETLINK_ROUTE) as route:
        lan = links.find_link(route, "lan0")
        assert lan is not None
        route.request(links.add_address(lan.index, ip_address("10.201.1.77"), 24))
    found = [manager.get("bridge"), *(manager.create(NetworkSpec(f"n{number}")) for number in range(3))]
    subnets = [network.subnets[0].network for network in found]
    for number, subnet in enumerate(subnets):
        assert not subnet.overlaps(ip_network("10.201.1.0/24"))
        assert not any(subnet.overlaps(other) for other in subnets[number + 1 :])


def test_subnet_of_the_host_or_of_another_network_is_refused(manager: NetworkManager) -> None:
    """NW-07."""
    with pytest.raises(AlreadyExists, match="this machine"):
        manager.create(NetworkSpec("app", subnets=[SubnetSpec("198.51.100.128/25")]))
    manager.create(NetworkSpec("app", subnets=[SubnetSpec("10.77.0.0/16", gateway="10.77.0.254")]))
    with pytest.raises(AlreadyExists, match=r"10\.77\.0\.0/16"):
        manager.create(NetworkSpec("again", subnets=[SubnetSpec("10.77.3.0/24")]))
    with pytest.raises(BadSpec, match="at most one"):
        manager.create(NetworkSpec("two", subnets=[SubnetSpec("10.78.0.0/24"), SubnetSpec("10.79.0.0/24")]))
    assert manager.get("app").subnets[0].gateway == "10.77.0.254"


def test_network_that_cannot_be_made_leaves_nothing(manager: NetworkManager, db: Database) -> None:
    manager.restore()
    before, events = {network.name for network in manager.list()}, db.last_seq()
    with pytest.raises(AlreadyExists, match="interface lan0 exists"):
        manager.create(NetworkSpec("app", options={BRIDGE_NAME: "lan0"}))
    with pytest.raises(InvalidInput):
        manager.create(NetworkSpec("app", options={BRIDGE_NAME: "a;b"}))
    assert {network.name for network in manager.list()} == before
    assert db.last_seq() == events
    assert manager.check([]) == []


def test_bridge_has_the_name_and_size_asked_for(manager: NetworkManager) -> None:
    manager.create(NetworkSpec("app", options={BRIDGE_NAME: "mybridge0", MTU: "1400"}))
    found = link("mybridge0")
    assert found is not None
    assert (found.up, found.mtu) == (True, 1400)
    manager.remove("app")
    assert link("mybridge0") is None


def test_bridge_is_as_narrow_as_the_way_out(manager: NetworkManager, machine: Lab, tmp_path: Path) -> None:
    """On a host behind a tunnel or in a cloud containers must not believe in 1500 bytes."""
    subprocess.run(["ip", "link", "set", "lan0", "mtu", "1400"], check=True)
    subprocess.run(["ip", "route", "add", "default", "via", "198.51.100.9"], check=True)
    manager.create(NetworkSpec("app"))
    web = container(manager, tmp_path, 1, network="app")
    with web.run(lambda: Netlink(NETLINK_ROUTE)) as inside:
        eth0 = links.find_link(inside, "eth0")
    assert eth0 is not None
    assert eth0.mtu == 1400
    manager.release(web.id)
    manager.remove_netns(web.netns)


def test_used_network_is_not_removed_and_shows_its_members(manager: NetworkManager, tmp_path: Path) -> None:
    manager.create(NetworkSpec("app"))
    web = container(
        manager, tmp_path, 1, network="app", name="web", spec=EndpointSpec("app", aliases=["www"])
    )
    (member,) = manager.get("app").members
    assert (member.name, member.ipv4_address, member.aliases) == ("web", f"{web.address}/24", ["www"])
    with pytest.raises(InUse, match="used by web"):
        manager.remove("app")
    manager.release(web.id)
    manager.remove_netns(web.netns)
    assert manager.get("app").members == []
    manager.remove("app")


def test_prune_takes_what_nobody_uses_or_will_use(manager: NetworkManager, tmp_path: Path) -> None:
    for name in ("used", "wanted", "idle", "labelled"):
        manager.create(NetworkSpec(name, labels={"keep": "1"} if name == "labelled" else {}))
    web = container(manager, tmp_path, 1, network="used")
    removed = manager.prune(keep=["wanted"], matches=lambda network: "keep" not in network.labels)
    assert [network.name for network in removed] == ["idle"]
    assert {network.name for network in manager.list()} >= {"used", "wanted", "labelled", "bridge"}
    manager.release(web.id)
    manager.remove_netns(web.netns)


def test_every_change_is_an_event_with_the_record(
    manager: NetworkManager, db: Database, tmp_path: Path
) -> None:
    manager.get("bridge")
    start = db.last_seq()
    network = manager.create(NetworkSpec("app"))
    web = container(manager, tmp_path, 1, network="app", name="web")
    manager.release(web.id)
    manager.release(web.id)
    manager.remove_netns(web.netns)
    manager.remove("app")
    events = db.events_after(start)
    assert [(event.type, event.action) for event in events] == [
        ("network", "create"), ("network", "connect"), ("network", "disconnect"), ("network", "destroy"),
    ]  # fmt: skip
    assert {event.subject for event in events} == {network.id}
    assert events[0].attributes["record"]["subnets"][0]["gateway"] == network.subnets[0].gateway
    assert events[1].attributes["container"] == web.id
    assert events[1].attributes["container_name"] == "web"


def test_address_is_asked_for_twice_and_given_once(manager: NetworkManager) -> None:
    first = manager.allocate("bridge", "1" * 64, name="web")
    assert manager.allocate("bridge", "1" * 64, name="web") == first
    manager.detach("1" * 64, "bridge")
    manager.detach("1" * 64, "bridge")
    assert manager.endpoints("1" * 64) == []
    second = manager.allocate("bridge", "2" * 64)
    assert second.ipv4_address != first.ipv4_address, "a freed address rests for a while"
    manager.release("2" * 64)


def test_networks_of_the_host_give_no_addresses(manager: NetworkManager) -> None:
    for name in ("host", "none"):
        with pytest.raises(Denied):
            manager.allocate(name, "1" * 64)


def test_port_on_ipv6_loopback_is_said_to_be_impossible(manager: NetworkManager) -> None:
    with pytest.raises(Unsupported, match="::1"):
        manager.hold("1" * 64, [PortSpec(80, host_ip="::1", host_port=8080)])

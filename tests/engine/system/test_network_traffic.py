"""What packets reach whom: published and unpublished ports, isolation, the machine itself, the world outside."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.containers.model import EndpointSpec, PortSpec
from engine.db import Database
from engine.errors import AlreadyExists, BadSpec
from engine.linux import links
from engine.linux.netlink import NETLINK_ROUTE, Netlink, in_netns
from engine.linux.nft import Element, Interface
from engine.network import SCHEMA, NetworkManager, NetworkSpec, SubnetSpec
from engine.network.interfaces import make_netns, remove_netns
from engine.network.model import ICC, MASQUERADE
from engine.network.portguard import link_local
from tests.support.netlab import (
    MACHINE,
    MACHINE6,
    NEIGHBOUR,
    NEIGHBOUR6,
    SILENCE_S,
    FakeContainer,
    Lab,
    ask,
    ask_loopback_of_machine,
    container,
    lab,
)

pytestmark = pytest.mark.root


@pytest.fixture
def machine(tmp_path: Path, engine_config: EngineConfig) -> Iterator[Lab]:
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def manager(engine_config: EngineConfig, machine: Lab) -> NetworkManager:
    found = NetworkManager(engine_config, Database(engine_config.database, [SCHEMA]))
    found.restore()
    return found


@pytest.fixture
def new(manager: NetworkManager, tmp_path: Path) -> Iterator[Callable[..., FakeContainer]]:
    made: list[FakeContainer] = []

    def make(**options: object) -> FakeContainer:
        made.append(container(manager, tmp_path, len(made), **options))
        return made[-1]

    yield make
    for item in made:
        manager.release(item.id)
        manager.remove_netns(item.netns)


def test_container_reaches_the_world_under_the_address_of_the_machine(machine: Lab, new) -> None:
    machine.serve(machine.neighbour, 80)
    assert new().ask(NEIGHBOUR, 80) == f"hello {MACHINE}"


def test_containers_of_a_network_reach_each_other_under_their_own_addresses(machine: Lab, new) -> None:
    one, two = new(), new()
    machine.serve(two.netns, 80)
    assert one.ask(two.address, 80) == f"hello {one.address}"


def test_published_port_is_reached_from_everywhere(machine: Lab, new) -> None:
    web = new(ports=[PortSpec(80, host_ip="0.0.0.0", host_port=8080)])
    other = new()
    machine.serve(web.netns, 80)
    assert ask("127.0.0.1", 8080).startswith("hello")
    assert ask(MACHINE, 8080).startswith("hello")
    assert machine.on_neighbour(lambda: ask(MACHINE, 8080)) == f"hello {NEIGHBOUR}"
    assert other.ask(MACHINE, 8080).startswith("hello")
    assert web.ask(MACHINE, 8080).startswith("hello")


def test_port_published_on_loopback_stays_on_this_machine(machine: Lab, new) -> None:
    """NW-02: not by the machine's address, not by the container's, not by sending 127.0.0.1 over the wire."""
    web = new(ports=[PortSpec(80, host_port=8080)])
    machine.serve(web.netns, 80)
    assert ask("127.0.0.1", 8080).startswith("hello")
    assert machine.on_neighbour(lambda: ask(MACHINE, 8080)) == "refused"
    assert machine.neighbour_hears_nothing(web.address, 80)


def test_networks_are_closed_to_each_other(machine: Lab, new, manager: NetworkManager) -> None:
    """NW-02: another network's container is reached by a published port only."""
    manager.create(NetworkSpec("front"))
    manager.create(NetworkSpec("back"))
    web = new(network="back", ports=[PortSpec(80, host_ip="0.0.0.0", host_port=8080)])
    machine.serve(web.netns, 80)
    stranger = new(network="front")
    assert stranger.hears_nothing(web.address, 80)
    assert stranger.ask(MACHINE, 8080).startswith("hello")


def test_container_reaches_nothing_of_the_machine_itself(machine: Lab, new) -> None:
    """RT-12: neither by the gateway nor by another address of the machine, nor by its loopback."""
    for port in (6379, 5432, 8000):
        machine.serve(machine.machine, port)
    box = new()
    for port in (6379, 5432, 8000):
        assert box.ask(box.endpoint.gateway, port) == "refused"
        assert box.ask(MACHINE, port) == "refused"
    assert ask_loopback_of_machine(box, 6379) in ("timeout", "unreachable")


def test_policy_opens_a_port_of_the_machine(
    engine_config: EngineConfig, machine: Lab, tmp_path: Path
) -> None:
    config = replace(engine_config, container_host_ports=(8000,))
    manager = NetworkManager(config, Database(config.database, [SCHEMA]))
    manager.restore()
    machine.serve(machine.machine, 8000)
    machine.serve(machine.machine, 6379)
    box = container(manager, tmp_path, 1)
    assert box.ask(box.endpoint.gateway, 8000) == f"hello {box.address}"
    assert box.ask(box.endpoint.gateway, 6379) == "refused"
    manager.release(box.id)
    manager.remove_netns(box.netns)


def test_secrets_of_a_cloud_are_out_of_reach(machine: Lab, new) -> None:
    """RT-12: 169.254.169.254."""
    with Netlink(NETLINK_ROUTE) as route:
        lan = links.find_link(route, "lan0")
        assert lan is not None
        route.request(links.add_address(lan.index, ip_address("169.254.1.1"), 16))
    in_netns(machine.neighbour, lambda: _add_address("169.254.169.254", 16))
    machine.serve(machine.neighbour, 80)
    assert ask("169.254.169.254", 80).startswith("hello")
    assert new().ask("169.254.169.254", 80) == "unreachable"


def test_internal_network_has_no_way_out_and_none_in(machine: Lab, new, manager: NetworkManager) -> None:
    """NW-06."""
    manager.create(NetworkSpec("vault", internal=True))
    manager.create(NetworkSpec("front"))
    one, two = (
        new(network="vault"),
        new(network="vault", ports=[PortSpec(80, host_ip="0.0.0.0", host_port=8080)]),
    )
    machine.serve(two.netns, 80)
    machine.serve(machine.neighbour, 80)
    assert one.ask(two.address, 80) == f"hello {one.address}"
    assert one.hears_nothing(NEIGHBOUR, 80)
    one.run(lambda: _route_by(two.address.rpartition(".")[0] + ".1"))
    assert one.hears_nothing(NEIGHBOUR, 80)
    assert machine.neighbour_hears_nothing(MACHINE, 8080)
    assert new(network="front").hears_nothing(two.address, 80)


def test_network_without_talk_between_containers(machine: Lab, new, manager: NetworkManager) -> None:
    manager.create(NetworkSpec("cells", options={ICC: "false"}))
    one, two = new(network="cells"), new(network="cells")
    machine.serve(two.netns, 80)
    machine.serve(machine.neighbour, 80)
    assert one.hears_nothing(two.address, 80)
    assert one.ask(NEIGHBOUR, 80).startswith("hello")


def test_network_without_translation_keeps_the_container_s_address(
    machine: Lab, new, manager: NetworkManager
) -> None:
    manager.create(NetworkSpec("plain", options={MASQUERADE: "false"}))
    one = new(network="plain")
    machine.serve(machine.neighbour, 80)
    assert one.ask(NEIGHBOUR, 80) == f"hello {one.address}"


@pytest.mark.parametrize("udp", [False, True])
def test_unpublished_port_is_closed_at_once(machine: Lab, new, manager: NetworkManager, udp: bool) -> None:
    protocol = "udp" if udp else "tcp"
    web = new(ports=[PortSpec(80, protocol, host_ip="0.0.0.0", host_port=8080)])
    machine.serve(web.netns, 80, udp=udp)
    assert machine.on_neighbour(lambda: ask(MACHINE, 8080, udp=udp)) == f"hello {NEIGHBOUR}"
    assert ask("127.0.0.1", 8080, udp=udp).startswith("hello")
    manager.unpublish(web.id)
    assert machine.neighbour_hears_nothing(MACHINE, 8080, udp=udp)
    assert not ask("127.0.0.1", 8080, udp=udp).startswith("hello")


def test_udp_follows_the_port_to_its_new_container(machine: Lab, new, manager: NetworkManager) -> None:
    """A client that keeps sending from one port is not stuck to the container that is gone."""
    port = [PortSpec(80, "udp", host_ip="0.0.0.0", host_port=8080)]
    old = new(ports=port)
    machine.serve(old.netns, 80, udp=True, answer=b"old")
    client = in_netns(machine.neighbour, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with client:
        client.settimeout(1)
        client.connect((MACHINE, 8080))
        client.send(b"?")
        assert client.recv(100).startswith(b"old")
        manager.release(old.id)
        fresh = new(ports=port)
        machine.serve(fresh.netns, 80, udp=True, answer=b"new")
        client.send(b"?")
        assert client.recv(100).startswith(b"new")


def test_ipv6_network_reaches_out_publishes_and_stays_closed(
    machine: Lab, new, manager: NetworkManager
) -> None:
    manager.create(NetworkSpec("six", ipv6=True))
    manager.create(NetworkSpec("other", ipv6=True))
    machine.serve(machine.neighbour, 80)
    ports = [PortSpec(80, host_ip="::", host_port=8080), PortSpec(80, host_ip="0.0.0.0", host_port=8080)]
    web, friend, stranger = new(network="six", ports=ports), new(network="six"), new(network="other")
    machine.serve(web.netns, 80)
    assert web.ask(NEIGHBOUR6, 80) == f"hello {MACHINE6}"
    assert friend.ask(web.endpoint.ipv6_address, 80) == f"hello {friend.endpoint.ipv6_address}"
    assert machine.on_neighbour(lambda: ask(MACHINE6, 8080)) == f"hello {NEIGHBOUR6}"
    assert ask(MACHINE6, 8080).startswith("hello")
    assert stranger.hears_nothing(web.endpoint.ipv6_address, 80)
    assert stranger.ask(MACHINE6, 8080).startswith("hello")
    assert machine.neighbour_hears_nothing(web.endpoint.ipv6_address, 80)


def test_network_without_ipv6_has_none_at_all(new) -> None:
    """NW-06, CVE-2024-32473: no link-local address either."""
    box = new()
    with box.run(lambda: Netlink(NETLINK_ROUTE)) as inside:
        own = [str(address) for _, address, _ in links.list_addresses(inside)]
    assert sorted(own) == sorted(["127.0.0.1", "::1", box.address])


def test_forged_addresses_go_nowhere(machine: Lab, new) -> None:
    """NW-05: another's IP, another's hardware address, ARP in another's name."""
    victim, liar = new(), new()
    machine.serve(victim.netns, 80, udp=True)
    before = victim.run(_neighbours)
    liar.run(lambda: _add_address(victim.address[:-1] + "9", 22))
    answer = liar.run(
        lambda: ask(victim.address, 80, udp=True, source=victim.address[:-1] + "9", timeout_s=SILENCE_S)
    )
    assert answer in ("timeout", "unreachable")
    gateway = ip_address(liar.endpoint.gateway).packed
    mine = bytes.fromhex(liar.endpoint.mac_address.replace(":", ""))
    forged = (
        b"\xff" * 6
        + mine
        + b"\x08\x06"
        + bytes.fromhex("0001080006040002")
        + mine
        + gateway
        + b"\xff" * 6
        + gateway
    )
    liar.run(lambda: _send_frame(forged))
    stolen = bytes.fromhex("0242") + gateway
    liar.run(lambda: _send_frame(b"\xff" * 6 + stolen + b"\x08\x06" + bytes(28)))
    time.sleep(0.05)
    assert victim.run(_neighbours) == before
    assert new().ask(victim.address, 80, udp=True).startswith("hello")


def test_router_advertisements_of_a_container_are_dropped(new, manager: NetworkManager) -> None:
    """NW-05, CVE-2020-13401."""
    manager.create(NetworkSpec("six", ipv6=True))
    victim, liar = new(network="six"), new(network="six")
    mine = bytes.fromhex(liar.endpoint.mac_address.replace(":", ""))
    source = link_local(mine).packed
    advertisement = bytes([134, 0, 0, 0, 64, 0, 0x07, 0x08]) + bytes(8)
    payload = (
        struct.pack(">IHBB", 6 << 28, len(advertisement), 58, 255)
        + source
        + bytes.fromhex("ff02" + "0" * 27 + "1")
    )
    frame = bytes.fromhex("333300000001") + mine + b"\x86\xdd" + payload + advertisement
    seen = victim.run(lambda: _listen_for(0x86DD))
    with seen:
        liar.run(lambda: _send_frame(frame))
        assert not _saw(seen, bytes([134]), at=54)


def test_container_joins_and_leaves_a_network_while_it_runs(
    machine: Lab, new, manager: NetworkManager
) -> None:
    manager.create(NetworkSpec("front"))
    manager.create(NetworkSpec("back"))
    web, db = new(network="front"), new(network="back")
    machine.serve(db.netns, 5432)
    machine.serve(machine.neighbour, 80)
    assert web.hears_nothing(db.address, 5432)
    endpoint = manager.attach(web.netns, web.id, manager.allocate("back", web.id, EndpointSpec("back")))
    assert web.ask(db.address, 5432) == f"hello {endpoint.ipv4_address}"
    manager.detach(web.id, "front")
    assert web.ask(NEIGHBOUR, 80) == f"hello {MACHINE}"
    manager.detach(web.id, "back")
    assert web.ask(db.address, 5432) == "unreachable"


def test_fixed_address_and_hardware_address_are_given(new, manager: NetworkManager) -> None:
    manager.create(NetworkSpec("app", subnets=[SubnetSpec("10.66.0.0/24", ip_range="10.66.0.128/25")]))
    fixed = new(
        network="app", spec=EndpointSpec("app", ipv4_address="10.66.0.9", mac_address="02:42:AC:11:00:02")
    )
    free = new(network="app")
    assert fixed.address == "10.66.0.9"
    assert fixed.endpoint.mac_address == "02:42:ac:11:00:02"
    assert free.address == "10.66.0.128"
    with pytest.raises(AlreadyExists, match=r"10\.66\.0\.9 is in use"):
        manager.allocate("app", "f" * 64, EndpointSpec("app", ipv4_address="10.66.0.9"))
    with pytest.raises(BadSpec, match="not in the subnet"):
        manager.allocate("app", "f" * 64, EndpointSpec("app", ipv4_address="10.67.0.9"))


def test_machine_that_we_made_forward_is_no_router_for_others(
    machine: Lab, manager: NetworkManager, tmp_path: Path
) -> None:
    """It forwards for containers; between its own interfaces it did not before, and does not now."""
    far = tmp_path / "far"
    make_netns(far)
    try:
        with far.open("rb") as descriptor, Netlink(NETLINK_ROUTE) as route:
            route.request(
                links.veth(
                    "lan9",
                    master=0,
                    peer="eth0",
                    peer_netns=descriptor.fileno(),
                    peer_mac="02:00:00:00:00:19",
                )
            )
            near = links.find_link(route, "lan9")
            assert near is not None
            route.request(links.add_address(near.index, ip_address("203.0.113.1"), 24))
        in_netns(far, lambda: (_add_address("203.0.113.9", 24), _route_by("203.0.113.1")))
        machine.serve(far, 80)
        assert ask("203.0.113.9", 80).startswith("hello")
        own = [Element("uplinks", (Interface("lan0"),)), Element("uplinks", (Interface("lan9"),))]
        manager._firewall.table.add(own)
        assert machine.neighbour_hears_nothing("203.0.113.9", 80)
    finally:
        remove_netns(far)


def _add_address(address: str, prefix: int) -> None:
    with Netlink(NETLINK_ROUTE) as route:
        eth0 = links.find_link(route, "eth0")
        assert eth0 is not None
        route.request(links.add_address(eth0.index, ip_address(address), prefix), links.set_up(eth0.index))


def _route_by(gateway: str) -> None:
    with Netlink(NETLINK_ROUTE) as route:
        eth0 = links.find_link(route, "eth0")
        assert eth0 is not None
        route.request(links.default_route(eth0.index, ip_address(gateway)))


def _send_frame(frame: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(frame)


def _listen_for(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    sock.bind(("eth0", protocol))
    sock.settimeout(0.2)
    return sock


def _saw(sock: socket.socket, what: bytes, *, at: int) -> bool:
    try:
        while True:
            if sock.recv(2000)[at : at + len(what)] == what:
                return True
    except TimeoutError:
        return False


def _neighbours() -> str:
    lines = Path("/proc/thread-self/net/arp").read_text().splitlines()[1:]
    return "\n".join(
        sorted(" ".join(line.split()[:1] + line.split()[3:4]) for line in lines if "0x2" in line)
    )

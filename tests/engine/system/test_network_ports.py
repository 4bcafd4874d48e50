"""Host ports: refused with who uses them, held before the container starts, free again after."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.containers.model import PortBinding, PortSpec
from engine.db import Database
from engine.errors import AlreadyExists, BadSpec, Denied, NoSpace, Unsupported
from engine.linux.netlink import in_netns
from engine.network import SCHEMA, NetworkManager
from engine.network.model import NetworkSpec
from tests.support.netlab import MACHINE, MACHINE6, Lab, ask, container, lab

pytestmark = pytest.mark.root

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def machine(tmp_path: Path, engine_config: EngineConfig) -> Iterator[Lab]:
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def manager(engine_config: EngineConfig, machine: Lab) -> NetworkManager:
    config = replace(engine_config, denied_host_ports=(22,))
    found = NetworkManager(config, Database(config.database, [SCHEMA]))
    found.restore()
    return found


def test_address_by_policy_where_none_is_named(manager: NetworkManager) -> None:
    assert manager.hold(ONE, [PortSpec(80, host_port=8080)]) == [PortBinding(80, "tcp", "127.0.0.1", 8080)]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "198.51.100.1"])
def test_port_of_another_program_is_refused_by_its_name(
    manager: NetworkManager, machine: Lab, address: str
) -> None:
    with socket.create_server((address, 8080)):
        with pytest.raises(AlreadyExists, match=rf"8080/tcp is in use by .*\(process {os.getpid()}\)"):
            manager.hold(ONE, [PortSpec(80, host_ip=address, host_port=8080)])
    assert manager.hold(ONE, [PortSpec(80, host_ip=address, host_port=8080)])


@pytest.mark.parametrize(("first", "second"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "198.51.100.1")])
def test_port_of_another_container_is_refused_by_its_name(
    manager: NetworkManager, first: str, second: str
) -> None:
    manager.hold(ONE, [PortSpec(80, host_ip=first, host_port=8080)], name="web")
    with pytest.raises(AlreadyExists, match="in use by container web"):
        manager.hold(TWO, [PortSpec(80, host_ip=second, host_port=8080)], name="blog")
    assert manager.hold(TWO, [PortSpec(80, "udp", host_ip=second, host_port=8080)], name="blog")


def test_of_two_that_want_a_port_one_gets_it(manager: NetworkManager, machine: Lab) -> None:
    """NW-01."""

    def hold(identity: str) -> bool:
        try:
            manager.hold(identity, [PortSpec(80, host_port=8080)], name=identity[:4])
        except AlreadyExists:
            return False
        return True

    work = [f"{number:064x}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda identity: in_netns(machine.machine, lambda: hold(identity)), work))
    assert won.count(True) == 1


def test_held_port_can_be_bound_by_nobody_and_answers_nobody(manager: NetworkManager) -> None:
    """NW-01: also in the moment when no rule leads to the container."""
    manager.hold(ONE, [PortSpec(80, host_port=8080), PortSpec(53, "udp", host_port=5353)])
    sockets = manager.sockets(ONE)
    try:
        assert ask("127.0.0.1", 8080) == "refused"
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("0.0.0.0", 8080))
        with (
            pytest.raises(OSError, match="in use"),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            other.bind(("127.0.0.1", 5353))
    finally:
        for sock in sockets:
            sock.close()


def test_port_taken_after_it_was_held_fails_the_start_by_name(manager: NetworkManager) -> None:
    manager.hold(ONE, [PortSpec(80, host_port=8080)])
    with socket.create_server(("127.0.0.1", 8080)), pytest.raises(AlreadyExists, match="in use by"):
        manager.sockets(ONE)


def test_asked_again_a_container_keeps_its_ports(manager: NetworkManager) -> None:
    first = manager.hold(ONE, [PortSpec(80), PortSpec(443)])
    assert manager.hold(ONE, [PortSpec(80), PortSpec(443)]) == first
    assert len({binding.host_port for binding in first}) == 2
    manager.unpublish(ONE)
    manager.unpublish(ONE)
    assert manager.held_ports() == []


def test_range_of_host_ports_gives_the_first_that_is_free(manager: NetworkManager) -> None:
    with socket.create_server(("127.0.0.1", 9000)):
        (first,) = manager.hold(ONE, [PortSpec(80, host_port=9000, host_port_end=9001)])
        assert first.host_port == 9001
        with pytest.raises(NoSpace, match="9000-9001"):
            manager.hold(TWO, [PortSpec(80, host_port=9000, host_port_end=9001)])


def test_kept_ports_and_foreign_addresses_are_refused(manager: NetworkManager) -> None:
    """NW-01: deny list, address not owned."""
    with pytest.raises(Denied, match="kept for this machine"):
        manager.hold(ONE, [PortSpec(22, host_port=22)])
    with pytest.raises(BadSpec, match=r"203\.0\.113\.5 is not this machine's"):
        manager.hold(ONE, [PortSpec(80, host_ip="203.0.113.5", host_port=8080)])
    with pytest.raises(BadSpec, match="invalid IP address"):
        manager.hold(ONE, [PortSpec(80, host_ip="localhost", host_port=8080)])
    assert manager.held_ports() == []


def test_port_outside_the_range_of_the_machine_is_refused(engine_config: EngineConfig, machine: Lab) -> None:
    """NW-01: below 1024, where the administrator says so; random ports come from the range too."""
    config = replace(engine_config, publish_range=(1024, 33000))
    manager = NetworkManager(config, Database(config.database, [SCHEMA]))
    manager.restore()
    for port in (80, 33001):
        with pytest.raises(
            Denied, match=f"host port {port} is not one that this machine publishes"
        ) as refused:
            manager.hold(ONE, [PortSpec(80, host_port=port)])
        assert "from 1024 to 33000" in refused.value.hint
    (chosen,) = manager.hold(ONE, [PortSpec(80, host_port=1023, host_port_end=1025)])
    assert chosen.host_port == 1024
    (drawn,) = manager.hold(TWO, [PortSpec(80)])
    assert 32768 <= drawn.host_port <= 33000


def test_port_twice_in_one_request_is_refused(manager: NetworkManager) -> None:
    with pytest.raises(AlreadyExists, match="asked for twice"):
        manager.hold(ONE, [PortSpec(80, host_port=8080), PortSpec(81, host_port=8080)])


def test_connections_that_linger_from_an_earlier_program_do_not_hold_a_port(manager: NetworkManager) -> None:
    with (
        socket.create_server(("127.0.0.1", 8080)) as server,
        socket.create_connection(("127.0.0.1", 8080)) as client,
    ):
        accepted, _ = server.accept()
        accepted.close()  # this side waits now, in TIME_WAIT
        client.recv(1)
    (binding,) = manager.hold(ONE, [PortSpec(80, host_port=8080)])
    assert binding.host_port == 8080
    for sock in manager.sockets(ONE):
        sock.close()


def test_published_port_is_still_held_by_the_socket(
    manager: NetworkManager, machine: Lab, tmp_path: Path
) -> None:
    web = container(manager, tmp_path, 1, ports=[PortSpec(80, host_port=8080)])
    machine.serve(web.netns, 80)
    sockets = manager.sockets(web.id)
    assert ask("127.0.0.1", 8080).startswith("hello")
    for sock in sockets:
        sock.close()
    manager.release(web.id)
    manager.remove_netns(web.netns)


def test_ipv6_address_needs_a_network_with_ipv6(
    manager: NetworkManager, machine: Lab, tmp_path: Path
) -> None:
    with pytest.raises(BadSpec, match="has no IPv6"):
        container(manager, tmp_path, 1, ports=[PortSpec(80, host_ip="::", host_port=8080)])
    assert manager.held_ports() == []


@pytest.fixture
def six(manager: NetworkManager) -> str:
    """A network with IPv6."""
    return manager.create(NetworkSpec("six", ipv6=True)).name


@pytest.mark.parametrize("host_ip", ["::", MACHINE6])
def test_port_on_an_ipv6_address_is_reached_from_everywhere(
    manager: NetworkManager, machine: Lab, tmp_path: Path, six: str, host_ip: str
) -> None:
    ports = [
        PortSpec(80, host_ip=host_ip, host_port=8080),
        PortSpec(53, "udp", host_ip=host_ip, host_port=5353),
    ]
    web = container(manager, tmp_path, 1, network=six, ports=ports)
    other = container(manager, tmp_path, 2, network=six)
    sockets = manager.sockets(web.id)
    try:
        machine.serve(web.netns, 80)
        machine.serve(web.netns, 53, udp=True)
        assert ask(MACHINE6, 8080).startswith("hello")
        assert ask(MACHINE6, 5353, udp=True).startswith("hello")
        assert machine.on_neighbour(lambda: ask(MACHINE6, 8080)).startswith("hello 2001:db8:51::9")
        assert other.ask(MACHINE6, 8080).startswith("hello")
        assert machine.neighbour_hears_nothing(MACHINE, 8080)  # an IPv6 address publishes on IPv6 alone
        assert ask("::1", 8080) == "refused"  # said by the refusal of ::1: there is no way from it
        manager.unpublish(web.id)
        assert machine.neighbour_hears_nothing(MACHINE6, 8080)
    finally:
        for sock in sockets:
            sock.close()
        for box in (web, other):
            manager.release(box.id)
            manager.remove_netns(box.netns)


def test_ipv6_loopback_is_refused_with_what_works_instead(manager: NetworkManager, six: str) -> None:
    with pytest.raises(Unsupported, match="cannot be published on ::1") as refused:
        manager.hold(ONE, [PortSpec(80, host_ip="::1", host_port=8080)])
    assert "127.0.0.1" in refused.value.hint
    assert manager.held_ports() == []


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("fe80::1", "link-local"),
        ("fe80::1%lan0", "link-local"),
        ("2001:db8:51::1%lan0", "link-local"),
        ("ff02::1", "address of a group"),
        ("224.0.0.1", "address of a group"),
        ("2001:db8:99::1", "is not this machine's"),
    ],
)
def test_address_that_cannot_publish_is_refused_by_what_it_is(
    manager: NetworkManager, address: str, why: str
) -> None:
    with pytest.raises(BadSpec, match=why):
        manager.hold(ONE, [PortSpec(80, host_ip=address, host_port=8080)])
    assert manager.held_ports() == []


def test_ipv4_address_in_ipv6_clothes_is_the_ipv4_address(manager: NetworkManager) -> None:
    (binding,) = manager.hold(ONE, [PortSpec(80, host_ip="::ffff:127.0.0.1", host_port=8080)])
    assert binding.host_ip == "127.0.0.1"
    with pytest.raises(AlreadyExists):
        manager.hold(TWO, [PortSpec(80, host_ip="127.0.0.1", host_port=8080)])


def test_families_do_not_stand_in_each_other_s_way(manager: NetworkManager, six: str) -> None:
    assert manager.hold(ONE, [PortSpec(80, host_ip="0.0.0.0", host_port=8080)])
    assert manager.hold(TWO, [PortSpec(80, host_ip="::", host_port=8080)])
    for sock in (*manager.sockets(ONE), *manager.sockets(TWO)):
        sock.close()

"""After a flush, beside other firewalls, with things left over: rules come back, nothing opens, nothing of others goes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest

from engine.config import EngineConfig
from engine.containers.model import PortSpec
from engine.db import Database
from engine.linux import links
from engine.linux.netlink import NETLINK_ROUTE, Netlink
from engine.network import SCHEMA, NetworkManager, NetworkSpec, interfaces
from engine.network.guard import FirewallGuard
from engine.network.interfaces import remove_netns
from tests.support.netlab import (
    MACHINE,
    NEIGHBOUR,
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


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], check=True, capture_output=True, text=True).stdout


def iptables(tool: str, *words: str) -> str:
    return subprocess.run([tool, *words], check=True, capture_output=True, text=True).stdout


def test_restore_brings_everything_back_after_a_flush(manager: NetworkManager, machine: Lab, new) -> None:
    """NW-03."""
    web = new(ports=[PortSpec(80, host_ip="0.0.0.0", host_port=8080)])
    machine.serve(web.netns, 80)
    nft("flush", "ruleset")
    assert machine.neighbour_hears_nothing(MACHINE, 8080)
    assert manager.restore() == [f"table {manager.table_name}"]
    assert machine.on_neighbour(lambda: ask(MACHINE, 8080)) == f"hello {NEIGHBOUR}"
    assert manager.restore() == []


def test_nothing_is_open_while_the_rules_are_gone(manager: NetworkManager, machine: Lab, new) -> None:
    """NW-03: the drops live with routes and ports, not with the rules."""
    manager.create(NetworkSpec("front"))
    manager.create(NetworkSpec("vault", internal=True))
    web, stranger, locked = new(), new(network="front"), new(network="vault")
    machine.serve(web.netns, 80)
    machine.serve(machine.machine, 6379, address="127.0.0.1")
    machine.serve(machine.neighbour, 80)
    nft("flush", "ruleset")
    assert machine.neighbour_hears_nothing(web.address, 80)
    assert stranger.hears_nothing(web.address, 80)
    assert locked.hears_nothing(NEIGHBOUR, 80)
    assert ask_loopback_of_machine(web, 6379) in ("timeout", "unreachable")


async def test_guard_puts_flushed_rules_back_at_once(manager: NetworkManager, machine: Lab, new) -> None:
    """NW-03: within 5 seconds."""
    web = new(ports=[PortSpec(80, host_ip="0.0.0.0", host_port=8080)])
    machine.serve(web.netns, 80)
    guard = FirewallGuard(manager)
    await guard.start()
    try:
        nft("flush", "ruleset")
        started = time.monotonic()
        while guard.restored == 0:
            assert time.monotonic() - started < 5
            await asyncio.sleep(0.01)
        answer = await asyncio.to_thread(machine.on_neighbour, lambda: ask(MACHINE, 8080))
        assert answer == f"hello {NEIGHBOUR}"
    finally:
        await guard.stop()


def test_restore_makes_a_lost_bridge_again(manager: NetworkManager) -> None:
    network = manager.create(NetworkSpec("app"))
    with Netlink(NETLINK_ROUTE) as route:
        link = links.find_link(route, network.bridge)
        assert link is not None
        route.request(links.remove(link.index))
        assert f"bridge {network.bridge}" in manager.restore()
        assert links.find_link(route, network.bridge) is not None
    assert manager.check([]) == []


def test_only_our_own_table_changes(manager: NetworkManager, new) -> None:
    """NW-04 and F-28: tables of others stay byte for byte."""
    nft("add", "table", "inet", "foreign")
    nft("add", "chain", "inet", "foreign", "c", "{ type filter hook forward priority 10; }")
    before = nft("list", "table", "inet", "foreign")
    network = manager.create(NetworkSpec("app"))
    new(network="app", ports=[PortSpec(80)])
    manager.sweep([])
    manager.remove(network.id)
    manager.dismantle()
    assert nft("list", "tables").split() == ["table", "inet", "foreign"]
    assert nft("list", "table", "inet", "foreign") == before


def test_sweep_removes_ours_and_nothing_else(manager: NetworkManager, machine: Lab, new) -> None:
    """F-28."""
    alive, dead = new(), new(ports=[PortSpec(80, host_port=8080)])
    with Netlink(NETLINK_ROUTE) as route:
        route.request(links.bridge("foreign0", alias="", mac="02:00:00:00:00:77"))
        stray = f"wb{manager._config.instance[:6]}0000000"
        route.request(links.bridge(stray, alias="", mac="02:00:00:00:00:78"))
        found = links.find_link(route, stray)
        assert found is not None
        route.request(links.set_alias(found.index, f"wharfinger-{manager._config.instance}:network:gone"))
    swept = manager.sweep([alive.id])
    assert any("8080" in item or "ports" in item for item in swept)
    assert f"interface {stray}" in swept
    with Netlink(NETLINK_ROUTE) as route:
        names = {link.name for link in links.list_links(route)}
        route.request(
            *[links.remove(link.index) for link in links.list_links(route) if link.name == "foreign0"]
        )
    assert "foreign0" in names
    assert stray not in names
    assert manager.endpoints(alive.id)
    assert not manager.endpoints(dead.id)
    assert manager.check([alive.id]) == []


def test_check_names_what_does_not_match(manager: NetworkManager, new) -> None:
    item = new(name="web")
    assert manager.check([item.id]) == []
    assert "held by container web, which does not run" in " ".join(manager.check([]))
    nft("delete", "table", "inet", manager.table_name)
    assert f"the table {manager.table_name} is missing" in manager.check([item.id])
    manager.restore()
    subprocess.run(["ip", "rule", "del", "to", "10.201.0.0/22"], check=True)
    assert any("routing rule missing" in text for text in manager.check([item.id]))
    assert manager.restore() != []


@pytest.mark.parametrize("tool", ["iptables", "iptables-legacy"])
@pytest.mark.parametrize("with_docker", [True, False])
def test_works_beside_a_firewall_that_drops_by_default(
    manager: NetworkManager, machine: Lab, new, tool: str, with_docker: bool
) -> None:
    """As Docker (its own chain for others' rules) and ufw leave the shared chains behind."""
    if which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    iptables(tool, "-P", "FORWARD", "DROP")
    iptables(tool, "-P", "INPUT", "DROP")
    if with_docker:
        iptables(tool, "-N", "DOCKER-USER")
        iptables(tool, "-A", "DOCKER-USER", "-j", "RETURN")
        iptables(tool, "-A", "FORWARD", "-j", "DOCKER-USER")
    machine.serve(machine.neighbour, 80)
    web = new(ports=[PortSpec(80, host_ip="0.0.0.0", host_port=8080)])
    machine.serve(web.netns, 80)
    assert web.hears_nothing(NEIGHBOUR, 80)
    manager.restore()
    assert web.ask(NEIGHBOUR, 80) == f"hello {MACHINE}"
    assert machine.on_neighbour(lambda: ask(MACHINE, 8080)) == f"hello {NEIGHBOUR}"
    assert web.ask(web.endpoint.gateway, 5432) == "refused"
    listed = iptables(tool, "-S")
    manager.restore()
    assert iptables(tool, "-S") == listed
    manager.dismantle()
    assert manager.table_name not in iptables(tool, "-S")


def test_firewall_that_cannot_be_opened_is_named(manager: NetworkManager) -> None:
    nft("add", "table", "inet", "strict")
    nft("add", "chain", "inet", "strict", "f", "{ type filter hook forward priority 0; policy drop; }")
    found = [text for text in manager.check([]) if "another firewall" in text]
    assert len(found) == 1
    assert "inet strict f" in found[0]


@pytest.mark.parametrize(
    "point", ["hold", "allocate", "veth", "alias", "guard", "record", "publish", "release"]
)
def test_killed_at_any_point_leaves_nothing_that_sweep_does_not_find(
    manager: NetworkManager, machine: Lab, tmp_path: Path, point: str
) -> None:
    """F-04, F-28: the worker is killed in the middle; the next one finds and removes it all, and the port is free."""
    child = os.fork()
    if child == 0:
        _die_at(manager, tmp_path, point)
    os.waitpid(child, 0)
    remove_netns(tmp_path / "half")
    manager.sweep([])
    assert manager.check([]) == []
    with Netlink(NETLINK_ROUTE) as route:
        own = [link for link in links.list_links(route) if link.name.startswith("wv")]
    assert own == []
    assert manager.hold("f" * 64, [PortSpec(80, host_port=8080)])


def _die_at(manager: NetworkManager, folder: Path, point: str) -> None:
    """Go through a container's start and end, and be killed at `point`."""
    die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    if point == "alias":
        links.set_alias = die
    elif point == "guard":
        manager._members._guard = die
    elif point == "record":
        manager._members._record = die
    identity = "e" * 64
    bindings = manager.hold(identity, [PortSpec(80, host_port=8080)])
    if point == "hold":
        die()
    manager.make_netns(folder / "half")
    endpoint = manager.allocate("bridge", identity, name="half")
    if point == "allocate":
        die()
    if point == "veth":
        interfaces._configure = die
    endpoint = manager.attach(folder / "half", identity, endpoint)
    manager.publish(identity, endpoint, bindings)
    if point == "publish":
        die()
    manager._networks.announce = die
    manager.release(identity)
    die()


def test_restart_of_the_engine_changes_nothing(
    manager: NetworkManager, engine_config: EngineConfig, new
) -> None:
    web = new(ports=[PortSpec(80)])
    before = nft("list", "ruleset")
    again = NetworkManager(engine_config, Database(engine_config.database, [SCHEMA]))
    assert again.restore() == []
    assert nft("list", "ruleset") == before
    assert again.endpoints(web.id) == manager.endpoints(web.id)

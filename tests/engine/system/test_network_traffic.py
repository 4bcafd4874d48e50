"""What packets reach whom: published and unpublished ports, isolation, the machine itself, the world outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.containers.model import PortSpec
from engine.db import Database
from engine.network import SCHEMA, NetworkManager, NetworkSpec
from tests.support.netlab import MACHINE, NEIGHBOUR, FakeContainer, Lab, ask, container, lab

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
def new(manager: NetworkManager, tmp_path: Path) -> Iterator:
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
    assert machine.on_neighbour(lambda: ask(web.address, 80)) == "timeout"


def test_networks_are_closed_to_each_other(machine: Lab, new, manager: NetworkManager) -> None:
    """NW-02: another network's container is reached by a published port only."""
    manager.create(NetworkSpec("front"))
    manager.create(NetworkSpec("back"))
    web = new(network="back", ports=[PortSpec(80, host_ip="0.0.0.0", host_port=8080)])
    machine.serve(web.netns, 80)
    stranger = new(network="front")
    assert stranger.ask(web.address, 80) == "timeout"
    assert stranger.ask(MACHINE, 8080).startswith("hello")

"""The tester tells each reason apart, as seen from inside a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.containers.model import Container, ContainerSpec, Status
from engine.db import Database
from engine.network import SCHEMA, NetworkManager, NetworkSpec
from engine.network.tester import Outcome, Trial
from tests.support.netlab import NEIGHBOUR, FakeContainer, Lab, container, lab

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
def cast(manager: NetworkManager, tmp_path: Path) -> Iterator[dict[str, FakeContainer]]:
    """`web` and `friend` on one network, `stranger` on another, `monk` on an internal one."""
    made: dict[str, FakeContainer] = {}
    for name, network in (("web", "front"), ("friend", "front"), ("stranger", "back"), ("monk", "vault")):
        if network not in {item.name for item in manager.list()}:
            manager.create(NetworkSpec(network, internal=network == "vault"))
        made[name] = container(manager, tmp_path, len(made), network=network, name=name)
    yield made
    for item in made.values():
        manager.release(item.id)
        manager.remove_netns(item.netns)


def attempt(
    manager: NetworkManager, box: FakeContainer, target: str, port: int, protocol: str = "tcp"
) -> Trial:
    record = Container(
        box.id, "x", ContainerSpec("image"), "", "", Status.RUNNING, 0.0, endpoints=[box.endpoint]
    )
    return manager.try_connection(record, box.netns, target, port, protocol=protocol, timeout_s=0.5)


def test_open_port_is_ok_with_its_time(manager: NetworkManager, machine: Lab, cast) -> None:
    machine.serve(cast["friend"].netns, 80)
    trial = attempt(manager, cast["web"], cast["friend"].address, 80)
    assert trial.outcome is Outcome.OK
    assert 0 < trial.attempts[0].duration_s < 0.5


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_closed_port_is_refused(manager: NetworkManager, cast, protocol: str) -> None:
    trial = attempt(manager, cast["web"], cast["friend"].address, 81, protocol)
    assert trial.outcome is Outcome.REFUSED
    assert "nothing listens" in trial.detail


def test_address_on_another_network_is_named_so(manager: NetworkManager, machine: Lab, cast) -> None:
    machine.serve(cast["stranger"].netns, 80)
    trial = attempt(manager, cast["web"], cast["stranger"].address, 80)
    assert trial.outcome is Outcome.OTHER_NETWORK
    assert "network back" in trial.detail
    assert "connect" in trial.hint


def test_outside_from_an_internal_network_is_explained(manager: NetworkManager, machine: Lab, cast) -> None:
    machine.serve(machine.neighbour, 80)
    assert attempt(manager, cast["web"], NEIGHBOUR, 80).outcome is Outcome.OK
    trial = attempt(manager, cast["monk"], NEIGHBOUR, 80)
    assert trial.outcome is Outcome.UNREACHABLE
    assert "internal" in trial.detail


def test_silent_address_is_filtered(manager: NetworkManager, machine: Lab, cast) -> None:
    trial = attempt(manager, cast["web"], NEIGHBOUR, 80)
    assert trial.outcome is Outcome.REFUSED
    assert attempt(manager, cast["web"], "198.51.100.77", 80).outcome in (
        Outcome.FILTERED,
        Outcome.UNREACHABLE,
    )


def test_no_name_server_is_told_from_an_unknown_name(manager: NetworkManager, cast) -> None:
    trial = attempt(manager, cast["web"], "friend", 80)
    assert trial.outcome is Outcome.RESOLVER_SILENT
    assert "agent" in trial.hint

"""Each guard of rows NW-01 to NW-04, RT-08 and RT-12 taken away: the row's own test must fail then.

A test that stays green without the guard proves nothing. Everything happens in namespaces of the test's own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.db import Database
from engine.network import SCHEMA, NetworkManager, firewall, memberships, model, reservations
from engine.network.guard import FirewallGuard
from engine.network.upkeep import Upkeep
from engine.volumes import SCHEMA as VOLUMES
from engine.volumes import VolumeManager, binds, manager
from tests.engine.system import test_network_ports as ports
from tests.engine.system import test_network_traffic as traffic
from tests.engine.system import test_network_upkeep as upkeep
from tests.engine.system import test_volumes as volumes
from tests.engine.unit import test_network_model as names
from tests.support import netlab
from tests.support.netlab import FakeContainer, Lab, ask_loopback_of_machine, container, lab

pytestmark = pytest.mark.root


def turns_red(row: Callable[[], Any]) -> bool:
    """Tell whether a row's test fails: by its assertions, or because what had to be refused was not."""
    try:
        row()
    except (AssertionError, pytest.fail.Exception):
        return True
    return False


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes now that nothing stops it may come late on a busy machine."""
    monkeypatch.setattr(netlab, "SILENCE_S", netlab.TIMEOUT_S)


@pytest.fixture
def machine(tmp_path: Path, engine_config: EngineConfig) -> Iterator[Lab]:
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def network(engine_config: EngineConfig, machine: Lab) -> Callable[..., NetworkManager]:
    """Make the networks of an engine, after the guard was taken away."""

    def make(**changes: Any) -> NetworkManager:
        config = replace(engine_config, denied_host_ports=(22,))
        config = replace(config, **changes)
        found = NetworkManager(config, Database(config.database, [SCHEMA]))
        found.restore()
        return found

    return make


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[Callable[..., Callable[..., FakeContainer]]]:
    """Give the `new` of the rows' tests for an engine's networks."""
    made: list[tuple[NetworkManager, FakeContainer]] = []

    def of(network: NetworkManager) -> Callable[..., FakeContainer]:
        def new(**options: Any) -> FakeContainer:
            made.append((network, container(network, tmp_path, len(made), **options)))
            return made[-1][1]

        return new

    yield of
    for network, item in made:
        network.release(item.id)
        network.remove_netns(item.netns)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Take a line out of the rules."""

    def take(line: str, instead: str = "") -> None:
        assert line in firewall._CHAINS
        monkeypatch.setattr(firewall, "_CHAINS", firewall._CHAINS.replace(line, instead))

    return take


# NW-01: host ports


def test_ports_that_are_not_held(network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetworkManager, "sockets", lambda self, identity: [])
    assert turns_red(partial(ports.test_held_port_can_be_bound_by_nobody_and_answers_nobody, network()))


def test_two_that_both_get_the_port(network, machine: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "select_port_holders", lambda *_: [])
    monkeypatch.setattr(reservations, "insert_ports", lambda *_: None)
    assert turns_red(partial(ports.test_of_two_that_want_a_port_one_gets_it, network(), machine))


def test_no_list_of_kept_ports(network) -> None:
    assert turns_red(
        partial(ports.test_kept_ports_and_foreign_addresses_are_refused, network(denied_host_ports=()))
    )


def test_published_to_everybody_where_no_address_is_named(network, machine: Lab, boxes) -> None:
    everybody = network(default_publish_address="0.0.0.0")
    row = partial(traffic.test_port_published_on_loopback_stays_on_this_machine, machine, boxes(everybody))
    assert turns_red(row)


# NW-02: isolation


@pytest.fixture
def open_network(network, without) -> NetworkManager:
    """Networks whose rules let everything through to containers."""
    without("    ct status dnat return\n    drop\n", "    ct status dnat return\n")
    return network()


def test_neighbours_that_are_not_dropped(open_network: NetworkManager, machine: Lab, boxes) -> None:
    row = partial(traffic.test_port_published_on_loopback_stays_on_this_machine, machine, boxes(open_network))
    assert turns_red(row)


def test_networks_that_are_not_dropped(open_network: NetworkManager, machine: Lab, boxes) -> None:
    row = partial(traffic.test_networks_are_closed_to_each_other, machine, boxes(open_network), open_network)
    assert turns_red(row)


# NW-03: while the rules are gone


def test_drops_that_live_in_the_table_only(
    network, machine: Lab, boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall.Firewall, "routing", lambda self, networks: [])
    monkeypatch.setattr(firewall.Firewall, "_network_rules", lambda self, network: [])
    flushed = network()
    row = partial(upkeep.test_nothing_is_open_while_the_rules_are_gone, flushed, machine, boxes(flushed))
    assert turns_red(row)


def test_ports_of_bridges_without_their_filter(
    network, machine: Lab, boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memberships, "guard_port", lambda *_, **__: None)
    flushed = network()
    row = partial(upkeep.test_nothing_is_open_while_the_rules_are_gone, flushed, machine, boxes(flushed))
    assert turns_red(row)


def test_nobody_who_puts_the_rules_back(
    network, machine: Lab, boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = network()
    new = boxes(flushed)
    monkeypatch.setattr(Upkeep, "restore", lambda self, neighbours=True: [])
    row = upkeep.test_guard_puts_flushed_rules_back_at_once(flushed, machine, new)
    assert turns_red(lambda: asyncio.run(row))
    assert FirewallGuard(flushed).restored == 0


# NW-04: names in rules


def test_names_that_nobody_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_NAME", re.compile(r".*", re.DOTALL))
    assert turns_red(partial(names.test_hostile_name_of_a_network_is_refused, "a;b"))


def test_tables_of_others_that_are_flushed_as_well(network, boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall.Firewall, "remove", lambda self: upkeep.nft("flush", "ruleset"))
    careless = network()
    assert turns_red(partial(upkeep.test_only_our_own_table_changes, careless, boxes(careless)))


# RT-08: bind sources


@pytest.fixture
def mounts(engine_config: EngineConfig, tmp_path: Path) -> tuple[VolumeManager, Path]:
    shared = tmp_path / "shared"
    shared.mkdir()
    config = replace(engine_config, allowed_bind_roots=(str(shared),))
    return VolumeManager(config, Database(config.database, [VOLUMES])), shared


def test_roots_that_nobody_looks_at(
    mounts: tuple[VolumeManager, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binds.BindPolicy, "_judge", lambda self, source: ("/", source.strip("/")))
    assert turns_red(partial(volumes.test_path_outside_the_allowed_roots_is_denied, mounts[0], "/etc"))
    assert turns_red(partial(volumes.test_volume_that_is_a_bind_mount_obeys_the_same_policy, *mounts))


def test_engine_s_own_folders_open(
    engine_config: EngineConfig, mounts: tuple[VolumeManager, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = binds.BindPolicy.__init__
    monkeypatch.setattr(binds.BindPolicy, "__init__", lambda self, allowed, closed: strict(self, allowed, []))
    db = Database(engine_config.database, [VOLUMES])
    row = partial(volumes.test_engine_s_own_files_are_closed_even_inside_an_allowed_root, engine_config, db)
    assert turns_red(row)


@pytest.mark.parametrize("module", [binds, manager], ids=["binds", "subpaths"])
def test_links_that_are_followed(
    mounts: tuple[VolumeManager, Path], module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRICT", 0)
    rows = {
        binds: partial(volumes.test_way_through_a_link_or_upwards_is_denied, *mounts, "link"),
        manager: partial(volumes.test_subpath_of_a_volume, mounts[0]),
    }
    assert turns_red(rows[module])


def test_source_that_is_opened_by_its_path(
    mounts: tuple[VolumeManager, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race is helped: the source is opened when the link is there."""
    strict, site = binds.openat2, mounts[1] / "site"

    def by_path(root: int, relative: str, flags: int, *, resolve: int) -> int:
        for _ in range(200):
            if site.is_symlink():
                break
        return strict(root, relative, flags, resolve=0)

    monkeypatch.setattr(binds, "openat2", by_path)
    assert turns_red(partial(volumes.test_swapped_source_is_never_mounted, *mounts, tmp_path))


# RT-12: this machine's own services


def test_loopback_of_the_machine_open_to_its_containers(
    network, machine: Lab, boxes, without, monkeypatch: pytest.MonkeyPatch
) -> None:
    without('    iifname != "lo" ip daddr 127.0.0.0/8 drop\n')
    without("    iifname @bridges jump to_host\n")
    monkeypatch.setattr(memberships, "guard_port", lambda *_, **__: None)
    machine.serve(machine.machine, 6379)
    box = boxes(network())()
    assert ask_loopback_of_machine(box, 6379).startswith("hello")


def test_machine_that_answers_its_containers(network, machine: Lab, boxes, without) -> None:
    without("    meta l4proto tcp reject with tcp reset\n    reject with icmpx type admin-prohibited\n")
    row = partial(traffic.test_container_reaches_nothing_of_the_machine_itself, machine, boxes(network()))
    assert turns_red(row)


def test_way_to_the_secrets_of_a_cloud(network, machine: Lab, boxes, without) -> None:
    without("    ip daddr 169.254.0.0/16 reject with icmp type admin-prohibited\n")
    assert turns_red(partial(traffic.test_secrets_of_a_cloud_are_out_of_reach, machine, boxes(network())))

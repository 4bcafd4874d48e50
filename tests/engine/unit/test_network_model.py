"""Networks as asked for, and how their names and values get into rules."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from engine.errors import BadSpec, InvalidInput
from engine.linux.nft import Element, Interface, Port, Protocol, Table, packed_key, tables_changed
from engine.network.bridges import bridge_name, veth_name
from engine.network.firewall import Firewall, network_elements, port_element
from engine.network.model import ICC, MTU, Network, NetworkSpec, Subnet, check_spec
from engine.network.portguard import guard_code, link_local

HOSTILE = ["a;b", "a{b", "a\nb", 'a"b', "a b", "", "-rf", "../x", "ä", "a" * 129, "a\0b", "$(x)"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_of_a_network_is_refused(name: str) -> None:
    """NW-04."""
    with pytest.raises(BadSpec):
        check_spec(NetworkSpec(name))


@pytest.mark.parametrize("name", [*HOSTILE, "a" * 16])
def test_hostile_name_of_an_interface_never_gets_into_a_rule(name: str) -> None:
    """NW-04."""
    with pytest.raises(InvalidInput):
        packed_key(Element("bridges", (Interface(name),)))
    with pytest.raises(InvalidInput):
        Element("bridges", (Interface(name),)).text()


@pytest.mark.parametrize("name", HOSTILE[:8])
def test_hostile_name_of_a_table_is_refused(name: str) -> None:
    """NW-04."""
    with pytest.raises(InvalidInput):
        Table(name)


@pytest.mark.parametrize("options", [{ICC: "maybe"}, {MTU: "huge"}, {MTU: "10"}, {MTU: "-1"}])
def test_option_that_cannot_be_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(BadSpec):
        check_spec(NetworkSpec("app", options=options))


def test_names_of_interfaces_fit_the_kernel_and_tell_engines_apart() -> None:
    names = {
        bridge_name("aaaaaaaa", "1" * 64), bridge_name("bbbbbbbb", "1" * 64), bridge_name("aaaaaaaa", "2" * 64),
        veth_name("aaaaaaaa", "c1", "n1"), veth_name("aaaaaaaa", "c1", "n2"), veth_name("aaaaaaaa", "c2", "n1"),
    }  # fmt: skip
    assert len(names) == 6
    assert all(len(name) == 15 for name in names)


def test_parts_of_a_key_fill_words() -> None:
    key = packed_key(
        port_element(
            host_ip="192.0.2.1", host_port=8080, protocol="tcp", address="10.5.0.2", container_port=80
        )
    )
    assert key == bytes([192, 0, 2, 1, 6, 0, 0, 0, 0x1F, 0x90, 0, 0])
    assert packed_key(Element("bridges", (Interface("br0"),))) == b"br0".ljust(16, b"\0")
    assert packed_key(Element("subnets4", (ip_network("10.5.0.0/24"),))) == bytes([10, 5, 0, 0])
    assert (
        Element("any4", (Protocol("udp"), Port(53)), (ip_address("10.5.0.2"), Port(53))).text()
        == "17 . 53 : 10.5.0.2 . 53"
    )


def test_elements_of_a_network_say_what_it_may() -> None:
    network = Network(
        "i", "n", "bridge", "br0", True, False, [Subnet("10.5.0.0/24", "10.5.0.1")], {ICC: "0"}, {}, 0.0
    )
    assert {element.set for element in network_elements(network)} == {
        "bridges",
        "internal",
        "subnets4",
        "gateways4",
    }


def test_routing_rules_of_two_engines_do_not_meet() -> None:
    one, two = Firewall("00000001").routing([]), Firewall("00000002").routing([])
    assert not {rule.priority for rule in one} & {rule.priority for rule in two}
    assert all(rule.priority < 32766 for rule in Firewall("ffffffff").routing([]))


def test_notification_of_something_else_tells_nothing() -> None:
    assert tables_changed(b"") == (set(), set())
    assert tables_changed(bytes(40)) == (set(), set())


def test_guard_is_a_short_program_and_needs_an_address() -> None:
    code = guard_code(mac="02:42:0a:05:00:02", ipv4="10.5.0.2", ipv6="fd00::2")
    assert len(code) % 8 == 0
    assert len(code) // 8 < 120
    assert str(link_local(bytes.fromhex("02420a050002"))) == "fe80::42:aff:fe05:2"

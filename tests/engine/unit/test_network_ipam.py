"""Choosing subnets and addresses: no overlap, no reuse before its time, no address that cannot be."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import AlreadyExists, BadSpec, NoSpace
from engine.network import ipam
from engine.network.model import Subnet, SubnetSpec

APP = Subnet("10.5.0.0/29", "10.5.0.1")


def test_subnet_avoids_what_is_taken() -> None:
    taken = [ip_network("10.201.0.0/23"), ip_network("10.201.2.128/25")]
    assert ipam.choose_subnet("10.201.0.0/16", taken) == ip_network("10.201.3.0/24")


def test_default_route_takes_nothing() -> None:
    assert ipam.choose_subnet("10.201.0.0/16", []) == ip_network("10.201.0.0/24")


def test_full_pool_is_said() -> None:
    with pytest.raises(NoSpace, match=r"every subnet of 10\.201\.0\.0/16"):
        ipam.choose_subnet("10.201.0.0/16", [ip_network("10.0.0.0/8")])


@given(st.lists(st.integers(0, 255), max_size=40))
def test_chosen_subnets_never_overlap(third: list[int]) -> None:
    taken = [ip_network(f"10.201.{number}.0/24") for number in third]
    chosen = ipam.choose_subnet("10.201.0.0/16", taken) if len(set(third)) < 256 else None
    assert chosen is None or not any(chosen.overlaps(other) for other in taken)


def test_ipv6_subnet_is_private_and_free() -> None:
    first = ipam.choose_subnet6([])
    assert first.prefixlen == 64
    assert first.subnet_of(ip_network("fd00::/8"))
    assert ipam.choose_subnet6([first]) != first


@pytest.mark.parametrize(
    ("subnet", "problem"),
    [
        ("10.5.0.0/31", "too small"),
        ("10.5.0.0/32", "too small"),
        ("0.0.0.0/0", "too large"),
        ("10.5.0.1/24", "not a subnet"),
        ("nonsense", "not a subnet"),
        ("10.5.0.0/24; flush ruleset", "not a subnet"),
        ("127.5.0.0/16", "reserved"),
        ("169.254.0.0/16", "reserved"),
        ("224.0.0.0/8", "reserved"),
        ("fe80::/64", "reserved"),
        ("fd00::/127", "too small"),
    ],
)
def test_what_cannot_be_a_subnet_is_refused(subnet: str, problem: str) -> None:
    """NW-07."""
    with pytest.raises(BadSpec, match=problem):
        ipam.check_subnet(SubnetSpec(subnet), [])


def test_overlap_is_refused_by_who_is_there() -> None:
    """NW-07."""
    with pytest.raises(
        AlreadyExists, match=r"overlaps 10\.5\.0\.0/16, used by a route of this machine \(eth0\)"
    ):
        ipam.check_subnet(
            SubnetSpec("10.5.9.0/24"), [("a route of this machine (eth0)", ip_network("10.5.0.0/16"))]
        )


@pytest.mark.parametrize("gateway", ["10.6.0.1", "10.5.0.0", "10.5.0.255", "nonsense", "fd00::1"])
def test_gateway_outside_the_subnet_is_refused(gateway: str) -> None:
    """NW-07."""
    with pytest.raises(BadSpec):
        ipam.check_subnet(SubnetSpec("10.5.0.0/24", gateway=gateway), [])


def test_gateway_kept_for_something_else_is_refused() -> None:
    with pytest.raises(BadSpec, match="is the gateway"):
        ipam.check_subnet(SubnetSpec("10.5.0.0/24", aux_addresses={"printer": "10.5.0.1"}), [])


def test_gateway_is_the_first_address_where_none_is_named() -> None:
    assert ipam.check_subnet(SubnetSpec("10.5.0.0/24"), []).gateway == "10.5.0.1"
    assert ipam.check_subnet(SubnetSpec("fd00:5::/64"), []).gateway == "fd00:5::1"


def test_addresses_walk_on_and_come_back_to_gaps() -> None:
    assert ipam.choose_address(APP, []) == "10.5.0.2"
    assert ipam.choose_address(APP, [], "10.5.0.4") == "10.5.0.5"
    assert ipam.choose_address(APP, ["10.5.0.5", "10.5.0.6"], "10.5.0.6") == "10.5.0.2"


def test_full_subnet_is_said() -> None:
    with pytest.raises(NoSpace, match="every address"):
        ipam.choose_address(APP, [f"10.5.0.{number}" for number in range(2, 7)])


def test_range_limits_what_is_chosen_but_not_what_is_asked_for() -> None:
    subnet = ipam.check_subnet(SubnetSpec("10.5.0.0/24", ip_range="10.5.0.64/26"), [])
    assert ipam.choose_address(subnet, []) == "10.5.0.64"
    assert ipam.check_address("10.5.0.9", subnet, []) == "10.5.0.9"
    with pytest.raises(BadSpec, match="not in the subnet"):
        ipam.check_subnet(SubnetSpec("10.5.0.0/24", ip_range="10.6.0.0/24"), [])


@given(st.sets(st.integers(2, 250)), st.integers(0, 255))
def test_given_address_is_always_free(used: set[int], last: int) -> None:
    subnet = Subnet("10.5.0.0/24", "10.5.0.1", "", {"printer": "10.5.0.251"})
    taken = {f"10.5.0.{number}" for number in used}
    chosen = ipam.choose_address(subnet, taken, f"10.5.0.{last}")
    assert chosen not in taken | {"10.5.0.0", "10.5.0.1", "10.5.0.251", "10.5.0.255"}
    assert ip_address(chosen) in subnet.network


@pytest.mark.parametrize("address", ["10.5.0.1", "10.5.0.0", "10.5.0.7", "10.9.0.2", "x"])
def test_address_that_cannot_be_fixed_is_refused(address: str) -> None:
    with pytest.raises((BadSpec, AlreadyExists)):
        ipam.check_address(address, APP, [])

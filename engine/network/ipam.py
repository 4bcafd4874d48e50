"""Addresses: subnets that collide with nothing on this host, and addresses in them that nobody else has.

Everything here is arithmetic on values; what is in use is handed in.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import chain

from engine.errors import AlreadyExists, BadSpec, NoSpace
from engine.network.model import IPNetwork, Subnet, SubnetSpec

IPAddress = IPv4Address | IPv6Address

POOL_PREFIX = 24
_SMALLEST = {4: 30, 6: 126}
_NEVER = tuple(
    ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8")
)


def choose_subnet(pool: str, taken: Iterable[IPNetwork], prefix: int = POOL_PREFIX) -> IPv4Network:
    """Return the first subnet of `pool` that overlaps nothing in `taken`; raise `NoSpace` when there is none."""
    block = ip_network(pool)
    if not isinstance(block, IPv4Network):
        raise BadSpec(f"the pool of subnets {pool} must be IPv4")
    used = [network for network in taken if isinstance(network, IPv4Network) and network.overlaps(block)]
    for candidate in block.subnets(new_prefix=max(prefix, block.prefixlen)):
        if not any(candidate.overlaps(network) for network in used):
            return candidate
    raise NoSpace(f"every subnet of {pool} is in use", hint="remove unused networks or name a subnet")


def choose_subnet6(taken: Iterable[IPNetwork]) -> IPv6Network:
    """Return a random /64 of the private range fd00::/8 (RFC 4193) that overlaps nothing in `taken`."""
    used = [network for network in taken if isinstance(network, IPv6Network) and network.prefixlen > 0]
    while True:
        prefix = (0xFD << 120) | (secrets.randbits(56) << 64)
        candidate = IPv6Network((prefix, 64))
        if not any(candidate.overlaps(network) for network in used):
            return candidate


def check_subnet(spec: SubnetSpec, taken: Iterable[tuple[str, IPNetwork]]) -> Subnet:
    """Return the subnet asked for, gateway filled in.

    Raises `BadSpec` when it cannot be a subnet of containers, `AlreadyExists` when it overlaps something in `taken`
    (pairs of who uses it and the prefix).
    """
    network = _parse(spec.subnet)
    for who, other in taken:
        if network.version == other.version and network.overlaps(other):
            raise AlreadyExists(
                f"subnet {network} overlaps {other}, used by {who}",
                hint="name another subnet, or none and get a free one",
            )
    gateway = _inside(spec.gateway or str(network.network_address + 1), network, "gateway")
    if spec.ip_range:
        limit = _range(spec.ip_range, network)
        return Subnet(str(network), str(gateway), str(limit), _aux(spec, network, gateway))
    return Subnet(str(network), str(gateway), "", _aux(spec, network, gateway))


def choose_address(subnet: Subnet, used: Collection[str], last: str = "") -> str:
    """Return a free address of the subnet: the next after `last`, the one given out before.

    Walking on keeps an address unused for as long as possible after it was freed, so nobody's stale connection or
    neighbour entry meets a new container.
    """
    network = ip_network(subnet.ip_range or subnet.subnet)
    taken = {int(ip_address(text)) for text in used} | _reserved(subnet)
    first, end = int(network.network_address), int(network.broadcast_address)
    start = int(ip_address(last)) + 1 if last and ip_address(last) in network else first
    for number in chain(range(start, end + 1), range(first, start)):
        if number not in taken:
            return str(_address(number, network.version))
    raise NoSpace(f"every address of {network} is in use", hint="remove containers or use a larger subnet")


def check_address(text: str, subnet: Subnet, used: Collection[str]) -> str:
    """Return the fixed address asked for, in its canonical form; raise when it cannot be had."""
    address = _inside(text, subnet.network, "address")
    if int(address) in _reserved(subnet):
        raise AlreadyExists(f"address {address} belongs to the network itself")
    if str(address) in used:
        raise AlreadyExists(
            f"address {address} is in use on this network", hint="choose another address or none"
        )
    return str(address)


def mac_for(address: str) -> str:
    """Return the hardware address that goes with an IPv4 address: the same again, so neighbours need not relearn it."""
    return "02:42:" + IPv4Address(address).packed.hex(":")


def random_mac() -> str:
    """Return a hardware address of the locally administered kind."""
    return "02:42:" + secrets.token_bytes(4).hex(":")


def _parse(text: str) -> IPNetwork:
    try:
        network = ip_network(text)
    except ValueError:
        raise BadSpec(
            f"not a subnet: {text[:64]!r}", hint="write it as 10.5.0.0/24, with all host bits zero"
        ) from None
    if network.prefixlen > _SMALLEST[network.version] or network.prefixlen < 8:
        raise BadSpec(
            f"subnet {network} is too {'small' if network.prefixlen > 8 else 'large'} for a network of containers"
        )
    if any(network.version == other.version and network.overlaps(other) for other in _NEVER):
        raise BadSpec(f"subnet {network} is reserved and cannot be used for containers")
    return network


def _inside(text: str, network: IPNetwork, what: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise BadSpec(f"not an address: {text[:64]!r}") from None
    if address.version != network.version or address not in network:
        raise BadSpec(f"{what} {address} is not in the subnet {network}")
    if address == network.network_address or (network.version == 4 and address == network.broadcast_address):
        raise BadSpec(f"{what} {address} names the whole subnet {network}")
    return address


def _range(text: str, network: IPNetwork) -> IPNetwork:
    try:
        limit = ip_network(text)
    except ValueError:
        raise BadSpec(f"not a range of addresses: {text[:64]!r}") from None
    if limit.version != network.version or int(limit.network_address) < int(network.network_address):
        raise BadSpec(f"range {limit} is not in the subnet {network}")
    if int(limit.broadcast_address) > int(network.broadcast_address):
        raise BadSpec(f"range {limit} is not in the subnet {network}")
    return limit


def _aux(spec: SubnetSpec, network: IPNetwork, gateway: IPAddress) -> dict[str, str]:
    found = {}
    for name, text in spec.aux_addresses.items():
        address = _inside(text, network, "address")
        if address == gateway:
            raise BadSpec(f"address {address} is the gateway and cannot be kept for {name[:64]!r}")
        found[name] = str(address)
    return found


def _reserved(subnet: Subnet) -> set[int]:
    network = subnet.network
    numbers = {int(network.network_address), int(ip_address(subnet.gateway))}
    if network.version == 4:
        numbers.add(int(network.broadcast_address))
    return numbers | {int(ip_address(text)) for text in subnet.aux_addresses.values()}


def _address(number: int, version: int) -> IPAddress:
    return IPv4Address(number) if version == 4 else IPv6Address(number)

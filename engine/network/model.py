"""What a network is, and what may be asked of one.

`NetworkSpec` is the request, `Network` the record. Option names are Docker's where Docker has the option.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

from engine.errors import BadSpec

DEFAULT_NETWORK = "bridge"
PREDEFINED = ("bridge", "host", "none")

BRIDGE_NAME = "com.docker.network.bridge.name"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_ADDRESS = "com.docker.network.bridge.host_binding_ipv4"
MTU = "com.docker.network.driver.mtu"
SPOOF_CHECK = "wharfinger.spoof_check"
OPTIONS = (BRIDGE_NAME, ICC, MASQUERADE, HOST_ADDRESS, MTU, SPOOF_CHECK)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_TRUE, _FALSE = ("1", "true", "t", "True", "TRUE", "T"), ("0", "false", "f", "False", "FALSE", "F")

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True)
class SubnetSpec:
    """A subnet asked for. Empty texts are chosen by the engine; `ip_range` limits the addresses given out."""

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    aux_addresses: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkSpec:
    """A network asked for. `driver` can only be `bridge`."""

    name: str
    driver: str = "bridge"
    internal: bool = False
    ipv6: bool = False
    subnets: list[SubnetSpec] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    attachable: bool = False


@dataclass(frozen=True)
class Subnet:
    """A subnet that a network has. `reserved` are addresses never given out (the gateway among them)."""

    subnet: str
    gateway: str
    ip_range: str = ""
    aux_addresses: dict[str, str] = field(default_factory=dict)

    @property
    def network(self) -> IPNetwork:
        return ip_network(self.subnet)

    @property
    def version(self) -> int:
        return self.network.version


@dataclass(frozen=True)
class Member:
    """A container's membership of a network while it has addresses there."""

    container_id: str
    name: str
    ipv4_address: str = ""
    ipv6_address: str = ""
    mac_address: str = ""
    aliases: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Network:
    """A network as it is. `bridge` is the interface on the host, `created_at` seconds since the epoch."""

    id: str
    name: str
    driver: str
    bridge: str
    internal: bool
    ipv6: bool
    subnets: list[Subnet]
    options: dict[str, str]
    labels: dict[str, str]
    created_at: float
    attachable: bool = False
    members: list[Member] = field(default_factory=list)

    @property
    def icc(self) -> bool:
        """Whether its containers may talk to each other."""
        return flag(self.options, ICC, default=True)

    @property
    def masquerade(self) -> bool:
        return flag(self.options, MASQUERADE, default=True)

    @property
    def spoof_check(self) -> bool:
        return flag(self.options, SPOOF_CHECK, default=True)

    @property
    def mtu(self) -> int:
        return int(self.options.get(MTU, "0"))

    @property
    def has_dns(self) -> bool:
        """Whether containers are told to ask the engine for names: on every network but the default one, as with Docker."""
        return self.name != DEFAULT_NETWORK

    def subnet_of(self, version: int) -> Subnet | None:
        return next((subnet for subnet in self.subnets if subnet.version == version), None)


def flag(options: dict[str, str], name: str, *, default: bool) -> bool:
    """Return an option that is true or false, raise `BadSpec` when it is neither."""
    value = options.get(name, "")
    if not value:
        return default
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise BadSpec(f"option {name} must be true or false, not {value[:40]!r}")


def check_spec(spec: NetworkSpec) -> None:
    """Raise `BadSpec` for a name, driver or option that cannot be."""
    if not _NAME.match(spec.name):
        raise BadSpec(
            f"not a name for a network: {spec.name[:64]!r}",
            hint="a name begins with a letter or digit and goes on with letters, digits, _ . or -",
        )
    if spec.driver not in ("", "bridge", "default"):
        raise BadSpec(f"no network driver {spec.driver[:64]!r} on this node", hint="the driver is bridge")
    for name in (ICC, MASQUERADE, SPOOF_CHECK):
        flag(spec.options, name, default=True)
    mtu = spec.options.get(MTU, "0")
    if not mtu.isdecimal() or (int(mtu) and not 68 <= int(mtu) <= 65535):
        raise BadSpec(f"option {MTU} must be a size from 68 to 65535 bytes, not {mtu[:20]!r}")

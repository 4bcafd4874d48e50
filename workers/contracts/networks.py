"""Networks. `network` is a name, an id or a unique prefix of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workers.contracts.base import Contract


@dataclass(frozen=True)
class Subnet:
    """Addresses of a network; empty fields are chosen by the node. `aux_addresses` are kept free (name to address)."""

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    aux_addresses: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkCreate(Contract):
    """Make a network; `id` (64 hex digits) is chosen by who asks. Result: `{"network": record}`."""

    KIND = "network.create"

    id: str
    name: str
    driver: str = "bridge"
    internal: bool = False
    attachable: bool = False
    ipv6: bool = False
    subnets: list[Subnet] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkRemove(Contract):
    """Result: `{"id"}`."""

    KIND = "network.remove"

    network: str


@dataclass(frozen=True)
class NetworkConnect(Contract):
    """Join a container to a network; `endpoint` has the fields of a spec's `networks` entry but `name`."""

    KIND = "network.connect"

    network: str
    container: str
    endpoint: dict[str, Any] = field(default_factory=dict)  # judged by the engine


@dataclass(frozen=True)
class NetworkDisconnect(Contract):
    KIND = "network.disconnect"

    network: str
    container: str
    force: bool = False


@dataclass(frozen=True)
class NetworkPrune(Contract):
    """Remove networks without members. Result: `{"removed": [name]}`."""

    KIND = "network.prune"

    older_than_s: float = 0.0
    labels: list[str] = field(default_factory=list)
    without_labels: list[str] = field(default_factory=list)

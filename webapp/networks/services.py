"""What people do with networks."""

from __future__ import annotations

import ipaddress
from typing import Any

from webapp.accounts.actor import Actor
from webapp.containers.models import Container
from webapp.core.errors import Conflict, Invalid
from webapp.core.ids import is_name, new_container_id
from webapp.networks.models import Network
from webapp.networks.selectors import BUILT_IN
from webapp.nodes.models import Node
from webapp.nodes.selectors import default_node
from webapp.operations import services as operations
from webapp.operations.models import Operation
from webapp.operations.services import Target
from workers.contracts import networks as contracts

RESERVED = (*BUILT_IN, "default")
ENDPOINT_FIELDS = frozenset({"aliases", "ipv4_address", "ipv6_address", "mac_address", "driver_opts"})


def target_of(network: Network) -> Target:
    return Target("network", network.id, network.name)


def network_create(
    actor: Actor,
    *,
    name: str,
    driver: str = "bridge",
    internal: bool = False,
    attachable: bool = False,
    ipv6: bool = False,
    subnets: list[dict[str, Any]] | None = None,
    options: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    node: Node | None = None,
) -> tuple[str, Operation]:
    """Make a network; return its id and the operation. `subnets`: `{subnet, gateway, ip_range, aux_addresses}`."""
    node = node or default_node()
    if not is_name(name) or name in RESERVED:
        raise Invalid(
            f"{name[:60]!r} cannot be the name of a network",
            fields={"name": ["not a name, or taken by the system"]},
        )
    if Network.objects.filter(node=node, name=name).exists():
        raise Conflict(
            f"there is a network {name!r} already", code="already_exists", hint="choose another name"
        )
    if driver != "bridge":
        raise Invalid(f"no network driver {driver[:20]!r}", fields={"driver": ["bridge is the only one"]})
    network_id = new_container_id()
    contract = contracts.NetworkCreate(
        id=network_id,
        name=name,
        driver=driver,
        internal=internal,
        attachable=attachable,
        ipv6=ipv6,
        subnets=[_subnet(item) for item in subnets or []],
        options=options or {},
        labels=labels or {},
    )
    return network_id, operations.submit(
        actor, contract, node=node, target=Target("network", network_id, name)
    )


def _subnet(item: dict[str, Any]) -> contracts.Subnet:
    """Return checked addresses (the node also checks them against its routes)."""
    if unknown := sorted(set(item) - {"subnet", "gateway", "ip_range", "aux_addresses"}):
        raise Invalid(f"unknown field {unknown[0][:40]!r} of a subnet", fields={"subnets": ["unknown field"]})
    subnet = contracts.Subnet(**item)
    if not subnet.subnet:
        return subnet
    try:
        network = ipaddress.ip_network(subnet.subnet)
        inside = [
            ipaddress.ip_address(text) for text in (subnet.gateway, *subnet.aux_addresses.values()) if text
        ]
        ranges = [ipaddress.ip_network(subnet.ip_range)] if subnet.ip_range else []
    except ValueError as error:
        raise Invalid(f"not an address: {error}", fields={"subnets": ["not an address"]}) from error
    if network.prefixlen < 8 or network.prefixlen > network.max_prefixlen - 2:
        raise Invalid(
            f"the subnet {subnet.subnet} is too large or too small", fields={"subnets": ["from /8 to /30"]}
        )
    if any(address not in network for address in inside):
        raise Invalid(
            f"an address does not lie in {subnet.subnet}", fields={"subnets": ["outside of the subnet"]}
        )
    if any(part.version != network.version or not part.subnet_of(network) for part in ranges):  # type: ignore[arg-type]
        raise Invalid(
            f"the range does not lie in {subnet.subnet}", fields={"subnets": ["outside of the subnet"]}
        )
    return subnet


def network_remove(actor: Actor, network: Network) -> Operation:
    if network.name in BUILT_IN:
        raise Conflict(f"the network {network.name} belongs to the system", code="wrong_state")
    return operations.submit(
        actor, contracts.NetworkRemove(network=network.id), node=network.node, target=target_of(network)
    )


def network_connect(
    actor: Actor, network: Network, container: Container, endpoint: dict[str, Any] | None = None
) -> Operation:
    """Join a container (running or not) to a network. `endpoint`: aliases, ipv4_address, ipv6_address, mac_address, driver_opts."""
    wanted = {name: value for name, value in (endpoint or {}).items() if value}
    if unknown := sorted(set(wanted) - ENDPOINT_FIELDS):
        raise Invalid(f"unknown field {unknown[0][:40]!r}", fields={unknown[0]: ["unknown"]})
    contract = contracts.NetworkConnect(network=network.id, container=container.id, endpoint=wanted)
    return operations.submit(
        actor,
        contract,
        node=network.node,
        target=target_of(network),
        body={"container": container.name, **wanted},
    )


def network_disconnect(
    actor: Actor, network: Network, container: Container, *, force: bool = False
) -> Operation:
    contract = contracts.NetworkDisconnect(network=network.id, container=container.id, force=force)
    return operations.submit(
        actor,
        contract,
        node=network.node,
        target=target_of(network),
        body={"container": container.name, "force": force},
    )


def network_prune(
    actor: Actor, *, older_than_s: float = 0.0, labels: list[str] | None = None, node: Node | None = None
) -> Operation:
    """Remove networks without members."""
    contract = contracts.NetworkPrune(older_than_s=older_than_s, labels=labels or [])
    return operations.submit(
        actor, contract, node=node or default_node(), target=Target("network", "", "unused networks")
    )


def probe(container: Container, name: str, port: int) -> Any:
    """Ask what a process inside the container sees: resolve a name and connect to a port, with times and reasons."""
    if not name or len(name) > 255 or any(letter.isspace() or not letter.isprintable() for letter in name):
        raise Invalid("say which name to look up", fields={"name": ["missing or not a name"]})
    if not 0 <= port <= 65535:
        raise Invalid("a port is a number from 1 to 65535", fields={"port": ["out of range"]})
    return operations.ask(
        container.node, "network.probe", {"container": container.id, "name": name, "port": port}
    )

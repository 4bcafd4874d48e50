"""The one way into networks for the rest of the engine.

The life of a container's network, as the caller goes through it:

    bindings = network.hold(id, spec.ports, name=name)           # at create or start: refused with who uses a port
    make_userns(start, size, pin, netns=netns)                   # or network.make_netns(netns)
    endpoint = network.allocate("backend", id, EndpointSpec("backend", aliases=["db"]), name=name, hostname=hostname)
    endpoint = network.attach(netns, id, endpoint)               # names are answered from here on
    sockets = network.sockets(id)                                # hand to the supervisor as inherited descriptors
    network.publish(id, endpoint, bindings)
    ...
    network.release(id)                                          # at exit: ports, addresses, names; veth goes with netns
    network.remove_netns(netns)

Every call may be repeated. `hold` at create keeps a port for a container that is not running yet; a client that creates
the successor of a running container with the same port (as Compose does) needs `hold` at start only.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from engine.config import EngineConfig
from engine.containers.model import Container, Endpoint, EndpointSpec, PortBinding, PortSpec
from engine.db import Database
from engine.linux.netlink import NETLINK_ROUTE, Netlink
from engine.network import bridges, files, interfaces
from engine.network.firewall import Firewall, network_elements
from engine.network.later import Later
from engine.network.memberships import Memberships
from engine.network.model import Network, NetworkSpec
from engine.network.networks import Networks, published_elements
from engine.network.publishing import Publisher
from engine.network.reservations import PortPolicy
from engine.network.store import PortRow, select_endpoints, select_networks

List = list  # in the class below `list` is a verb


class NetworkManager:
    """Networks, memberships and published ports of one engine."""

    def __init__(self, config: EngineConfig, db: Database) -> None:
        self._config = config
        self._db = db
        self._firewall = Firewall(config.instance)
        self._networks = Networks(config, db, self._firewall)
        self._later = Later()
        self._members = Memberships(config, db, self._networks, self._later)
        policy = PortPolicy(config.default_publish_address)
        self._publisher = Publisher(db, self._networks, policy, self._later)

    # networks

    def create(self, spec: NetworkSpec) -> Network:
        return self._networks.create(spec)

    def list(self) -> List[Network]:
        return self._networks.all()

    def get(self, ref: str) -> Network:
        return self._networks.get(ref)

    def remove(self, ref: str) -> Network:
        return self._networks.remove(ref)

    def prune(
        self, *, keep: Collection[str] = (), matches: Callable[[Network], bool] = lambda network: True
    ) -> List[Network]:
        return self._networks.prune(keep=keep, matches=matches)

    # containers on networks

    def make_netns(self, path: Path) -> None:
        interfaces.make_netns(path)

    def remove_netns(self, path: Path) -> None:
        interfaces.remove_netns(path)

    def allocate(
        self,
        network: str,
        container_id: str,
        spec: EndpointSpec | None = None,
        *,
        name: str = "",
        hostname: str = "",
        dns: Sequence[str] = (),
    ) -> Endpoint:
        return self._members.allocate(network, container_id, spec, name=name, hostname=hostname, dns=dns)

    def attach(self, netns: Path, container_id: str, endpoint: Endpoint, ifname: str = "") -> Endpoint:
        return self._members.attach(netns, container_id, endpoint, ifname)

    def detach(self, container_id: str, network: str, *, wait: bool = True) -> None:
        self._members.detach(container_id, network, wait=wait)

    def endpoints(self, container_id: str) -> List[Endpoint]:
        return self._members.endpoints(container_id)

    def rename(self, container_id: str, name: str) -> None:
        self._members.rename(container_id, name)

    def resolv_conf(self, container: Container) -> str:
        """Return the container's `/etc/resolv.conf`; write it again after it joined or left a network."""
        return files.resolv_conf(container, self.get, self._config)

    def hosts(self, container: Container) -> str:
        """Return the container's `/etc/hosts`; write it again after it joined or left a network."""
        return files.hosts(container, self._gateway())

    # ports

    def hold(self, container_id: str, ports: Sequence[PortSpec], *, name: str = "") -> List[PortBinding]:
        return self._publisher.hold(container_id, ports, name=name)

    def sockets(self, container_id: str) -> List[socket.socket]:
        return self._publisher.sockets(container_id)

    def publish(self, container_id: str, endpoint: Endpoint, bindings: Sequence[PortBinding]) -> None:
        self._publisher.publish(container_id, endpoint, bindings)

    def unpublish(self, container_id: str) -> None:
        self._publisher.unpublish(container_id)

    def held_ports(self) -> List[PortRow]:
        return self._publisher.held()

    def release(self, container_id: str) -> None:
        """Give up everything that a container has here: ports, names, addresses; interfaces without waiting."""
        self.unpublish(container_id)
        for row in self._members.of_container(container_id):
            self.detach(container_id, row.network_id, wait=False)

    def _gateway(self) -> str:
        return self._networks.ensure_default().subnets[0].gateway

    # the host

    def restore(self) -> None:
        """Make this host as the records say: forwarding, bridges, rules; after a start, a reboot or somebody's flush."""
        self._networks.ensure_default()
        networks = select_networks(self._db.read())
        with Netlink(NETLINK_ROUTE) as route:
            self._networks.enable_forwarding(ipv6=any(network.ipv6 for network in networks))
            for network in networks:
                bridges.ensure_bridge(route, network, self._networks.mark("network", network.id))
            self._firewall.add_routing(route, networks)
        with self._networks.firewall_lock():
            elements = [element for network in networks for element in network_elements(network)]
            if self._firewall.missing([*elements, *published_elements(self._db.read())]):
                self._networks.load_firewall()

    def sweep(self, containers: Collection[str]) -> List[str]:
        """Remove what belongs to no container of `containers` (ids of those that live) and no network on record.

        Only interfaces that carry this engine's mark are looked at. Returns what was removed, in words.
        """
        swept = []
        connection = self._db.read()
        for row in select_endpoints(connection):
            if row.container_id not in containers:
                self.detach(row.container_id, row.network_id)
                swept.append(f"address {row.ipv4 or row.ipv6} of container {row.container_id[:12]}")
        for port in self._publisher.held():
            if port.container_id not in containers:
                self.unpublish(port.container_id)
                swept.append(f"port {port.binding.host_port} of container {port.container_id[:12]}")
        return swept

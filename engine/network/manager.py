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
from engine.network import files, interfaces
from engine.network.firewall import Firewall
from engine.network.later import Later
from engine.network.memberships import Memberships
from engine.network.model import Network, NetworkSpec
from engine.network.neighbours import Neighbours
from engine.network.networks import Networks
from engine.network.publishing import Publisher
from engine.network.reservations import PortPolicy
from engine.network.store import PortRow
from engine.network.tester import Trial, try_connection
from engine.network.upkeep import Upkeep

List = list  # in the class below `list` is a verb


class NetworkManager:
    """Networks, memberships and published ports of one engine."""

    def __init__(self, config: EngineConfig, db: Database) -> None:
        self._config = config
        self._db = db
        self._firewall = Firewall(config.instance, [("tcp", port) for port in config.container_host_ports])
        self._networks = Networks(config, db, self._firewall)
        self._later = Later()
        self._members = Memberships(config, db, self._networks, self._later)
        policy = PortPolicy(config.default_publish_address, config.denied_host_ports, config.publish_range)
        self._publisher = Publisher(db, self._networks, policy, self._later)
        self._upkeep = Upkeep(
            config,
            db,
            networks=self._networks,
            members=self._members,
            publisher=self._publisher,
            neighbours=Neighbours(self._firewall.table.name, f"wb{config.instance[:6]}"),
        )

    # networks

    def create(self, spec: NetworkSpec, identity: str = "") -> Network:
        return self._networks.create(spec, identity)

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
        return files.resolv_conf(container, self._networks.find, self._config)

    def hosts(self, container: Container) -> str:
        """Return the container's `/etc/hosts`; write it again after it joined or left a network."""
        return files.hosts(container, self._gateway())

    def try_connection(
        self,
        container: Container,
        netns: Path,
        target: str,
        port: int,
        *,
        protocol: str = "tcp",
        timeout_s: float = 3.0,
    ) -> Trial:
        """Resolve a name and connect to a port as the container's programs would; say why it fails (see `tester`)."""
        servers = [
            line.split()[1]
            for line in self.resolv_conf(container).splitlines()
            if line.startswith("nameserver")
        ]
        everything = [network for network in self.list() if network.bridge]
        ids = {endpoint.network_id for endpoint in container.endpoints}
        own = [network for network in everything if network.id in ids]
        return try_connection(
            netns,
            target,
            port,
            own=own,
            everything=everything,
            resolvers=servers,
            protocol=protocol,
            timeout_s=timeout_s,
        )

    # ports

    def hold(self, container_id: str, ports: Sequence[PortSpec], *, name: str = "") -> List[PortBinding]:
        return self._publisher.hold(container_id, ports, name=name)

    def sockets(self, container_id: str) -> List[socket.socket]:
        return self._publisher.sockets(container_id)

    def publish(self, container_id: str, endpoint: Endpoint, bindings: Sequence[PortBinding]) -> None:
        """Let packets through to a container's ports; by another of its networks where that of `endpoint` is internal."""
        if self._networks.find(endpoint.network_id).internal:
            open_ends = [
                item
                for item in self.endpoints(container_id)
                if not self._networks.find(item.network_id).internal
            ]
            if not open_ends:
                return
            endpoint = open_ends[0]
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

    @property
    def table_name(self) -> str:
        """The name of this engine's one nftables table."""
        return self._firewall.table.name

    def restore(self, *, neighbours: bool = True) -> List[str]:
        """Make this host as the records say: forwarding, bridges, rules; after a start, a reboot or somebody's flush.

        Returns what was missing, in words. With `neighbours` other firewalls are looked at too (some 30 ms).
        """
        return self._upkeep.restore(neighbours=neighbours)

    def check(self, containers: Collection[str]) -> List[str]:
        """Return in words what does not match; `containers` are the ids of those that run."""
        return self._upkeep.check(containers)

    def sweep(self, containers: Collection[str]) -> List[str]:
        """Remove what belongs to none of `containers` (ids of those that run) and no network on record; say what."""
        return self._upkeep.sweep(containers)

    def dismantle(self) -> None:
        """Take everything of this engine's networks off the host; the records stay. For uninstalling, and for tests."""
        self._later.flush()
        self._upkeep.dismantle()

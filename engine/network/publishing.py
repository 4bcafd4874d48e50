"""Published ports: held for a container before it starts, translated while it runs, free again after.

`hold` reserves (and refuses, saying who is in the way), `sockets` holds against every other program of this machine,
`publish` lets packets through, `unpublish` ends all of it. See `engine.network.reservations` for how a port is held.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from engine.containers.model import Endpoint, PortBinding, PortSpec
from engine.db import Database
from engine.errors import BadSpec
from engine.linux import conntrack
from engine.linux.nft import Element
from engine.network.firewall import port_element
from engine.network.later import Later
from engine.network.networks import Networks
from engine.network.reservations import PortPolicy, bind_sockets, reserve
from engine.network.store import PortRow, select_endpoints, select_ports

logger = logging.getLogger(__name__)


class Publisher:
    """The host ports of one engine's containers."""

    def __init__(self, db: Database, networks: Networks, policy: PortPolicy, later: Later) -> None:
        self._later = later
        self._db = db
        self._networks = networks
        self._policy = policy

    def hold(self, container_id: str, ports: Sequence[PortSpec], *, name: str = "") -> list[PortBinding]:
        """Reserve host ports for a container and return them, random ones chosen; asked again it answers the same."""
        if not ports:
            return []
        with self._db.transaction() as connection:
            return reserve(connection, container_id, name, ports, self._policy)

    def sockets(self, container_id: str) -> list[socket.socket]:
        """Return sockets that hold the container's ports; give them to the process that lives as long as it does."""
        return bind_sockets(row.binding for row in select_ports(self._db.read(), container_id))

    def publish(self, container_id: str, endpoint: Endpoint, bindings: Sequence[PortBinding]) -> None:
        """Translate the host ports to the container's address on one network. Idempotent."""
        if not bindings:
            return
        targets = [(binding, _target(endpoint, binding)) for binding in bindings]
        with self._networks.firewall_lock():
            with self._db.transaction() as connection:
                for binding, target in targets:
                    connection.execute(
                        """INSERT INTO ports (container_id, protocol, host_ip, host_port, container_port, target)
                           VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET target = excluded.target
                           WHERE container_id = excluded.container_id""",
                        (
                            container_id, binding.protocol, binding.host_ip, binding.host_port, binding.container_port,
                            target,
                        ),
                    )  # fmt: skip
            try:
                self._networks.firewall.table.add([_element(binding, target) for binding, target in targets])
            except FileNotFoundError:
                self._networks.load_firewall()
        if any(binding.protocol == "udp" for binding in bindings):
            conntrack.forget(local_ports=[(item.protocol, item.host_port) for item in bindings])

    def unpublish(self, container_id: str) -> None:
        """Give up every port of a container: nothing is translated to it any more, others may have the ports. Idempotent."""
        rows = select_ports(self._db.read(), container_id)
        if not rows:
            return
        with self._networks.firewall_lock():
            self._networks.firewall.table.remove_elements(
                [_element(row.binding, row.target) for row in rows if row.target]
            )
            with self._db.transaction() as connection:
                connection.execute("DELETE FROM ports WHERE container_id = ?", (container_id,))
        if targets := {row.target for row in rows if row.target}:
            # listing every connection of the host takes 10 ms or more; addresses are not given out again that soon
            self._later.add(lambda: self._forget(targets))

    def _forget(self, targets: set[str]) -> None:
        used = {address for row in select_endpoints(self._db.read()) for address in (row.ipv4, row.ipv6)}
        conntrack.forget(addresses=targets - used)

    def held(self) -> list[PortRow]:
        """Return every port that a container holds."""
        return select_ports(self._db.read())


def _element(binding: PortBinding, target: str) -> Element:
    return port_element(
        host_ip=binding.host_ip, host_port=binding.host_port, protocol=binding.protocol, address=target,
        container_port=binding.container_port,
    )  # fmt: skip


def _target(endpoint: Endpoint, binding: PortBinding) -> str:
    version = ip_address(binding.host_ip).version
    target = endpoint.ipv4_address if version == 4 else endpoint.ipv6_address
    if not target:
        raise BadSpec(
            f"port {binding.host_port} cannot be published on {binding.host_ip}: network {endpoint.network!r} has no IPv{version}",
            hint="publish on an IPv4 address, or use a network with IPv6",
        )
    return target

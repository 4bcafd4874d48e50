"""Which container is on which network, with which addresses, and the interface that makes it so.

A membership begins with `allocate` (addresses, a row), is alive from `attach` (the interface; its names are answered) and
ends with `detach`. A container that does not run has none. Each step may be done twice and has its effect once.
"""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from engine.config import EngineConfig
from engine.containers.model import Endpoint, EndpointSpec
from engine.db import Database
from engine.errors import AlreadyExists, BadSpec, Denied, NetworkNotFound, WrongState
from engine.linux import links
from engine.linux.netlink import NETLINK_ROUTE, Netlink
from engine.network import bridges, ipam
from engine.network.dnsprobe import wait_for_dns
from engine.network.interfaces import Plug, plug, unplug
from engine.network.later import Later
from engine.network.model import DEFAULT_NETWORK, Network, Subnet
from engine.network.networks import Networks
from engine.network.portguard import guard_port
from engine.network.store import (
    EndpointRow,
    canonical,
    insert_endpoint,
    select_endpoint,
    select_endpoints,
    select_network,
    used_addresses,
)

logger = logging.getLogger(__name__)

_YOUNG_S = 10.0  # a network younger than this may not be answered for yet


class Memberships:
    """Endpoints of containers on the networks of one engine."""

    def __init__(self, config: EngineConfig, db: Database, networks: Networks, later: Later) -> None:
        self._later = later
        self._wake = config.wake_socket
        self._instance = config.instance
        self._db = db
        self._networks = networks
        self._unguarded = False

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
        """Give a container addresses on a network; asked again it answers the same.

        `name` and `hostname` are the container's, answered by the DNS beside the aliases and the short id; `dns` are
        resolvers of its own, asked for what the engine does not know. Raises `NetworkNotFound`, `NoSpace`, and `BadSpec`
        or `AlreadyExists` for a fixed address that cannot be had.
        """
        if network in ("host", "none"):
            raise Denied(f"the network {network} gives no addresses")
        if network in ("", "default", DEFAULT_NETWORK):
            network = self._networks.ensure_default().id
        with self._db.transaction() as connection:
            found = select_network(connection, network)
            row = select_endpoint(connection, found.id, container_id)
            if row is None:
                row = _new_row(connection, found, container_id, spec or EndpointSpec(found.name))
                resolvers = [_checked(item) for item in dns]
                row = dataclasses.replace(row, name=name, hostname=hostname, dns=resolvers)
                insert_endpoint(connection, row)
        return endpoint_of(found, row)

    def attach(self, netns: Path, container_id: str, endpoint: Endpoint, ifname: str = "") -> Endpoint:
        """Put the interface of an allocated endpoint into the namespace `netns`, up, with addresses and routes.

        The container's names are answered from here on. `ifname` is `eth0`, `eth1` ... when it is not given.
        """
        connection = self._db.read()
        network = select_network(connection, endpoint.network_id)
        rows = select_endpoints(connection, container_id=container_id)
        row = next((row for row in rows if row.network_id == network.id), None)
        if row is None:
            raise WrongState(f"container {container_id[:12]} has no address on network {network.name!r} yet")
        others = [other for other in rows if other.network_id != network.id and other.active]
        name = ifname or row.ifname or _free_name([other.ifname for other in others])
        with Netlink(NETLINK_ROUTE) as route:
            wanted = Plug(
                bridge=self._networks.realise(route, network),
                veth=bridges.veth_name(self._instance, container_id, network.id),
                ifname=name,
                mark=self._networks.mark("container", container_id),
                metric=-1 if network.internal else len(others),
                isolated=not network.icc,
            )
            outer = plug(route, netns, endpoint, wanted)
            try:
                self._guard(route, outer, network, row)
                self._record(network, row, name, outer.name)
            except BaseException:
                unplug(route, outer.name, wanted.mark)
                raise
        if network.has_dns and time.time() - network.created_at < _YOUNG_S:
            wait_for_dns(network.subnets[0].gateway, self._wake)
        return endpoint_of(network, row)

    def detach(self, container_id: str, network: str, *, wait: bool = True) -> None:
        """End a membership: names, addresses and interface go. Idempotent.

        Without `wait` the interface is left to the end of its namespace, and looked after a moment later: the kernel
        takes 10-20 ms to remove one.
        """
        try:
            found = self._networks.find(network)
        except NetworkNotFound:
            return
        with self._db.transaction() as connection:
            row = select_endpoint(connection, found.id, container_id)
            if row is None:
                return
            connection.execute(
                "DELETE FROM endpoints WHERE network_id = ? AND container_id = ?", (found.id, container_id)
            )
            if row.active:
                self._networks.announce(
                    connection, "disconnect", found, container=container_id, container_name=row.name
                )
        veth = row.veth or bridges.veth_name(self._instance, container_id, found.id)
        with Netlink(NETLINK_ROUTE) as route:
            link = links.find_link(route, veth)
        if link is None:
            return
        if wait:
            self._unplug(link, container_id)
        else:
            self._later.add(lambda: self._unplug(link, container_id))

    def of_container(self, container_id: str) -> list[EndpointRow]:
        """Return the memberships of a container, oldest first."""
        return select_endpoints(self._db.read(), container_id=container_id)

    def endpoints(self, container_id: str) -> list[Endpoint]:
        """Return the endpoints of a container, oldest first."""
        connection = self._db.read()
        rows = select_endpoints(connection, container_id=container_id)
        return [endpoint_of(select_network(connection, row.network_id), row) for row in rows]

    def rename(self, container_id: str, name: str) -> None:
        """Answer for a container under another name from now on."""
        with self._db.transaction() as connection:
            connection.execute("UPDATE endpoints SET name = ? WHERE container_id = ?", (name, container_id))

    def veth_of(self, row: EndpointRow) -> str:
        """Return the name of the host's end of an endpoint's interface, there or not."""
        return bridges.veth_name(self._instance, row.container_id, row.network_id)

    def _guard(self, route: Netlink, outer: links.Link, network: Network, row: EndpointRow) -> None:
        if not network.spoof_check:
            return
        try:
            guard_port(route, outer.index, mac=row.mac, ipv4=row.ipv4, ipv6=row.ipv6)
        except OSError as error:
            if not self._unguarded:
                logger.warning("the ports of containers are not guarded against forged addresses: %s", error)
            self._unguarded = True

    def _record(self, network: Network, row: EndpointRow, ifname: str, veth: str) -> None:
        with self._db.transaction() as connection:
            done = connection.execute(
                "UPDATE endpoints SET active = 1, ifname = ?, veth = ? WHERE network_id = ? AND container_id = ?",
                (ifname, veth, network.id, row.container_id),
            )
            if done.rowcount != 1:
                raise WrongState(
                    f"container {row.container_id[:12]} left network {network.name!r} while it was attached"
                )
            self._networks.announce(
                connection, "connect", network, container=row.container_id, container_name=row.name
            )

    def _unplug(self, link: links.Link, container_id: str) -> None:
        """Remove one interface; by its index, since the container may have a new one of the same name by now."""
        with Netlink(NETLINK_ROUTE) as route:
            unplug(route, link.name, self._networks.mark("container", container_id), link.index)


def endpoint_of(network: Network, row: EndpointRow) -> Endpoint:
    """Return a membership in the words of the container's record."""
    ipv4, ipv6 = network.subnet_of(4), network.subnet_of(6)
    return Endpoint(
        network_id=network.id,
        network=network.name,
        aliases=list(row.aliases),
        ipv4_address=row.ipv4,
        ipv4_prefix=ipv4.network.prefixlen if ipv4 and row.ipv4 else 0,
        gateway=ipv4.gateway if ipv4 and row.ipv4 and not network.internal else "",
        ipv6_address=row.ipv6,
        ipv6_prefix=ipv6.network.prefixlen if ipv6 and row.ipv6 else 0,
        ipv6_gateway=ipv6.gateway if ipv6 and row.ipv6 and not network.internal else "",
        mac_address=row.mac,
    )


def _new_row(
    connection: sqlite3.Connection, network: Network, container_id: str, spec: EndpointSpec
) -> EndpointRow:
    used = used_addresses(connection, network.id)
    ipv4 = _address(connection, network, 4, spec.ipv4_address, used["ipv4"])
    ipv6 = _address(connection, network, 6, spec.ipv6_address, used["ipv6"])
    mac = _mac(spec.mac_address, ipv4)
    if mac in used["mac"]:
        raise AlreadyExists(f"the hardware address {mac} is in use on network {network.name!r}")
    return EndpointRow(network.id, container_id, "", "", _aliases(spec.aliases), [], ipv4, ipv6, mac)


def _address(
    connection: sqlite3.Connection, network: Network, version: int, wanted: str, used: Collection[str]
) -> str:
    subnet: Subnet | None = network.subnet_of(version)
    if subnet is None:
        if wanted:
            raise BadSpec(
                f"network {network.name!r} has no IPv{version} subnet for the address {wanted[:64]}"
            )
        return ""
    if wanted:
        return ipam.check_address(_checked(wanted), subnet, used)
    column = "last_ipv4" if version == 4 else "last_ipv6"
    last = connection.execute(f"SELECT {column} FROM networks WHERE id = ?", (network.id,)).fetchone()[0]
    chosen = ipam.choose_address(subnet, used, last)
    connection.execute(f"UPDATE networks SET {column} = ? WHERE id = ?", (chosen, network.id))
    return chosen


def _checked(address: str) -> str:
    """Return an address in its canonical form."""
    try:
        return canonical(address)
    except ValueError:
        raise BadSpec(f"not an address: {address[:64]!r}") from None


def _mac(wanted: str, ipv4: str) -> str:
    if not wanted:
        return ipam.mac_for(ipv4) if ipv4 else ipam.random_mac()
    parts = wanted.lower().replace("-", ":").split(":")
    if len(parts) != 6 or not all(len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts):
        raise BadSpec(f"not a hardware address: {wanted[:40]!r}", hint="write it as 02:42:ac:11:00:02")
    if int(parts[0], 16) & 1:
        raise BadSpec(f"{wanted} is the address of a group, not of an interface")
    return ":".join(parts)


def _aliases(aliases: Sequence[str]) -> list[str]:
    for alias in aliases:
        if (
            not alias
            or len(alias) > 253
            or any(character.isspace() or character == "\0" for character in alias)
        ):
            raise BadSpec(f"not a name for a container on a network: {alias[:64]!r}")
    return list(dict.fromkeys(aliases))


def _free_name(used: Collection[str]) -> str:
    number = 0
    while f"eth{number}" in used:
        number += 1
    return f"eth{number}"


def without_addresses(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint as it is while its container does not run."""
    return dataclasses.replace(
        endpoint, ipv4_address="", ipv6_address="", mac_address="", gateway="", ipv6_gateway=""
    )

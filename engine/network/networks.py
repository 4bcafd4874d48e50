"""The networks on record, and the bridges, rules and routes that stand for them on this host.

A network is a row first and kernel objects second: `realise` makes the kernel match the row, as often as it is asked.
`host` and `none` are names that containers can use, not networks of ours; they are listed, and never changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from typing import Any

from engine.config import EngineConfig
from engine.db import Database
from engine.errors import AlreadyExists, BadSpec, Denied, InUse, NetworkNotFound
from engine.events import Event
from engine.linux import links
from engine.linux.locks import file_lock
from engine.linux.netlink import NETLINK_ROUTE, Netlink
from engine.linux.nft import Element, Interface, check_interface_name, is_interface_name
from engine.network import bridges, ipam
from engine.network.firewall import Firewall, network_elements, port_element
from engine.network.model import (
    BRIDGE_NAME,
    DEFAULT_NETWORK,
    PREDEFINED,
    IPNetwork,
    Network,
    NetworkSpec,
    Subnet,
    SubnetSpec,
    check_spec,
)
from engine.network.store import (
    insert_network,
    member_of,
    select_endpoints,
    select_network,
    select_networks,
    select_ports,
)

logger = logging.getLogger(__name__)

_DEFAULT_PREFIX = 22
_FORWARDING_KEY = "forwarding"
_ID = re.compile(r"[0-9a-f]{64}\Z")


class Networks:
    """Networks of one engine: create, find, remove, and keep the host as they say."""

    def __init__(self, config: EngineConfig, db: Database, firewall: Firewall) -> None:
        self._config = config
        self._db = db
        self.firewall = firewall

    def create(self, spec: NetworkSpec, identity: str = "") -> Network:
        """Make a network and its bridge. `identity` is its id (64 hex digits); one that is there already is returned.

        Raises `BadSpec` for what cannot be, `AlreadyExists` for a name or subnet in use, `Denied` for a built-in name.
        """
        check_spec(spec)
        if spec.name in ("host", "none", "default", "container"):
            raise Denied(f"the name {spec.name} is built in", hint="choose another name")
        if identity and not _ID.match(identity):
            raise BadSpec(f"not the id of a network: {identity[:70]!r}")
        with self._changing(), Netlink(NETLINK_ROUTE) as route, self._db.transaction() as connection:
            if identity:
                with suppress(NetworkNotFound):
                    return select_network(connection, identity)
            return self._create(connection, route, spec, identity)

    def ensure_default(self) -> Network:
        """Return the network that containers join when none is named, made when it is not there yet."""
        with suppress(NetworkNotFound):
            return select_network(self._db.read(), DEFAULT_NETWORK)
        with self._changing(), Netlink(NETLINK_ROUTE) as route, self._db.transaction() as connection:
            with suppress(NetworkNotFound):
                return select_network(connection, DEFAULT_NETWORK)
            return self._create(connection, route, NetworkSpec(DEFAULT_NETWORK))

    def all(self) -> list[Network]:
        """Return every network with its members, the built-in ones too."""
        self.ensure_default()
        connection = self._db.read()
        found = [self._with_members(connection, network) for network in select_networks(connection)]
        return [*found, *self._built_in()]

    def get(self, ref: str) -> Network:
        """Return the network with the name, id or unique id prefix `ref`, else raise `NetworkNotFound`."""
        return self._with_members(self._db.read(), self.find(ref))

    def find(self, ref: str) -> Network:
        """As `get`, but without members: quick on a network with many."""
        if ref in ("", "default", DEFAULT_NETWORK):
            return self.ensure_default()
        with suppress(NetworkNotFound):
            return select_network(self._db.read(), ref)
        for network in self._built_in():
            if ref in (network.name, network.id):
                return network
        return select_network(self._db.read(), ref)

    def remove(self, ref: str) -> Network:
        """Remove a network; raise `InUse` naming the containers on it, `Denied` for a built-in one."""
        if ref in PREDEFINED or ref == "default":
            raise Denied(f"the network {ref} is built in and cannot be removed")
        with self._changing(), self._db.transaction() as connection:
            network = select_network(connection, ref)
            if network.name in PREDEFINED:
                raise Denied(f"the network {network.name} is built in and cannot be removed")
            if rows := select_endpoints(connection, network_id=network.id):
                names = ", ".join(row.name or row.container_id[:12] for row in rows[:5])
                raise InUse(
                    f"network {network.name!r} is used by {names}",
                    hint="disconnect or stop these containers first",
                )
            connection.execute("DELETE FROM networks WHERE id = ?", (network.id,))
            self.announce(connection, "destroy", network)
        self._unrealise(network)
        return network

    def prune(
        self, *, keep: Collection[str] = (), matches: Callable[[Network], bool] = lambda network: True
    ) -> list[Network]:
        """Remove the networks that no container is on; `keep` are names and ids that stopped containers will want again."""
        removed = []
        for network in select_networks(self._db.read()):
            if (
                network.name in PREDEFINED
                or network.name in keep
                or network.id in keep
                or not matches(network)
            ):
                continue
            with suppress(InUse, NetworkNotFound):
                removed.append(self.remove(network.id))
        return removed

    def realise(self, route: Netlink, network: Network) -> links.Link:
        """Make bridge, rules and routes of a network as they must be; return the bridge. About 1 ms when all is there."""
        link = links.find_link(route, network.bridge)
        if link is not None and link.up and link.alias == self.mark("network", network.id):
            return link
        link = bridges.ensure_bridge(route, network, self.mark("network", network.id))
        self.enable_forwarding(ipv6=network.ipv6)
        self.firewall.add_routing(route, [network])
        with self.firewall_lock():
            try:
                self.firewall.table.add(network_elements(network))
            except FileNotFoundError:
                self.load_firewall([network])
        return link

    def load_firewall(self, extra: Collection[Network] = ()) -> None:
        """Load the whole table from what is on record (and `extra` networks not yet there). Hold `firewall_lock`."""
        connection = self._db.read()
        networks = {network.id: network for network in (*select_networks(connection), *extra)}
        elements = [element for network in networks.values() for element in network_elements(network)]
        self.firewall.load([*elements, *published_elements(connection), *self._uplinks()])

    def enable_forwarding(self, *, ipv6: bool) -> None:
        """Let this host forward, and remember if it was we who switched that on."""
        if bridges.enable_forwarding(ipv6=ipv6):
            (self._config.run_root / _FORWARDING_KEY).write_text("switched on by the engine\n")

    def announce(
        self, connection: sqlite3.Connection, action: str, network: Network, **attributes: Any
    ) -> None:
        """Append an event of a network to the journal, its record included."""
        values = {"name": network.name, "type": network.driver, "record": record_of(network), **attributes}
        self._db.append_event(connection, Event("network", action, network.id, values))

    def mark(self, kind: str, identity: str) -> str:
        return bridges.alias(self._config.instance, kind, identity)

    def firewall_lock(self) -> Any:  # a context manager
        """Hold off other changes of the table: a reload reads the records and must not miss one made meanwhile."""
        return file_lock(self._config.run_root / "firewall.lock")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        # one lock for all engines of this host: two that look for a free subnet at once would find the same
        with file_lock(self._config.run_root.parent / "wharfinger-networks.lock"):
            yield

    def _create(
        self, connection: sqlite3.Connection, route: Netlink, spec: NetworkSpec, identity: str = ""
    ) -> Network:
        if connection.execute("SELECT 1 FROM networks WHERE name = ?", (spec.name,)).fetchone():
            raise AlreadyExists(f"network {spec.name!r} exists already", hint="choose another name")
        identity = identity or secrets.token_hex(32)
        bridge = spec.options.get(BRIDGE_NAME) or bridges.bridge_name(self._config.instance, identity)
        if links.find_link(route, check_interface_name(bridge)) is not None:
            raise AlreadyExists(
                f"an interface {bridge} exists already", hint="choose another name for the bridge"
            )
        subnets = self._subnets(connection, route, spec)
        network = Network(
            identity, spec.name, "bridge", bridge, spec.internal, any(subnet.version == 6 for subnet in subnets), subnets,
            dict(spec.options), dict(spec.labels), time.time(), spec.attachable,
        )  # fmt: skip
        try:
            self.realise(route, network)
            insert_network(connection, network)
            self.announce(connection, "create", network)
        except BaseException:
            self._unrealise(network)
            raise
        return network

    def _subnets(self, connection: sqlite3.Connection, route: Netlink, spec: NetworkSpec) -> list[Subnet]:
        taken = self._taken(connection, route)
        wanted = list(spec.subnets)
        versions = [ip_network(item.subnet).version for item in wanted if _is_network(item.subnet)]
        if len(versions) != len(set(versions)) and len(wanted) > 1:
            raise BadSpec("a network has at most one IPv4 and one IPv6 subnet")
        if not any(version == 4 for version in versions) and not any(not item.subnet for item in wanted):
            wanted.insert(0, SubnetSpec())
        if spec.ipv6 and not any(version == 6 for version in versions):
            free = ipam.choose_subnet6([prefix for _, prefix in taken])
            wanted.append(SubnetSpec(subnet=str(free)))
        found: list[Subnet] = []
        for item in wanted:
            if not item.subnet:
                item = dataclasses.replace(item, subnet=str(self._free_subnet(spec, taken)))
            found.append(ipam.check_subnet(item, taken))
        return sorted(found, key=lambda subnet: subnet.version)

    def _free_subnet(self, spec: NetworkSpec, taken: list[tuple[str, IPNetwork]]) -> IPNetwork:
        prefix = _DEFAULT_PREFIX if spec.name == DEFAULT_NETWORK else ipam.POOL_PREFIX
        return ipam.choose_subnet(self._config.subnet_pool, [network for _, network in taken], prefix)

    def _taken(self, connection: sqlite3.Connection, route: Netlink) -> list[tuple[str, IPNetwork]]:
        """Return what a new subnet must not overlap: this host's routes and addresses, and all networks on record."""
        names = {link.index: link.name for link in links.list_links(route)}
        taken: list[tuple[str, IPNetwork]] = []
        for destination, index in links.list_routes(route):
            prefix = ip_network(destination)
            if prefix.prefixlen > 0:
                taken.append((f"a route of this machine ({names.get(index, 'no interface')})", prefix))
        for index, address, length in links.list_addresses(route):
            taken.append(
                (f"this machine ({names.get(index, '?')})", ip_network(f"{address}/{length}", strict=False))
            )
        for network in select_networks(connection):
            taken += [(f"network {network.name!r}", subnet.network) for subnet in network.subnets]
        return taken

    def _unrealise(self, network: Network) -> None:
        with Netlink(NETLINK_ROUTE) as route:
            bridges.remove_bridge(route, network.bridge, self.mark("network", network.id))
            self.firewall.remove_routing(route, network)
        with self.firewall_lock():
            self.firewall.table.remove_elements(network_elements(network))

    def _uplinks(self) -> list[Element]:
        """Return this host's own interfaces if it was we who made it forward: it must not become a router between them."""
        if not (self._config.run_root / _FORWARDING_KEY).exists():
            return []
        with Netlink(NETLINK_ROUTE) as route:
            own = [link for link in links.list_links(route) if not link.kind and link.name != "lo"]
        return [Element("uplinks", (Interface(link.name),)) for link in own if is_interface_name(link.name)]

    def _with_members(self, connection: sqlite3.Connection, network: Network) -> Network:
        rows = select_endpoints(connection, network_id=network.id)
        return dataclasses.replace(network, members=[member_of(row, network) for row in rows])

    def _built_in(self) -> list[Network]:
        found = []
        for name, driver in (("host", "host"), ("none", "null")):
            identity = hashlib.sha256(f"{self._config.instance} {name}".encode()).hexdigest()
            found.append(Network(identity, name, driver, "", False, False, [], {}, {}, 0.0))
        return found


def record_of(network: Network) -> dict[str, Any]:
    """Return the public record of a network without its members (each connect and disconnect is an event of its own)."""
    record = dataclasses.asdict(network)
    del record["members"]
    return record


def published_elements(connection: sqlite3.Connection) -> list[Element]:
    """Return the elements of every port that is published now."""
    return [
        port_element(
            host_ip=row.binding.host_ip, host_port=row.binding.host_port, protocol=row.binding.protocol, address=row.target,
            container_port=row.binding.container_port,
        )
        for row in select_ports(connection)
        if row.target
    ]  # fmt: skip


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return bool(text)

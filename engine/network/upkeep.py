"""Keeping this host as the records say: put right what is missing, name what does not match, remove what is left over.

Only kernel objects with this engine's mark are ever removed: interfaces by their alias, routing rules by their place, one
nftables table by its name, rules in shared chains by their comment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable

from engine.config import EngineConfig
from engine.db import Database
from engine.linux import links
from engine.linux.netlink import NETLINK_ROUTE, Netlink
from engine.linux.nft import Element
from engine.network import bridges
from engine.network.bridges import setting
from engine.network.firewall import Firewall, network_elements
from engine.network.memberships import Memberships
from engine.network.model import Network
from engine.network.neighbours import Neighbours
from engine.network.networks import Networks, published_elements
from engine.network.publishing import Publisher
from engine.network.store import select_endpoints, select_networks

logger = logging.getLogger(__name__)

_SETTLE_S = 2.0


class Upkeep:
    """The host's side of one engine's networks."""

    def __init__(
        self,
        config: EngineConfig,
        db: Database,
        *,
        networks: Networks,
        members: Memberships,
        publisher: Publisher,
        neighbours: Neighbours,
    ) -> None:
        self._instance = config.instance
        self._db = db
        self._networks = networks
        self._firewall: Firewall = networks.firewall
        self._members = members
        self._publisher = publisher
        self._neighbours = neighbours

    def restore(self, *, neighbours: bool = True) -> list[str]:
        """Make this host as the records say; return what was missing. About 1 ms when nothing was.

        With `neighbours` it also looks at other firewalls, which costs some 30 ms.
        """
        self._networks.ensure_default()
        networks = select_networks(self._db.read())
        repaired = []
        with Netlink(NETLINK_ROUTE) as route:
            self._networks.enable_forwarding(ipv6=any(network.ipv6 for network in networks))
            for network in networks:
                if self._bridge_fault(route, network):
                    repaired.append(f"bridge {network.bridge}")
                    bridges.ensure_bridge(route, network, self._networks.mark("network", network.id))
            repaired += self._firewall.add_routing(route, networks)
        with self._networks.firewall_lock():
            if self._firewall.missing(self._elements(networks)):
                repaired.append(f"table {self._firewall.table.name}")
                self._networks.load_firewall()
        if neighbours or repaired:
            self._neighbours.adopt([network.bridge for network in networks])
        return repaired

    def check(self, containers: Collection[str]) -> list[str]:
        """Return in words what does not match; `containers` are the ids of those that run."""
        connection = self._db.read()
        networks = select_networks(connection)
        found = [
            f"{setting} is off: containers reach nothing outside"
            for setting in self._missing_settings(networks)
        ]
        with Netlink(NETLINK_ROUTE) as route:
            for network in networks:
                if fault := self._bridge_fault(route, network):
                    found.append(f"network {network.name}: {fault}")
            wanted = self._firewall.routing(networks)
            have = self._firewall.own_routing(route)
            found += [f"routing rule missing: {links.rule_text(rule)}" for rule in wanted if rule not in have]
            found += self._endpoint_faults(route, containers)
            found += [f"left over: interface {link.name}" for link in self._settled_strays(route)]
        if not self._firewall.table.exists():
            found.append(f"the table {self._firewall.table.name} is missing")
        elif missing := self._firewall.missing(self._elements(networks)):
            found += [f"rule element missing: {element.set} {element.text()}" for element in missing]
        for port in self._publisher.held():
            if port.container_id not in containers:
                found.append(
                    f"port {port.binding.host_port} is held by container {port.container_id[:12]}, which does not run"
                )
        own = [network.bridge for network in networks]
        for obstacle in self._neighbours.obstacles(self._firewall.table.name, own):
            found.append(
                f"another firewall drops packets of containers: chain {obstacle.chain} ({obstacle.hint})"
            )
        return found

    def sweep(self, containers: Collection[str]) -> list[str]:
        """Remove what belongs to none of `containers` (ids of those that run) and no network on record; say what."""
        swept = []
        for row in select_endpoints(self._db.read()):
            if row.container_id not in containers:
                self._members.detach(row.container_id, row.network_id)
                swept.append(f"address {row.ipv4 or row.ipv6} of container {row.container_id[:12]}")
        for container_id in {port.container_id for port in self._publisher.held()} - set(containers):
            self._publisher.unpublish(container_id)
            swept.append(f"ports of container {container_id[:12]}")
        networks = select_networks(self._db.read())
        with Netlink(NETLINK_ROUTE) as route:
            for link in self._stray_links(route):
                bridges.remove_link(route, link)
                swept.append(f"interface {link.name}")
            wanted = self._firewall.routing(networks)
            for rule in self._firewall.own_routing(route):
                if rule not in wanted:
                    route.request(links.remove_rule(rule))
                    swept.append(f"routing rule {links.rule_text(rule)}")
        with self._networks.firewall_lock():
            if self._firewall.table.exists() and self._firewall.extra(
                self._elements(select_networks(self._db.read()))
            ):
                self._networks.load_firewall()
                swept.append("rule elements")
        return swept

    def dismantle(self) -> None:
        """Take everything of this engine off the host: interfaces, rules, routes. The records stay."""
        with Netlink(NETLINK_ROUTE) as route:
            for link in bridges.own_links(route, self._instance):
                if link.kind in ("bridge", "veth"):
                    bridges.remove_link(route, link)
        self._firewall.remove()
        self._neighbours.forget()

    def _elements(self, networks: Iterable[Network]) -> list[Element]:
        elements = [element for network in networks for element in network_elements(network)]
        return [*elements, *published_elements(self._db.read())]

    def _bridge_fault(self, route: Netlink, network: Network) -> str:
        link = links.find_link(route, network.bridge)
        if link is None:
            return f"the bridge {network.bridge} is missing"
        if link.alias != self._networks.mark("network", network.id):
            return f"the interface {network.bridge} is not our bridge"
        if not link.up:
            return f"the bridge {network.bridge} is down"
        have = {str(address) for index, address, _ in links.list_addresses(route) if index == link.index}
        missing = [subnet.gateway for subnet in network.subnets if subnet.gateway not in have]
        return f"the bridge {network.bridge} lacks the address {missing[0]}" if missing else ""

    def _endpoint_faults(self, route: Netlink, containers: Collection[str]) -> list[str]:
        names = {link.name for link in bridges.own_links(route, self._instance)}
        found = []
        for row in select_endpoints(self._db.read()):
            who = row.name or row.container_id[:12]
            if row.container_id not in containers:
                found.append(f"address {row.ipv4 or row.ipv6} is held by container {who}, which does not run")
            elif row.active and row.veth not in names:
                found.append(f"container {who} has lost its interface {row.ifname}")
        return found

    def _stray_links(self, route: Netlink) -> list[links.Link]:
        """Return our interfaces that nothing on record stands for; also those that were never marked (killed midway)."""
        connection = self._db.read()
        known = {network.bridge for network in select_networks(connection)}
        known |= {row.veth or self._members.veth_of(row) for row in select_endpoints(connection)}
        strays = [link for link in bridges.own_links(route, self._instance) if link.name not in known]
        unmarked = bridges.unmarked_links(route, self._instance)
        return [*strays, *(link for link in unmarked if link.name not in known)]

    def _settled_strays(self, route: Netlink) -> list[links.Link]:
        """As `_stray_links`, but the kernel gets time for those of containers that have just ended."""
        deadline = time.monotonic() + _SETTLE_S
        while (strays := self._stray_links(route)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return strays

    def _missing_settings(self, networks: Iterable[Network]) -> list[str]:
        wanted = ["ipv4/ip_forward"]
        if any(network.ipv6 for network in networks):
            wanted.append("ipv6/conf/all/forwarding")
        return [f"net.{name.replace('/', '.')}" for name in wanted if setting(name) == "0"]

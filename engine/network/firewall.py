"""The rules of this engine's networks: one nftables table of its own, and a few routing rules that outlive a flush.

The table decides. Its rules never change; bridges, subnets and published ports are elements of its sets and maps.
In prose:

- from outside to a container: only what a published port translated, and answers;
- from container to container: freely inside one network, otherwise only by a published port;
- from a container to this machine itself: DNS of its own gateway, ping, published ports and the ports that the policy
  opens; not Redis, not the database, not the web site (they answer "prohibited");
- from a container to the world: translated to this machine's address, unless its network is internal; never to the
  link-local network where clouds keep their machines' secrets;
- between this machine's own interfaces: dropped, if it was the engine that made the machine forward packets at all;
- to 127.0.0.0/8: only from this machine. Bridges have `route_localnet` on, so that a port published on 127.0.0.1 works
  without a proxy; interfaces to the outside have it off.

Another tool may flush all tables (`nft flush ruleset`). Until ours is back nothing may be open. So the table also marks
every packet of our networks with one bit, and routing rules (`ip rule`, which no firewall flushes) drop what is forwarded
to our subnets without it: no table, no mark, no way. Internal networks have no way out by a routing rule of their own. What comes to 127.0.0.0/8 from a container, or with another's
address, is dropped by the filter on the container's own port (`engine.network.portguard`), which lives with the port.

Accepting in our table does not help where another table drops; `engine.network.neighbours` finds such cases.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address

from engine.linux import links
from engine.linux.netlink import NETLINK_ROUTE, Netlink
from engine.linux.nft import Element, Interface, Port, Protocol, Table, packed_key
from engine.network.model import Network

# what a routing rule does, as its place in this engine's range of priorities
_INTERNAL, _MARKED, _LOCAL, _DROP, _LAST = range(5)

MARK = 0x02000000
"""The bit that says "our table has seen this packet"; other bits of the mark are left alone."""

_SETS = {
    "bridges": "set bridges { type ifname; %s }",
    "internal": "set internal { type ifname; %s }",
    "uplinks": "set uplinks { type ifname; %s }",
    "within": "set within { type ifname . ifname; %s }",
    "gateways4": "set gateways4 { type ifname . ipv4_addr; %s }",
    "gateways6": "set gateways6 { type ifname . ipv6_addr; %s }",
    "subnets4": "set subnets4 { type ipv4_addr; flags interval; %s }",
    "subnets6": "set subnets6 { type ipv6_addr; flags interval; %s }",
    "masked4": "set masked4 { type ipv4_addr; flags interval; %s }",
    "masked6": "set masked6 { type ipv6_addr; flags interval; %s }",
    "host_ports": "set host_ports { type inet_proto . inet_service; %s }",
    "ports4": "map ports4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; %s }",
    "ports6": "map ports6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; %s }",
    "any4": "map any4 { type inet_proto . inet_service : ipv4_addr . inet_service; %s }",
    "any6": "map any6 { type inet_proto . inet_service : ipv6_addr . inet_service; %s }",
}

_CHAINS = f"""
chain loopback {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    iifname != "lo" ip6 daddr ::1 drop
}}
chain published_in {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump published
}}
chain published_here {{
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 return
    fib daddr type local jump published
}}
chain published {{
    iifname . ip daddr @gateways4 meta l4proto {{ tcp, udp }} th dport 53 return
    iifname . ip6 daddr @gateways6 meta l4proto {{ tcp, udp }} th dport 53 return
    dnat ip to ip daddr . meta l4proto . th dport map @ports4
    dnat ip to meta l4proto . th dport map @any4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6
    dnat ip6 to meta l4proto . th dport map @any6
}}
chain seen {{
    type filter hook prerouting priority dstnat + 1; policy accept;
    iifname @bridges meta mark set meta mark | {MARK:#010x}
    ip daddr @subnets4 meta mark set meta mark | {MARK:#010x}
    ip6 daddr @subnets6 meta mark set meta mark | {MARK:#010x}
}}
chain forward {{
    type filter hook forward priority filter - 1; policy accept;
    oifname @bridges jump to_container
    iifname @bridges jump from_container
    iifname @uplinks oifname @uplinks drop
}}
chain to_container {{
    iifname . oifname @within return
    oifname @internal drop
    iifname @internal drop
    ct state established,related return
    ct status dnat return
    drop
}}
chain from_container {{
    oifname @bridges return
    iifname @internal drop
    ct state established,related return
    ip daddr 169.254.0.0/16 reject with icmp type admin-prohibited
}}
chain input {{
    type filter hook input priority filter - 1; policy accept;
    iifname @bridges jump to_host
}}
chain to_host {{
    ct state established,related return
    meta l4proto {{ icmp, ipv6-icmp }} return
    iifname . ip daddr @gateways4 meta l4proto {{ tcp, udp }} th dport 53 return
    iifname . ip6 daddr @gateways6 meta l4proto {{ tcp, udp }} th dport 53 return
    meta l4proto . th dport @host_ports return
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
}}
chain translate {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname != @bridges ip saddr @masked4 masquerade
    oifname != @bridges ip6 saddr @masked6 masquerade
    oifname @bridges ip saddr 127.0.0.0/8 masquerade
    oifname @bridges ct status dnat ip saddr @subnets4 masquerade
    oifname @bridges ct status dnat ip6 saddr @subnets6 masquerade
}}
"""


class Firewall:
    """The table and the routing rules of one engine, by its `instance`."""

    def __init__(self, instance: str, host_ports: Sequence[tuple[str, int]] = ()) -> None:
        self.table = Table(f"wharfinger-{instance}")
        self._host_ports = [
            Element("host_ports", (Protocol(protocol), Port(port))) for protocol, port in host_ports
        ]
        self._priority = 5000 + int(instance, 16) % 3000 * 8

    def load(self, elements: Iterable[Element]) -> None:
        """Load the whole table with these elements, replacing what is there in one step."""
        by_set: dict[str, list[str]] = defaultdict(list)
        for element in (*elements, *self._host_ports):
            by_set[element.set].append(element.text())
        sets = [
            line % (f"elements = {{ {', '.join(by_set[name])} }}" if by_set[name] else "")
            for name, line in _SETS.items()
        ]
        self.table.load("\n".join(sets) + _CHAINS)

    def missing(self, elements: Iterable[Element]) -> list[Element]:
        """Return those elements that the kernel does not have; all of them when the table is gone."""
        wanted = [*elements, *self._host_ports]
        if not self.table.exists():
            return wanted
        have = {name: self.table.keys(name) for name in {element.set for element in wanted}}
        return [element for element in wanted if packed_key(element) not in have[element.set]]

    def extra(self, elements: Iterable[Element]) -> bool:
        """Tell whether the kernel has elements beside these."""
        wanted: dict[str, set[bytes]] = defaultdict(set)
        for element in (*elements, *self._host_ports):
            wanted[element.set].add(packed_key(element))
        return any(self.table.keys(name) - wanted[name] for name in _SETS if name != "uplinks")

    def add_routing(self, route: Netlink, networks: Iterable[Network]) -> list[str]:
        """Put the routing rules of the networks there, and those that all of them share; return what was missing."""
        have = self.own_routing(route)
        added = []
        for rule in self.routing(networks):
            if rule not in have:
                with suppress(FileExistsError):
                    route.request(links.add_rule(rule))
                    added.append(f"routing rule {links.rule_text(rule)}")
        return added

    def remove_routing(self, route: Netlink, network: Network) -> None:
        """Take the routing rules of one network away."""
        for rule in self._network_rules(network):
            with suppress(FileNotFoundError):
                route.request(links.remove_rule(rule))

    def remove(self) -> None:
        """Take the table and every routing rule of this engine away."""
        self.table.remove()
        with Netlink(NETLINK_ROUTE) as route:
            for rule in reversed(self.own_routing(route)):
                route.request(links.remove_rule(rule))

    def own_routing(self, route: Netlink) -> list[links.Rule]:
        """Return the routing rules in the kernel that are this engine's."""
        last = self._priority + _LAST
        ours = [rule for rule in links.list_rules(route) if self._priority <= rule.priority <= last]
        return [rule for rule in ours if rule.action in ("goto", "nop", "blackhole")]

    def routing(self, networks: Iterable[Network]) -> list[links.Rule]:
        """Return the rules that must be there: marked and local packets jump over the drops of each network."""
        rules = []
        first, end = self._priority, self._priority + _LAST
        for family in (socket.AF_INET, socket.AF_INET6):
            rules.append(links.Rule(family, end, "nop"))
            rules.append(links.Rule(family, first + _MARKED, "goto", mark=MARK, mask=MARK, target=end))
            rules.append(links.Rule(family, first + _LOCAL, "goto", iif="lo", target=end))
        return rules + [rule for network in networks for rule in self._network_rules(network)]

    def _network_rules(self, network: Network) -> list[links.Rule]:
        rules = []
        if network.internal:
            first = self._priority + _INTERNAL
            for family in (socket.AF_INET, socket.AF_INET6):
                rules.append(links.Rule(family, first, "blackhole", iif=network.bridge))
        for subnet in network.subnets:
            family = socket.AF_INET if subnet.version == 4 else socket.AF_INET6
            rules.append(links.Rule(family, self._priority + _DROP, "blackhole", to=str(subnet.network)))
        return rules


def network_elements(network: Network) -> list[Element]:
    """Return the elements that stand for a network."""
    bridge = Interface(network.bridge)
    elements = [Element("bridges", (bridge,))]
    if network.internal:
        elements.append(Element("internal", (bridge,)))
    if network.icc:
        elements.append(Element("within", (bridge, bridge)))
    for subnet in network.subnets:
        elements.append(Element(f"subnets{subnet.version}", (subnet.network,)))
        elements.append(Element(f"gateways{subnet.version}", (bridge, ip_address(subnet.gateway))))
        if network.masquerade and not network.internal:
            elements.append(Element(f"masked{subnet.version}", (subnet.network,)))
    return elements


def port_element(
    *, host_ip: str, host_port: int, protocol: str, address: str, container_port: int
) -> Element:
    """Return the element that publishes a container's port."""
    host, target = ip_address(host_ip), ip_address(address)
    key = (Protocol(protocol), Port(host_port))
    value = (target, Port(container_port))
    if host.is_unspecified:
        return Element(f"any{host.version}", key, value)
    return Element(f"ports{host.version}", (host, *key), value)

"""Links, addresses, routes and routing rules as netlink messages, and the tables of them that the kernel keeps.

Each function returns a `Message` to hand to `Netlink.request`. Sources: rtnetlink(7), linux/if_link.h,
linux/if_addr.h, linux/rtnetlink.h, linux/fib_rules.h.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from engine.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Netlink,
    attribute,
    attributes,
    nested,
)

Address = IPv4Address | IPv6Address

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _GETROUTE = 24, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_IFF_UP = 1
_PORT_FORWARDING = 3
_IFA_F_NODAD = 0x02
_VETH_INFO_PEER = 1
_RULE_GOTO, _RULE_NOP, _RULE_TABLE, _RULE_BLACKHOLE = 2, 3, 1, 6
RULE_PROTOCOL = (
    2  # "kernel": systemd-networkd takes other rules that it does not know for stale ones and removes them
)


@dataclass(frozen=True)
class Link:
    """A network interface. `alias` is our mark of ownership, `master` the index of its bridge (0: none).

    `forwarding` says that it is a port of a bridge, and that the bridge passes its packets.
    """

    index: int
    name: str
    kind: str = ""
    alias: str = ""
    master: int = 0
    up: bool = False
    forwarding: bool = False
    mac: str = ""
    mtu: int = 0


@dataclass(frozen=True)
class Rule:
    """A routing rule. `action`: `goto` (to `target`), `nop`, `blackhole` or another one's number."""

    family: int
    priority: int
    action: str
    iif: str = ""
    to: str = ""
    mark: int = 0
    mask: int = 0
    target: int = 0


def bridge(name: str, *, alias: str, mac: str, mtu: int = 0) -> Message:
    """Make a bridge, down, without spanning tree and without snooping of multicast."""
    data = nested(2, attribute(5, 0), attribute(23, b"\0"))  # IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING
    info = nested(18, attribute(1, "bridge"), data)
    extra = attribute(4, mtu) if mtu else b""
    body = _ifinfo() + attribute(3, name) + attribute(20, alias) + attribute(1, _mac(mac)) + extra + info
    return Message(_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, f"making the bridge {name}")


def veth(
    name: str, *, master: int, peer: str, peer_netns: int, peer_mac: str, mtu: int = 0, alias: str = ""
) -> Message:
    """Make a pair of interfaces: `name` here, up and in the bridge `master`; `peer`, down, in the namespace `peer_netns`."""
    size = attribute(4, mtu) if mtu else b""
    there = _ifinfo() + attribute(3, peer) + attribute(1, _mac(peer_mac)) + attribute(28, peer_netns) + size
    info = nested(18, attribute(1, "veth"), nested(2, attribute(_VETH_INFO_PEER | 0x8000, there)))
    here = _ifinfo(flags=_IFF_UP, change=_IFF_UP) + attribute(3, name) + attribute(20, alias) + size
    return Message(
        _NEWLINK,
        here + attribute(10, master) + info,
        NLM_F_CREATE | NLM_F_EXCL,
        f"making the interface {name}",
    )


def set_port(index: int, *, hairpin: bool, isolated: bool) -> Message:
    """Say how a bridge treats its port `index`: `hairpin` sends back out of it, `isolated` ports do not see each other."""
    options = nested(12, attribute(4, bytes([hairpin])), attribute(33, bytes([isolated])))  # IFLA_PROTINFO
    return Message(
        _SETLINK, _ifinfo(index=index, family=socket.AF_BRIDGE) + options, 0, "setting a bridge port"
    )


def set_up(index: int) -> Message:
    return Message(
        _NEWLINK, _ifinfo(index=index, flags=_IFF_UP, change=_IFF_UP), 0, "setting an interface up"
    )


def set_down(index: int) -> Message:
    return Message(_NEWLINK, _ifinfo(index=index, flags=0, change=_IFF_UP), 0, "setting an interface down")


def set_alias(index: int, alias: str) -> Message:
    return Message(_NEWLINK, _ifinfo(index=index) + attribute(20, alias), 0, "marking an interface")


def remove(index: int) -> Message:
    return Message(_DELLINK, _ifinfo(index=index), 0, "removing an interface")


def add_address(index: int, address: Address, prefix: int) -> Message:
    """Give interface `index` an address; an IPv6 one is used at once, without looking for duplicates."""
    broadcast = b""
    if address.version == 4 and prefix < 31:
        broadcast = attribute(4, ip_network(f"{address}/{prefix}", strict=False).broadcast_address.packed)
    head = struct.pack(
        "=BBBBI", _family(address), prefix, _IFA_F_NODAD if address.version == 6 else 0, 0, index
    )
    body = head + attribute(2, address.packed) + attribute(1, address.packed) + broadcast
    return Message(_NEWADDR, body, NLM_F_CREATE | NLM_F_REPLACE, f"adding the address {address}")


def default_route(index: int, gateway: Address, *, metric: int = 0) -> Message:
    """Send what has no better route to `gateway`."""
    head = struct.pack(
        "=BBBBBBBBI", _family(gateway), 0, 0, 0, 254, 3, 0, 1, 0
    )  # main table, static, universe, unicast
    extra = attribute(6, metric) if metric else b""
    body = head + attribute(5, gateway.packed) + attribute(4, index) + extra
    return Message(_NEWROUTE, body, NLM_F_CREATE | NLM_F_REPLACE, f"adding the route by {gateway}")


def remove_default_route(index: int, gateway: Address, *, metric: int = 0) -> Message:
    head = struct.pack("=BBBBBBBBI", _family(gateway), 0, 0, 0, 254, 0, 0, 1, 0)
    extra = attribute(6, metric) if metric else b""
    return Message(
        25,
        head + attribute(5, gateway.packed) + attribute(4, index) + extra,
        0,
        f"removing the route by {gateway}",
    )


def add_rule(rule: Rule) -> Message:
    return Message(
        _NEWRULE, _rule_body(rule), NLM_F_CREATE | NLM_F_EXCL, f"adding the routing rule {rule.priority}"
    )


def remove_rule(rule: Rule) -> Message:
    return Message(_DELRULE, _rule_body(rule), 0, f"removing the routing rule {rule.priority}")


def list_links(route: Netlink) -> list[Link]:
    """Return every interface of the socket's namespace."""
    return route.dump(Message(_GETLINK, _ifinfo(), 0, "listing interfaces"), _parse_link)


def find_link(route: Netlink, name: str) -> Link | None:
    """Return the interface called `name`, None when there is none."""
    try:
        return _parse_link(
            route.get(Message(_GETLINK, _ifinfo() + attribute(3, name), 0, f"looking for {name}"))
        )
    except OSError as error:
        if error.errno == 19:  # ENODEV
            return None
        raise


def list_addresses(route: Netlink) -> list[tuple[int, Address, int]]:
    """Return (interface index, address, prefix length) of every address of the socket's namespace."""
    found = route.dump(
        Message(_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0), 0, "listing addresses"), _parse_address
    )
    return [item for item in found if item is not None]


def list_routes(route: Netlink) -> list[tuple[str, int]]:
    """Return (destination as a prefix, interface index) of the routes of the main table."""
    found: list[tuple[str, int] | None] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        head = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 0, 0, 0, 0)
        found += route.dump(Message(_GETROUTE, head + attribute(15, 254), 0, "listing routes"), _parse_route)
    return [item for item in found if item is not None]


def list_rules(route: Netlink) -> list[Rule]:
    """Return the routing rules of both families."""
    found: list[Rule] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        head = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        found += route.dump(Message(_GETRULE, head, 0, "listing routing rules"), _parse_rule)
    return found


def rule_text(rule: Rule) -> str:
    """Return a rule as `ip rule` shows it."""
    parts = [f"{rule.priority}:"]
    parts += ["to", rule.to] if rule.to else []
    parts += ["iif", rule.iif] if rule.iif else []
    parts += [f"fwmark {rule.mark:#x}/{rule.mask:#x}"] if rule.mark else []
    return " ".join([*parts, rule.action, *([str(rule.target)] if rule.target else [])])


def _ifinfo(*, index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    return struct.pack("=BBHiII", family, 0, 0, index, flags, change)


def _family(address: Address) -> int:
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


_ACTIONS = {"goto": _RULE_GOTO, "nop": _RULE_NOP, "blackhole": _RULE_BLACKHOLE, "table": _RULE_TABLE}
_ACTION_NAMES = {number: name for name, number in _ACTIONS.items()}


def _rule_body(rule: Rule) -> bytes:
    network = ip_network(rule.to) if rule.to else None
    action = _ACTIONS[rule.action]
    body = struct.pack(
        "=BBBBBBBBI", rule.family, network.prefixlen if network else 0, 0, 0, 0, 0, 0, action, 0
    )
    body += attribute(6, rule.priority) + attribute(21, bytes([RULE_PROTOCOL]))
    if network:
        body += attribute(1, network.network_address.packed)
    if rule.iif:
        body += attribute(3, rule.iif)
    if rule.mark:
        body += attribute(10, rule.mark) + attribute(16, rule.mask)
    if rule.target:
        body += attribute(4, rule.target)
    return body


def _parse_link(body: bytes) -> Link:
    _, _, _, index, flags, _ = struct.unpack_from("=BBHiII", body)
    found = attributes(body[16:])
    info = attributes(found.get(18, b""))
    kind = _text(info.get(1, b""))
    port = attributes(info.get(5, b"")) if _text(info.get(4, b"")) == "bridge" else {}
    return Link(
        index=index,
        name=_text(found.get(3, b"")),
        kind=kind,
        alias=_text(found.get(20, b"")),
        master=struct.unpack("=I", found[10])[0] if 10 in found else 0,
        up=bool(flags & _IFF_UP),
        forwarding=port.get(1, b"\0")[0] == _PORT_FORWARDING,
        mac=found.get(1, b"").hex(":"),
        mtu=struct.unpack("=I", found[4])[0] if 4 in found else 0,
    )


def _parse_address(body: bytes) -> tuple[int, Address, int] | None:
    _, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
    found = attributes(body[8:])
    packed = found.get(2) or found.get(1)  # IFA_LOCAL, else IFA_ADDRESS
    return (index, ip_address(packed), prefix) if packed else None


def _parse_route(body: bytes) -> tuple[str, int] | None:
    family, prefix, _, _, table, _, _, kind, _ = struct.unpack_from("=BBBBBBBBI", body)
    found = attributes(body[12:])
    if kind != 1 or table != 254:
        return None
    packed = found.get(1, bytes(4 if family == socket.AF_INET else 16))
    return f"{ip_address(packed)}/{prefix}", struct.unpack("=I", found[4])[0] if 4 in found else 0


def _parse_rule(body: bytes) -> Rule:
    family, to_prefix, _, _, _, _, _, action, _ = struct.unpack_from("=BBBBBBBBI", body)
    found = attributes(body[12:])

    def number(kind: int) -> int:
        return int(struct.unpack("=I", found[kind])[0]) if kind in found else 0

    to = f"{ip_address(found[1])}/{to_prefix}" if 1 in found else ""
    name = _ACTION_NAMES.get(action, str(action))
    return Rule(family, number(6), name, _text(found.get(3, b"")), to, number(10), number(16), number(4))

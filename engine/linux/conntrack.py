"""The table of connections: forgetting those that lead to a place that is no more.

A translated connection keeps its target for as long as packets come (a UDP "connection" for minutes), also when the
target has gone and its address belongs to somebody else. Sources: conntrack(8), linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from engine.linux.netlink import NETLINK_NETFILTER, Message, Netlink, attributes, nested

_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_TUPLE_ORIG, _TUPLE_REPLY = 1, 2


@dataclass(frozen=True)
class Entry:
    """A connection: protocol number, the port it was made to, the address that answers, and its name in the table."""

    family: int
    protocol: int
    port: int
    answers: str
    original: bytes


def forget(
    *,
    addresses: Collection[str] = (),
    local_ports: Sequence[tuple[str, int]] = (),
    netlink: Netlink | None = None,
) -> int:
    """Forget connections that `addresses` answer, or that were made to `local_ports`; return how many."""
    wanted = {(_PROTOCOLS[protocol], port) for protocol, port in local_ports}
    if netlink is None:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return _forget(netlink, set(addresses), wanted)
    return _forget(netlink, set(addresses), wanted)


def _forget(netlink: Netlink, addresses: set[str], ports: set[tuple[int, int]]) -> int:
    found = [
        entry
        for entry in entries(netlink)
        if entry is not None and (entry.answers in addresses or (entry.protocol, entry.port) in ports)
    ]
    for entry in found:
        body = struct.pack(">BBH", entry.family, 0, 0) + nested(_TUPLE_ORIG, entry.original)
        with suppress(FileNotFoundError):
            netlink.request(Message(_DELETE, body, 0, "forgetting a connection"))
    return len(found)


def entries(netlink: Netlink) -> list[Entry | None]:
    """Return the table of connections of the socket's namespace."""
    return netlink.dump(
        Message(_GET, struct.pack(">BBH", socket.AF_UNSPEC, 0, 0), 0, "listing connections"), _parse
    )


def _parse(body: bytes) -> Entry | None:
    found = attributes(body[4:])
    if _TUPLE_ORIG not in found or _TUPLE_REPLY not in found:
        return None
    original, reply = attributes(found[_TUPLE_ORIG]), attributes(found[_TUPLE_REPLY])
    ports = attributes(original.get(2, b""))
    source = attributes(reply.get(1, b""))
    address = source.get(1) or source.get(3)
    if address is None or 1 not in ports:
        return None
    port = struct.unpack(">H", ports[3])[0] if 3 in ports else 0
    return Entry(body[0], ports[1][0], port, str(ip_address(address)), found[_TUPLE_ORIG])

"""nftables: a table loaded whole by the `nft` program, and elements of its sets and maps changed by netlink.

Loading costs one process (about 5-10 ms) and happens at start or after somebody flushed the rules; what changes with
each container is elements only, about 0.1 ms, all of one change in one transaction. Values are packed from typed values
here and names are checked, so no text of a user ever reaches a rule. Sources: nft(8), linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from engine.errors import InvalidInput
from engine.linux.netlink import (
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    Message,
    Netlink,
    attribute,
    attribute_list,
    attributes,
    nested,
)
from engine.linux.process import run

NFT_GROUP = 1 << 6  # multicast group 7, NFNLGRP_NFTABLES, as a bit
FAMILY_INET = 1

_SUBSYSTEM = 10 << 8
_NEWTABLE, _GETTABLE, _DELTABLE = _SUBSYSTEM | 0, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_NEWCHAIN = _SUBSYSTEM | 3
_NEWELEM, _GETELEM, _DELELEM = _SUBSYSTEM | 12, _SUBSYSTEM | 13, _SUBSYSTEM | 14
_INTERVAL_END = struct.pack(">I", 1)
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_IFNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}\Z")
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}


@dataclass(frozen=True)
class Interface:
    """The name of a network interface as part of a key."""

    name: str


@dataclass(frozen=True)
class Protocol:
    """`tcp`, `udp` or `sctp` as part of a key."""

    name: str


@dataclass(frozen=True)
class Port:
    """A port number as part of a key or value."""

    number: int


Part = Interface | Protocol | Port | IPv4Address | IPv6Address | IPv4Network | IPv6Network


@dataclass(frozen=True)
class Element:
    """An element of the set or map `set`: its key and, in a map, its value. A network is an interval."""

    set: str
    key: tuple[Part, ...]
    value: tuple[Part, ...] = ()

    def text(self) -> str:
        """Return the element as it is written in a ruleset."""
        key = " . ".join(_part_text(part) for part in self.key)
        return f"{key} : {' . '.join(_part_text(part) for part in self.value)}" if self.value else key


class Table:
    """A table of the family inet, by its name."""

    def __init__(self, name: str) -> None:
        if not _TOKEN.match(name):
            raise InvalidInput(f"not a name for a table of nftables: {name[:64]!r}")
        self.name = name
        self._lock = threading.Lock()
        self._kept: Netlink | None = None
        self._kept_for = (0, 0)

    def load(self, body: str) -> None:
        """Replace the whole table by `body` (sets, maps and chains) in one transaction."""
        text = f"table inet {self.name} {{}}\ndelete table inet {self.name}\ntable inet {self.name} {{\n{body}\n}}\n"
        run(["nft", "-f", "-"], stdin=text.encode(), timeout_s=10.0)

    def remove(self) -> None:
        """Remove the table; one that is not there counts as removed."""
        body = _HEADER + attribute(1, self.name)
        with Netlink(NETLINK_NETFILTER) as netfilter, suppress(FileNotFoundError):
            netfilter.transaction(
                [Message(_DELTABLE, body, 0, f"removing the table {self.name}")], _BEGIN, _END
            )

    def exists(self) -> bool:
        """Tell whether the kernel has the table."""
        with Netlink(NETLINK_NETFILTER) as netfilter:
            try:
                netfilter.get(
                    Message(_GETTABLE, _HEADER + attribute(1, self.name), 0, f"looking for {self.name}")
                )
            except FileNotFoundError:
                return False
        return True

    def add(self, elements: Sequence[Element]) -> None:
        """Add elements, all or none. Raises `FileNotFoundError` when the table or a set is not there.

        What is there already with the same value is fine; a map's key with another value is `FileExistsError`.
        """
        self._change(_NEWELEM, elements, NLM_F_CREATE)

    def remove_elements(self, elements: Sequence[Element]) -> None:
        """Remove elements; what is not there counts as removed."""
        try:
            self._change(_DELELEM, elements, 0)
        except FileNotFoundError:
            for element in elements:
                with suppress(FileNotFoundError):
                    self._change(_DELELEM, [element], 0)

    def keys(self, name: str) -> set[bytes]:
        """Return the packed keys of the set or map `name`, see `packed_key`."""
        body = _HEADER + attribute(1, self.name) + attribute(2, name)
        with Netlink(NETLINK_NETFILTER) as netfilter:
            answers = netfilter.dump(Message(_GETELEM, body, 0, f"listing the set {name}"), _parse_keys)
        return set().union(*answers) if answers else set()

    def _change(self, kind: int, elements: Sequence[Element], flags: int) -> None:
        if not elements:
            return
        what = "adding to" if kind == _NEWELEM else "removing from"
        messages = [
            Message(
                kind, self._body(element, with_value=kind == _NEWELEM), flags, f"{what} the set {element.set}"
            )
            for element in elements
        ]
        with self._lock:
            self._netfilter().transaction(messages, _BEGIN, _END)

    def _netfilter(self) -> Netlink:
        """Return a socket kept open: closing one that removed something waits 8-16 ms for the kernel to forget it.

        It is good for one process and one network namespace.
        """
        wanted = (os.getpid(), Path("/proc/thread-self/ns/net").stat().st_ino)
        if self._kept is None or self._kept_for != wanted:
            self._kept, self._kept_for = Netlink(NETLINK_NETFILTER), wanted
        return self._kept

    def _body(self, element: Element, *, with_value: bool) -> bytes:
        value = nested(2, attribute(1, _packed(element.value))) if with_value and element.value else b""
        first = element.key[0]
        if isinstance(first, IPv4Network | IPv6Network):
            items = nested(1, nested(1, attribute(1, first.network_address.packed)))
            if (end := int(first.broadcast_address) + 1) < 1 << first.max_prefixlen:
                packed = end.to_bytes(first.max_prefixlen // 8, "big")
                items += nested(1, nested(1, attribute(1, packed)), attribute(3, _INTERVAL_END))
        else:
            items = nested(1, nested(1, attribute(1, packed_key(element))), value)
        return _HEADER + attribute(1, self.name) + attribute(2, element.set) + nested(3, items)


def packed_key(element: Element) -> bytes:
    """Return the key of an element as the kernel keeps it (for an interval its first address)."""
    first = element.key[0]
    if isinstance(first, IPv4Network | IPv6Network):
        return first.network_address.packed
    return _packed(element.key)


def tables_changed(message: bytes) -> tuple[set[str], set[str]]:
    """Return the names of tables that a notification of `NFT_GROUP` says were removed, and those that were made.

    A table that gets a chain, or whose chain gets another policy, counts as made.
    """
    removed: set[str] = set()
    made: set[str] = set()
    offset = 0
    while offset + 16 <= len(message):
        size, kind = struct.unpack_from("=IH", message, offset)
        if kind in (_DELTABLE, _NEWTABLE, _NEWCHAIN):
            name = attributes(message[offset + 20 : offset + size]).get(1, b"")
            (removed if kind == _DELTABLE else made).add(name.rstrip(b"\0").decode(errors="replace"))
        offset += max(16, (size + 3) & ~3)
    return removed, made


def is_interface_name(name: str) -> bool:
    return bool(_IFNAME.match(name))


def check_interface_name(name: str) -> str:
    """Return `name` if it may name an interface of ours: 15 letters, digits, `.`, `_`, `-`, no leading sign."""
    if not _IFNAME.match(name):
        raise InvalidInput(
            f"not a name for a network interface: {name[:64]!r}", hint="at most 15 letters, digits, . _ -"
        )
    return name


_HEADER = struct.pack(">BBH", FAMILY_INET, 0, 0)
_BEGIN = Message(16, struct.pack(">BBH", 0, 0, 10), 0, "nftables")
_END = Message(17, struct.pack(">BBH", 0, 0, 10), 0, "nftables")


def _packed(parts: Sequence[Part]) -> bytes:
    """Return a key or value; in a concatenation every part fills whole words of four bytes."""
    packed = [_part(part) for part in parts]
    if len(packed) == 1:
        return packed[0]
    return b"".join(part + bytes(-len(part) % 4) for part in packed)


def _part(part: Part) -> bytes:
    match part:
        case Interface(name):
            return check_interface_name(name).encode().ljust(16, b"\0")
        case Protocol(name):
            return bytes([_PROTOCOLS[name]])
        case Port(number):
            return struct.pack(">H", number)
        case IPv4Network() | IPv6Network():
            raise InvalidInput("an interval cannot be part of a longer key")
        case _:
            return part.packed


def _part_text(part: Part) -> str:
    match part:
        case Interface(name):
            return f'"{check_interface_name(name)}"'
        case Protocol(name):
            return str(_PROTOCOLS[name])
        case Port(number):
            return str(int(number))
        case _:
            return str(part)


def _parse_keys(body: bytes) -> set[bytes]:
    keys = set()
    for kind, item in attribute_list(attributes(body[4:]).get(3, b"")):
        if kind != 1:
            continue
        found = attributes(item)
        if found.get(3) != _INTERVAL_END and 1 in found:
            keys.add(attributes(found[1])[1])
    return keys


def listen() -> socket.socket:
    """Return a non-blocking socket that tells of changes of the rules of this namespace (see `tables_changed`)."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
    )
    sock.bind((0, NFT_GROUP))
    return sock

"""Host ports held for containers: chosen, checked against everybody else on this host, and held by sockets.

A reservation is a row in the engine's database, made at create or start, so two containers never get one port. Against
other programs it is checked by binding a socket, and *held* by binding one and leaving it to the process that lives as
long as the container (`bind_sockets`, given to the supervisor as inherited descriptors). The socket is bound without
SO_REUSEADDR and never listens: nobody else can bind the port, and nobody can connect to it, while the kernel translates
the packets before they would ever reach it.
"""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from engine.containers.model import PortBinding, PortSpec
from engine.errors import AlreadyExists, BadSpec, Denied, NoSpace, Unsupported
from engine.network.store import insert_ports, select_port_holders, select_ports

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RANDOM_TRIES = 200
_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, getattr(socket, "IPPROTO_SCTP", 132)),
}


@dataclass(frozen=True)
class PortPolicy:
    """Where ports may be published: the address used when none is named, host ports nobody may take, and the range of the rest."""

    default_address: str = "127.0.0.1"
    denied: tuple[int, ...] = ()
    allowed: tuple[int, int] = (1, 65535)


def reserve(
    connection: sqlite3.Connection,
    container_id: str,
    name: str,
    ports: Sequence[PortSpec],
    policy: PortPolicy,
) -> list[PortBinding]:
    """Reserve the ports for a container in the running transaction; what it already holds stays as it is.

    Raises `AlreadyExists` saying who uses a port, `Denied` for a port that policy keeps, `BadSpec` for an address that
    is not this host's, `NoSpace` when no port of a range is free, `Unsupported` for `::1`.
    """
    if mine := select_ports(connection, container_id):
        return [row.binding for row in mine]
    chosen: list[PortBinding] = []
    for port in _unique(ports):
        chosen.append(_choose(connection, port, chosen, policy))
    insert_ports(connection, container_id, name, chosen)
    return chosen


def bind_sockets(bindings: Iterable[PortBinding]) -> list[socket.socket]:
    """Bind a socket for each binding and return them; the caller hands them on and closes its own copies.

    Raises `AlreadyExists` with the user of the port when another program has taken it meanwhile.
    """
    bound: list[socket.socket] = []
    try:
        for binding in bindings:
            sock = _try_bind(binding.protocol, binding.host_ip, binding.host_port)
            if isinstance(sock, socket.socket):
                bound.append(sock)
            elif sock not in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                raise _refusal(binding, sock)
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def who_uses(protocol: str, host_ip: str, port: int) -> str:
    """Return who has a host port bound, as far as this host's process table tells; empty when nobody is found."""
    inodes = _bound_inodes(protocol, host_ip, port)
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and wanted & _open_files(folder):
            with suppress(OSError):
                return f"{(folder / 'comm').read_text().strip()} (process {folder.name})"
    return "another program"


def _open_files(process: Path) -> set[str]:
    found: set[str] = set()
    with suppress(OSError):
        for name in os.listdir(process / "fd"):
            with suppress(OSError):  # closed meanwhile, as the one that lists
                found.add(os.readlink(process / "fd" / name))
    return found


def _unique(ports: Iterable[PortSpec]) -> list[PortSpec]:
    """Leave out a port that is asked for twice in the same words."""
    return list(dict.fromkeys(ports))


def _choose(
    connection: sqlite3.Connection, port: PortSpec, chosen: list[PortBinding], policy: PortPolicy
) -> PortBinding:
    host_ip = _host_address(port.host_ip or policy.default_address)
    if port.host_port and not port.host_port_end:
        binding = PortBinding(port.container_port, port.protocol, host_ip, port.host_port)
        _claim(connection, binding, chosen, policy)
        return binding
    for number in _candidates(port, policy.allowed):
        binding = PortBinding(port.container_port, port.protocol, host_ip, number)
        try:
            _claim(connection, binding, chosen, policy)
        except (AlreadyExists, Denied):
            continue
        return binding
    what = f"{port.host_port}-{port.host_port_end}" if port.host_port else "the range of random ports"
    raise NoSpace(f"no free host port in {what} for {port.container_port}/{port.protocol}")


def _candidates(port: PortSpec, allowed: tuple[int, int]) -> Iterable[int]:
    """Return the numbers to try: those of the range asked for, else random ones as the kernel gives them out."""
    if port.host_port:
        return range(port.host_port, port.host_port_end + 1)
    first, last = (int(text) for text in _EPHEMERAL.read_text().split())
    first, last = max(first, allowed[0]), min(last, allowed[1])
    if last < first:
        first, last = allowed
    start = int.from_bytes(os.urandom(4), "big")
    span = last - first + 1
    return (first + (start + step) % span for step in range(min(_RANDOM_TRIES, span)))


def _claim(
    connection: sqlite3.Connection, binding: PortBinding, chosen: list[PortBinding], policy: PortPolicy
) -> None:
    """Raise if the port cannot be had."""
    if binding.host_ip == "::1":
        raise Unsupported(
            "a port cannot be published on ::1: Linux gives no way from there to a container",
            hint="publish on 127.0.0.1, or on another IPv6 address of this machine",
        )
    if binding.host_port in policy.denied:
        raise Denied(
            f"host port {binding.host_port} is kept for this machine", hint="choose another host port"
        )
    first, last = policy.allowed
    if not first <= binding.host_port <= last:
        raise Denied(
            f"host port {binding.host_port} is not one that this machine publishes",
            hint=f"choose one from {first} to {last} (WHARFINGER_PUBLISH_PORTS on the node)",
        )
    for row in select_port_holders(connection, binding.protocol, binding.host_port):
        if _collide(binding, row.binding):
            raise AlreadyExists(
                f"host port {_text(binding)} is in use by container {row.name or row.container_id[:12]}",
                hint="stop that container or choose another host port",
            )
    for earlier in chosen:
        if _collide(binding, earlier):
            raise AlreadyExists(f"host port {_text(binding)} is asked for twice")
    probe = _try_bind(binding.protocol, binding.host_ip, binding.host_port)
    if isinstance(probe, socket.socket):
        probe.close()
    elif probe not in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
        raise _refusal(binding, probe)


def _host_address(text: str) -> str:
    """Return a host address in its canonical form; raise `BadSpec` for what no port can be published on."""
    try:
        address = ip_address(text)
    except ValueError:
        raise BadSpec(
            f"invalid IP address: {text[:64]}", hint="give an address of this machine, not a name"
        ) from None
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_multicast:
        raise BadSpec(
            f"a port cannot be published on {address}: it is the address of a group",
            hint="publish on an address of this machine",
        )
    if isinstance(address, IPv6Address) and (address.is_link_local or address.scope_id):
        raise BadSpec(
            f"a port cannot be published on {address}: link-local addresses are the same on every link",
            hint="publish on another IPv6 address of this machine, or on :: for all of them",
        )
    return str(address)


def _collide(one: PortBinding, other: PortBinding) -> bool:
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    first, second = ip_address(one.host_ip), ip_address(other.host_ip)
    if first.version != second.version:
        return False
    return first == second or first.is_unspecified or second.is_unspecified


def _try_bind(protocol: str, host_ip: str, port: int) -> socket.socket | int:
    """Return a bound socket, or the error number."""
    sock = _bind(protocol, host_ip, port, lingering=False)
    if sock == errno.EADDRINUSE and protocol == "tcp":
        # connections of an earlier program may linger (TIME_WAIT) with no owner; only then can we listen
        return _bind(protocol, host_ip, port, lingering=True)
    return sock


def _bind(protocol: str, host_ip: str, port: int, *, lingering: bool) -> socket.socket | int:
    kind, number = _KINDS[protocol]
    family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
    try:
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, number)
    except OSError as error:
        return error.errno or errno.EPROTONOSUPPORT
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if lingering:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host_ip, port))
        if lingering:
            sock.listen(0)
    except OSError as error:
        sock.close()
        return error.errno or errno.EADDRINUSE
    return sock


def _refusal(binding: PortBinding, number: int) -> Exception:
    if number == errno.EADDRNOTAVAIL:
        return BadSpec(
            f"address {binding.host_ip} is not this machine's",
            hint="publish on an address of this machine, or on none",
        )
    if number == errno.EADDRINUSE:
        user = who_uses(binding.protocol, binding.host_ip, binding.host_port) or "another program"
        return AlreadyExists(
            f"host port {_text(binding)} is in use by {user}",
            hint="stop that program or choose another host port",
        )
    return AlreadyExists(f"host port {_text(binding)} cannot be had: {os.strerror(number)}")


def _text(binding: PortBinding) -> str:
    address = f"[{binding.host_ip}]" if ":" in binding.host_ip else binding.host_ip
    return f"{address}:{binding.host_port}/{binding.protocol}"


def _bound_inodes(protocol: str, host_ip: str, port: int) -> set[str]:
    wanted = ip_address(host_ip)
    found = set()
    for suffix in ("", "6"):
        try:
            lines = Path(f"/proc/thread-self/net/{protocol}{suffix}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            address, _, number = fields[1].rpartition(":")
            remote = fields[2].rpartition(":")[2]
            if int(number, 16) != port or int(remote, 16) != 0:
                continue
            bound = ip_address(_kernel_address(address))
            if bound == wanted or bound.is_unspecified or wanted.is_unspecified:
                found.add(fields[9])
    return found


def _kernel_address(text: str) -> bytes:
    """Return the address that /proc/net writes as 32-bit words in host order."""
    words = [int(text[index : index + 8], 16).to_bytes(4, sys.byteorder) for index in range(0, len(text), 8)]
    return b"".join(words)

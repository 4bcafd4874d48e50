"""Published ports as people write them (`-p`), and exposed ports as images write them.

    [HOST:][HOST_PORT:]CONTAINER_PORT[/PROTOCOL]

HOST is an IPv4 address or an IPv6 address (in brackets or bare), both ports may be ranges; a range of host ports for
one container port means "one of these". The forms and refusals are Docker's (go-connections, package nat).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from engine.containers.model import PortSpec
from engine.errors import BadSpec

PROTOCOLS = ("tcp", "udp", "sctp")
_HIGHEST = 65535
_NUMBER = re.compile(r"[0-9]+\Z")


def parse_ports(specs: Iterable[str]) -> list[PortSpec]:
    """Return every port that the texts ask for, in order."""
    return [port for spec in specs for port in parse_port(spec)]


def parse_port(spec: str) -> list[PortSpec]:
    """Return the ports that one `-p` value asks for; raise `BadSpec` with the part that is wrong."""
    host_ip, host_ports, container = _split(spec)
    ports, protocol = split_protocol(container)
    if not ports:
        raise BadSpec(
            f"no port specified: {spec}<empty>", hint="write it as 8080:80 or 127.0.0.1:8080:80/tcp"
        )
    if protocol.lower() not in PROTOCOLS:
        raise BadSpec(f"invalid proto: {protocol}", hint="the protocol is tcp, udp or sctp")
    if host_ip:
        try:
            host_ip = str(ip_address(host_ip))
        except ValueError:
            raise BadSpec(
                f"invalid IP address: {host_ip}", hint="give an address of this machine, not a name"
            ) from None
    first, last = _range(ports, f"invalid containerPort: {ports}")
    host_first, host_last = _range(host_ports, f"invalid hostPort: {host_ports}") if host_ports else (0, 0)
    count, host_count = last - first, host_last - host_first
    if host_ports and host_count != count and count != 0:
        raise BadSpec(f"invalid ranges specified for container and host Ports: {ports} and {host_ports}")
    if host_ports and count == 0 and host_count > 0:
        return [PortSpec(first, protocol.lower(), host_ip, host_first, host_last)]
    return [
        PortSpec(first + index, protocol.lower(), host_ip, host_first + index if host_ports else 0)
        for index in range(count + 1)
    ]


def parse_exposed(text: str) -> list[tuple[int, str]]:
    """Return the (port, protocol) pairs of an exposed port or range: `80`, `80/udp`, `7000-7010/tcp`."""
    ports, protocol = split_protocol(text)
    if not ports or not protocol.isalpha():  # images may expose protocols that nobody can publish
        raise BadSpec(f"not an exposed port: {text[:64]!r}", hint="write it as 80 or 80/udp")
    first, last = parse_range(ports)
    return [(port, protocol.lower()) for port in range(first, last + 1)]


def split_protocol(text: str) -> tuple[str, str]:
    """Split `80/udp` into port and protocol; without one it is tcp, without a port both are empty."""
    port, _, protocol = text.partition("/")
    return (port, protocol or "tcp") if port else ("", "")


def parse_range(text: str) -> tuple[int, int]:
    """Return the first and last port of `80` or `80-90`."""
    if not text:
        raise BadSpec("empty string specified for ports")
    start, dash, end = text.partition("-")
    first = _bound(start, "start")
    last = _bound(end, "end") if dash else first
    if last < first:
        raise BadSpec(f"invalid port range: {text}")
    return first, last


def parse_number(text: str) -> int:
    """Return a port number from 0 to 65535."""
    if not text:
        raise BadSpec("value is empty")
    if not _NUMBER.match(text.removeprefix("-")):
        raise BadSpec("invalid syntax")
    if (number := int(text)) < 0 or number > _HIGHEST or text.startswith("-"):
        raise BadSpec(f"value out of range (0–{_HIGHEST})")
    return number


def format_port(host_ip: str, host_port: str, container: str) -> str:
    """Return a published port in its full form; an IPv6 address gets brackets."""
    address = f"[{host_ip}]" if ":" in host_ip else host_ip
    return f"{address}:{host_port}:{container}"


def _split(spec: str) -> tuple[str, str, str]:
    """Split at the last two colons; the address may hold colons of its own."""
    parts = spec.split(":")
    container = parts[-1]
    if len(parts) <= 2:
        return "", parts[0] if len(parts) == 2 else "", container
    host_ip, host_ports = ":".join(parts[:-2]), parts[-2]
    if host_ip.startswith("[") and host_ip.endswith("]"):
        host_ip = host_ip[1:-1]
    return host_ip, host_ports, container


def _range(text: str, problem: str) -> tuple[int, int]:
    try:
        return parse_range(text)
    except BadSpec as error:
        raise BadSpec(problem, hint=error.message) from None


def _bound(text: str, which: str) -> int:
    try:
        return parse_number(text)
    except BadSpec as error:
        raise BadSpec(f"invalid {which} port '{text}': {error.message}") from None

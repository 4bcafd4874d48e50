"""Ports as EXPOSE writes them: `80`, `53/udp`, `8000-8010/tcp`; an address or a host port before them is read and dropped."""

from __future__ import annotations

import ipaddress
import re

PROTOCOLS = ("tcp", "udp", "sctp")
_NUMBER = re.compile(r"[0-9]{1,6}\Z")


def exposed_ports(spec: str) -> list[str]:
    """Return `port/protocol` for every port of `spec`; raise ValueError with the usual message."""
    address, host, container = _split(spec)
    ports, _, protocol = container.partition("/")
    if not ports:
        raise ValueError(f'invalid port: "{spec}": no port specified')
    if protocol and protocol.lower() not in PROTOCOLS:
        raise ValueError(f'invalid port: "{spec}": invalid proto: {protocol}')
    _check_address(address)
    first, last = _range(ports, "containerPort")
    if host:
        host_first, host_last = _range(host, "hostPort")
        if host_last - host_first != last - first and first != last:
            raise ValueError(f"invalid ranges specified for container and host Ports: {ports} and {host}")
    return [f"{port}/{protocol.lower() or 'tcp'}" for port in range(first, last + 1)]


def _split(spec: str) -> tuple[str, str, str]:
    parts = spec.split(":")
    return (":".join(parts[:-2]), parts[-2], parts[-1]) if len(parts) > 1 else ("", "", parts[0])


def _check_address(address: str) -> None:
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    if bare:
        try:
            ipaddress.ip_address(bare)
        except ValueError:
            raise ValueError(f"invalid IP address: {address}") from None


def _range(text: str, what: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    bounds = (first, last if dash else first)
    if not all(_NUMBER.match(bound) and int(bound) <= 65535 for bound in bounds) or int(bounds[1]) < int(
        bounds[0]
    ):
        raise ValueError(f"invalid {what}: {text}")
    return int(bounds[0]), int(bounds[1])

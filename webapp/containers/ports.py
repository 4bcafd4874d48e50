"""Published ports as people write them: `8080:80`, `127.0.0.1:8080:80/udp`, `[::1]::80`, `8000-8010:80-90`, `80`.

Rules as those of `docker run -p`; a single container port with a range of host ports means "one of these".
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from webapp.core.errors import Invalid

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?\Z")
PROTOCOLS = ("tcp", "udp", "sctp")


def parse_port(text: str) -> list[dict[str, Any]]:
    """Return the ports of one word as dictionaries with the fields of a spec's `ports`, else raise `Invalid`."""
    rest, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise _bad(text, f"protocol {protocol[:20]!r} is not one of {', '.join(PROTOCOLS)}")
    address, host, container = _split(rest, text)
    first, last = _range(container, text)
    if not host:
        return [_port(port, protocol, address, 0, 0) for port in range(first, last + 1)]
    host_first, host_last = _range(host, text, zero=True)
    if first == last:
        return [_port(first, protocol, address, host_first, host_last if host_last > host_first else 0)]
    if host_last - host_first != last - first:
        raise _bad(text, "the two ranges differ in length")
    return [_port(first + step, protocol, address, host_first + step, 0) for step in range(last - first + 1)]


def _split(rest: str, text: str) -> tuple[str, str, str]:
    """Return address, host part and container part."""
    head, _, container = rest.rpartition(":")
    address, _, host = head.rpartition(":")
    if not address:
        return "", host, container
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        parsed = ipaddress.ip_address(bare)
    except ValueError:
        raise _bad(text, f"{address[:60]!r} is no address") from None
    return str(parsed), host, container


def _range(text: str, whole: str, *, zero: bool = False) -> tuple[int, int]:
    match = _RANGE.match(text)
    if match is None:
        raise _bad(whole, f"{text[:40]!r} is no port")
    first = int(match[1])
    last = int(match[2] or first)
    if not (0 if zero else 1) <= first <= last <= 65535:
        raise _bad(whole, f"{text[:40]!r} is no port or range of ports")
    return first, last


def _port(container: int, protocol: str, address: str, host: int, host_end: int) -> dict[str, Any]:
    return {
        "container_port": container,
        "protocol": protocol,
        "host_ip": address,
        "host_port": host,
        "host_port_end": host_end,
    }


def _bad(text: str, why: str) -> Invalid:
    return Invalid(
        f"port {text[:100]!r}: {why}",
        fields={"ports": [why]},
        hint="like 8080:80, 127.0.0.1:8080:80 or 8080:80/udp",
    )

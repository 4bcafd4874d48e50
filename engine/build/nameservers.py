"""The name servers that build steps ask: those of the configuration, else the host's own, unless they answer to the host alone."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from engine.config import EngineConfig

_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


def host_nameservers(config: EngineConfig) -> list[str]:
    """Return addresses that can be reached from another network namespace; none is an honest answer."""
    if config.dns_upstreams:
        return list(config.dns_upstreams)
    for path in _FILES:
        found = [address for address in _addresses(path) if not ipaddress.ip_address(address).is_loopback]
        if found:
            return found[:3]
    return []


def _addresses(path: Path) -> list[str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            address = words[1].partition("%")[0]
            try:
                ipaddress.ip_address(address)
            except ValueError:
                continue
            found.append(address)
    return found

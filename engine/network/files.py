"""What a container finds in `/etc/resolv.conf` and `/etc/hosts`."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from engine.config import EngineConfig
from engine.containers.model import Container
from engine.errors import BadSpec, NetworkNotFound
from engine.network.dns import host_search, upstreams
from engine.network.model import Network

HOST_GATEWAY = "host-gateway"

_LOCAL = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


def resolv_conf(container: Container, find: Callable[[str], Network], config: EngineConfig) -> str:
    """Return the text for a container as its endpoints are now.

    On a network with names it asks the gateway; on the default network (and the host's) the host's resolvers, without
    those on the host's own loopback, which a container cannot reach.
    """
    spec = container.spec
    gateways = _gateways(container, find)
    if gateways:
        servers = gateways
    elif spec.network_mode == "none":
        servers = list(spec.dns)
    else:
        servers = list(spec.dns) or upstreams(config)
        if spec.network_mode != "host" and not spec.dns:
            servers = [server for server in servers if not _is_loopback(server)] or _default_gateway(
                container
            )
    search = [domain for domain in (spec.dns_search or host_search()) if domain != "."]
    options = list(spec.dns_options)
    if gateways and not any(option.startswith("ndots:") for option in options):
        options.append("ndots:0")  # a bare name is a container's name first
    lines = [f"nameserver {_checked(server)}" for server in servers]
    if search:
        lines.append("search " + " ".join(_word(domain) for domain in search))
    if options:
        lines.append("options " + " ".join(_word(option) for option in options))
    return "\n".join(lines) + "\n"


def hosts(container: Container, gateway: str) -> str:
    """Return the text for a container as its endpoints are now; `gateway` is what `host-gateway` means."""
    lines = list(_LOCAL)
    for entry in container.spec.extra_hosts:
        name, separator, address = entry.partition("=" if "=" in entry else ":")
        if not separator or not name:
            raise BadSpec(f"not an extra host: {entry[:100]!r}", hint="write it as name:address")
        address = address.removeprefix("[").removesuffix("]")
        lines.append(f"{_checked(gateway if address == HOST_GATEWAY else address)}\t{_word(name)}")
    names = _own_names(container)
    for endpoint in container.endpoints:
        for address in (endpoint.ipv4_address, endpoint.ipv6_address):
            if address:
                lines.append(f"{address}\t{names}")
    return "\n".join(lines) + "\n"


def _own_names(container: Container) -> str:
    hostname = container.spec.hostname or container.id[:12]
    if container.spec.domainname:
        return f"{_word(hostname)}.{_word(container.spec.domainname)} {_word(hostname)}"
    return _word(hostname)


def _gateways(container: Container, find: Callable[[str], Network]) -> list[str]:
    """Return the gateway of the container's first network with names."""
    for endpoint in container.endpoints:
        try:
            network = find(endpoint.network_id)
        except NetworkNotFound:
            continue
        if network.has_dns and network.subnets:
            return [network.subnets[0].gateway]
    return []


def _default_gateway(container: Container) -> list[str]:
    return [endpoint.gateway for endpoint in container.endpoints if endpoint.gateway][:1]


def _is_loopback(server: str) -> bool:
    try:
        return ip_address(server).is_loopback
    except ValueError:
        return False


def _checked(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        raise BadSpec(f"not an address: {address[:64]!r}") from None


def _word(text: str) -> str:
    """Return `text` if it is one word: a line break in it would be a line of our own file (RT-15)."""
    if (
        not text
        or any(character.isspace() or not character.isprintable() for character in text)
        or "#" in text
    ):
        raise BadSpec(f"not a single word: {text[:64]!r}")
    return text

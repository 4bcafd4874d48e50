"""Which registry is meant, how far it is trusted, and as whom we speak to it.

Settings are values: whoever calls the engine keeps them (encrypted) and passes those of one registry with each verb.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field

from engine.errors import BadReference
from engine.reference import DEFAULT_DOMAIN, DOMAIN

HUB_HOST = "registry-1.docker.io"  # where docker.io's registry really answers
HUB_SEARCH_HOST = "index.docker.io"


@dataclass(frozen=True)
class Credentials:
    """A user name with its password, or an identity token (an OAuth 2 refresh token) in place of the password."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def fingerprint(self) -> str:
        """Return a name for these credentials that says nothing about them; a key for caches of tokens."""
        text = "\0".join((self.username, self.password, self.identity_token))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class RegistrySettings:
    """What an administrator entered for one registry; `host` as in references (`docker.io`, `registry.lan:5000`).

    `insecure` allows plain HTTP and unverified TLS. `ca_pem` is the only authority that is believed for this host, and
    forbids plain HTTP. `registered` is False for credentials that merely came with a request: only a host
    that an administrator entered may lie in a private network.
    """

    host: str
    insecure: bool = False
    ca_pem: str = ""
    credentials: Credentials | None = None
    registered: bool = True


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port: what must be equal before a secret may follow a redirect."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """Host and port as they stand in a URL; a scheme's own port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == default_port(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def registry_origin(domain: str, scheme: str = "https") -> Origin:
    """Return where the registry `domain` of a reference answers; raises `BadReference` for a port beyond 65535."""
    if domain == DEFAULT_DOMAIN:
        domain = HUB_HOST
    if not DOMAIN.fullmatch(domain):
        raise BadReference(f"not a registry: {domain[:200]!r}", hint="a registry is host or host:port")
    host, port = split_host(domain)
    return Origin(scheme, host, port or default_port(scheme))


def split_host(domain: str) -> tuple[str, int]:
    """Split `host[:port]`, IPv6 in brackets; port 0 where there is none."""
    host, colon, port = domain.rpartition(":")
    if not colon or "]" in port or not port.isdigit():
        host, port = domain, ""
    if port and not 0 < int(port[:6]) < 65536:
        raise BadReference(f"no port {port[:20]} in {domain[:200]!r}", hint="a port is between 1 and 65535")
    return host.removeprefix("[").removesuffix("]").lower(), int(port or 0)


@dataclass(frozen=True)
class Trust:
    """How far one piece of work may go on behalf of the registry `home`.

    `insecure` is the node's list of names, addresses and networks (`localhost`, `10.0.0.0/8`, `registry.lan:5000`) where plain
    HTTP, unverified TLS and private addresses are fine; `registered` says that an administrator entered `home`, so that it
    may lie in a private network. Wherever else the registry sends us (realms, redirects, uploads) is public and speaks
    TLS, unless both ends are on the list: a public registry cannot make this node ask its neighbours.
    """

    home: Origin
    insecure: tuple[str, ...] = ()
    registered: bool = False

    def is_insecure(self, origin: Origin) -> bool:
        """Tell whether plain HTTP and unverified TLS are allowed with this host."""
        ends = {(origin.host, origin.port), (self.home.host, self.home.port)}
        if origin.host == self.home.host:
            ends = {(origin.host, self.home.port)}
        return all(any(_matches(entry, *end) for entry in self.insecure) for end in ends)

    def refuses(self, origin: Origin, address: str) -> str:
        """Return why `address` must not be connected to on behalf of `origin`, or an empty string."""
        ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        home = origin.host == self.home.host
        allowed = self.is_insecure(origin) or (home and self.registered)
        if _is_special(ip) and not (allowed and origin.host == address):
            return "is no address of a registry"
        listed = (
            home
            and not ip.is_loopback
            and any(_matches(entry, str(ip), origin.port) for entry in self.insecure)
        )
        return "" if ip.is_global or allowed or listed else "is a private address"


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _unwrapped(ip: Address) -> Address:
    """Return the IPv4 address inside an IPv6 one (mapped, 6to4, NAT64), which is what would be reached."""
    if isinstance(ip, ipaddress.IPv6Address):
        if inner := ip.ipv4_mapped or ip.sixtofour:
            return inner
        if ip in _NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def _is_special(ip: Address) -> bool:
    reserved = ip.is_reserved and not ip.is_loopback  # ::1 counts as reserved
    return ip.is_link_local or ip.is_multicast or ip.is_unspecified or reserved


def _matches(entry: str, host: str, port: int) -> bool:
    try:
        network = ipaddress.ip_network(entry)
    except ValueError:
        entry_host, entry_port = split_host(entry)
        return entry_host == host and entry_port in (0, port)
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False

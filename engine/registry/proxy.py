"""HTTP proxies between this node and registries, by the variables that Docker and curl read.

`HTTPS_PROXY` carries TLS through a tunnel (CONNECT, RFC 9110 section 9.3.6): the certificate is checked inside it, so the proxy sees
names and sizes only. `HTTP_PROXY` forwards requests to registries that an administrator allowed without TLS. `NO_PROXY` lists what
is reached directly: names with all below them, `.suffixes`, addresses, networks, each with or without a port, or `*`.
Loopback is never asked of a proxy.
"""

from __future__ import annotations

import base64
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from engine.errors import InvalidInput, RegistryError
from engine.registry.errors import Interrupted
from engine.registry.settings import Origin, split_host

_HEAD_LIMIT = 16 * 1024


class ProxyRefused(RegistryError):
    """The proxy answered, and would not connect."""

    code = "registry_proxy"


@dataclass(frozen=True)
class Proxy:
    """Where a proxy listens; `authorization` is the header it wants, empty for none."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @property
    def origin(self) -> Origin:
        return Origin("http", self.host, self.port)


@dataclass(frozen=True)
class Proxies:
    """Which proxy leads to which registry. The addresses hold passwords: they are in no `repr`."""

    https: str = field(default="", repr=False)
    http: str = field(default="", repr=False)
    direct: str = ""  # the text of NO_PROXY

    def to(self, origin: Origin) -> Proxy | None:
        """Return the proxy that leads to a host, None where it is reached directly. Raises `InvalidInput`."""
        address = self.https if origin.scheme == "https" else self.http
        if not address or _is_loopback(origin.host) or self._is_direct(origin):
            return None
        return parse_proxy(address)

    def _is_direct(self, origin: Origin) -> bool:
        return any(
            _matches(entry.strip().lower(), origin) for entry in self.direct.split(",") if entry.strip()
        )


def parse_proxy(address: str) -> Proxy:
    """Read `http://[user:password@]host[:port]`, the scheme may be missing; raises `InvalidInput` without its secret."""
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        host, port, parts = "", 0, urlsplit("")
    if parts.scheme != "http" or not host:
        raise InvalidInput(
            "the proxy for registries is no http:// address",
            hint="set HTTPS_PROXY and HTTP_PROXY of the node to http://host:port",
        )
    user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    secret = base64.b64encode(user.encode()).decode() if user != ":" else ""
    return Proxy(host, port, f"Basic {secret}" if secret else "")


def open_tunnel(sock: socket.socket, proxy: Proxy, origin: Origin, check: Callable[[], None]) -> None:
    """Have the proxy connect `sock` to an origin. `check` is asked whenever the socket's timeout passes, and ends it by raising."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"Host: {host}:{origin.port}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    status = _status(_head(sock, proxy, check))
    if status is None:
        raise Interrupted(f"the proxy {proxy.origin.netloc} does not speak HTTP", hint="check its address")
    if status == 407:
        raise ProxyRefused(
            f"the proxy {proxy.origin.netloc} does not accept the user name and password",
            status=status,
            hint="check HTTPS_PROXY of the node",
        )
    if not 200 <= status < 300:
        raise ProxyRefused(
            f"the proxy {proxy.origin.netloc} does not connect to {origin.netloc} (status {status})",
            status=status,
            hint="allow the registry there, or name it in NO_PROXY of the node",
        )


def _head(sock: socket.socket, proxy: Proxy, check: Callable[[], None]) -> bytes:
    """Read the answer's head and no byte of what comes after it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        try:
            byte = sock.recv(1)
        except TimeoutError:
            check()
            continue
        if not byte or len(head) >= _HEAD_LIMIT:
            raise Interrupted(
                f"the proxy {proxy.origin.netloc} broke the connection", hint="is it the address of a proxy?"
            )
        head += byte
    return head


def _status(head: bytes) -> int | None:
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit() or len(words[1]) != 3:
        return None
    return int(words[1])


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _matches(entry: str, origin: Origin) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(origin.host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        host, port = split_host(entry)
    if port and port != origin.port:
        return False
    if host.startswith("."):
        return origin.host.endswith(host)
    return origin.host == host or origin.host.endswith(f".{host}")

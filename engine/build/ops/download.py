"""ADD of an address: fetched by the node, so it must not reach what only the node can reach (BU-06).

Only `http` and `https`. The name is resolved by us and the connection goes to just the address that was checked, at every redirect again: an
address must be one of the public internet, whatever form it is written in (decimal, mapped into IPv6, a name that
resolves differently the second time). Sources: RFC 6890, RFC 4291, RFC 6052, RFC 3056.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from engine.errors import Denied, InvalidInput, NotFound, Unavailable

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_BYTES = 16 * 1024**3
_REDIRECTS = 10
_CONNECT_S = 15.0
_READ_S = 30.0
_DEADLINE_S = 3600.0
_CHUNK = 256 * 1024
_NAME_BYTES = 255
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Downloaded:
    """A fetched file: its name as the address gives it (empty if it gives none), time of change (ns) and digest."""

    name: str
    mtime_ns: int
    digest: str
    size: int


class Downloader:
    """Fetches files. `allowed` are networks that may be reached though they are not public."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = [ipaddress.ip_network(network) for network in allowed]

    def fetch(self, url: str, target: Path, *, checksum: str = "", check: Callable[[], None]) -> Downloaded:
        """Fetch `url` into the new file `target`, mode 0600.

        Raises `Denied` for an address that is not public, `NotFound`, `Unavailable`, `InvalidInput` for a wrong checksum.
        """
        if checksum and not _SHA256.match(checksum):
            raise InvalidInput(
                f"not a checksum: {checksum[:100]!r}", hint="write it as sha256: and 64 hex digits"
            )
        deadline = time.monotonic() + _DEADLINE_S
        current = url
        for _ in range(_REDIRECTS + 1):
            check()
            connection, response = self._request(current)
            with closing(connection), closing(response):
                if response.status in (301, 302, 303, 307, 308):
                    current = _redirect(current, response.getheader("Location", ""))
                    continue
                _check_status(response.status, url)
                return self._save(response, url, target, checksum, check, deadline)
        raise InvalidInput(f"more than {_REDIRECTS} redirects from {redacted(url)}")

    def _request(self, url: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = _parts(url)
        connection = self._connection(parts)
        path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "wharfinger"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        try:
            connection.request("GET", path, headers=headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unavailable(f"cannot fetch {redacted(url)}: {error}") from error

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        sock = self.connect(host, port)
        if parts.scheme == "https":
            try:
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
            except (OSError, ssl.SSLError) as error:
                sock.close()
                raise Unavailable(f"no secure connection to {host}: {error}") from error
        connection = http.client.HTTPConnection(host, port, timeout=_READ_S)
        connection.sock = sock
        return connection

    def connect(self, host: str, port: int) -> socket.socket:
        """Connect to an address of `host` that may be reached; raises `Denied` when one may not, `Unavailable`."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"the name {host!r} cannot be resolved: {error}") from error
        failure: OSError | None = None
        for family, kind, protocol, _, address in found:
            self._check_address(ipaddress.ip_address(str(address[0]).partition("%")[0]), host)
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(_CONNECT_S)
            try:
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
                continue
            sock.settimeout(_READ_S)
            return sock
        raise Unavailable(f"cannot connect to {host}: {failure}")

    def _check_address(self, address: IPAddress, host: str) -> None:
        if not is_public(address) and not any(address in network for network in self._allowed):
            raise Denied(
                f"{host!r} leads to {address}, which is not an address of the public internet",
                hint="copy the file into the build context",
            )

    def _save(
        self,
        response: http.client.HTTPResponse,
        url: str,
        target: Path,
        checksum: str,
        check: Callable[[], None],
        deadline: float,
    ) -> Downloaded:
        total = hashlib.sha256()
        size = 0
        announced = response.getheader("Content-Length", "")
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            while data := _read(response, url):
                check()
                size += len(data)
                if size > MAX_BYTES or time.monotonic() > deadline:
                    raise InvalidInput(f"{redacted(url)} is too large or too slow")
                total.update(data)
                file.write(data)
        if announced.isdigit() and int(announced) != size:
            raise Unavailable(f"{redacted(url)} was cut off after {size} of {announced} bytes")
        digest = "sha256:" + total.hexdigest()
        if checksum and digest != checksum:
            raise InvalidInput(f"digest mismatch for {redacted(url)}: {digest}, expected {checksum}")
        mtime_ns = _mtime(response.getheader("Last-Modified", ""))
        os.utime(target, ns=(mtime_ns, mtime_ns))
        return Downloaded(file_name(url), mtime_ns, digest, size)


def is_public(address: IPAddress) -> bool:
    """Tell whether an address, and every IPv4 address wrapped in it, belongs to the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address.is_site_local or int(address) >> 32 == 0:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def file_name(url: str) -> str:
    """Return the file name at the end of an address's path, empty when there is none that can be used."""
    name = unquote(_parts(url).path, errors="replace").rpartition("/")[2]
    if (
        name in (".", "..")
        or any(ord(character) < 32 for character in name)
        or len(name.encode()) > _NAME_BYTES
    ):
        return ""
    return name


def redacted(url: str) -> str:
    """Return an address without the credentials in it."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if not separator or "@" not in authority:
        return url
    return f"{scheme}://***@{authority.rpartition('@')[2]}{slash}{path}"


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError as error:
        raise InvalidInput(f"not an address: {redacted(url)[:200]!r}") from error
    if not valid:
        raise InvalidInput(f"only http and https can be fetched: {redacted(url)[:200]!r}")
    return parts


def _redirect(url: str, location: str) -> str:
    if not location or any(ord(character) <= 32 for character in location):
        raise Unavailable(f"{redacted(url)} redirects to nowhere")
    target = urljoin(url, location)
    if _parts(url).scheme == "https" and _parts(target).scheme != "https":
        raise Denied(f"{redacted(url)} redirects to an insecure address")
    return target


def _check_status(status: int, url: str) -> None:
    if status in (404, 410):
        raise NotFound(f"{redacted(url)} is not there (status {status})")
    if status != 200:
        raise Unavailable(f"{redacted(url)} answered with status {status}")


def _read(response: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"the download of {redacted(url)} broke off: {error}") from error


def _mtime(text: str) -> int:
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 10**9 if text else 0
    except (ValueError, OverflowError, TypeError):
        return 0

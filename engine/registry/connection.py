"""Connections to registries: checked addresses, TLS, reuse, and an end at once when somebody cancels.

Why the standard library's `http.client` and not a larger HTTP library: a layer is hundreds of megabytes, and here one read is
one `recv` into the bytes that are hashed and written; the address that was checked is the address that is connected to,
so a name cannot point elsewhere a moment later; `sendfile` carries uploads; and another thread may end any
transfer by shutting its socket down.
"""

from __future__ import annotations

import errno
import http.client
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from engine.errors import Cancelled
from engine.progress import CancelToken
from engine.registry.errors import Interrupted, Refused, UnknownHost, Untrusted
from engine.registry.proxy import Proxies, Proxy, open_tunnel
from engine.registry.retry import Timeouts
from engine.registry.settings import Origin, Trust, default_port

logger = logging.getLogger(__name__)

_POLL_S = 0.25
_NAME_S = 2.0  # for what this node knows of a name that a proxy will look up


class Connection(http.client.HTTPConnection):
    """One HTTP/1.1 connection to an origin.

    Between `begin_transfer` and `end_transfer`, `moved` counts body bytes for the watch over slow transfers; `stalled` says that
    the watch has ended it. `proxy` forwards its requests, which then name the whole address; None with a tunnel or none.
    """

    def __init__(self, origin: Origin, sock: socket.socket, proxy: Proxy | None = None) -> None:
        super().__init__(origin.host, origin.port)
        self.default_port = default_port(origin.scheme)
        self.auto_open = 0  # a closed connection stays closed
        self.sock = sock
        self.origin = origin
        self.proxy = proxy
        self.fresh = True
        self.transferring_since = 0.0
        self.moved = 0
        self.stalled = False

    def begin_transfer(self) -> None:
        self.moved, self.transferring_since = 0, time.monotonic()

    def end_transfer(self) -> None:
        self.transferring_since = 0.0

    @property
    def plain(self) -> bool:
        """Tell whether bytes go to the socket as they are, without TLS."""
        return not isinstance(self.sock, ssl.SSLSocket)

    def interrupt(self) -> None:
        """Make every read and write of this connection end now; may be called from any thread."""
        if (sock := self.sock) is not None:
            try:
                # SSLSocket.shutdown would pull the TLS state from under the thread that reads
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                return  # closed already


class Connections:
    """The connections of one piece of work: opened, lent, taken back, watched, and closed together.

    A watching thread interrupts all of them when `cancel` is set, and one whose transfer is slower than
    `timeouts.min_bytes_per_s`.
    """

    def __init__(
        self, *, trust: Trust, ca_pem: str, cancel: CancelToken, timeouts: Timeouts, proxies: Proxies
    ) -> None:
        self._proxies = proxies
        self._judged: set[Origin] = set()  # what a proxy may be asked for
        self._trust = trust
        self._ca_pem = ca_pem
        self._cancel = cancel
        self._timeouts = timeouts
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[Connection]] = {}
        self._busy: set[Connection] = set()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def take(self, origin: Origin, *, fresh: bool = False) -> Connection:
        """Return a connection to `origin` for one exchange, an idle one where there is one and `fresh` is False."""
        self._cancel.check()
        with self._lock:
            idle = [] if fresh else self._idle.get(origin, [])
            connection = idle.pop() if idle else None
        if connection is None:
            connection = self._dial(origin)
        connection.sock.settimeout(self._timeouts.read_s)  # a request may have waited longer for its answer
        with self._lock:
            self._busy.add(connection)
            self._start_watcher()
        if self._cancel.cancelled:
            connection.interrupt()
        return connection

    def give_back(self, connection: Connection, *, reusable: bool) -> None:
        """Take a connection back after its exchange."""
        connection.end_transfer()
        with self._lock:
            self._busy.discard(connection)
            if reusable and not self._closed.is_set():
                connection.fresh = False
                self._idle.setdefault(connection.origin, []).append(connection)
                return
        connection.close()

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            idle = [connection for connections in self._idle.values() for connection in connections]
            busy = list(self._busy)
            self._idle.clear()
        for connection in idle:
            connection.close()
        for connection in busy:
            connection.interrupt()

    def explain(self, connection: Connection, error: Exception | None, what: str) -> Exception:
        """Return why an exchange broke: cancelled, too slow, or interrupted."""
        if self._cancel.cancelled:
            return Cancelled("cancelled on request")
        host = connection.origin.netloc
        if connection.stalled:
            return Interrupted(
                f"{host} sends {what} too slowly", hint="the network or the registry is overloaded"
            )
        if isinstance(error, TimeoutError):
            return Interrupted(
                f"{host} went silent in the middle of {what}",
                hint="the network or the registry is overloaded",
            )
        return Interrupted(
            f"the connection to {host} broke in the middle of {what}", hint="the network may be unstable"
        )

    # -- opening ----------------------------------------------------------------------------------

    def _dial(self, origin: Origin) -> Connection:
        if origin.scheme == "http" and not self._trust.is_insecure(origin):
            raise Untrusted(
                f"{origin.netloc} is asked for without TLS",
                hint="an administrator can allow it for this registry",
            )
        proxy = self._proxies.to(origin)
        sock = self._connect(origin) if proxy is None else self._connect_to_proxy(proxy, origin)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if origin.scheme == "http":
                return Connection(origin, sock, proxy)
            if proxy is not None:
                sock.settimeout(_POLL_S)
                open_tunnel(sock, proxy, origin, self._deadline(proxy.origin))
            sock.settimeout(self._timeouts.read_s)
            return Connection(origin, self._secure(sock, origin))
        except OSError as error:
            sock.close()
            raise Interrupted(f"the connection to {(proxy or origin).host} broke: {error}") from error
        except BaseException:
            sock.close()
            raise

    def _connect_to_proxy(self, proxy: Proxy, origin: Origin) -> socket.socket:
        """Connect to a proxy, if what it would be asked for may be reached.

        A proxy looks names up by itself. What this node knows of a name is judged all the same, so that a registry cannot
        have the proxy ask its neighbours; a name that is only known there is the proxy's to judge.
        """
        if origin not in self._judged:
            self._judge_from_afar(origin)
            self._judged.add(origin)
        return self._connect_to_any(proxy.origin, self._resolve(proxy.origin))

    def _judge_from_afar(self, origin: Origin) -> None:
        try:
            known = self._resolve(origin, within_s=_NAME_S)
        except (UnknownHost, Interrupted):
            return
        for _, address in known:
            if why := self._trust.refuses(origin, str(address[0])):
                raise Untrusted(
                    f"{origin.host} is at {address[0]}, which {why}",
                    hint="an administrator can allow it by entering this registry",
                )

    def _deadline(self, origin: Origin) -> Callable[[], None]:
        """Return a check that raises once somebody cancels, or `connect_s` are over."""
        end = time.monotonic() + self._timeouts.connect_s

        def check() -> None:
            self._cancel.check()
            if time.monotonic() > end:
                raise Interrupted(f"the proxy {origin.netloc} does not answer", hint="is it overloaded?")

        return check

    def _connect(self, origin: Origin) -> socket.socket:
        reason, allowed = "", []
        for family, address in self._resolve(origin):
            if why := self._trust.refuses(origin, str(address[0])):
                reason = f"{origin.host} is at {address[0]}, which {why}"
            else:
                allowed.append((family, address))
        if not allowed:
            raise Untrusted(reason, hint="an administrator can allow it by entering this registry")
        return self._connect_to_any(origin, allowed)

    def _connect_to_any(self, origin: Origin, addresses: list[tuple[int, Any]]) -> socket.socket:
        last = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        for family, address in addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._connect_to(sock, address)
            except OSError as error:
                sock.close()
                self._cancel.check()
                last = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        kind = Refused if last.errno == errno.ECONNREFUSED else Interrupted
        hint = "check the registry's name and port"
        raise kind(f"cannot connect to {origin.netloc}: {last.strerror or last}", hint=hint) from last

    def _connect_to(self, sock: socket.socket, address: Any) -> None:  # an address as its family has it
        """Connect within the timeout, looking at `cancel` in between."""
        sock.setblocking(False)
        code = sock.connect_ex(address)
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        deadline = time.monotonic() + self._timeouts.connect_s
        while code == errno.EINPROGRESS:
            self._cancel.check()
            if poll.poll(_POLL_S * 1000):
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            elif time.monotonic() > deadline:
                code = errno.ETIMEDOUT
        if code:
            raise OSError(code, os.strerror(code))

    def _resolve(self, origin: Origin, within_s: float = float("inf")) -> list[tuple[int, Any]]:
        """Return the addresses of a host, in a thread of its own since a resolver cannot be interrupted."""
        result: list[Any] = []

        def ask() -> None:
            try:
                result.append(socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM))
            except OSError as error:
                result.append(error)

        if _is_literal(origin.host):
            ask()
        else:
            thread = threading.Thread(target=ask, name="resolve", daemon=True)
            thread.start()
            end = time.monotonic() + within_s
            while thread.is_alive() and not self._cancel.cancelled and time.monotonic() < end:
                thread.join(0.1)
            self._cancel.check()
            if thread.is_alive():
                raise Interrupted(f"no address for {origin.host} in {within_s:.0f} s")
        if isinstance(result[0], OSError):
            for_good = result[0].errno in (socket.EAI_NONAME, socket.EAI_NODATA)
            kind = UnknownHost if for_good else Interrupted
            hint = "check its name for a typing error"
            raise kind(f"no address for the registry {origin.host}", hint=hint) from result[0]
        return [(entry[0], entry[4]) for entry in result[0]]

    def _secure(self, sock: socket.socket, origin: Origin) -> socket.socket:
        home = origin.host == self._trust.home.host
        context = tls_context(self._ca_pem, system=not home, unverified=self._trust.is_insecure(origin))
        try:
            sock.setblocking(False)
            secure = context.wrap_socket(sock, server_hostname=origin.host, do_handshake_on_connect=False)
            try:
                self._shake_hands(secure)
            except BaseException:
                secure.close()
                raise
            return secure
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message or "not valid"
            hint = "enter the authority that signed it in the registry's settings"
            raise Untrusted(
                f"the certificate of {origin.netloc} is not trusted: {reason}", hint=hint
            ) from error
        except ssl.SSLError as error:
            raise NoTls(f"{origin.netloc} does not speak TLS") from error
        except OSError as error:
            raise NoTls(f"{origin.netloc} broke the connection at the start of TLS") from error

    def _shake_hands(self, secure: ssl.SSLSocket) -> None:
        """Do the TLS handshake within the timeout, looking at `cancel` in between."""
        deadline = time.monotonic() + self._timeouts.read_s
        while True:
            try:
                secure.do_handshake()
                secure.settimeout(self._timeouts.read_s)
                return
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            self._cancel.check()
            poll = select.poll()
            poll.register(secure, wanted)
            if not poll.poll(_POLL_S * 1000) and time.monotonic() > deadline:
                raise TimeoutError("no answer to the TLS handshake")

    # -- watching ---------------------------------------------------------------------------------

    def _start_watcher(self) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="registry-watch", daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        marks: dict[Connection, tuple[float, int]] = {}
        while not self._closed.is_set():
            if self._cancel.wait(_POLL_S):
                self._interrupt_all()
                self._closed.wait(_POLL_S)
                continue
            with self._lock:
                busy = list(self._busy)
            marks = {connection: self._mark(connection, marks.get(connection)) for connection in busy}

    def _interrupt_all(self) -> None:
        with self._lock:
            busy = list(self._busy)
        for connection in busy:
            connection.interrupt()

    def _mark(self, connection: Connection, mark: tuple[float, int] | None) -> tuple[float, int]:
        """Return since when and from which byte on a transfer is measured; interrupt it where it is too slow."""
        now, begun = time.monotonic(), connection.transferring_since
        if not begun:
            return now, 0
        if mark is None or mark[0] < begun:
            return begun, 0
        since, moved = mark
        if now - since < self._timeouts.rate_window_s:
            return mark
        if connection.moved - moved < self._timeouts.min_bytes_per_s * (now - since):
            logger.info(
                "transfer from %s is slower than %d bytes/s",
                connection.origin,
                self._timeouts.min_bytes_per_s,
            )
            connection.stalled = True
            connection.interrupt()
        return now, connection.moved


class NoTls(Interrupted):
    """The peer did not answer in TLS; where plain HTTP is allowed, it is tried next."""


@lru_cache(maxsize=64)
def tls_context(ca_pem: str, *, system: bool, unverified: bool) -> ssl.SSLContext:
    """Return a client's TLS context.

    With `ca_pem` that authority is believed, and the system's as well only where `system` is set; without it the
    system's, or anybody at all where `unverified` is set.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if system or not ca_pem:
        context.load_default_certs()
    if ca_pem:
        context.load_verify_locations(cadata=ca_pem)
    elif unverified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()

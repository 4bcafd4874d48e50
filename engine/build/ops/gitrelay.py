"""The only way out of the network namespace that git runs in: a SOCKS5 server whose every connection is judged.

Whatever a repository makes git ask for (redirects, alternates, submodules), each connection names its host here, is resolved by us, and goes
to just the address that was found to be allowed. Names are never resolved inside. Source: RFC 1928.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from engine.errors import EngineError, InvalidInput

_CHUNK = 64 * 1024
_AT_ONCE = 16
_HANDSHAKE_S = 10.0
_VERSION, _CONNECT = 5, 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_OK, _FAILED, _REFUSED, _UNKNOWN = 0, 1, 2, 7

Connect = Callable[[str, int], socket.socket]
"""Open a connection to (host, port); raises `EngineError` for an address that may not be reached."""


class Relay:
    """Serves `listener`; use as a context manager. `refusal` is the first connection that was not made, and why.

    No more than `limit_bytes` come back in all.
    """

    def __init__(self, listener: socket.socket, connect: Connect, limit_bytes: int) -> None:
        self._listener = listener
        self._connect = connect
        self._left = limit_bytes
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        self._thread = threading.Thread(target=self._accept, name="git-relay", daemon=True)
        self.refusal: EngineError | None = None

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed: git has ended
            if not self._slots.acquire(blocking=False):
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), name="git-relay", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, suppress(OSError, ValueError, struct.error):
                client.settimeout(_HANDSHAKE_S)
                remote = self._shake_hands(client)
                if remote is not None:
                    with remote:
                        self._pass(client, remote)
        finally:
            self._slots.release()

    def _shake_hands(self, client: socket.socket) -> socket.socket | None:
        _, methods = _exactly(client, 2)
        _exactly(client, methods)
        client.sendall(bytes([_VERSION, 0]))
        version, command, _, kind = _exactly(client, 4)
        if version != _VERSION or command != _CONNECT or kind not in (_IPV4, _NAME, _IPV6):
            client.sendall(_answer(_UNKNOWN))
            return None
        host = _host(client, kind)
        (port,) = struct.unpack("!H", _exactly(client, 2))
        try:
            remote = self._connect(host, port)
        except EngineError as error:
            self._refuse(error)
            client.sendall(_answer(_REFUSED))
            return None
        client.sendall(_answer(_OK))
        return remote

    def _refuse(self, error: EngineError) -> None:
        with self._lock:
            self.refusal = self.refusal or error

    def _pass(self, client: socket.socket, remote: socket.socket) -> None:
        with self._lock:
            self._open |= {client, remote}
        try:
            client.settimeout(None)
            remote.settimeout(None)
            up = threading.Thread(
                target=_copy, args=(client, remote, lambda size: True), name="git-relay", daemon=True
            )
            up.start()
            _copy(remote, client, self._take)
            up.join()
        finally:
            with self._lock:
                self._open -= {client, remote}

    def _take(self, size: int) -> bool:
        with self._lock:
            self._left -= size
        if self._left < 0:
            self._refuse(InvalidInput("the repository is too large", hint="clone a part of it in a RUN"))
        return self._left >= 0


def _copy(source: socket.socket, target: socket.socket, take: Callable[[int], bool]) -> None:
    """Pass on what comes until the end, or until `take` says that it is enough."""
    with suppress(OSError):
        while (data := source.recv(_CHUNK)) and take(len(data)):
            target.sendall(data)
    for connection, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            connection.shutdown(how)


def _host(client: socket.socket, kind: int) -> str:
    if kind == _NAME:
        return _exactly(client, _exactly(client, 1)[0]).decode("ascii")
    return str(ipaddress.ip_address(_exactly(client, 4 if kind == _IPV4 else 16)))


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            raise ValueError("cut off")
        data += more
    return data


def _answer(code: int) -> bytes:
    return bytes([_VERSION, code, 0, _IPV4]) + bytes(6)

"""Connections that an answer takes over: `101 UPGRADED`, then raw bytes both ways (Docker's attach and exec).

ASGI has no word for this, so the HTTP protocol of uvicorn is extended by one: a request that asks for `Upgrade: tcp` reaches
the application as any other, with `scope["extensions"]["wharfinger.hijack"]`, a function that answers 101 and returns the
connection. A request on a unix socket also carries the uid of its peer (`wharfinger.peer_uid`, from SO_PEERCRED, unix(7)),
one over TLS the fingerprint of the certificate that the client has shown (`wharfinger.peer_certificate`, SHA-256).
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from webapp.core import tls

HIJACK, PEER_UID = "wharfinger.hijack", "wharfinger.peer_uid"
PEER_CERTIFICATE = "wharfinger.peer_certificate"
READ_AHEAD_BYTES = 256 * 1024


class Hijacked(asyncio.Protocol):
    """The raw connection. One reader, one writer; both feel the other side's pace."""

    def __init__(self, transport: asyncio.Transport, first: bytes) -> None:
        self._transport = transport
        self._arrived = bytearray(first)
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False
        self.lost = False
        if first:
            self._news.set()

    async def read(self) -> bytes:
        """Return what has arrived, b"" when the client has closed its side for writing."""
        while not self._arrived and not self._ended:
            self._news.clear()
            await self._news.wait()
        data = bytes(self._arrived)
        self._arrived.clear()
        if not self.lost:
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the client does not read. Raises `ConnectionResetError` when it is gone."""
        await self._writable.wait()
        if self.lost:
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)

    async def close(self) -> None:
        """Send what is left and close."""
        if not self.lost:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        if len(self._arrived) > READ_AHEAD_BYTES:
            self._transport.pause_reading()
        self._news.set()

    def eof_received(self) -> bool:
        self._ended = True
        self._news.set()
        return True  # the client has said all; what the container still says goes on

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self._ended = True
        self._news.set()
        self._writable.set()


class DockerProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with hijacking and the uid of local peers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._after_upgrade: bytearray | None = None
        self._body_left = 0  # of a request that upgrades: the parser takes no body then

    def data_received(self, data: bytes) -> None:
        if self._after_upgrade is not None:  # the application has not answered yet
            self._receive_raw(data)
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._wants_raw():
                self._after_upgrade = bytearray()
                self._receive_raw(data[upgrade.args[0] :])
            elif self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _receive_raw(self, data: bytes) -> None:
        """Take what follows the headers of a request that upgrades: first its body, then what is for the taken connection."""
        assert self._after_upgrade is not None
        if self._body_left and data:
            body, data = data[: self._body_left], data[self._body_left :]
            self._body_left -= len(body)
            self.on_body(body)
            if not self._body_left:
                self.on_message_complete()
        self._after_upgrade += data
        if len(self._after_upgrade) > READ_AHEAD_BYTES:
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if not self._body_left:
            super().on_message_complete()

    def on_headers_complete(self) -> None:
        extensions: dict[str, Any] = {}
        if self._wants_raw():
            extensions[HIJACK] = self._hijack
            self._body_left = self._announced_bytes()
        self.scope["extensions"] = extensions | self._peer()
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        self.app_state = {**self.app_state, **self._peer()}
        super().handle_websocket_upgrade()

    def _peer(self) -> dict[str, Any]:
        """Return what the connection itself says about who is at its other end."""
        if (uid := self._peer_uid()) is not None:
            return {PEER_UID: uid}
        certificate = self.transport.get_extra_info(tls.PEER_CERTIFICATE)
        return {PEER_CERTIFICATE: hashlib.sha256(certificate).hexdigest()} if certificate else {}

    def _peer_uid(self) -> int | None:
        """Return the uid at the other end of a unix socket; None for other connections."""
        peer = self.transport.get_extra_info("socket")
        if peer is None or peer.family != socket.AF_UNIX:
            return None
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])

    def _wants_raw(self) -> bool:
        return self.headers is not None and (self._get_upgrade() or b"") == b"tcp"

    def _announced_bytes(self) -> int:
        """Return the length of the body, 0 where none is announced (a chunked one cannot come with an upgrade: it is not read)."""
        for name, value in self.headers or ():
            if name == b"content-length" and value.isdigit():
                return int(value)
        return 0

    def _hijack(self, content_type: str) -> Hijacked:
        """Answer 101 and hand over the connection."""
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        connection = Hijacked(self.transport, bytes(self._after_upgrade or b""))
        self.cycle.response_started = self.cycle.response_complete = True
        self.transport.set_protocol(connection)
        self.transport.resume_reading()
        lines = [
            "HTTP/1.1 101 UPGRADED",
            f"Content-Type: {content_type}",
            "Connection: Upgrade",
            "Upgrade: tcp",
            "",
            "",
        ]
        self.transport.write("\r\n".join(lines).encode())
        return connection


def over_tls(context: ssl.SSLContext) -> Callable[..., asyncio.Protocol]:
    """Return what makes the protocol of a new connection: TLS first on TCP, none on the unix socket."""

    def make(**kwargs: Any) -> asyncio.Protocol:
        return _ByFamily(context, lambda: DockerProtocol(**kwargs))

    return make


class _ByFamily(asyncio.Protocol):
    """Steps aside for the right protocol as soon as it is known what kind of connection it is."""

    def __init__(self, context: ssl.SSLContext, make_inner: Callable[[], asyncio.Protocol]) -> None:
        self._context = context
        self._make_inner = make_inner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        is_local = transport.get_extra_info("socket").family == socket.AF_UNIX
        protocol = self._make_inner() if is_local else tls.TlsDoor(self._context, self._make_inner)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

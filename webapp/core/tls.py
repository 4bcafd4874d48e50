"""TLS for the connections of the web server, with an end of input that is not the end of the connection.

The event loop's own TLS closes a connection as soon as the peer has said `close_notify`. A docker command says so when its
standard input ends, and goes on reading (RFC 8446, 6.1: the other direction stays open). So TLS is done here, on memory
buffers between the TCP transport and the protocol above, which sees a transport as any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
READ_BYTES = 256 * 1024  # handed up at once at most
HANDSHAKE_RECORD = 0x16  # the first byte of TLS (RFC 8446, 5.1)
PEER_CERTIFICATE = "peer_certificate"
NOT_TLS = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"Client sent an HTTP request to an HTTPS server.\n"  # the words that the docker command looks for
)


def server_context(certificate: Path, key: Path, client_authorities: str) -> ssl.SSLContext:
    """Return how this server speaks TLS; a client may show a certificate of one of the authorities (PEM), a bad one ends it.

    No session is resumed, so each connection shows its certificate anew and an expired one is seen. Raises `ssl.SSLError`
    or `OSError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key, password=_no_password)
    context.load_verify_locations(cadata=client_authorities)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _no_password() -> str:
    raise ssl.SSLError("the key is locked with a password")


class TlsDoor(asyncio.Protocol):
    """Speaks TLS with one connection, and gives what is inside to the protocol that `make_inner` makes after the handshake."""

    def __init__(self, context: ssl.SSLContext, make_inner: Callable[[], asyncio.Protocol]) -> None:
        self._context = context
        self._make_inner = make_inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._inside: TlsTransport | None = None
        self._input_ended = False
        self._closing = False
        self._first = True

    # --- from the network

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.tcp: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is none by inheritance
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_S, self.tcp.abort)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._first and data[0] != HANDSHAKE_RECORD:
            self._closing = True
            self.tcp.write(NOT_TLS)
            self.tcp.close()
            return
        self._first = False
        self._incoming.write(data)
        if self._inside is None and not self._shake_hands():
            return
        self.read()

    def eof_received(self) -> bool:
        return False  # without a close_notify before it the peer is gone, and after one nothing more can be told to it

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._closing = True
        if self._inside is not None:
            self._inside.get_protocol().connection_lost(exc)

    def pause_writing(self) -> None:
        if self._inside is not None:
            self._inside.get_protocol().pause_writing()

    def resume_writing(self) -> None:
        if self._inside is not None:
            self._inside.get_protocol().resume_writing()

    # --- inside

    def _shake_hands(self) -> bool:
        """Go on with the handshake; tell whether it is over. A client that is refused gets the alert that says why."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            peer = (self.tcp.get_extra_info("peername") or ("?",))[0]
            logger.info("no TLS with %s: %s", peer, error.reason or error)
            self._closing = True
            self._flush()
            self.tcp.close()
            return False
        self._flush()
        self._timer.cancel()
        self._inside = TlsTransport(self, self._context, self._tls)
        self._inside.set_protocol(self._make_inner())
        self._inside.get_protocol().connection_made(self._inside)
        return True

    def read(self) -> None:
        """Hand up what has arrived, as long as the protocol above wants it."""
        inside = self._inside
        while inside is not None and not (inside.paused or self._closing or self._input_ended):
            data = self._decrypted()
            self._flush()
            if data:
                inside.get_protocol().data_received(data)
            if self._input_ended and not self._closing and not inside.get_protocol().eof_received():
                self.close()
            if len(data) < READ_BYTES:
                return

    def _decrypted(self) -> bytes:
        collected = bytearray()
        try:
            while len(collected) < READ_BYTES:
                part = self._tls.read(READ_BYTES)
                if not part:
                    raise ssl.SSLZeroReturnError
                collected += part
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._input_ended = True
        except ssl.SSLError as error:
            logger.info("TLS broke: %s", error.reason or error)
            self._closing = True
            self.tcp.abort()
        return bytes(collected)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, each record of 16 KiB for itself, in one write of TCP."""
        left = memoryview(data)
        while left and not self._closing:
            left = left[self._tls.write(left) :]
        self._flush()

    def close(self) -> None:
        """Say `close_notify`, send what is left and close."""
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(ssl.SSLError):  # it would wait for the peer's
            self._tls.unwrap()
        self._flush()
        self.tcp.close()

    def abort(self) -> None:
        self._closing = True
        self.tcp.abort()

    @property
    def closing(self) -> bool:
        return self._closing or self.tcp.is_closing()

    def _flush(self) -> None:
        if self._outgoing.pending and not self.tcp.is_closing():
            self.tcp.write(self._outgoing.read())


class TlsTransport(asyncio.Transport):
    """What the protocol above sees."""

    def __init__(self, door: TlsDoor, context: ssl.SSLContext, tls: ssl.SSLObject) -> None:
        super().__init__({"sslcontext": context, "ssl_object": tls})
        self._door = door
        self._protocol: Any = None
        self.paused = False
        self._extra[PEER_CERTIFICATE] = tls.getpeercert(binary_form=True)  # type: ignore[attr-defined]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name in self._extra:  # type: ignore[attr-defined]
            return self._extra[name]  # type: ignore[attr-defined]
        return self._door.tcp.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_reading(self) -> bool:
        return not self.paused

    def pause_reading(self) -> None:
        if not self.paused:
            self.paused = True
            self._door.tcp.pause_reading()

    def resume_reading(self) -> None:
        if self.paused and not self._door.closing:
            self.paused = False
            self._door.tcp.resume_reading()
            asyncio.get_running_loop().call_soon(self._door.read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._door.tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._door.tcp.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._door.write(data)

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._door.closing

    def close(self) -> None:
        self._door.close()

    def abort(self) -> None:
        self._door.abort()

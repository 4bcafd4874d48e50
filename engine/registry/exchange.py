"""One request and its answer on the wire: bodies that are sent without being held, answers that are read as they come."""

from __future__ import annotations

import http.client
import os
import select
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from engine.registry.connection import Connection, Connections
from engine.registry.errors import BadContent, Interrupted

CHUNK = 256 * 1024
ERROR_BODY_LIMIT = 64 * 1024


@dataclass(frozen=True)
class FileBody:
    """Part of a file as a request's body, sent without passing through Python where there is no TLS.

    `on_sent` is told the offset in the file up to which it is sent.
    """

    file: BinaryIO
    offset: int
    length: int
    on_sent: Callable[[int], None] = field(default=lambda offset: None)


Body = bytes | FileBody | Iterator[bytes]


@dataclass
class Request:
    """One exchange with a registry; `what` names it in errors, `scopes` are the rights that it needs."""

    method: str
    url: str
    what: str
    scopes: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = b""
    ok: frozenset[int] = frozenset({200})
    attempts: int = 0  # 0: as the policy says
    timeout_s: float = 0.0  # for the answer; 0: as the timeouts say


class Response:
    """An answer whose body is still to be read. Close it; a body read to its end leaves the connection usable."""

    def __init__(
        self,
        connections: Connections,
        connection: Connection,
        raw: http.client.HTTPResponse,
        request: Request,
        url: str,
    ) -> None:
        self._connections = connections
        self._connection = connection
        self._raw = raw
        self._request = request
        self._open = True
        self.status = raw.status
        self.url = url

    def header(self, name: str) -> str:
        return (self._raw.headers.get(name) or "").strip()

    def headers_of(self, name: str) -> list[str]:
        return self._raw.headers.get_all(name) or []

    @property
    def connection_lost(self) -> Exception:
        """What to raise where the body ended too early."""
        return self._connections.explain(self._connection, None, self._request.what)

    @property
    def length(self) -> int | None:
        """What `Content-Length` says of the whole body, None where it says nothing."""
        return self._raw.length

    def chunks(self, limit: int) -> Iterator[bytes]:
        """Yield the body as it comes, up to one byte more than `limit`, so that too much is noticed and not read.

        Raises `Interrupted` where the body ends before its announced length.
        """
        self._connection.begin_transfer()
        left = limit + 1
        while left and (chunk := self._read1(min(CHUNK, left))):
            self._connection.moved += len(chunk)
            left -= len(chunk)
            yield chunk
        if left and self._raw.length:
            raise self.connection_lost
        self._finish(reusable=left > 0)

    def read(self, limit: int) -> bytes:
        """Return the whole body, or raise `BadContent` where it is larger than `limit`."""
        parts, total = [], 0
        for chunk in self.chunks(limit):
            total += len(chunk)
            if total > limit:
                raise BadContent(f"{self._request.what} is larger than {limit} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def drain(self) -> None:
        """Read what little is left so that the connection can be used again."""
        if self._raw.length is not None and self._raw.length > ERROR_BODY_LIMIT:
            return self.close()
        try:
            self.read(ERROR_BODY_LIMIT)
        except (BadContent, Interrupted):
            self.close()
        return None

    def close(self) -> None:
        self._finish(reusable=False)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read1(self, size: int) -> bytes:
        try:
            return self._raw.read1(size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._connections.explain(self._connection, error, self._request.what) from error

    def _finish(self, *, reusable: bool) -> None:
        if self._open:
            self._open = False
            reusable = reusable and not self._raw.will_close
            self._raw.close()
            self._connections.give_back(self._connection, reusable=reusable)


def send_body(connection: Connection, request: Request) -> None:
    body = request.body
    if isinstance(body, bytes):
        if body or request.method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        return
    connection.begin_transfer()
    if isinstance(body, FileBody):
        connection.putheader("Content-Length", str(body.length))
        connection.endheaders()
        _send_file(connection, body)
    else:
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for chunk in body:
            connection.send(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
            connection.moved += len(chunk)
        connection.send(b"0\r\n\r\n")
    connection.end_transfer()


def _send_file(connection: Connection, body: FileBody) -> None:
    offset, end = body.offset, body.offset + body.length
    while offset < end:
        count = _send_some(connection, body.file, offset, min(CHUNK * 4, end - offset))
        if count == 0:
            raise BadContent("a blob of this node became shorter while it was sent")
        offset += count
        connection.moved += count
        body.on_sent(offset)


def _send_some(connection: Connection, file: BinaryIO, offset: int, count: int) -> int:
    sock = connection.sock
    if isinstance(sock, ssl.SSLSocket):
        data = os.pread(file.fileno(), min(count, CHUNK), offset)
        sock.sendall(data)
        return len(data)
    while True:
        try:
            return os.sendfile(sock.fileno(), file.fileno(), offset, count)
        except BlockingIOError:
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            if not poll.poll((sock.gettimeout() or 30) * 1000):
                raise TimeoutError("no byte was taken") from None

"""A small HTTP proxy for the length of a test: tunnels and forwards, with or without a password.

Names that only it knows are its `hosts`: `{"registry.example:443": ("127.0.0.1", 5000)}`.
"""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Address = tuple[str, int]


class TestProxy:
    """`asked` is what was asked for (`CONNECT host:port`, `GET http://…`), `carried` every byte that went through."""

    __test__ = False

    def __init__(self, hosts: dict[str, Address], *, password: str = "", refuse: int = 0) -> None:
        self.hosts = hosts
        self.password = password
        self.refuse = refuse
        self.asked: list[str] = []
        self.carried = bytearray()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, user: str = "") -> str:
        return f"http://{user}@{self.address}" if user else f"http://{self.address}"

    def __enter__(self) -> TestProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_of(proxy: TestProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _target(self, name: str) -> Address | None:
            """Return where to connect to; None when the answer that says why not is sent."""
            proxy.asked.append(f"{self.command} {self.path}")
            wanted = "Basic " + base64.b64encode(proxy.password.encode()).decode()
            if proxy.password and self.headers.get("Proxy-Authorization") != wanted:
                self._say(407)
            elif proxy.refuse:
                self._say(proxy.refuse)
            elif name not in proxy.hosts:
                self._say(502)
            else:
                return proxy.hosts[name]
            return None

        def _say(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_CONNECT(self) -> None:
            if (address := self._target(self.path)) is None:
                return
            with socket.create_connection(address, 5) as far:
                self.connection.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                self._pump(self.connection, far)
            self.close_connection = True

        def _pump(self, near: socket.socket, far: socket.socket) -> None:
            peer = {near: far, far: near}
            while True:
                for end in select.select([near, far], [], [], 10)[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    proxy.carried += data
                    peer[end].sendall(data)

        def forward(self) -> None:
            parts = urlsplit(self.path)
            if (address := self._target(parts.netloc)) is None:
                return
            lines = [f"{self.command} {parts.path or '/'}{'?' if parts.query else ''}{parts.query} HTTP/1.1"]
            kept = [item for item in self.headers.items() if not item[0].lower().startswith("proxy-")]
            lines += [f"{name}: {value}" for name, value in kept] + ["Connection: close"]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with socket.create_connection(address, 5) as far:
                far.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
                while data := far.recv(65536):
                    proxy.carried += data
                    self.connection.sendall(data)
            self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    return Handler

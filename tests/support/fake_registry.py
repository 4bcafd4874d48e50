"""A registry that does what the test says (H1): honest until a rule tells it to lie, cut, stall or refuse.

    with FakeRegistry() as registry:
        image = registry.add_image("team/app", "1", [layer({"hello": b"world"})])
        registry.on("GET", r"/blobs/", cut_after(1000), times=2)
        ...
        assert registry.count("GET", r"/blobs/") == 3

Every request is recorded with its `Authorization`, so that a test can say who saw which secret.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import secrets
import socket
import ssl
import struct
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.certificates import ServerFiles

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    authorization: str
    headers: dict[str, str]


@dataclass(frozen=True)
class FakeImage:
    """What `add_image` made: names of all parts, for assertions."""

    digest: str
    config_digest: str
    layer_digests: tuple[str, ...]
    diff_ids: tuple[str, ...]


@dataclass
class Rule:
    method: str
    pattern: re.Pattern[str]
    action: Callable[[Exchange], None]
    left: int


@dataclass
class Exchange:
    """One request in the hands of a rule: answer it in any way, also wrongly."""

    registry: FakeRegistry
    handler: BaseHTTPRequestHandler
    body_read: bool = False

    @property
    def path(self) -> str:
        return self.handler.path

    def serve(self) -> None:
        """Answer as an honest registry would."""
        self.registry.serve(self)

    def reply(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, length: int = -1
    ) -> None:
        self.read_body()
        headers = {"Content-Length": str(len(body) if length < 0 else length), **(headers or {})}
        self.head(status, headers)
        if self.handler.command != "HEAD":
            self.handler.wfile.write(body)

    def read_body(self, into: bytearray | None = None) -> bytes:
        """Return the request's body; a second time there is none. `into` keeps what came where the sender breaks off."""
        if self.body_read:
            return b""
        self.body_read = True
        return _read_body(self.handler, bytearray() if into is None else into)

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.handler.send_response(status)
        for name, value in headers.items():
            if value:
                self.handler.send_header(name, value)
        self.handler.end_headers()

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection, politely or with RST."""
        self.handler.close_connection = True
        self.handler.wfile.flush()
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            self.handler.connection.shutdown(socket.SHUT_RDWR)
        self.handler.connection.close()


class FakeRegistry:
    """The server; a context manager. `domain` is what stands before the first slash of a reference."""

    def __init__(
        self,
        *,
        tls: ServerFiles | None = None,
        host: str = "127.0.0.1",
        auth: str = "",
        username: str = "alice",
        password: str = "s3cret-word",
        realm: str = "",
    ) -> None:
        self.requests: list[Seen] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.linked: dict[str, set[str]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.tokens: set[str] = set()
        self.auth, self.username, self.password, self.realm = auth, username, password, realm
        self.token_life_s = 300
        self.chunk_min = 0
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._server = _Server((host, 0), _handler_of(self))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            self._server.context = context
        self.domain = f"{host}:{self._server.server_address[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.domain}"

    def __enter__(self) -> FakeRegistry:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def stopping(self) -> threading.Event:
        return self._server.stopping

    # -- what the test says -----------------------------------------------------------------------

    def on(self, method: str, pattern: str, action: Callable[[Exchange], None], *, times: int = 1) -> None:
        """Let the next `times` requests that match be answered by `action`; later rules come first."""
        self._rules.insert(0, Rule(method, re.compile(pattern), action, times))

    def count(self, method: str, pattern: str) -> int:
        return len(self.seen(method, pattern))

    def seen(self, method: str, pattern: str) -> list[Seen]:
        with self._lock:
            return [
                entry for entry in self.requests if entry.method == method and re.search(pattern, entry.path)
            ]

    def authorizations(self) -> set[str]:
        with self._lock:
            return {entry.authorization for entry in self.requests if entry.authorization}

    def forget_requests(self) -> None:
        with self._lock:
            self.requests.clear()

    def add_blob(self, repository: str, data: bytes) -> str:
        digest = digest_of(data)
        self.blobs[digest] = data
        self.linked.setdefault(repository, set()).add(digest)
        return digest

    def add_manifest(self, repository: str, tag: str, data: bytes, media_type: str = OCI_MANIFEST) -> str:
        digest = digest_of(data)
        self.manifests[f"{repository}@{digest}"] = (media_type, data)
        if tag:
            self.tags.setdefault(repository, {})[tag] = digest
        return digest

    def add_image(
        self,
        repository: str,
        tag: str,
        layers: list[bytes],
        *,
        compress: Callable[[bytes], bytes] = lambda data: gzip.compress(data, 1, mtime=0),
        suffix: str = "+gzip",
        architecture: str = "amd64",
        variant: str = "",
        change: Callable[[dict[str, Any]], None] = lambda manifest: None,
        change_config: Callable[[dict[str, Any]], None] = lambda config: None,
    ) -> FakeImage:
        """Add an image of the uncompressed layer tars `layers`; `change` may spoil the manifest before it is stored."""
        blobs = [compress(data) for data in layers]
        digests = [self.add_blob(repository, blob) for blob in blobs]
        diff_ids = [digest_of(data) for data in layers]
        config: dict[str, Any] = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
        }
        if variant:
            config["variant"] = variant
        change_config(config)
        config_data = json.dumps(config).encode()
        config_digest = self.add_blob(repository, config_data)
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": config_digest, "size": len(config_data)},
            "layers": [
                {"mediaType": OCI_LAYER + suffix, "digest": digest, "size": len(blob)}
                for digest, blob in zip(digests, blobs, strict=True)
            ],
        }
        change(manifest)
        digest = self.add_manifest(repository, tag, json.dumps(manifest).encode())
        return FakeImage(digest, config_digest, tuple(digests), tuple(diff_ids))

    def add_index(self, repository: str, tag: str, entries: list[tuple[str, str]], **extra: Any) -> str:
        """Add an index of manifests that are there: pairs of digest and platform (`linux/arm/v7`)."""
        manifests = []
        for digest, platform in entries:
            system, architecture, *variant = platform.split("/")
            media_type, data = self.manifests[f"{repository}@{digest}"]
            words = {
                "os": system,
                "architecture": architecture,
                **({"variant": variant[0]} if variant else {}),
            }
            manifests.append(
                {"mediaType": media_type, "digest": digest, "size": len(data), "platform": words}
            )
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **extra}
        return self.add_manifest(repository, tag, json.dumps(document).encode(), OCI_INDEX)

    # -- serving ----------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        handler = exchange.handler
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            self.requests.append(
                Seen(handler.command, handler.path, headers.get("authorization", ""), headers)
            )
            rule = next((r for r in self._rules if r.left and self._fits(r, handler)), None)
            if rule:
                rule.left -= 1
        if rule:
            rule.action(exchange)
        else:
            self.serve(exchange)

    def _fits(self, rule: Rule, handler: BaseHTTPRequestHandler) -> bool:
        return rule.method in (handler.command, "*") and bool(rule.pattern.search(handler.path))

    def serve(self, exchange: Exchange) -> None:
        path = urlsplit(exchange.path)
        if path.path == "/token":
            return self._token(exchange)
        if not self._allowed(exchange):
            exchange.read_body()
            return exchange.reply(401, _error("UNAUTHORIZED"), {"WWW-Authenticate": self.challenge(exchange)})
        if path.path == "/v2/":
            return exchange.reply(200, b"{}", {"Docker-Distribution-Api-Version": "registry/2.0"})
        if path.path == "/v2/_catalog":
            names = sorted({*self.linked, *self.tags})
            return exchange.reply(200, json.dumps({"repositories": names}).encode())
        for pattern, serve in _ROUTES:
            if match := pattern.fullmatch(path.path):
                return serve(self, exchange, *match.groups())
        return exchange.reply(404, _error("NOT_FOUND"))

    def challenge(self, exchange: Exchange) -> str:
        if self.auth == "basic":
            return 'Basic realm="test"'
        realm = self.realm or f"{self.url}/token"
        return f'Bearer realm="{realm}",service="fake",scope="repository:x:pull"'

    def _allowed(self, exchange: Exchange) -> bool:
        given = exchange.handler.headers.get("Authorization", "")
        if self.auth == "basic":
            return given == self.basic()
        return self.auth != "bearer" or given.removeprefix("Bearer ") in self.tokens

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def _token(self, exchange: Exchange) -> None:
        given = exchange.handler.headers.get("Authorization", "")
        form = parse_qs(exchange.read_body().decode())
        if given not in ("", self.basic()) or form.get("refresh_token", [self.password]) != [self.password]:
            return exchange.reply(401, _error("UNAUTHORIZED"))
        token = secrets.token_hex(16)
        self.tokens.add(token)
        return exchange.reply(200, json.dumps({"token": token, "expires_in": self.token_life_s}).encode())

    def _manifest(self, exchange: Exchange, repository: str, target: str) -> None:
        if exchange.handler.command == "PUT":
            data = exchange.read_body()
            media_type = exchange.handler.headers.get("Content-Type", "")
            digest = self.add_manifest(repository, "" if ":" in target else target, data, media_type)
            return exchange.reply(201, b"", {"Docker-Content-Digest": digest})
        digest = target if ":" in target else self.tags.get(repository, {}).get(target, "")
        if f"{repository}@{digest}" not in self.manifests:
            code = "MANIFEST_UNKNOWN" if repository in self.tags else "NAME_UNKNOWN"
            return exchange.reply(404, _error(code))
        media_type, data = self.manifests[f"{repository}@{digest}"]
        return exchange.reply(200, data, {"Content-Type": media_type, "Docker-Content-Digest": digest})

    def _blob(self, exchange: Exchange, repository: str, digest: str) -> None:
        if digest not in self.linked.get(repository, ()):
            return exchange.reply(404, _error("BLOB_UNKNOWN"))
        data = self.blobs[digest]
        wanted = re.fullmatch(r"bytes=(\d+)-", exchange.handler.headers.get("Range", ""))
        if not wanted:
            return exchange.reply(200, data, {"Docker-Content-Digest": digest})
        start = int(wanted[1])
        if start >= len(data):
            return exchange.reply(416)
        return exchange.reply(
            206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        )

    def _tags(self, exchange: Exchange, repository: str) -> None:
        if repository not in self.tags:
            return exchange.reply(404, _error("NAME_UNKNOWN"))
        document = {"name": repository, "tags": sorted(self.tags[repository])}
        return exchange.reply(200, json.dumps(document).encode())

    def _begin_upload(self, exchange: Exchange, repository: str) -> None:
        query = parse_qs(urlsplit(exchange.path).query)
        exchange.read_body()
        digest, source = query.get("mount", [""])[0], query.get("from", [""])[0]
        if digest and digest in self.linked.get(source, ()):
            self.linked.setdefault(repository, set()).add(digest)
            return exchange.reply(201, b"", {"Location": f"/v2/{repository}/blobs/{digest}"})
        name = secrets.token_hex(8)
        self.uploads[name] = bytearray()
        extra = {"OCI-Chunk-Min-Length": str(self.chunk_min)} if self.chunk_min else {}
        return exchange.reply(
            202, b"", {"Location": self._location(repository, name), "Range": "0-0", **extra}
        )

    def _upload(self, exchange: Exchange, repository: str, name: str) -> None:
        data, method = self.uploads.get(name), exchange.handler.command
        if data is None:
            exchange.read_body()
            return exchange.reply(404, _error("BLOB_UPLOAD_UNKNOWN"))
        if method == "DELETE":
            del self.uploads[name]
            return exchange.reply(204)
        if method in ("PATCH", "PUT"):
            exchange.read_body(data)
        if method == "PUT":
            return self._finish_upload(exchange, repository, name, bytes(data))
        headers = {"Location": self._location(repository, name), "Range": f"0-{max(0, len(data) - 1)}"}
        return exchange.reply(202 if method == "PATCH" else 204, b"", headers)

    def _finish_upload(self, exchange: Exchange, repository: str, name: str, data: bytes) -> None:
        expected = parse_qs(urlsplit(exchange.path).query).get("digest", [""])[0]
        if digest_of(data) != expected:
            return exchange.reply(400, _error("DIGEST_INVALID"))
        del self.uploads[name]
        digest = self.add_blob(repository, data)
        return exchange.reply(
            201, b"", {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest}
        )

    def _location(self, repository: str, name: str) -> str:
        return f"/v2/{repository}/blobs/uploads/{name}?_state=x"


_ROUTES: list[tuple[re.Pattern[str], Callable[..., None]]] = [
    (re.compile(r"/v2/(.+)/manifests/([^/]+)"), FakeRegistry._manifest),
    (re.compile(r"/v2/(.+)/blobs/(sha256:[^/]+)"), FakeRegistry._blob),
    (re.compile(r"/v2/(.+)/blobs/uploads/"), FakeRegistry._begin_upload),
    (re.compile(r"/v2/(.+)/blobs/uploads/([^/]+)"), FakeRegistry._upload),
    (re.compile(r"/v2/(.+)/tags/list"), FakeRegistry._tags),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    context: ssl.SSLContext | None = None

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.stopping = threading.Event()
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is None:
            self.RequestHandlerClass(request, client_address, self)  # type: ignore[call-arg]
            return
        request.settimeout(5)
        with self.context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secure:
            secure.do_handshake()
            secure.settimeout(None)
            self.RequestHandlerClass(secure, client_address, self)  # type: ignore[call-arg]

    def shutdown_request(self, request: Any) -> None:
        try:
            super().shutdown_request(request)
        except OSError:
            return  # detached by TLS, or closed by a rule

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients of these tests hang up in all places."""


def _handler_of(registry: FakeRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 64 * 1024
        disable_nagle_algorithm = True

        def answer(self) -> None:
            registry.handle(Exchange(registry, self))

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    return Handler


def _read_body(handler: BaseHTTPRequestHandler, data: bytearray) -> bytes:
    """Read a request's body, also a chunked one, into `data`."""
    if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
        while size := int(handler.rfile.readline().strip() or b"0", 16):
            data += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
        return bytes(data)
    left = int(handler.headers.get("Content-Length", "0"))
    while left and (chunk := handler.rfile.read1(min(left, 65536))):  # type: ignore[attr-defined]
        data += chunk
        left -= len(chunk)
    return bytes(data)


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(files: dict[str, bytes]) -> bytes:
    """Return an uncompressed layer tar with regular files, made by another program's code than the engine's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


# -- rules --------------------------------------------------------------------------------------------


def reply(status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, length: int = -1) -> Any:
    """Answer with this and nothing else."""
    return lambda exchange: exchange.reply(status, body, headers, length=length)


def cut_after(count: int, *, reset: bool = False) -> Callable[[Exchange], None]:
    """Send `count` bytes of the honest answer's body, then end the connection."""

    def action(exchange: Exchange) -> None:
        start, data = _honest(exchange)
        headers = {"Content-Length": str(len(data) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        exchange.head(206 if start else 200, headers)
        exchange.handler.wfile.write(data[start : start + count])
        exchange.hang_up(reset=reset)

    return action


def stall_after(count: int, seconds: float = 30.0) -> Callable[[Exchange], None]:
    """Send `count` bytes of the body, then nothing for a while."""

    def action(exchange: Exchange) -> None:
        start, data = _honest(exchange)
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        exchange.head(206 if start else 200, {"Content-Length": str(len(data) - start), **headers})
        exchange.handler.wfile.write(data[start : start + count])
        exchange.handler.wfile.flush()
        exchange.registry.stopping.wait(seconds)
        exchange.hang_up()

    return action


def drip(bytes_per_s: float, seconds: float = 30.0) -> Callable[[Exchange], None]:
    """Send one byte after the other."""

    def action(exchange: Exchange) -> None:
        start, data = _honest(exchange)
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        exchange.head(206 if start else 200, {"Content-Length": str(len(data) - start), **headers})
        end = time.monotonic() + seconds
        for position in range(start, len(data)):
            exchange.handler.wfile.write(data[position : position + 1])
            exchange.handler.wfile.flush()
            if time.monotonic() > end or exchange.registry.stopping.wait(1 / bytes_per_s):
                break
        exchange.hang_up()

    return action


def hang_up(*, reset: bool = False) -> Callable[[Exchange], None]:
    """End the connection without an answer."""
    return lambda exchange: exchange.hang_up(reset=reset)


def chunked(parts: Callable[[], Any], headers: dict[str, str] | None = None, status: int = 200) -> Any:
    """Answer with a chunked body of the bytes that `parts()` yields."""

    def action(exchange: Exchange) -> None:
        exchange.head(status, {"Transfer-Encoding": "chunked", **(headers or {})})
        for part in parts():
            exchange.handler.wfile.write(b"%x\r\n" % len(part) + part + b"\r\n")
        exchange.handler.wfile.write(b"0\r\n\r\n")

    return action


def wait_for(
    event: threading.Event, then: Callable[[Exchange], None] = Exchange.serve
) -> Callable[[Exchange], None]:
    """Hold the answer back until the test sets `event`."""

    def action(exchange: Exchange) -> None:
        event.wait(30)
        then(exchange)

    return action


def _honest(exchange: Exchange) -> tuple[int, bytes]:
    """Return from where the client wants the blob or manifest that it asks for, and its bytes."""
    registry, path = exchange.registry, urlsplit(exchange.path).path
    wanted = re.fullmatch(r"bytes=(\d+)-", exchange.handler.headers.get("Range", ""))
    start = int(wanted[1]) if wanted else 0
    if match := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", path):
        repository, target = match.groups()
        digest = target if ":" in target else registry.tags[repository][target]
        return start, registry.manifests[f"{repository}@{digest}"][1]
    return start, registry.blobs[path.rpartition("/")[2]]

"""One call of the Docker Engine API: what came in, who asks, and the ways to answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs

from django.db import close_old_connections

from webapp.accounts.actor import Actor
from webapp.core import spool
from webapp.dockerapi.create import parse_json
from webapp.dockerapi.documents.system import API_VERSION
from webapp.dockerapi.errors import DockerError
from webapp.dockerapi.frames import MULTIPLEXED, RAW
from webapp.dockerapi.protocol import HIJACK, Hijacked
from webapp.dockerapi.values import is_true

T = TypeVar("T")

LARGEST_JSON = 4 * 1024 * 1024
LARGEST_UPLOAD = 64 * 1024**3

_threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="docker-api")


async def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run code that uses the database in a thread of its own pool."""

    def run() -> T:
        close_old_connections()
        return function(*args, **kwargs)

    return await asyncio.get_running_loop().run_in_executor(_threads, run)


@dataclass
class Call:
    """A request. `parameters` are the named parts of the path; `version` is the one that the client speaks."""

    scope: dict[str, Any]  # an ASGI scope
    receive: Callable[[], Awaitable[dict[str, Any]]]
    send: Callable[[dict[str, Any]], Awaitable[None]]
    actor: Actor
    method: str
    path: str
    version: tuple[int, int]
    parameters: dict[str, str] = field(default_factory=dict)
    started: bool = False

    def __post_init__(self) -> None:
        self.query = parse_qs(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        self.headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]
        }

    # --- what came in

    def text(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[-1]

    def texts(self, name: str) -> list[str]:
        return [value for value in self.query.get(name, []) if value]

    def truth(self, name: str, default: bool = False) -> bool:
        return is_true(self.text(name)) if name in self.query else default

    def number(self, name: str, default: int = 0) -> int:
        text = self.text(name)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise DockerError(f"invalid {name}: {text[:40]!r} is no number", 400) from None

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it arrives; counts what comes, whatever the header said."""
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError("the client has gone")
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    async def json(self) -> dict[str, Any]:
        """Return the body as a JSON object, {} when there is none."""
        collected = bytearray()
        async for part in self.body():
            collected += part
            if len(collected) > LARGEST_JSON:
                raise DockerError("the request body is larger than 4 MiB", 413)
        if collected and "json" not in self.headers.get("content-type", "application/json"):
            raise DockerError("content type must be application/json", 415)
        return parse_json(bytes(collected))

    async def spooled(self) -> tuple[str, int]:
        """Write the body to the spool; return the file's id and size. What fails leaves no file."""
        await in_thread(spool.check_room)
        file_id, file = await in_thread(spool.create)
        size = 0
        try:
            with file:
                async for part in self.body():
                    size += len(part)
                    if size > LARGEST_UPLOAD:
                        raise DockerError("the upload is too large", 413)
                    await asyncio.to_thread(file.write, part)
        except BaseException:
            spool.discard(file_id)
            raise
        return file_id, size

    async def gone(self) -> None:
        """Return when the client has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    # --- ways to answer

    async def start(self, status: int, content_type: str = "application/json", **headers: str) -> None:
        """Send status and headers at once; the body follows."""
        self.started = True
        values = {
            "content-type": content_type,
            **standard_headers(),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in values.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": b"", "more_body": True})

    async def write(self, data: bytes) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def write_json(self, value: Any) -> None:
        """Write one message of a JSON stream."""
        await self.write(json.dumps(value, separators=(",", ":")).encode() + b"\r\n")

    async def end(self) -> None:
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, value: Any, status: int = 200) -> None:
        """Answer a whole JSON document."""
        await self.answer_bytes(
            json.dumps(value, separators=(",", ":")).encode() + b"\n", "application/json", status
        )

    async def answer_bytes(self, data: bytes, content_type: str, status: int = 200, **headers: str) -> None:
        self.started = True
        values = {
            "content-type": content_type,
            "content-length": str(len(data)),
            **standard_headers(),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in values.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else data})

    async def nothing(self, status: int = 204) -> None:
        """Answer without a body."""
        self.started = True
        encoded = [(name.encode(), value.encode()) for name, value in standard_headers().items()]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": b""})

    def can_hijack(self) -> bool:
        return HIJACK in self.scope.get("extensions", {})

    def hijack(self, *, tty: bool) -> Hijacked:
        """Take the connection over; the client asked for it with `Upgrade: tcp`."""
        self.started = True
        connection: Hijacked = self.scope["extensions"][HIJACK](self.stream_type(tty=tty))
        return connection

    def stream_type(self, *, tty: bool) -> str:
        return MULTIPLEXED if not tty and self.version >= (1, 42) else RAW


def standard_headers() -> dict[str, str]:
    """Return the headers that the engine sends with every answer."""
    return {
        "api-version": API_VERSION,
        "ostype": "linux",
        "docker-experimental": "false",
        "server": "Wharfinger (linux)",
    }

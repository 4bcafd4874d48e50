"""`GET /containers/{ref}/attach/ws`: attach over a websocket. Output comes in binary messages, raw as the engine sends it.

The identity is that of every call: a bearer token in the handshake's headers, or the uid of the peer on the unix socket.
Cookies count for nothing here, so no page of another site can make a browser attach.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from webapp.accounts.actor import Actor
from webapp.accounts.permissions import Permission
from webapp.audit import services as audit
from webapp.containers.models import Container
from webapp.containers.selectors import container_get
from webapp.core.errors import AppError, Denied
from webapp.dockerapi import streaming
from webapp.dockerapi.call import in_thread
from webapp.dockerapi.errors import DockerError
from webapp.dockerapi.handlers.streams import allowed_inside
from webapp.dockerapi.values import is_true
from webapp.realtime import logins
from webapp.realtime.streams import Stream, StreamBroken, open_stream
from workers.contracts.problems import NodeError, NodeSilent

logger = logging.getLogger(__name__)

PATTERN = r"^(?:v1\.\d+/)?containers/(?P<ref>[^/]+)/attach/ws$"
REFUSED, LOGIN_ENDED, BROKEN = 4403, 4401, 1011  # close codes: of ours, and of RFC 6455

_PATH = re.compile("/" + PATTERN.removeprefix("^"))

Receive, Send = Callable[[], Awaitable[dict[str, Any]]], Callable[[dict[str, Any]], Awaitable[None]]
Identify = Callable[[dict[str, Any], dict[str, str]], Actor]


async def serve(scope: dict[str, Any], receive: Receive, send: Send, identify: Identify) -> None:
    """Serve one websocket from its handshake to its end."""
    found = _PATH.match(scope["path"])
    await receive()  # websocket.connect
    try:
        if found is None:
            raise DockerError("page not found", 404)
        actor, container = await in_thread(_enter, scope, found["ref"], identify)
        query = {
            name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()
        }
        async with open_stream(container.node.name, "attach", _parameters(container, query)) as stream:
            await send({"type": "websocket.accept"})
            await _join(actor, stream, receive, send)
    except (AppError, DockerError, NodeError, NodeSilent) as error:
        logger.info("attach over a websocket was refused: %s", error)
        await send({"type": "websocket.close", "code": REFUSED})
    except StreamBroken:
        await send({"type": "websocket.close", "code": BROKEN})


def _enter(scope: dict[str, Any], ref: str, identify: Identify) -> tuple[Actor, Container]:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    actor = identify(scope, headers)
    if not actor.can(Permission.OPERATE):
        audit.refuse(actor, "docker.request", "needs the permission operate", target=scope["path"][:300])
        raise Denied(f"{actor.name} lacks the permission 'operate'", needs="operate")
    container = container_get(ref)
    allowed_inside(actor, container, "container.attach")
    return actor, container


def _parameters(container: Container, query: dict[str, str]) -> dict[str, Any]:
    asked = {name: is_true(query.get(name)) for name in ("stdin", "stdout", "stderr", "logs")}
    asked["stdin"] = asked["stdin"] and bool(container.record["spec"]["stdin_open"])
    return {"container": container.id, **asked, "detach_keys": query.get("detachKeys", "")}


async def _join(actor: Actor, stream: Stream, receive: Receive, send: Send) -> None:
    login_ended = asyncio.Event()

    async def close() -> None:
        login_ended.set()

    async def write() -> None:
        async for chunk in stream:
            if chunk.data:
                await send({"type": "websocket.send", "bytes": chunk.data})

    async def feed() -> None:
        while (message := await receive())["type"] != "websocket.disconnect":
            await stream.send(message.get("bytes") or (message.get("text") or "").encode())

    outward, inward = asyncio.create_task(write()), asyncio.create_task(feed())
    watched = asyncio.create_task(login_ended.wait())
    logins.watch_over(watched, actor, close)
    try:
        await asyncio.wait((outward, inward, watched), return_when=asyncio.FIRST_COMPLETED)
        if watched.done():
            await send({"type": "websocket.close", "code": LOGIN_ENDED})
        elif outward.done():
            outward.result()
            await send({"type": "websocket.close", "code": 1000})
    finally:
        logins.leave(watched)
        await streaming.stop(outward, inward, watched)
        await stream.close()

"""The ASGI application: static files, the Docker Engine API, Django, websockets, and what runs beside them.

A server that imports this refuses to start when a route does not say who may use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings.server")

import django

django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402

from webapp.accounts.scopes import header  # noqa: E402
from webapp.core.asgi import WharfingerHandler  # noqa: E402
from webapp.core.routes import require_declared  # noqa: E402
from webapp.core.statics import StaticFiles  # noqa: E402
from webapp.dockerapi import app as dockerapi  # noqa: E402
from webapp.realtime import logins  # noqa: E402
from webapp.realtime.hub import hub  # noqa: E402
from webapp.realtime.routing import websockets  # noqa: E402

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Application:
    """Hands each connection to whom it belongs."""

    def __init__(self) -> None:
        require_declared()
        self._django = WharfingerHandler()
        self._static = StaticFiles()
        self._beside: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = seen_through_proxy(scope)
        if scope["type"] == "http":
            if scope["path"].startswith(settings.STATIC_URL):
                await self._static(scope, receive, send)
            elif dockerapi.is_docker_call(scope):
                await dockerapi.application(scope, receive, send)
            else:
                await self._django(scope, receive, send)
        elif scope["type"] == "websocket":
            await websockets(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.start_beside()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop_beside()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def start_beside(self) -> None:
        """Start what runs beside the requests: the ear for wake-ups, and the watch over live logins."""
        loop = asyncio.get_running_loop()
        if settings.REDIS_URL:
            self._beside.append(loop.create_task(hub.listen()))
        self._beside.append(loop.create_task(logins.watch()))

    async def stop_beside(self) -> None:
        for task in self._beside:
            task.cancel()
        for task in self._beside:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._beside.clear()


def seen_through_proxy(scope: Scope) -> Scope:
    """Return the scope with the scheme that a trusted proxy was asked with; nobody else's word counts."""
    peer = (scope.get("client") or ("",))[0]
    if peer not in settings.TRUSTED_PROXIES or header(scope, "x-forwarded-proto") != "https":
        return scope
    return {**scope, "scheme": "wss" if scope["type"] == "websocket" else "https"}


application = Application()

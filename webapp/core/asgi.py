"""Django's ASGI handler with a counted, spooled body.

Django reads every body to its end before anything looks at the request. Here the body of an ordinary request is cut at
`MAX_BODY_BYTES`; that of an upload route is read only for who may use the route, counted (the header is not believed), and goes
to the spool's disk in large pieces written by a thread: the event loop stays free, memory stays flat, and a full disk is
noticed before it is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.db import close_old_connections
from django.http import FileResponse, HttpRequest
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve

from webapp.core import spool
from webapp.core.errors import PROBLEM_TYPE, AppError, Invalid, TooLarge, TooMany
from webapp.core.later import with_cookies
from webapp.core.middleware import secure
from webapp.core.refs import hold_slashes
from webapp.core.routes import Route, route_of

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PIECE_BYTES = 1024 * 1024
STALL_S = 60.0
ROOM_EVERY_BYTES = 64 * 1024 * 1024


class Stalled(AppError):
    status, code, title = 408, "stalled", "The body did not come"


class SpooledBody:
    """A whole request body in the spool; removed when the request ends, unless a service took it."""

    def __init__(self) -> None:
        self.spool_id, self.file = spool.create()
        self.size = 0
        self.taken = False

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def readline(self, size: int = -1) -> bytes:
        return self.file.readline(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def write(self, data: bytes) -> int:
        return self.file.write(data)

    def close(self) -> None:
        """End the request's hold on the file; it stays only where a service took it."""
        if not self.file.closed:
            self.file.close()
        if not self.taken:
            spool.discard(self.spool_id)


@dataclass
class _Plan:
    """How the body of the request at hand is read."""

    limit: int
    to_spool: bool = False
    skip: bool = False
    body: SpooledBody | None = field(default=None)


_plan: ContextVar[_Plan] = ContextVar("body_plan")


class WharfingerHandler(ASGIHandler):
    """Middleware and view run in one go in the request's own thread (each change of thread costs more than most of them);
    what takes time without working (`core.later`) follows on the event loop.
    """

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)
        self._uploads = 0

    async def run_get_response(self, request: HttpRequest) -> HttpResponseBase:
        request.wf_later_follows = True
        first = await sync_to_async(self.get_response, thread_sensitive=True)(request)
        response = first
        if (later := getattr(first, "wf_later", None)) is not None:
            response = secure(request, with_cookies(await later(), first))
            if response is not first:
                response._resource_closers.extend(first._resource_closers)
        response._handler_class = self.__class__
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        return response

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (held := hold_slashes(scope.get("raw_path") or b"")) is not None:
            scope = {**scope, "path": held}
        plan = await self._plan_for(scope)
        _plan.set(plan)
        upload = plan.to_spool
        if upload and self._uploads >= settings.MAX_UPLOADS_AT_ONCE:
            await _answer(
                send, TooMany("too many uploads at once", retry_after_s=5, hint="try again in a moment")
            )
            return
        self._uploads += upload
        try:
            await super().handle(scope, _without_body(receive) if plan.skip else receive, send)
        except AppError as error:  # only from reading the body
            await _answer(send, error)
        finally:
            if upload:  # who may was asked before there was a request at whose end Django tidies up
                await sync_to_async(close_old_connections)()
            self._uploads -= upload
            if plan.body is not None:
                plan.body.close()

    async def _plan_for(self, scope: Scope) -> _Plan:
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            return _Plan(settings.MAX_BODY_BYTES)
        try:
            route = route_of(resolve(scope["path"]).func)
        except Resolver404:
            return _Plan(settings.MAX_BODY_BYTES)
        if route is None or not route.upload:
            return _Plan(settings.MAX_BODY_BYTES)
        if not await sync_to_async(_may_upload)(scope, route):
            return _Plan(0, skip=True)  # the guard says why
        return _Plan(settings.MAX_UPLOAD_BYTES, to_spool=True)

    async def read_body(self, receive: Receive) -> BinaryIO | SpooledBody:
        plan = _plan.get()
        if plan.skip:
            return BytesIO()
        if plan.to_spool:
            await asyncio.to_thread(spool.check_room)
            plan.body = await asyncio.to_thread(SpooledBody)
            await _read_into(plan.body, receive, plan.limit)
            return plan.body
        return await _read_small(receive, plan.limit)

    def create_request(self, scope: Scope, body_file: Any) -> tuple[HttpRequest | None, Any]:
        request, error = super().create_request(scope, body_file)
        if request is not None and isinstance(body_file, SpooledBody):
            request.wf_spool = body_file
            request.META["CONTENT_LENGTH"] = str(body_file.size)  # what came, not what was announced
        return request, error


def take_body(request: HttpRequest) -> str:
    """Return the spool id of the request's body, which now belongs to the operation that is given it.

    A view that fails afterwards gives it back (`uploads.give_back`), and it goes with the request.
    """
    body: SpooledBody | None = getattr(request, "wf_spool", None)
    if body is None:  # not through the server's handler
        body = SpooledBody()
        request.wf_spool = body
        body.write(request.body)
        body.size = len(request.body)
        body.file.close()
    else:
        body.file.flush()
    body.taken = body.size > 0
    if not body.taken:
        body.close()
        raise Invalid("the body is empty", code="empty_body", hint="send the file as the request's body")
    return body.spool_id


async def _read_small(receive: Receive, limit: int) -> BinaryIO:
    file = BytesIO()
    async for piece in _pieces(receive):
        if file.tell() + len(piece) > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
        file.write(piece)
    file.seek(0)
    return file


def _without_body(receive: Receive) -> Receive:
    """Return a `receive` that passes over the body: its request is refused without it."""

    async def until_disconnect() -> MutableMapping[str, Any]:
        while (message := await receive())["type"] == "http.request":
            pass
        return message

    return until_disconnect


async def _read_into(body: SpooledBody, receive: Receive, limit: int) -> None:
    waiting, since_check = bytearray(), 0
    try:
        async for piece in _pieces(receive):
            body.size += len(piece)
            since_check += len(piece)
            if body.size > limit:
                raise TooLarge(f"the upload is larger than {limit} bytes")
            waiting += piece
            if len(waiting) >= PIECE_BYTES:
                await asyncio.to_thread(body.write, waiting)
                waiting = bytearray()
            if since_check >= ROOM_EVERY_BYTES:
                await asyncio.to_thread(spool.check_room)
                since_check = 0
        if waiting:
            await asyncio.to_thread(body.write, waiting)
    except OSError as error:
        raise spool.NoRoom(f"the upload could not be kept: {error.strerror}") from error
    body.seek(0)


async def _pieces(receive: Receive) -> Any:
    """Yield the body's pieces; raises `RequestAborted` when the client leaves and `Stalled` when nothing comes."""
    while True:
        try:
            async with asyncio.timeout(STALL_S):
                message = await receive()
        except TimeoutError:
            raise Stalled(f"nothing came for {STALL_S:.0f} s") from None
        if message["type"] == "http.disconnect":
            raise RequestAborted
        if piece := message.get("body"):
            yield piece
        if not message.get("more_body", False):
            return


def _may_upload(scope: Scope, route: Route) -> bool:
    from webapp.accounts.scopes import actor_of_scope

    needed = route.permission_for(scope["method"])
    try:
        return needed is not None and actor_of_scope(scope).can(needed)
    except AppError:
        return False


async def _answer(send: Send, error: AppError) -> None:
    body = json.dumps(error.document()).encode()
    headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if isinstance(error, TooMany):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    with contextlib.suppress(RuntimeError):  # the client is gone
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

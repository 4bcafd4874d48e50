"""`?wait=SECONDS`: answer when the work is done.

A view that accepted work returns its 202 with `wf_wait` set. The wait itself is a coroutine of the server's event
loop, so a thousand waiting requests hold a thousand small objects, not a thousand busy threads; then the view's `finish` makes the
final answer in the request's own thread.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.db import connection
from django.http import HttpRequest, HttpResponse

from webapp.operations.models import Operation, Status
from webapp.realtime.hub import hub

LOOK_AGAIN_S = 1.0  # should a wake-up be lost
LOOK_AGAIN_MAX_S = 5.0


@dataclass(frozen=True)
class Wait:
    """Wait up to `seconds` for the operation's end; `finish` then makes the answer (in a thread, may use the database)."""

    operation_id: str
    seconds: float
    finish: Callable[[Operation], HttpResponse]


class WaitMiddleware:
    """Turns a response with `wf_wait` into the final one; works in both modes."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if iscoroutinefunction(self):
            return self._later(request)
        response: HttpResponse = self.get_response(request)  # type: ignore[assignment]
        wait: Wait | None = getattr(response, "wf_wait", None)
        return response if wait is None else _wait_in_thread(wait, response)

    async def _later(self, request: HttpRequest) -> HttpResponse:
        response: HttpResponse = await self.get_response(request)  # type: ignore[misc]
        wait: Wait | None = getattr(response, "wf_wait", None)
        if wait is None:
            return response
        if not await wait_for(wait.operation_id, wait.seconds):
            return response
        return await sync_to_async(_finished)(wait, response)


async def wait_for(operation_id: str, seconds: float) -> bool:
    """Wait until an operation has ended; return whether it has. A lost wake-up costs a moment, not the answer."""
    deadline = time.monotonic() + seconds
    pause_s = LOOK_AGAIN_S
    async with hub.subscribe(f"operation:{operation_id}") as subscription:
        while True:
            if await sync_to_async(_is_final)(operation_id):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            message = await subscription.get(min(left, pause_s))
            if message is None:
                pause_s = min(pause_s * 1.5, LOOK_AGAIN_MAX_S)


def _is_final(operation_id: str) -> bool:
    status = Operation.objects.filter(pk=operation_id).values_list("status", flat=True).first()
    if connection.vendor != "sqlite" and not connection.in_atomic_block:
        connection.close()  # a waiting request holds no connection of the database server
    return status is None or Status(status).is_final


def _finished(wait: Wait, response: HttpResponse) -> HttpResponse:
    operation = Operation.objects.select_related("node", "user").filter(pk=wait.operation_id).first()
    return response if operation is None or not operation.is_final else wait.finish(operation)


def _wait_in_thread(wait: Wait, response: HttpResponse) -> HttpResponse:
    """The plain way, for WSGI and Django's synchronous test client."""
    deadline = time.monotonic() + wait.seconds
    while not _is_final(wait.operation_id):
        if time.monotonic() >= deadline:
            return response
        time.sleep(0.02)
    return _finished(wait, response)

"""Answers that take time without taking a thread.

A view returns a plain response with `wf_later` set: a coroutine function that makes the final answer on the server's
event loop (waits for an operation, opens a stream of a node). So a thousand waiting requests are a thousand small objects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

Later = Callable[[], Awaitable[HttpResponseBase]]


class LaterMiddleware:
    """Replaces a response that has `wf_later` by what that makes; works in both modes."""

    sync_capable = True
    async_capable = True

    def __init__(
        self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]
    ) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if iscoroutinefunction(self):
            return self._later(request)
        response: HttpResponseBase = self.get_response(request)  # type: ignore[assignment]
        later: Later | None = getattr(response, "wf_later", None)
        return response if later is None else _with_cookies(async_to_sync(later)(), response)

    async def _later(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await self.get_response(request)  # type: ignore[misc]
        later: Later | None = getattr(response, "wf_later", None)
        return response if later is None else _with_cookies(await later(), response)


def _with_cookies(final: HttpResponseBase, first: HttpResponseBase) -> HttpResponseBase:
    if final is not first:
        final.cookies.update(first.cookies)
    return final

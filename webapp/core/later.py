"""Answers that take time without taking a thread.

A view returns a plain response with `wf_later` set: a coroutine function that makes the final answer on the server's
event loop (waits for an operation, opens a stream of a node). So a thousand waiting requests are a thousand small objects.
`core.asgi` awaits it; where there is no event loop (the test client) the middleware here does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiref.sync import async_to_sync
from django.http import HttpRequest
from django.http.response import HttpResponseBase

Later = Callable[[], Awaitable[HttpResponseBase]]


class LaterMiddleware:
    """Replaces a response that has `wf_later` by what that makes, unless the server's handler will."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        later: Later | None = getattr(response, "wf_later", None)
        if later is None or hasattr(request, "wf_later_follows"):
            return response
        return with_cookies(async_to_sync(later)(), response)


def with_cookies(final: HttpResponseBase, first: HttpResponseBase) -> HttpResponseBase:
    """Return `final` with the cookies that were set on the first answer."""
    if final is not first:
        final.cookies.update(first.cookies)
    return final

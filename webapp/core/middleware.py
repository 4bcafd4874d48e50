"""Headers that every answer carries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse


class SecurityHeadersMiddleware:
    """Content policy without inline code, no framing, no sniffing, nothing private in caches.

    Works in both modes without a change of thread: it only looks at the answer.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if iscoroutinefunction(self):
            return self._later(request)
        return secure(request, self.get_response(request))  # type: ignore[arg-type]

    async def _later(self, request: HttpRequest) -> HttpResponse:
        return secure(request, await self.get_response(request))  # type: ignore[misc]


def secure(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Set the headers that are not there yet; a view may have stricter ones of its own."""
    for name, value in {
        "Content-Security-Policy": settings.CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "Cache-Control": "no-store",
    }.items():
        response.headers.setdefault(name, value)
    if request.is_secure():
        response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    return response

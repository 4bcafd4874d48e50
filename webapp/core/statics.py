"""Static files over ASGI: WhiteNoise finds and describes them, this sends them without a thread of Django's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from django.conf import settings
from whitenoise.middleware import WhiteNoiseMiddleware

PIECE_BYTES = 256 * 1024
_HEADERS = {
    "accept-encoding": "HTTP_ACCEPT_ENCODING",
    "if-none-match": "HTTP_IF_NONE_MATCH",
    "if-modified-since": "HTTP_IF_MODIFIED_SINCE",
    "range": "HTTP_RANGE",
}


class StaticFiles:
    """Answers requests below `settings.STATIC_URL`; collected files if there are any, else those of the checkout."""

    def __init__(self) -> None:
        collected = Path(settings.STATIC_ROOT).is_dir() and not settings.DEBUG
        self._files = _Finder() if collected else _Checkout()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Any,
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        found = self._files.find(scope["path"]) if scope["method"] in ("GET", "HEAD") else None
        if found is None:
            await _send(send, 404, [(b"content-type", b"text/plain")], b"no such file\n")
            return
        environ = {
            _HEADERS[name.decode()]: value.decode("latin-1")
            for name, value in scope["headers"]
            if name.decode("latin-1") in _HEADERS
        }
        answer = found.get_response(scope["method"], environ)
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers]
        headers += [
            (b"x-content-type-options", b"nosniff"),
            (b"cross-origin-resource-policy", b"same-origin"),
        ]
        await send({"type": "http.response.start", "status": answer.status.value, "headers": headers})
        if answer.file is not None:
            with answer.file as file:
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class _Finder:
    """The collected files, listed once."""

    def __init__(self) -> None:
        self._noise = WhiteNoiseMiddleware(get_response=None)

    def find(self, path: str) -> Any:
        return self._noise.files.get(path)


class _Checkout(_Finder):
    """The files of `STATICFILES_DIRS`, looked up at each request."""

    def __init__(self) -> None:
        self._noise = _autorefreshing()

    def find(self, path: str) -> Any:
        return self._noise.find_file(path)


def _autorefreshing() -> WhiteNoiseMiddleware:
    class Overridden:
        WHITENOISE_AUTOREFRESH = True
        WHITENOISE_USE_FINDERS = True
        STATIC_ROOT = None

        def __getattr__(self, name: str) -> Any:
            return getattr(settings, name)

    return WhiteNoiseMiddleware(get_response=None, settings=Overridden())


async def _send(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Answers whose bytes come from a node while they are sent: logs, archives, files, backups.

The stream is opened before the answer begins, so a refusal has its proper status; an error in the middle cuts the
connection, so a half file is never taken for a whole one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from webapp.core.errors import NodeProblem, Unavailable, error_response
from webapp.realtime.streams import Stream, StreamBroken, open_stream
from workers.client import BrokerDown
from workers.contracts.problems import NodeError


def stream_later(
    request: HttpRequest,
    node: str,
    kind: str,
    params: dict[str, Any],
    *,
    content_type: str,
    filename: str = "",
) -> HttpResponse:
    """Return a response that becomes the stream's bytes; with a `filename` browsers save it."""

    async def later() -> HttpResponseBase:
        stack = AsyncExitStack()
        try:
            stream = await stack.enter_async_context(open_stream(node, kind, params))
        except NodeError as error:
            return error_response(request, NodeProblem(error.problem))
        except (BrokerDown, StreamBroken, OSError):
            return error_response(
                request,
                Unavailable(
                    f"node {node} does not answer", code="node_silent", hint="see whether its agent runs"
                ),
            )
        return _answer(stream, stack, content_type, filename)

    response = HttpResponse(status=202)
    response.wf_later = later  # type: ignore[attr-defined]
    return response


def _answer(stream: Stream, stack: AsyncExitStack, content_type: str, filename: str) -> StreamingHttpResponse:
    response = StreamingHttpResponse(_bytes_of(stream, stack), content_type=content_type)
    loop = asyncio.get_running_loop()
    response._resource_closers.append(lambda: asyncio.run_coroutine_threadsafe(stack.aclose(), loop))  # type: ignore[attr-defined]
    response["X-Accel-Buffering"] = "no"
    if filename:
        response["Content-Disposition"] = disposition(filename)
    return response


async def _bytes_of(stream: Stream, stack: AsyncExitStack) -> AsyncIterator[bytes]:
    async with stack:
        async for chunk in stream:
            if chunk.gap_bytes:
                yield f"\n[{chunk.gap_bytes} bytes left out: the reader was too slow]\n".encode()
            yield chunk.data


def disposition(filename: str) -> str:
    """Return a `Content-Disposition` that saves under `filename`, whatever is in it."""
    plain = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in filename
    )
    return f"attachment; filename=\"{plain[:150] or 'download'}\"; filename*=UTF-8''{quote(filename[:200], safe='')}"

"""The log of an operation, as text for people or as JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from webapp.core.errors import Invalid, NodeProblem, Unavailable, error_response
from webapp.core.flags import flag
from webapp.operations.models import Operation
from webapp.realtime.streams import Stream, StreamBroken, open_stream
from workers.client import BrokerDown
from workers.contracts.problems import NodeError


def log_response(request: HttpRequest, operation: Operation) -> HttpResponse:
    """Answer with an operation's log; `?follow=1` goes on until it ends, `?format=json` gives JSON lines."""
    form = request.GET.get("format") or "text"
    if form not in ("text", "json"):
        raise Invalid("format must be text or json", fields={"format": ["text or json"]})
    params = {
        "id": operation.id,
        "cursor": "",
        "follow": flag(request.GET, "follow") and not operation.is_final,
    }
    node, never_sent = operation.node.name, operation.sent_at is None

    async def later() -> HttpResponseBase:
        if never_sent and operation.is_final:
            return HttpResponse(b"", content_type="text/plain; charset=utf-8")
        stack = AsyncExitStack()
        try:
            stream = await stack.enter_async_context(open_stream(node, "operation", params))
        except NodeError as error:
            return error_response(request, NodeProblem(error.problem))
        except (BrokerDown, StreamBroken, OSError):
            return error_response(request, Unavailable(f"node {node} does not answer", code="node_silent"))
        content = "application/x-ndjson" if form == "json" else "text/plain; charset=utf-8"
        return StreamingHttpResponse(_lines(stream, stack, form), content_type=content)

    response = HttpResponse(status=202)
    response.wf_later = later  # type: ignore[attr-defined]
    return response


async def _lines(stream: Stream, stack: AsyncExitStack, form: str) -> AsyncIterator[bytes]:
    async with stack:
        waiting = b""
        async for chunk in stream:
            if form == "json":
                yield chunk.data
                continue
            *lines, waiting = (waiting + chunk.data).split(b"\n")
            yield "".join(text for line in lines if (text := entry_text(line))).encode()


def entry_text(line: bytes) -> str:
    """Return a log entry as people read it; bars and repeated states are left out."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return ""
    kind = entry.get("type")
    if kind == "message":
        text = str(entry.get("text", ""))
        return text if text.endswith("\n") else f"{text}\n"
    if kind == "stepprogress" and entry.get("status") in ("running", "cached", "failed", "done"):
        reason = f" ({entry['reason']})" if entry.get("reason") else ""
        return f"[{entry.get('id', '')}] {entry['status']}: {entry.get('name', '')}{reason}\n"
    if kind == "layerprogress" and entry.get("status") in ("done", "exists", "retrying", "mounted"):
        return f"{entry.get('id', '')}: {entry['status']}\n"
    if kind == "end" and (problem := entry.get("problem")):
        return f"{entry.get('status')}: {problem.get('detail', '')}\n"
    return ""

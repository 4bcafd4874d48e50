"""CPU and memory of all running containers at once, for the list that is open in a browser."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse

from webapp.accounts.permissions import Permission
from webapp.core.routes import page
from webapp.nodes import selectors as nodes
from webapp.realtime.streams import StreamBroken, open_stream
from workers.client import BrokerDown
from workers.contracts.problems import NodeError

logger = logging.getLogger(__name__)

PATIENCE_S = 4.0


@page(Permission.VIEW)
def load_of_all(request: HttpRequest) -> HttpResponse:
    """Answer `{id: {"cpu_percent", "memory_bytes", "memory_limit_bytes"}}`; nodes that stay silent are left out."""
    names = [node.name for node in nodes.node_list() if node.is_online]

    async def later() -> HttpResponse:
        parts = await asyncio.gather(*(_samples(name) for name in names))
        return JsonResponse({key: value for part in parts for key, value in part.items()})

    response = HttpResponse(status=202)
    response.wf_later = later  # type: ignore[attr-defined]
    return response


async def _samples(node: str) -> dict[str, dict[str, Any]]:
    samples: dict[str, dict[str, Any]] = {}
    try:
        async with asyncio.timeout(PATIENCE_S):
            async with open_stream(node, "stats", {"containers": [], "one_shot": True}) as stream:
                async for chunk in stream:
                    for line in chunk.data.splitlines():
                        _take(samples, json.loads(line))
    except (NodeError, BrokerDown, StreamBroken, TimeoutError, OSError, ValueError) as error:
        logger.info("no load of %s: %s", node, error)
    return samples


def _take(samples: dict[str, dict[str, Any]], sample: dict[str, Any]) -> None:
    key = sample.get("container") or sample.get("id")
    if key:
        samples[str(key)] = {name: sample.get(name) for name in ("cpu_percent", "memory_bytes", "memory_limit_bytes")}

"""`/ws/containers/{ref}/stats/` and `/ws/stats/`: samples of load, one JSON message each, newest only when the reader is slow."""

from __future__ import annotations

from typing import Any

from webapp.containers.selectors import container_get
from webapp.core.flags import number
from webapp.nodes.selectors import node_for
from webapp.realtime.sockets import LiveConsumer
from webapp.realtime.streams import open_stream


class StatsConsumer(LiveConsumer):
    node: str
    params: dict[str, Any]

    def prepare(self) -> None:
        container = container_get(self.scope["url_route"]["kwargs"]["ref"])
        self.node = container.node.name
        self.params = {"containers": [container.id], "interval_s": self._interval()}

    def _interval(self) -> float:
        return number(self.query, "interval_s", 1.0, lowest=0.5, highest=60) or 1.0

    async def run(self) -> None:
        rest = b""
        async with open_stream(self.node, "stats", self.params) as stream:
            async for chunk in stream:
                *samples, rest = (rest + chunk.data).split(b"\n")
                for sample in samples:
                    if sample:
                        await self.send(text_data=sample.decode())


class AllStatsConsumer(StatsConsumer):
    """All running containers of a node."""

    def prepare(self) -> None:
        self.node = node_for(self.query.get("node", "")).name
        self.params = {"containers": [], "interval_s": self._interval()}

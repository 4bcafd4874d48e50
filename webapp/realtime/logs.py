"""`/ws/containers/{ref}/logs/`: lines as they are written, several a message.

Query: `tail`, `since`, `stdout`, `stderr`, `search`, or `cursor` (of the last message seen) to go on without a hole.
Message: `{"lines": [{"time", "stream", "text"}], "cursor", "missed"?}`; at last `{"lines": [], "end": true}`. `missed` are bytes that were
left out because this reader was too slow; they are stored.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from webapp.containers.apis import log_params
from webapp.containers.selectors import container_get
from webapp.realtime.sockets import LiveConsumer
from webapp.realtime.streams import Chunk, follow

MAX_LINE = 64 * 1024  # of text in one message; longer lines are stored whole
STREAMS = {1: "stdout", 2: "stderr"}


class ContainerLogsConsumer(LiveConsumer):
    params: dict[str, Any]
    node: str

    def prepare(self) -> None:
        container = container_get(self.scope["url_route"]["kwargs"]["ref"])
        wanted = {"tail": "1000", **self.query} if not self.query.get("cursor") else dict(self.query)
        self.params = log_params(container.id, {**wanted, "format": "json"})
        self.params["follow"] = True
        if cursor := self.query.get("cursor"):
            self.params["cursor"] = cursor
        self.node = container.node.name

    async def run(self) -> None:
        rest = b""
        async for chunk in follow(self.node, "logs", self.params):
            *raw, rest = (rest + chunk.data).split(b"\n")
            message = message_of(raw, chunk)
            if message["lines"] or "missed" in message:
                await self.say(message)
        await self.say({"lines": [], "end": True})


def message_of(raw: list[bytes], chunk: Chunk) -> dict[str, Any]:
    """Return the message for some lines `[time_ns, channel, text]` of a log stream."""
    message: dict[str, Any] = {
        "lines": [line for item in raw if item and (line := line_of(item)) is not None]
    }
    if chunk.cursor:
        message["cursor"] = chunk.cursor
    if chunk.gap_bytes:
        message["missed"] = chunk.gap_bytes
    return message


def line_of(raw: bytes) -> dict[str, str] | None:
    try:
        time_ns, channel, text = json.loads(raw)
        second, rest = divmod(int(time_ns), 1_000_000_000)
        stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, TypeError, OverflowError):
        return None
    return {"time": f"{stamp}.{rest:09d}Z", "stream": STREAMS.get(channel, ""), "text": str(text)[:MAX_LINE]}

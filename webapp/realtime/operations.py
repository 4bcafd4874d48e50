"""`/ws/operations/{id}/`: how work goes on, and its log.

Message: `{"lines": [{"text", "stream", "step", "at"}], "progress": [entries that are no text], "cursor", "status"?}`; the last has
`status` final, `error` or null, and `"end": true`. `?cursor=` goes on after a message seen before.
"""

from __future__ import annotations

import json
from typing import Any

from webapp.core.threads import in_thread
from webapp.operations import selectors
from webapp.operations.models import Operation
from webapp.operations.waiting import wait_for
from webapp.realtime.sockets import LiveConsumer
from webapp.realtime.streams import follow

SETTLE_S = 30.0  # the log's end may come before the record's


class OperationConsumer(LiveConsumer):
    operation: Operation

    def prepare(self) -> None:
        self.operation = selectors.operation_get(self.scope["url_route"]["kwargs"]["ref"])

    async def run(self) -> None:
        await self.say({"lines": [], "status": self.operation.status, "kind": self.operation.kind})
        while not await in_thread(self._was_sent)():
            await wait_for(self.operation.id, 2.0, in_request=False)
        if self.operation.sent_at is not None:
            await self._log()
        await wait_for(self.operation.id, SETTLE_S, in_request=False)
        await in_thread(self._refresh)()
        await self.say(
            {
                "lines": [],
                "status": self.operation.status,
                "error": self.operation.error or None,
                "end": self.operation.is_final,
            }
        )

    async def _log(self) -> None:
        rest = b""
        params = {"id": self.operation.id, "cursor": self.query.get("cursor", ""), "follow": True}
        async for chunk in follow(self.operation.node.name, "operation", params):
            *raw, rest = (rest + chunk.data).split(b"\n")
            message = message_of(raw)
            if chunk.cursor:
                message["cursor"] = chunk.cursor
            await self.say(message)

    def _was_sent(self) -> bool:
        self._refresh()
        return self.operation.sent_at is not None or self.operation.is_final

    def _refresh(self) -> None:
        self.operation = Operation.objects.select_related("node").get(pk=self.operation.pk)


def message_of(raw: list[bytes]) -> dict[str, Any]:
    """Return log entries sorted into lines of text and progress; of each layer or step only the newest state."""
    lines: list[dict[str, Any]] = []
    progress: dict[str, dict[str, Any]] = {}
    for item in raw:
        try:
            entry = json.loads(item)
        except ValueError:
            continue
        if not isinstance(entry, dict):
            continue
        if entry.get("type") == "message":
            lines.append({name: entry.get(name, "") for name in ("text", "stream", "step", "at")})
        else:
            progress[f"{entry.get('type')}/{entry.get('id', '')}"] = entry
    message: dict[str, Any] = {"lines": lines}
    if progress:
        message["progress"] = list(progress.values())
    return message

"""`/ws/events/`: what happens, as it happens.

Messages: events as REST shows them (`{"id", "node", "type", "action", "subject", "attributes", "at"}`), `{"type": "missed"}` when
some were left out (look at everything again). `?after=ID` first sends the events that came after that one.
"""

from __future__ import annotations

from typing import Any

from webapp.core.threads import in_thread
from webapp.nodes import selectors
from webapp.realtime.hub import hub
from webapp.realtime.sockets import LiveConsumer
from webapp.realtime.wake import EVENTS

REPLAYED = 1000


class EventsConsumer(LiveConsumer):
    async def run(self) -> None:
        async with hub.subscribe(EVENTS, "gap") as subscription:
            for event in await in_thread(self._replay)():
                await self.say(event)
            while True:
                message = await subscription.get()
                if subscription.gap:
                    subscription.gap = False
                    await self.say({"type": "missed"})
                if message is not None and message[0] == EVENTS:
                    await self.say(message[1])

    def _replay(self) -> list[dict[str, Any]]:
        after = self.query.get("after", "")
        if not after.isdecimal():
            return []
        rows = list(selectors.event_list(after=int(after))[: REPLAYED + 1])
        events = [selectors.event_json(row) for row in rows[:REPLAYED]]
        return [*events, {"type": "missed"}] if len(rows) > REPLAYED else events

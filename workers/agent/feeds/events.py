"""The node's events as a stream; the cursor is the sequence number, so a reader that comes back misses nothing."""

from __future__ import annotations

from typing import Any

from engine.db import Database
from workers.agent.journal import JournalWatch, public, wait_for_growth
from workers.agent.stream import NodeStream
from workers.contracts.values import ContractError, dumps, to_json

BATCH = 500


async def events(
    stream: NodeStream, *, database: Database, node: str, journal: JournalWatch
) -> dict[str, Any]:
    """Feed one JSON line an event, until the reader leaves."""
    last = _start(stream.params, database.last_seq())
    await stream.opened(after_seq=last)
    grown = journal.subscribe()
    try:
        while not stream.closed.is_set():
            found = database.events_after(last, BATCH)
            if not found:
                await wait_for_growth(grown)
                continue
            last = found[-1].seq
            lines = "".join(dumps(to_json(public(event, node, database.epoch))) + "\n" for event in found)
            await stream.write(lines.encode(), cursor=str(last))
    finally:
        journal.unsubscribe(grown)
    return {}


def _start(params: dict[str, Any], end: int) -> int:
    cursor = params.get("cursor") or params.get("after_seq", -1)
    if isinstance(cursor, str) and cursor.isdecimal():
        cursor = int(cursor)
    if not isinstance(cursor, int) or isinstance(cursor, bool):
        raise ContractError("after_seq must be a number")
    return end if cursor < 0 else min(cursor, end)

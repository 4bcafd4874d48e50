"""The log of an operation, from a byte offset on, until the operation has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from engine.linux.inotify import CREATE, MODIFY
from workers.agent.asks import read_log
from workers.agent.filewatch import FileWatch
from workers.agent.journal import JournalWatch, wait_for_growth
from workers.agent.stream import NodeStream
from workers.contracts.names import check_id
from workers.contracts.values import ContractError
from workers.ledger import Ledger
from workers.tasks.progress import log_path

BLOCK = 256 * 1024


async def operation(
    stream: NodeStream, *, data_root: Path, ledger: Ledger, files: FileWatch, journal: JournalWatch
) -> dict[str, Any]:
    """Feed one JSON line an entry; the cursor is the offset after them. An operation nobody knows yet is waited for."""
    identity = check_id(str(stream.params.get("id", "")))
    path = log_path(data_root, identity)
    offset = _offset(stream.params.get("cursor"))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    await stream.opened()
    grown = journal.subscribe()
    try:
        with files.watching(grown, path.parent, CREATE):
            while not stream.closed.is_set():
                status = _status(ledger, identity)  # asked first: what came before the end is read below
                with files.watching(grown, path, MODIFY):
                    while data := (await asyncio.to_thread(read_log, path, offset, BLOCK))[0]:
                        offset += len(data)
                        await stream.write(data, cursor=str(offset))
                    if status["status"] in ("succeeded", "failed", "cancelled"):
                        return {
                            "status": status["status"],
                            "error": status["error"],
                            "result": status["result"],
                        }
                    await wait_for_growth(grown, 2.0)
    finally:
        journal.unsubscribe(grown)
    return {}


def _status(ledger: Ledger, identity: str) -> dict[str, Any]:
    return ledger.status_of([identity]).get(identity) or {"status": "unknown"}


def _offset(cursor: object) -> int:
    if cursor in (None, ""):
        return 0
    if not isinstance(cursor, str) or not cursor.isdecimal():
        raise ContractError("not a cursor of an operation's log")
    return int(cursor)

"""What the agent does about operations: sends again what a dead worker left, forgets what is old.

Redis brings a task of a dead worker back only after the visibility timeout, and after FLUSHALL never. The ledger knows better: a running
operation whose lock is free has lost its worker, and its envelope is at hand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from engine.db import Database
from engine.errors import EngineError
from workers import client
from workers.ledger import Abandoned, Ledger
from workers.tasks.progress import log_path

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
AGAIN_AFTER_S = 10.0  # a sending that nobody took may wait for a worker that is just being started
KEPT_S = 30 * 24 * 3600.0
LOGS_KEPT_BYTES = 4 * 1024**3
SPOOL_KEPT_S = 24 * 3600.0
TIDY_EVERY_S = 3600.0


class Resender:
    """Sends abandoned operations to this node's queues again."""

    def __init__(self, ledger: Ledger, node: str) -> None:
        self._ledger = ledger
        self._node = node
        self._sent: dict[str, float] = {}

    async def run(self) -> None:
        """Look every second until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.look)
            except (client.BrokerDown, EngineError) as error:
                logger.warning("abandoned operations wait: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> list[str]:
        """Send what is abandoned and was not sent lately; return the ids."""
        found = {item.id: item for item in self._ledger.abandoned()}
        now = time.monotonic()
        self._sent = {name: at for name, at in self._sent.items() if name in found}
        due = [
            item
            for name, item in found.items()
            if now - self._sent.get(name, -AGAIN_AFTER_S) >= AGAIN_AFTER_S
        ]
        for item in due:
            self._send(item)
            self._sent[item.id] = now
        return [item.id for item in due]

    def _send(self, item: Abandoned) -> None:
        logger.warning("operation %s (%s) has lost its worker; sending it again", item.id, item.kind)
        client.send_envelope(item.kind, self._node, item.id, item.envelope)


def tidy(database: Database, ledger: Ledger, *, data_root: Path, home: Path) -> None:
    """Forget operations, logs, events and spooled files that are older than anybody asks for."""
    for name in ledger.forget_before(time.time() - KEPT_S):
        log_path(data_root, name).unlink(missing_ok=True)
    _keep_newest(data_root / "operations", LOGS_KEPT_BYTES)
    database.prune_events()
    for direction in ("in", "out"):
        for path in (home / "spool" / direction).glob("*"):
            if path.is_file() and not path.is_symlink() and time.time() - path.stat().st_mtime > SPOOL_KEPT_S:
                path.unlink(missing_ok=True)


async def tidy_forever(database: Database, ledger: Ledger, *, data_root: Path, home: Path) -> None:
    """Tidy every hour until cancelled."""
    while True:
        await asyncio.to_thread(tidy, database, ledger, data_root=data_root, home=home)
        await asyncio.sleep(TIDY_EVERY_S)


def _keep_newest(folder: Path, limit: int) -> None:
    """Remove the oldest logs beyond a total of `limit` bytes."""
    logs = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.log")]
    for _, size, path in sorted(logs, reverse=True):
        limit -= size
        if limit < 0:
            path.unlink(missing_ok=True)

"""The agent's heartbeat: what it says of its node every two seconds, at `wf:node:<name>`."""

from __future__ import annotations

import time

import redis.asyncio

from workers.contracts import names
from workers.contracts.events import Heartbeat, write_heartbeat
from workers.contracts.signing import NodeKey

EVERY_S = 2.0
KEPT_S = 10


async def beat(
    connection: redis.asyncio.Redis,
    key: NodeKey,
    *,
    boot: str,
    epoch: str,
    last_seq: int,
    running: list[str],
    version: str = "",
) -> None:
    """Renew the heartbeat."""
    text = write_heartbeat(key, Heartbeat(key.node, boot, epoch, last_seq, time.time(), running, version))
    await connection.set(names.node_key(key.node), text, ex=KEPT_S)

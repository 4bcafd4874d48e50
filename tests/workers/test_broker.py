"""The connections to Redis under a load of many streams."""

from __future__ import annotations

import asyncio

from tests.support.redis import RedisServer
from workers import broker


async def test_many_more_calls_at_once_than_connections_all_come_through(redis_server: RedisServer) -> None:
    """A hundred streams write at the same moment: none may be told that there is no connection left."""
    client = broker.connect_async(redis_server.url)
    try:
        sent = await asyncio.gather(
            *(client.execute_command("XADD", "s", "*", b"f", b"x") for _ in range(500))
        )
        assert len(set(sent)) == 500
        assert int((await client.info("clients"))["connected_clients"]) <= broker.MOST_CONNECTIONS + 4
    finally:
        await client.aclose()

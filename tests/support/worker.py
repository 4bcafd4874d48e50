"""A node for tests: its home, its key, its Redis; `running_node` adds real worker and agent processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.redis import RedisServer, private_redis
from webapp.realtime.streams import Hub
from workers import broker
from workers.agent.heart import beat
from workers.agent.requests import Ask, Feed, RequestServer
from workers.agent.tasks import end_tasks
from workers.contracts.signing import NodeKey
from workers.keys import make_key


@dataclass
class Node:
    """The parts of a node that exist before any of its processes."""

    home: Path
    redis: RedisServer
    key: NodeKey

    @property
    def name(self) -> str:
        return self.key.node


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


@pytest.fixture
def node(tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node of a name of its own, so that tests can share one Redis; the environment points to it."""
    home = tmp_path / "home"
    home.mkdir()
    name = "t" + secrets.token_hex(4)
    monkeypatch.setenv("WHARFINGER_HOME", str(home))
    monkeypatch.setenv("WHARFINGER_NODE", name)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    return Node(home, redis_server, make_key(home, name))


@contextlib.asynccontextmanager
async def serving(
    node: Node,
    *,
    asks: Mapping[str, Ask] | None = None,
    feeds: Mapping[str, Feed] | None = None,
    boot: str = "b1",
) -> AsyncIterator[RequestServer]:
    """Run only the request server of an agent, with asks and feeds of the test's, and the hub of this loop."""
    connection = broker.connect_async(node.redis.url)
    server = RequestServer(connection, node.key, boot=boot, asks=asks or {}, feeds=feeds or {})
    await beat(connection, node.key, boot=boot, epoch="e", last_seq=0, running=[])
    task = asyncio.create_task(server.run())
    try:
        yield server
    finally:
        await Hub.current().stop()
        await end_tasks([task])
        await connection.aclose()


def environment(node: Node) -> dict[str, str]:
    """Return the environment of the node's processes."""
    return {
        **os.environ,
        "WHARFINGER_HOME": str(node.home),
        "WHARFINGER_NODE": node.name,
        "REDIS_URL": node.redis.url,
    }

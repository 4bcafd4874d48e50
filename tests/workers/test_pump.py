"""The journal reaches the relay: in order, at least once, whatever restarts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.db import Database
from engine.events import Event
from tests.support.redis import private_redis
from tests.support.worker import Node
from workers import broker
from workers.agent.journal import JournalWatch, Pump
from workers.agent.tasks import end_tasks
from workers.contracts import BadSignature, names
from workers.contracts.events import NodeEvent, read_event


@pytest.fixture
def journal(tmp_path: Path) -> Database:
    return Database(tmp_path / "engine.db", wake=tmp_path / "wake")


def write(journal: Database, *subjects: str) -> None:
    for subject in subjects:
        with journal.transaction() as connection:
            journal.append_event(connection, Event("container", "start", subject))


@contextlib.asynccontextmanager
async def pumping(node: Node, journal: Database, url: str = "") -> AsyncIterator[None]:
    connection = broker.connect_async(url or node.redis.url)
    folder = journal._path.parent
    with JournalWatch(folder / "wake") as watch:
        pump = Pump(
            database=journal, connection=connection, key=node.key, watch=watch, lock=folder / "pump.lock"
        )
        task = asyncio.create_task(pump.run())
        try:
            yield
        finally:
            await end_tasks([task])
            await connection.aclose()


def pumped(node: Node, url: str = "") -> list[NodeEvent]:
    with broker.connect(url or node.redis.url) as connection:
        entries = connection.xrange(names.events_key(node.name))
    events = []
    for _, fields in entries:
        with contextlib.suppress(BadSignature):
            events.append(read_event(node.key, fields[b"e"]))
    return events


async def until(node: Node, subjects: list[str], url: str = "") -> None:
    deadline = time.monotonic() + 5
    while [event.subject for event in pumped(node, url)] != subjects:
        assert time.monotonic() < deadline, pumped(node, url)
        await asyncio.sleep(0.005)


async def test_events_arrive_in_order_and_at_once(node: Node, journal: Database) -> None:
    async with pumping(node, journal):
        write(journal, "a")
        await until(node, ["a"])
        began = time.monotonic()
        write(journal, "b", "c")
        await until(node, ["a", "b", "c"])
        assert time.monotonic() - began < 0.5  # woken, not polled
    assert [event.seq for event in pumped(node)] == [1, 2, 3]


async def test_what_happened_while_the_pump_was_down_follows(node: Node, journal: Database) -> None:
    """F-08."""
    async with pumping(node, journal):
        write(journal, "a")
        await until(node, ["a"])
    write(journal, "b")
    async with pumping(node, journal):
        write(journal, "c")
        await until(node, ["a", "b", "c"])
    assert [event.seq for event in pumped(node)] == [1, 2, 3]


async def test_only_one_process_pumps(node: Node, journal: Database) -> None:
    async with pumping(node, journal), pumping(node, journal):
        write(journal, *"abcdefgh")
        await until(node, list("abcdefgh"))
        await asyncio.sleep(0.2)
        assert [event.seq for event in pumped(node)] == list(range(1, 9))  # none twice


async def test_after_flushall_the_recent_events_come_again(node: Node, journal: Database) -> None:
    """F-11: numbers tell the relay what it has and what it lacks."""
    with private_redis() as server:
        async with pumping(node, journal, server.url):
            write(journal, "a", "b")
            await until(node, ["a", "b"], server.url)
            server.client().flushall()
            write(journal, "c")
            await until(node, ["c"], server.url)
            assert pumped(node, server.url)[0].seq == 3
        server.client().flushall()
        async with pumping(node, journal, server.url):
            await until(node, ["a", "b", "c"], server.url)


async def test_a_restarted_redis_loses_nothing_and_doubles_nothing(node: Node, journal: Database) -> None:
    """F-11."""
    with private_redis() as server:
        async with pumping(node, journal, server.url):
            write(journal, "a")
            await until(node, ["a"], server.url)
            await asyncio.sleep(1.1)  # appendfsync everysec
            server.kill()
            write(journal, "b", "c")
            await asyncio.sleep(0.2)
            server.start()
            await until(node, ["a", "b", "c"], server.url)
            assert [event.seq for event in pumped(node, server.url)] == [1, 2, 3]


async def test_a_new_journal_takes_the_place_of_the_old(node: Node, tmp_path: Path) -> None:
    first, second = Database(tmp_path / "1" / "engine.db"), Database(tmp_path / "2" / "engine.db")
    write(first, "a", "b", "c")
    async with pumping(node, first):
        await until(node, ["a", "b", "c"])
    write(second, "x")
    async with pumping(node, second):
        await until(node, ["x"])
    assert pumped(node)[0].epoch == second.epoch


async def test_a_false_event_in_the_stream_is_thrown_away(node: Node, journal: Database) -> None:
    """AP-14."""
    node.redis.client().xadd(names.events_key(node.name), {"e": "0.{}"}, id="99-0")
    write(journal, "a")
    async with pumping(node, journal):
        await until(node, ["a"])
    assert [event.seq for event in pumped(node)] == [1]

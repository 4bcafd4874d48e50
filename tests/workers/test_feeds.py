"""What the streams of a container carry, read from real log files without a container."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.containers.model import Container, ContainerSpec, Status, from_json, to_json
from engine.runtime.logs import LogFiles
from tests.support.fake_engine import FakeEngine
from tests.support.worker import Node, serving
from webapp.realtime import streams as web
from workers import client
from workers.agent.feeds.attach import Pumps, attach
from workers.agent.feeds.events import events
from workers.agent.feeds.follow import Sources
from workers.agent.feeds.logs import logs
from workers.agent.feeds.operation import operation
from workers.agent.feeds.wait import wait
from workers.agent.filewatch import FileWatch
from workers.agent.journal import JournalWatch
from workers.contracts import names
from workers.contracts.problems import NodeError
from workers.contracts.values import loads
from workers.ledger import SCHEMA, Ledger

ID = "c" * 64


class LogEngine(FakeEngine):
    """A fake engine whose one container has a log in a folder, written by the test as its monitor would."""

    def __init__(self, config: EngineConfig, folder: Path) -> None:
        super().__init__(config)
        self.log = LogFiles(folder / "log", 64 * 1024 * 1024)
        self.log.folder.mkdir(parents=True)
        self.log.prepare()
        self.put(Status.RUNNING, started_at=1.0)

    def put(self, status: Status, **changes: Any) -> None:
        spec = ContainerSpec("tiny", stdin_open=True)
        made = Container(ID, "web", spec, "sha256:" + "1" * 64, "tiny", status, 1.0)
        self._save(
            from_json(Container, {**to_json(made), **changes}), "die" if status is Status.EXITED else "start"
        )

    def log_files(self, *, container: str) -> LogFiles:
        return self.log

    def write(self, *lines: str, stream: str = "stdout", tag: str = "F", second: int = 0) -> None:
        with self.log.active.open("ab") as file:
            for line in lines:
                stamp = f"2026-01-31T12:34:{second:02d}.123456789+00:00"
                file.write(f"{stamp} {stream} {tag} {line}\n".encode())


@pytest.fixture
def engine(node: Node, tmp_path: Path) -> LogEngine:
    config = EngineConfig(node.home / "engine", tmp_path / "run", "00000000", node=node.name)
    config.make_folders()
    return LogEngine(config, tmp_path / "container")


@contextlib.asynccontextmanager
async def agent(node: Node, engine: LogEngine) -> AsyncIterator[None]:
    ledger = Ledger(engine.db, engine.config.run_root / "operations")
    with JournalWatch(engine.config.wake_socket) as journal, FileWatch() as files:
        sources = Sources(engine, files, journal)  # type: ignore[arg-type]
        feeds = {
            "logs": lambda stream: logs(stream, sources),
            "attach": lambda stream: attach(stream, sources, Pumps(sources)),
            "wait": lambda stream: wait(stream, sources),
            "events": lambda stream: events(stream, database=engine.db, node=node.name, journal=journal),
            "operation": lambda stream: operation(
                stream, data_root=engine.config.data_root, ledger=ledger, files=files, journal=journal
            ),
        }
        async with serving(node, feeds=feeds):
            yield


async def everything(stream: web.Stream) -> list[web.Chunk]:
    return [chunk async for chunk in stream]


async def test_raw_logs_come_with_their_channel_and_whole(node: Node, engine: LogEngine) -> None:
    engine.write("one", "two")
    engine.write("bad", stream="stderr")
    engine.write("half", tag="P")
    async with agent(node, engine), web.open_stream(node.name, "logs", {"container": "web"}) as stream:
        chunks = await everything(stream)
    assert [(chunk.channel, chunk.data) for chunk in chunks] == [
        (1, b"one\ntwo\n"),
        (2, b"bad\n"),
        (1, b"half"),
    ]


async def test_mux_logs_are_dockers_frames(node: Node, engine: LogEngine) -> None:
    engine.write("one")
    engine.write("bad", stream="stderr")
    params = {"container": "web", "format": "mux"}
    async with agent(node, engine), web.open_stream(node.name, "logs", params) as stream:
        data = b"".join(chunk.data for chunk in await everything(stream))
    assert data == b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0\0\0\0\x04bad\n"


async def test_json_logs_have_time_channel_and_text(node: Node, engine: LogEngine) -> None:
    engine.write('a "quoted" \\ line ✓', second=7)
    params = {"container": "web", "format": "json"}
    async with agent(node, engine), web.open_stream(node.name, "logs", params) as stream:
        data = b"".join(chunk.data for chunk in await everything(stream))
    assert json.loads(data) == [1769862847123456789, 1, 'a "quoted" \\ line ✓']


async def test_a_followed_line_arrives_at_once_and_the_end_ends(node: Node, engine: LogEngine) -> None:
    params = {"container": "web", "follow": True, "tail": 0}
    engine.write("before")
    async with agent(node, engine), web.open_stream(node.name, "logs", params) as stream:
        delays = []
        for number in range(20):
            await asyncio.sleep(0.01)
            began = time.monotonic()
            engine.write(f"line {number}")
            assert (await anext(stream)).data == f"line {number}\n".encode()
            delays.append(time.monotonic() - began)
        assert sorted(delays)[10] < 0.1
        engine.write("last words")
        engine.put(Status.EXITED, exit_code=42)
        assert [chunk.data for chunk in await everything(stream)] == [b"last words\n"]


async def test_a_reader_that_comes_back_with_its_cursor_misses_nothing(node: Node, engine: LogEngine) -> None:
    engine.write("one", "two")
    async with agent(node, engine):
        async with web.open_stream(node.name, "logs", {"container": "web"}) as stream:
            cursor = (await everything(stream))[-1].cursor
        engine.write("three")
        async with web.open_stream(node.name, "logs", {"container": "web", "cursor": cursor}) as stream:
            assert [chunk.data for chunk in await everything(stream)] == [b"three\n"]


async def test_a_slow_reader_of_a_log_gets_every_line(node: Node, engine: LogEngine) -> None:
    """DS-05: the log is the buffer; nothing is skipped while it is on the disk."""
    params = {"container": "web", "follow": True}
    async with agent(node, engine), web.open_stream(node.name, "logs", params, credit=20_000) as stream:
        engine.write(*(f"line {number} {'x' * 80}" for number in range(20_000)))
        await asyncio.sleep(0.3)
        engine.put(Status.EXITED)
        data = b"".join(chunk.data for chunk in await everything(stream))
    assert [line.split()[1] for line in data.splitlines()] == [
        str(number).encode() for number in range(20_000)
    ]


async def test_a_million_lines_pass_whole(node: Node, engine: LogEngine) -> None:
    engine.write(*(f"{number:07d} {'x' * 20}" for number in range(1_000_000)))
    began = time.monotonic()
    count = 0
    params = {"container": "web"}
    async with agent(node, engine), web.open_stream(node.name, "logs", params, credit=4 << 20) as stream:
        async for chunk in stream:
            count += chunk.data.count(b"\n")
    print(f"a million lines in {time.monotonic() - began:.2f} s")
    assert count == 1_000_000


async def test_attach_before_the_start_sees_the_first_byte(node: Node, engine: LogEngine) -> None:
    engine.write("of the run before")
    engine.put(Status.CREATED)
    async with agent(node, engine), web.open_stream(node.name, "attach", {"container": "web"}) as stream:
        engine.put(Status.RUNNING, started_at=2.0)
        engine.write("hello")
        assert (await anext(stream)).data == b"hello\n"
        engine.write("bye")
        engine.put(Status.EXITED, started_at=2.0, finished_at=3.0, exit_code=3)
        assert b"".join(chunk.data for chunk in await everything(stream)) == b"bye\n"
    assert stream.end == {"reason": "done", "exit_code": 3, "status": "exited"}


async def test_attach_ends_with_its_run_even_when_the_container_is_restarted(
    node: Node, engine: LogEngine
) -> None:
    async with agent(node, engine), web.open_stream(node.name, "attach", {"container": "web"}) as stream:
        engine.put(Status.RUNNING, started_at=9.0)
        assert await asyncio.wait_for(everything(stream), 5) is not None
    assert (stream.end or {})["reason"] == "done"


async def test_waiting_ends_with_the_exit_code(node: Node, engine: LogEngine) -> None:
    params = {"container": "web", "condition": "next-exit"}
    async with agent(node, engine), web.open_stream(node.name, "wait", params) as stream:
        waiting = asyncio.create_task(everything(stream))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        engine.put(Status.EXITED, started_at=1.0, finished_at=2.0, exit_code=42)
        await waiting
        assert time.monotonic() - began < 0.5
    assert stream.end is not None
    assert stream.end["exit_code"] == 42


async def test_waiting_for_removal(node: Node, engine: LogEngine) -> None:
    params = {"container": "web", "condition": "removed"}
    async with agent(node, engine), web.open_stream(node.name, "wait", params) as stream:
        engine.remove(container="web", force=True, volumes=False)
        await asyncio.wait_for(everything(stream), 5)
    assert (stream.end or {})["reason"] == "done"


async def test_events_go_on_from_a_number(node: Node, engine: LogEngine) -> None:
    engine.put(Status.EXITED)
    async with agent(node, engine), web.open_stream(node.name, "events", {"after_seq": 1}) as stream:
        assert [loads(line)["action"] for line in (await anext(stream)).data.splitlines()] == ["die"]
        engine.put(Status.RUNNING)
        chunk = await anext(stream)
        assert (loads(chunk.data)["action"], chunk.cursor) == ("start", "3")


@pytest.mark.parametrize(
    ("kind", "params", "says"),
    [
        ("logs", {"container": "nobody"}, "no container"),
        ("logs", {"container": "web", "tail": "ten"}, "tail must be"),
        ("logs", {"container": "web", "format": "xml"}, "format must be"),
        ("logs", {"container": "web", "cursor": "../x"}, "cursor"),
        ("logs", {"container": 7}, "container must be text"),
        ("wait", {"container": "web", "condition": "never"}, "condition must be"),
        ("operation", {"id": "../../etc/passwd"}, "not an id"),
        ("nothing", {}, "unknown stream"),
    ],
)
async def test_bad_parameters_are_refused_with_the_field(
    node: Node, engine: LogEngine, kind: str, params: dict[str, Any], says: str
) -> None:
    async with agent(node, engine):
        with pytest.raises(NodeError, match=says):
            async with web.open_stream(node.name, kind, params):
                pass


async def test_an_operations_log_is_followed_to_its_end(node: Node, engine: LogEngine) -> None:
    from engine.db import Database
    from tests.workers.test_runner import Bench
    from workers import broker
    from workers.contracts import ImagePull
    from workers.tasks.keeper import Keeper
    from workers.tasks.progress import ProgressWriter
    from workers.tasks.runner import Runner

    ledger = Ledger(
        Database(engine.config.database, (SCHEMA,), wake=engine.config.wake_socket),
        engine.config.run_root / "operations",
    )
    with broker.connect(node.redis.url) as connection:
        writer = ProgressWriter(connection, engine.config.data_root)
        bench = Bench(
            node,
            engine,
            Runner(engine, node.home, node.key, ledger, Keeper(ledger, connection, node.key), writer),
        )  # type: ignore[arg-type]
        identity = names.new_id()
        async with agent(node, engine), web.open_stream(node.name, "operation", {"id": identity}) as stream:
            work = asyncio.create_task(asyncio.to_thread(bench.send, ImagePull("sleep-0.2"), identity))
            lines = b"".join([chunk.data for chunk in await everything(stream)]).splitlines()
            await work
    texts = [entry["text"] for line in lines if (entry := loads(line))["type"] == "message"]
    assert texts == [f"part {part} of sleep-0.2" for part in range(3)]
    assert stream.end is not None
    assert stream.end["status"] == "succeeded"
    assert client.connection()

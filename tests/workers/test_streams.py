"""Streams and queries between the web site and an agent, over a real Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from engine.errors import ContainerNotFound
from tests.support.worker import Node, serving
from webapp.realtime import streams as web
from workers import client
from workers.agent.stream import LossyBuffer, NodeStream
from workers.contracts import names
from workers.contracts.problems import NodeError, NodeSilent
from workers.contracts.signing import NodeKey
from workers.contracts.streams import Frame, FrameKeys, Open, open_frame, pack


async def echo(stream: NodeStream) -> dict[str, Any]:
    await stream.opened(tty=True)
    await stream.grant(1024)
    while True:
        item = await stream.inputs.get()
        if item.eof:
            return {"exit_code": 7}
        if item.resize:
            await stream.write(f"{item.resize[0]}x{item.resize[1]}".encode(), channel=2)
        else:
            await stream.taken(item)
            await stream.write(item.data, channel=1)


async def count(stream: NodeStream) -> dict[str, Any]:
    await stream.opened()
    for number in range(int(stream.params.get("cursor") or 0), stream.params["until"]):
        await stream.write(b"x" * stream.params["size"], cursor=str(number + 1))
    return {}


async def flood(stream: NodeStream) -> dict[str, Any]:
    """A source that never waits: 200 chunks of 64 KiB as fast as it can."""
    await stream.opened()
    buffer = LossyBuffer()
    writer = asyncio.create_task(buffer.drain(stream))
    for _ in range(200):
        buffer.put(1, b"y" * 65536)
        await asyncio.sleep(0)
    buffer.finish()
    await writer
    return {}


async def refuse(stream: NodeStream) -> dict[str, Any]:
    raise ContainerNotFound("no container 'x' on this node", hint="list containers to see their names")


FEEDS = {"exec": echo, "logs": count, "attach": flood, "wait": refuse}


async def test_terminal_bytes_sizes_and_exit_code_travel(node: Node) -> None:
    async with serving(node, feeds=FEEDS), web.open_stream(node.name, "exec") as stream:
        assert stream.facts["tty"] is True
        await stream.send(b"ls\n")
        assert (await anext(stream)).data == b"ls\n"
        await stream.resize(80, 24)
        assert await anext(stream) == web.Chunk(b"80x24", 2)
        await stream.send_eof()
        assert [chunk async for chunk in stream] == []
        assert stream.end == {"reason": "done", "exit_code": 7}


async def test_input_larger_than_what_the_node_grants_arrives_whole(node: Node) -> None:
    sent = bytes(range(256)) * 400
    async with serving(node, feeds=FEEDS), web.open_stream(node.name, "exec") as stream:
        writer = asyncio.create_task(stream.send(sent))
        received = b""
        while len(received) < len(sent):
            received += (await anext(stream)).data
        await writer
        assert received == sent


async def test_a_refusal_is_an_error_with_its_hint(node: Node) -> None:
    async with serving(node, feeds=FEEDS):
        with pytest.raises(NodeError) as caught:
            async with web.open_stream(node.name, "wait"):
                pass
        assert (caught.value.code, caught.value.problem.hint) == (
            "container_not_found",
            "list containers to see their names",
        )


async def test_the_sender_waits_for_a_slow_reader(node: Node) -> None:
    """DS-05: at most the credit (and one frame) waits anywhere."""
    connection = node.redis.client()
    params = {"until": 100, "size": 100_000}
    async with (
        serving(node, feeds=FEEDS),
        web.open_stream(node.name, "logs", params, credit=300_000) as stream,
    ):
        await asyncio.sleep(0.3)
        assert stream._arrived.qsize() == 3
        total = 0
        async for chunk in stream:
            total += len(chunk.data)
        assert total == 10_000_000
        await asyncio.sleep(0.05)
        assert connection.xlen(names.reply_key(web.Hub.current().id)) <= 1


async def test_a_source_that_cannot_wait_leaves_a_counted_gap(node: Node) -> None:
    """DS-05, D7: the producer is never held up; what was left out is said, and the rest is in order."""
    async with serving(node, feeds=FEEDS), web.open_stream(node.name, "attach", credit=100_000) as stream:
        received, skipped = 0, 0
        await asyncio.sleep(0.2)
        async for chunk in stream:
            received += len(chunk.data)
            skipped += chunk.gap_bytes
        assert skipped > 0
        assert received + skipped == 200 * 65536


async def test_follow_goes_on_where_it_was_cut(node: Node) -> None:
    received = 0
    async with serving(node, feeds=FEEDS):
        async for chunk in web.follow(node.name, "logs", {"until": 50, "size": 1000}):
            received += len(chunk.data)
            if received == 20_000:
                hub = web.Hub.current()
                for stream in list(hub._streams.values()):
                    stream.fail(web.StreamBroken("test", ""))
    assert received == 50_000


async def test_a_restarted_agent_breaks_its_old_streams(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ALIVE_EVERY_S", 0.1)
    async with serving(node, feeds=FEEDS, boot="b1"), web.open_stream(node.name, "exec") as stream:
        async with serving_second_boot(node):
            with pytest.raises(web.StreamBroken, match="started again"):
                await anext(stream)


async def test_nobody_answering_is_said_in_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "OPEN_TIMEOUT_S", 0.3)
    with pytest.raises(NodeSilent):
        async with web.open_stream(node.name, "exec"):
            pass
    await web.Hub.current().stop()


async def test_a_frame_of_somebody_without_the_key_does_nothing(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """AP-14: Redis is no trust boundary: opening, typing and output are refused without the node's key."""
    connection = node.redis.client()
    stranger = NodeKey(node.name, b"s" * 32)
    stream_id = names.new_id()
    hub = names.new_id()
    request = Open(node.name, hub, "exec", time.time() + 10)
    forged = pack(FrameKeys(stranger, stream_id), open_frame(stream_id, request), to_agent=True)
    async with serving(node, feeds=FEEDS), web.open_stream(node.name, "exec") as stream:
        connection.xadd(names.requests_key(node.name), {"f": forged})
        typed = pack(
            FrameKeys(stranger, stream.id), Frame(stream.id, 1, "data", b"rm -rf /\n"), to_agent=True
        )
        connection.xadd(names.requests_key(node.name), {"f": typed})
        shown = pack(FrameKeys(stranger, stream.id), Frame(stream.id, 2, "data", b"lie"), to_agent=False)
        connection.xadd(names.reply_key(web.Hub.current().id), {"f": shown})
        await stream.send(b"true\n")
        assert (await anext(stream)).data == b"true\n"
        assert connection.exists(names.reply_key(hub)) == 0
    assert (
        sum("refused" in record.message for record in caplog.records if record.levelno == logging.WARNING)
        == 2
    )


async def test_what_was_asked_while_the_agent_was_away_is_not_done_late(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program is not started for somebody who was told that nobody answers; fresh questions are answered."""
    monkeypatch.setattr("workers.agent.requests.queries.TIMEOUT_S", 0.3)
    served: list[str] = []
    connection = node.redis.client()
    for name in ("late", "fresh"):
        _, text = client.write_question(node.key, "system.info", {"x": name}, timeout_s=10)
        connection.xadd(names.requests_key(node.name), {"q": text})
        if name == "late":
            await asyncio.sleep(0.4)
    async with serving(node, asks={"system.info": lambda params: served.append(params["x"])}):
        await web.query(node.name, "system.info", {"x": "now"})
    assert served == ["fresh", "now"]


async def test_a_copied_request_is_served_once(node: Node) -> None:
    """AP-14: replay is a no-op."""
    served: list[str] = []

    def ask(params: dict[str, Any]) -> Any:
        served.append(params["x"])
        return {"ok": True}

    connection = node.redis.client()
    async with serving(node, asks={"system.info": ask}):
        key = client.node_key(node.name)
        _, text = client.write_question(key, "system.info", {"x": "1"}, timeout_s=5)
        for _ in range(3):
            connection.xadd(names.requests_key(node.name), {"q": text})
        await web.query(node.name, "system.info", {"x": "2"})
    assert served == ["1", "2"]


async def test_queries_answer_and_carry_problems(node: Node) -> None:
    def ask(params: dict[str, Any]) -> Any:
        if params.get("ref") == "x":
            raise ContainerNotFound("no container 'x' on this node")
        return {"got": params}

    async with serving(node, asks={"container.inspect": ask}):
        answer = await asyncio.to_thread(
            client.query, node.name, "container.inspect", {"ref": "a"}, secrets={"s": 1}
        )
        assert answer == {"got": {"ref": "a", "s": 1}}
        with pytest.raises(NodeError, match="no container 'x'"):
            await web.query(node.name, "container.inspect", {"ref": "x"})
        with pytest.raises(NodeError, match="unknown query"):
            await web.query(node.name, "container.destroy")


async def test_a_reader_that_died_is_noticed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.agent.requests.HUB_CHECK_S", 0.1)
    async with serving(node, feeds=FEEDS) as server, web.open_stream(node.name, "exec"):
        assert len(server._streams) == 1
        node.redis.client().delete(names.hub_alive_key(web.Hub.current().id))
        await asyncio.sleep(0.3)
        assert not server._streams


def serving_second_boot(node: Node) -> Any:
    from workers import broker
    from workers.agent.heart import beat

    class Second:
        async def __aenter__(self) -> None:
            self.connection = broker.connect_async(node.redis.url)
            await beat(self.connection, node.key, boot="b2", epoch="e", last_seq=0, running=[])

        async def __aexit__(self, *_: object) -> None:
            await self.connection.aclose()

    return Second()

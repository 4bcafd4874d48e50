"""Interactive streams of a node, for consumers, REST answers that follow, and the Docker API.

    async with open_stream("local", "logs", {"container": ref, "follow": True, "format": "json"}) as stream:
        async for chunk in stream:
            ...

The protocol is in `workers.contracts.streams`. All streams of one event loop share a *hub*: one Redis stream that agents write to and
one task that reads it. Flow is by credit: a chunk's bytes are granted again when the reader takes the chunk, so at most `credit`
bytes of a stream wait anywhere, and a reader that sleeps costs nobody else anything.

A stream ends with `end` set, or raises `NodeError` (refused, or failed on the node), `NodeSilent` (no answer) or `StreamBroken` (agent or
Redis went away in the middle; `cursor` is where to go on). `follow` goes on by itself for kinds that have cursors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from workers import client
from workers.contracts import names, queries, streams
from workers.contracts.events import Heartbeat, read_heartbeat
from workers.contracts.problems import NodeError, NodeSilent, Problem
from workers.contracts.streams import Frame, FrameKeys, Open
from workers.contracts.values import ContractError

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
ALIVE_EVERY_S = 3.0
ALIVE_KEPT_S = 15
HUB_KEPT_S = 60
LARGEST_INPUT = 64 * 1024
RESUMABLE = ("logs", "events", "operation")

_hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = weakref.WeakKeyDictionary()


class StreamBroken(Exception):
    """The stream was cut between here and the node. `cursor` is the last one seen, empty if there was none."""

    def __init__(self, reason: str, cursor: str) -> None:
        super().__init__(reason)
        self.cursor = cursor


@dataclass(frozen=True)
class Chunk:
    """Bytes of one channel (1 stdout or terminal, 2 stderr, 0 where the kind has one channel only).

    `gap_bytes` says how many bytes were skipped just before, because this reader was too slow.
    """

    data: bytes
    channel: int = 0
    cursor: str = ""
    gap_bytes: int = 0


class Stream:
    """One open stream; made by `open_stream`. Iterate it once."""

    def __init__(self, hub: Hub, node: str, stream_id: str, credit: int) -> None:
        self.id = stream_id
        self.node = node
        self.facts: dict[str, Any] = {}  # JSON of `opened`
        self.end: dict[str, Any] | None = None  # JSON of `end`
        self.cursor = ""
        self.boot = ""
        self._hub = hub
        self._keys = FrameKeys(client.node_key(node), stream_id)
        self._credit = credit
        self._taken = 0
        self._arrived: asyncio.Queue[Frame | Exception] = asyncio.Queue()
        self._next_in = 0
        self._next_out = 0
        self._sending = asyncio.Lock()
        self._allowed = 0
        self._allowed_more = asyncio.Event()
        self._gap = 0

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        while self.end is None:
            frame = await self._take()
            if frame.t == "data":
                await self._grant(len(frame.data))
                self.cursor = frame.c or self.cursor
                gap, self._gap = self._gap, 0
                return Chunk(frame.data, frame.ch, frame.c, gap)
            if frame.t == "gap":
                self._gap += int(frame.m.get("bytes", 0))
            elif frame.t == "end":
                self._finish(frame)
        if self._gap:
            gap, self._gap = self._gap, 0
            return Chunk(b"", 0, self.cursor, gap)
        raise StopAsyncIteration

    async def send(self, data: bytes) -> None:
        """Send input; waits while the node has no room for it."""
        view = memoryview(data)
        while view:
            while self._allowed <= 0:
                self._check_open()
                self._allowed_more.clear()
                await self._allowed_more.wait()
            part = view[: min(self._allowed, LARGEST_INPUT)]
            self._allowed -= len(part)
            await self._send("data", data=bytes(part))
            view = view[len(part) :]

    async def send_eof(self) -> None:
        """Say that no more input comes."""
        await self._send("eof")

    async def resize(self, width: int, height: int) -> None:
        """Tell the terminal's size; raises `ContractError` unless both are from 1 to 65535."""
        facts = {"width": width, "height": height}
        streams.terminal_size(facts)
        await self._send("resize", facts=facts)

    async def close(self) -> None:
        """Leave the stream. What runs in the container goes on."""
        if self._hub.forget(self) and self.end is None:
            with contextlib.suppress(RedisError, OSError):
                await self._send("close")

    async def open(self, request: Open) -> None:
        """Send the request and wait until the node accepts it."""
        self._hub.remember(self)
        await self._send_frame(streams.open_frame(self.id, request))
        try:
            frame = await asyncio.wait_for(self._take(), OPEN_TIMEOUT_S)
        except TimeoutError:
            raise NodeSilent(self.node) from None
        if frame.t == "end":
            self._finish(frame)
        elif frame.t != "opened":
            raise StreamBroken(f"stream began with {frame.t}", "")
        else:
            self.facts = frame.m
            self.boot = str(frame.m.get("boot", ""))

    def arrived(self, packed: bytes, frame: Frame) -> None:
        """Take a frame from the hub; a false one is dropped, a hole in the numbers breaks the stream."""
        try:
            streams.check(self._keys, packed, to_agent=False)
        except ContractError:
            logger.warning("dropped a frame of stream %s: it is not the node's", self.id)
            return
        if frame.n < self._next_out:
            return
        if frame.n > self._next_out:
            self.fail(StreamBroken("frames were lost on the way", self.cursor))
            return
        self._next_out += 1
        if frame.t == "credit":
            self._allowed += max(0, int(frame.m.get("bytes", 0)))
            self._allowed_more.set()
            return
        if frame.t == "end":
            self._hub.forget(self)
            self._allowed_more.set()
        self._arrived.put_nowait(frame)

    def fail(self, error: Exception) -> None:
        """End the stream with an error, after what already arrived."""
        self._hub.forget(self)
        self._arrived.put_nowait(error)
        self._allowed_more.set()

    async def _take(self) -> Frame:
        item = await self._arrived.get()
        if isinstance(item, Exception):
            self._arrived.put_nowait(item)  # whoever asks again hears it again
            if isinstance(item, StreamBroken):
                item.cursor = self.cursor
            raise item
        return item

    def _finish(self, frame: Frame) -> None:
        self.end = frame.m
        problem = frame.m.get("problem")
        if isinstance(problem, dict):
            known = {name: problem[name] for name in Problem.__dataclass_fields__ if name in problem}
            raise NodeError(Problem(**known))

    async def _grant(self, count: int) -> None:
        self._taken += count
        if self._taken * 2 >= self._credit and self._hub.knows(self):
            taken, self._taken = self._taken, 0
            await self._send("credit", facts={"bytes": taken})

    def _check_open(self) -> None:
        if not self._hub.knows(self):
            raise StreamBroken("the stream has ended", self.cursor)

    async def _send(self, kind: str, *, data: bytes = b"", facts: dict[str, Any] | None = None) -> None:
        await self._send_frame(Frame(self.id, 0, kind, data, m=facts or {}))

    async def _send_frame(self, frame: Frame) -> None:
        async with self._sending:  # numbers and order of arrival must agree
            numbered = Frame(frame.id, self._next_in, frame.t, frame.data, m=frame.m)
            packed = streams.pack(self._keys, numbered, to_agent=True)
            await self._hub.send(self.node, {b"f": packed})
            self._next_in += 1


@dataclass
class Hub:
    """All streams of one event loop."""

    redis: redis.asyncio.Redis
    id: str = field(default_factory=names.new_id)
    _streams: dict[str, Stream] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    def current(cls) -> Hub:
        """Return the hub of the running event loop, made and started when it is first needed."""
        loop = asyncio.get_running_loop()
        hub = _hubs.get(loop)
        if hub is None or hub.stopped:
            hub = _hubs[loop] = cls(client.async_connection())
            hub._tasks = [loop.create_task(hub._read()), loop.create_task(hub._watch())]
        return hub

    @property
    def stopped(self) -> bool:
        return not self._tasks or any(task.done() for task in self._tasks)

    def remember(self, stream: Stream) -> None:
        self._streams[stream.id] = stream

    def forget(self, stream: Stream) -> bool:
        """Take a stream off the table; tell whether it was there."""
        return self._streams.pop(stream.id, None) is not None

    def knows(self, stream: Stream) -> bool:
        return stream.id in self._streams

    async def send(self, node: str, entry: dict[bytes, bytes]) -> None:
        """Append an entry to a node's requests."""
        key = names.requests_key(node)
        await self.redis.xadd(key, entry, maxlen=client.REQUESTS_KEPT, approximate=True)  # type: ignore[arg-type]

    async def announce(self) -> None:
        """Say that this hub lives; agents close the streams of one that does not."""
        await self.redis.set(names.hub_alive_key(self.id), b"1", ex=ALIVE_KEPT_S)

    async def stop(self) -> None:
        """End all streams and the hub's tasks."""
        for stream in list(self._streams.values()):
            stream.fail(StreamBroken("this process stops", stream.cursor))
        pending = set(self._tasks)
        while pending:  # asyncio.wait_for of Python 3.11 may swallow a cancellation (cpython issue 86296)
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        with contextlib.suppress(RedisError, OSError):
            await self.redis.delete(names.hub_alive_key(self.id), names.reply_key(self.id))
        await self.redis.aclose()

    async def _read(self) -> None:
        key, last = names.reply_key(self.id), b"0"
        while True:
            try:
                last = await self._read_once(key, last)
            except (RedisError, OSError) as error:
                logger.warning("redis went away: %s", error)
                self._fail_all("redis went away")
                await asyncio.sleep(0.5)

    async def _read_once(self, key: str, last: bytes) -> bytes:
        async with self.redis.pipeline(transaction=False) as pipe:
            if last != b"0":
                pipe.execute_command("XTRIM", key, "MINID", _after(last))
            pipe.execute_command("XREAD", "COUNT", 200, "BLOCK", 2000, "STREAMS", key, last)
            answer = (await pipe.execute())[-1]
        for entry_id, fields in _entries(answer):
            last = entry_id
            self._dispatch(fields.get(b"f", b""))
        return last

    def _dispatch(self, packed: bytes) -> None:
        try:
            frame = streams.peek(packed)
        except ContractError as error:
            logger.warning("dropped a malformed frame: %s", error)
            return
        if stream := self._streams.get(frame.id):
            stream.arrived(packed, frame)

    async def _watch(self) -> None:
        """Keep this hub's keys alive and notice agents that died or were started again."""
        while True:
            try:
                await self.announce()
                await self.redis.expire(names.reply_key(self.id), HUB_KEPT_S)
                for node in {stream.node for stream in self._streams.values()}:
                    self._judge(node, await node_heartbeat(self.redis, node))
            except (RedisError, OSError) as error:
                logger.warning("redis went away: %s", error)
                self._fail_all("redis went away")
            await asyncio.sleep(ALIVE_EVERY_S)

    def _judge(self, node: str, beat: Heartbeat | None) -> None:
        for stream in list(self._streams.values()):
            if stream.node != node or not stream.boot:
                continue
            if beat is None:
                stream.fail(StreamBroken("the node has fallen silent", stream.cursor))
            elif beat.boot != stream.boot:
                stream.fail(StreamBroken("the node's agent was started again", stream.cursor))

    def _fail_all(self, reason: str) -> None:
        for stream in list(self._streams.values()):
            stream.fail(StreamBroken(reason, stream.cursor))


@contextlib.asynccontextmanager
async def open_stream(
    node: str, kind: str, params: dict[str, Any] | None = None, *, credit: int = streams.DEFAULT_CREDIT
) -> AsyncIterator[Stream]:
    """Open a stream of `kind` (see `workers.contracts.streams`) and close it at the end of the block.

    `credit` is how many bytes may be under way. Raises `NodeError`, `NodeSilent` or `client.BrokerDown`.
    """
    hub = Hub.current()
    stream = Stream(hub, node, names.new_id(), credit)
    request = Open(node, hub.id, kind, time.time() + OPEN_TIMEOUT_S, params or {}, credit)
    try:
        try:
            await hub.announce()
            await stream.open(request)
        except (RedisError, OSError) as error:
            raise client.BrokerDown("redis does not answer") from error
        yield stream
    finally:
        await stream.close()


async def follow(
    node: str, kind: str, params: dict[str, Any] | None = None, *, patience_s: float = 60
) -> AsyncIterator[Chunk]:
    """Yield the chunks of a `logs`, `events` or `operation` stream, opening it again at its cursor when it is cut.

    Gives up with the last error when the node is not back within `patience_s`.
    """
    assert kind in RESUMABLE, f"{kind} has no cursor"
    wanted = dict(params or {})
    lost_at: float | None = None
    while True:
        try:
            async with open_stream(node, kind, wanted) as stream:
                lost_at = None
                async for chunk in stream:
                    if chunk.cursor:
                        wanted["cursor"] = chunk.cursor
                    yield chunk
                return
        except (StreamBroken, NodeSilent, client.BrokerDown):
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > patience_s:
                raise
            await asyncio.sleep(0.5)


async def query(
    node: str,
    kind: str,
    params: dict[str, Any] | None = None,
    *,
    secrets: dict[str, Any] | None = None,
    timeout_s: float = queries.TIMEOUT_S,
) -> Any:
    """Ask a node's agent, as `workers.client.query` does, without blocking the event loop."""
    key = client.node_key(node)
    query_id, text = client.write_question(key, kind, params or {}, secrets=secrets, timeout_s=timeout_s)
    hub = Hub.current()
    try:
        await hub.send(node, {b"q": text.encode()})
        found = await hub.redis.blpop([names.answer_key(query_id)], timeout=timeout_s)
    except (RedisError, OSError) as error:
        raise client.BrokerDown("redis does not answer") from error
    if found is None:
        raise NodeSilent(node)
    return client.result_of(queries.read_answer(key, query_id, found[1]))


async def node_heartbeat(connection: redis.asyncio.Redis, node: str) -> Heartbeat | None:
    """Return what the node's agent last said of itself, None when it is silent."""
    text = await connection.get(names.node_key(node))
    try:
        return read_heartbeat(client.node_key(node), text) if text else None
    except ContractError:
        return None


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:  # what XREAD answers
    """Return the entries in an answer of XREAD on one stream."""
    return [entry for _, entries in answer or [] for entry in entries]


def _after(entry_id: bytes) -> bytes:
    """Return the smallest id greater than `entry_id`."""
    time_part, _, number = entry_id.partition(b"-")
    return time_part + b"-" + str(int(number) + 1).encode()

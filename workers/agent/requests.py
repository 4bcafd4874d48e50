"""Reads what the web site asks of this node: queries and the frames of streams, in the order of arrival.

At most once: entries are taken off Redis before they are looked at, since running a command twice in a container is worse than
telling the reader that nobody answered. Whatever is not signed with the node's key is dropped with a line in the log.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from workers.agent.stream import NodeStream, StreamClosed
from workers.agent.tasks import end_tasks
from workers.contracts import names, queries, streams
from workers.contracts.problems import REFUSED, Problem
from workers.contracts.signing import BadSignature, NodeKey
from workers.contracts.streams import Frame, FrameKeys
from workers.contracts.values import ContractError, to_json
from workers.keys import unseal
from workers.problems import problem_of

logger = logging.getLogger(__name__)

Feed = Callable[[NodeStream], Awaitable[dict[str, Any]]]
Ask = Callable[[dict[str, Any]], Any]  # runs in a thread: params to result, both JSON

HUB_CHECK_S = 5.0
SLEPT_S = 5.0
HUB_KEPT_S = 60
REMEMBERED_IDS = 10_000
MOST_STREAMS = 2_000
MOST_QUERIES = 16


class RequestServer:
    """Answers queries with `asks` (kind to function) and serves streams with `feeds` (kind to coroutine function)."""

    def __init__(
        self,
        connection: redis.asyncio.Redis,
        key: NodeKey,
        *,
        boot: str,
        asks: Mapping[str, Ask],
        feeds: Mapping[str, Feed],
    ) -> None:
        self._redis = connection
        self._key = key
        self._boot = boot
        self._asks = asks
        self._feeds = feeds
        self._streams: dict[str, NodeStream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._room = asyncio.Semaphore(MOST_QUERIES)

    async def run(self) -> None:
        """Serve until cancelled."""
        watcher = asyncio.create_task(self._watch_hubs())
        try:
            await self._read()
        finally:
            await end_tasks([watcher])
            await self.close()

    async def close(self) -> None:
        """Tell every reader that this agent stops."""
        for stream in list(self._streams.values()):
            with contextlib.suppress(StreamClosed, RedisError, OSError):
                await stream.end(reason="agent stops")
            stream.close()
        await end_tasks(self._tasks)

    async def _read(self) -> None:
        source, last, asked_at = names.requests_key(self._key.node), b"0", float("-inf")
        while True:
            try:
                answer = await self._redis.execute_command(
                    "XREAD", "COUNT", 500, "BLOCK", 2000, "STREAMS", source, last
                )
                entries = [entry for _, found in answer or [] for entry in found]
                slept, asked_at = time.monotonic() - asked_at > SLEPT_S, time.monotonic()
                if not entries:
                    last = b"0"  # nothing is kept there, and FLUSHALL makes the ids begin anew
                    continue
                last = entries[-1][0]
                oldest = await self._oldest_awaited() if slept else 0
                for entry_id, fields in entries:
                    if int(entry_id.partition(b"-")[0]) >= oldest:
                        self._dispatch(fields)
                await self._redis.execute_command("XTRIM", source, "MINID", _after(last))
            except (RedisError, OSError) as error:
                logger.warning("redis went away: %s", error)
                self._drop_all()
                await asyncio.sleep(0.5)

    async def _oldest_awaited(self) -> int:
        """Return the milliseconds before which nobody waits for an answer any more, by Redis's clock as the entries' ids are.

        Asked after this process has slept or was just started: a command is not run for somebody who was told that
        nobody answers.
        """
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000 - int(queries.TIMEOUT_S * 1000)

    def _dispatch(self, fields: dict[bytes, bytes]) -> None:
        try:
            if b"q" in fields:
                self._begin_query(queries.read_query(self._key, fields[b"q"]))
            elif b"f" in fields:
                self._frame(fields[b"f"])
        except ContractError as error:
            logger.warning("refused a request: %s", error)

    def _begin_query(self, query: queries.Query) -> None:
        self._first_time(query.id)
        self._spawn(self._answer(query))

    async def _answer(self, query: queries.Query) -> None:
        async with self._room:
            answer = await asyncio.to_thread(self._ask, query)
        text = queries.write_answer(self._key, answer)
        if len(text) > queries.MAX_ANSWER_BYTES:
            problem = Problem("too_large", "the answer is too large", hint="ask for less at once")
            text = queries.write_answer(self._key, queries.Answer(query.id, problem=problem))
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(names.answer_key(query.id), text)
            pipe.expire(names.answer_key(query.id), 30)
            with contextlib.suppress(RedisError, OSError):  # who asked will see the silence
                await pipe.execute()

    def _ask(self, query: queries.Query) -> queries.Answer:
        """Run in a thread: answer one query, whatever happens."""
        try:
            ask = self._asks.get(query.kind)
            if ask is None:
                raise ContractError(f"unknown query {query.kind[:100]!r}")
            result = ask({**query.params, **unseal(self._key, query.sealed, query.id)})
            return queries.Answer(query.id, to_json(result))
        except Exception as error:  # the seam: every failure becomes an answer
            return queries.Answer(query.id, problem=problem_of(error))

    def _frame(self, packed: bytes) -> None:
        frame = streams.peek(packed)
        if frame.t == "open":
            self._open(packed, frame)
        elif stream := self._streams.get(frame.id):
            try:
                stream.arrived(packed, frame)
            except BadSignature:
                raise
            except ContractError as error:
                self._spawn(stream.end(reason="error", problem=to_json(Problem(REFUSED, str(error)))))

    def _open(self, packed: bytes, frame: Frame) -> None:
        keys = FrameKeys(self._key, frame.id)
        streams.check(keys, packed, to_agent=True)
        request = streams.read_open(self._key, frame)
        self._first_time(frame.id)
        stream = NodeStream(
            stream_id=frame.id,
            hub=request.hub,
            kind=request.kind,
            params=request.params,
            credit=request.credit,
            keys=keys,
            send=self._sender(request.hub),
            boot=self._boot,
        )
        self._streams[stream.id] = stream
        self._spawn(self._serve(stream))

    def _sender(self, hub: str) -> Callable[[bytes], Awaitable[None]]:
        reply = names.reply_key(hub)

        async def send(packed: bytes) -> None:
            await self._redis.execute_command("XADD", reply, "*", b"f", packed)

        return send

    async def _serve(self, stream: NodeStream) -> None:
        try:
            feed = self._feeds.get(stream.kind)
            if feed is None or len(self._streams) > MOST_STREAMS:
                refusal = "too many streams" if feed else f"unknown stream {stream.kind[:100]!r}"
                await stream.end(reason="error", problem=to_json(Problem(REFUSED, refusal)))
                return
            facts = await feed(stream)
            await stream.end(**{"reason": "done", **facts})
        except StreamClosed:
            pass
        except (RedisError, ConnectionError) as error:
            logger.warning("stream %s (%s) broke off: %s", stream.id, stream.kind, error)
            await self._fail(stream, error)  # where that arrives, the reader knows that something is missing
        except Exception as error:  # the seam: every failure becomes an end
            await self._fail(stream, error)
        finally:
            stream.close()
            self._streams.pop(stream.id, None)

    async def _fail(self, stream: NodeStream, error: Exception) -> None:
        with contextlib.suppress(StreamClosed, RedisError, OSError):
            await stream.end(reason="error", problem=to_json(problem_of(error)))

    async def _watch_hubs(self) -> None:
        """Close the streams of readers that died without a word."""
        while True:
            await asyncio.sleep(HUB_CHECK_S)
            hubs = sorted({stream.hub for stream in self._streams.values()})
            try:
                alive = await self._redis.mget([names.hub_alive_key(hub) for hub in hubs]) if hubs else []
            except (RedisError, OSError):
                continue
            gone = {hub for hub, value in zip(hubs, alive, strict=True) if value is None}
            for stream in list(self._streams.values()):
                if stream.hub in gone:
                    stream.close()

    def _drop_all(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def _first_time(self, request_id: str) -> None:
        """Raise `ContractError` for an id that was here before: a copied message has no effect."""
        if request_id in self._known:
            raise ContractError(f"request {request_id} came twice")
        self._known[request_id] = None
        if len(self._known) > REMEMBERED_IDS:
            self._known.popitem(last=False)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if (
            not task.cancelled()
            and (error := task.exception())
            and not isinstance(error, StreamClosed | RedisError)
        ):
            logger.error("a request failed", exc_info=error)


def _after(entry_id: bytes) -> bytes:
    time_part, _, number = entry_id.partition(b"-")
    return time_part + b"-" + str(int(number) + 1).encode()

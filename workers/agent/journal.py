"""The journal as the agent sees it: it is woken when the journal grows, and pumps it to the relay.

One process of a node pumps (a lock file sees to that). Position is kept in the stream itself: the entry of event n has the id `n-0`, so Redis
refuses an event that is there already, and after any restart the pump goes on after the last entry. After a FLUSHALL it begins a little before
the journal's end; what the relay misses before that it asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from engine.db import Database
from engine.errors import EngineError
from engine.events import Event
from workers.contracts import names
from workers.contracts.events import NodeEvent, read_event, write_event
from workers.contracts.signing import NodeKey
from workers.contracts.values import ContractError

logger = logging.getLogger(__name__)

STREAM_ENTRIES = 20_000
BATCH = 500
BEFORE_END = 1_000  # how much of the journal an empty stream gets again
POLL_S = 1.0


class JournalWatch:
    """Wakes those who wait when the journal grows. The datagram may be lost, so nobody waits longer than a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._waiting: set[asyncio.Event] = set()

    def __enter__(self) -> JournalWatch:
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self._socket.bind(str(self._path))
        self._path.chmod(0o600)
        asyncio.get_running_loop().add_reader(self._socket, self._grown)
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def subscribe(self) -> asyncio.Event:
        """Return an event that is set whenever the journal grows; the subscriber clears it."""
        event = asyncio.Event()
        self._waiting.add(event)
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        self._waiting.discard(event)

    def _grown(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(64):
                pass
        for event in self._waiting:
            event.set()


async def wait_for_growth(event: asyncio.Event, timeout_s: float = POLL_S) -> None:
    """Wait until the journal has grown, at most `timeout_s`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()


class Pump:
    """Appends the journal to the node's Redis stream, in order, each event at least once."""

    def __init__(
        self,
        *,
        database: Database,
        connection: redis.asyncio.Redis,
        key: NodeKey,
        watch: JournalWatch,
        lock: Path,
    ) -> None:
        self._database = database
        self._redis = connection
        self._key = key
        self._watch = watch
        self._lock = lock
        self._stream = names.events_key(key.node)

    async def run(self) -> None:
        """Pump until cancelled; wait while another process of this node does."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        grown = self._watch.subscribe()
        try:
            while not _try_lock(descriptor):
                await asyncio.sleep(1)
            while True:
                try:
                    await self._pump(grown)
                except (RedisError, OSError, EngineError) as error:
                    logger.warning("the journal is not pumped just now: %s", error)
                    await asyncio.sleep(0.5)
        finally:
            self._watch.unsubscribe(grown)
            os.close(descriptor)

    async def _pump(self, grown: asyncio.Event) -> None:
        last = await self._position()
        while True:
            events = self._database.events_after(last, BATCH)
            if not events:
                await wait_for_growth(grown)
                continue
            try:
                await self._append(events)
            except ResponseError as error:
                logger.warning("the stream is not where we left it: %s", error)
                last = await self._position()
                continue
            last = events[-1].seq

    async def _append(self, events: list[Event]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for event in events:
                text = write_event(self._key, public(event, self._key.node, self._database.epoch))
                pipe.xadd(
                    self._stream,
                    {b"e": text.encode()},
                    id=f"{event.seq}-0",
                    maxlen=STREAM_ENTRIES,
                    approximate=True,
                )
            await pipe.execute()

    async def _position(self) -> int:
        """Return the number of the last event in the stream; one that is not of this journal's life is emptied."""
        entries: Any = await self._redis.xrevrange(self._stream, count=1)
        end = self._database.last_seq()
        if entries:
            with contextlib.suppress(ContractError, KeyError):
                event = read_event(self._key, entries[0][1][b"e"])
                if event.epoch == self._database.epoch and event.seq <= end:
                    return event.seq
            logger.warning("stream %s was written by another journal; beginning anew", self._stream)
            await self._redis.delete(self._stream)
        return max(0, end - BEFORE_END)


def public(event: Event, node: str, epoch: str) -> NodeEvent:
    """Return an event of the journal as it leaves the node."""
    return NodeEvent(
        node, epoch, event.seq, event.time_ns, event.type, event.action, event.subject, event.attributes
    )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

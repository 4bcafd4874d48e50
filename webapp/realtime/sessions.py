"""Terminal sessions that outlive a cut line.

A session belongs to this process, not to a websocket: it drains the node's stream into the recording and into a ring of
recent output; a websocket reads from the ring by position and may leave and come back. One that nobody reads for
`KEPT_S` ends. The node's flow control holds the program back when the ring's reader is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from webapp.accounts.actor import Actor
from webapp.audit.recordings import Recorder
from webapp.core.ids import new_id
from webapp.core.threads import in_thread
from webapp.realtime.streams import Stream, StreamBroken, open_stream
from workers.client import BrokerDown
from workers.contracts.problems import NodeError

logger = logging.getLogger(__name__)

KEPT_S = 60.0
RING_BYTES = 512 * 1024
AHEAD_BYTES = 256 * 1024  # the ring takes so much more than its reader has seen, then the program waits
PIECE_BYTES = 64 * 1024

sessions: dict[str, TerminalSession] = {}


class TerminalSession:
    """One program with a terminal. `start` once, then read `output`, `type`, `resize`; `left` when the reader goes."""

    def __init__(
        self, actor: Actor, node: str, kind: str, params: dict[str, object], recorder: Recorder
    ) -> None:
        self.id = new_id()
        self.actor = actor
        self.recorder = recorder
        self.exit_code: int | None = None
        self.running = False
        self.over = False
        self._problem: NodeError | None = None
        self._node, self._kind, self._params = node, kind, params
        self._ring = bytearray()
        self._begin = 0  # position of the ring's first byte
        self._seen = 0  # position up to which a reader has taken it
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._opened = asyncio.Event()
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._reader = 0
        self._reason = "the program ended"

    @property
    def _end(self) -> int:
        return self._begin + len(self._ring)

    def cursor_text(self, cursor: str | None) -> str:
        return cursor or str(self._begin)

    async def start(self) -> None:
        """Open the program (the first time) and wait until it runs; raises `NodeError` when it does not."""
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None
        if self._task is None:
            sessions[self.id] = self
            self._task = asyncio.create_task(self._drain())
        await self._opened.wait()
        if self._problem is not None:
            raise self._problem

    def join(self) -> int:
        """Take the reader's place; return the ticket. Who held it before reads no more, and its leaving means nothing."""
        self._reader += 1
        self._news.set()
        return self._reader

    def is_reader(self, ticket: int) -> bool:
        return ticket == self._reader

    async def output(self, ticket: int, cursor: str | None) -> AsyncIterator[tuple[bytes, str]]:
        """Yield what the terminal shows from a position on, with the position after it, while the ticket holds."""
        position = int(cursor) if cursor and cursor.isdecimal() else self._begin
        while self.is_reader(ticket):
            position = max(position, self._begin)
            if position < self._end:
                piece = bytes(self._ring[position - self._begin : position - self._begin + PIECE_BYTES])
                position += len(piece)
                yield piece, str(position)
                self._seen = max(self._seen, position)
                self._room.set()
                continue
            if self.over:
                return
            self._news.clear()
            await self._news.wait()

    async def settled(self) -> None:
        """Wait until the recording is closed and its entry written."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def type(self, data: bytes) -> None:
        if self._stream is not None and not self.over:
            await self._stream.send(data)

    async def resize(self, columns: int, rows: int) -> None:
        if self._stream is not None and not self.over:
            self.recorder.resize(columns, rows)
            await self._stream.resize(columns, rows)

    async def left(self, ticket: int, *, for_good: bool) -> None:
        """The reader is gone: for good (the session ends), or perhaps to come back."""
        if not self.is_reader(ticket):
            return
        if self.over:
            sessions.pop(self.id, None)
        elif for_good:
            await self.end("closed")
        elif self._farewell is None:
            loop = asyncio.get_running_loop()
            self._farewell = loop.call_later(KEPT_S, lambda: loop.create_task(self.end("nobody came back")))

    async def end(self, reason: str) -> None:
        """End the session: the terminal is hung up."""
        sessions.pop(self.id, None)
        self._reason = reason
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _drain(self) -> None:
        try:
            async with open_stream(self._node, self._kind, self._params) as stream:
                self._stream, self.running = stream, True
                self._opened.set()
                async for chunk in stream:
                    await self._keep(chunk.data)
                code = (stream.end or {}).get("exit_code")
                self.exit_code = int(code) if isinstance(code, int) else None
        except NodeError as error:
            self._problem, self._reason = error, error.problem.detail
        except (StreamBroken, BrokerDown, OSError) as error:
            self._reason = str(error)
        finally:
            self.over, self.running = True, False
            self._opened.set()
            self._news.set()
            await asyncio.shield(in_thread(self._finish)())
            asyncio.get_running_loop().call_later(KEPT_S, sessions.pop, self.id, None)

    async def _keep(self, data: bytes) -> None:
        self.recorder.output(data)
        self._ring += data
        if (extra := len(self._ring) - RING_BYTES) > 0:
            del self._ring[:extra]
            self._begin += extra
        self._news.set()
        while self._end - self._seen > AHEAD_BYTES and not self.over:
            self._room.clear()
            await self._room.wait()

    def _finish(self) -> None:
        self.recorder.end(exit_code=self.exit_code, reason=self._reason)

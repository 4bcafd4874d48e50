"""One open stream as the node sees it: output that waits for credit, input that grants it.

A *feed* is a coroutine function that gets a `NodeStream`, writes to it, and returns the facts of its `end` frame. It
runs in the event loop; long or blocking work belongs into a thread, which writes through `begin_write`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from workers.contracts import streams
from workers.contracts.streams import Frame, FrameKeys
from workers.contracts.values import ContractError

LARGEST_FRAME = 256 * 1024
INPUT_CREDIT = 256 * 1024

Send = Callable[[bytes], Awaitable[None]]


class StreamClosed(Exception):
    """The reader is gone."""


@dataclass
class Input:
    """What the reader sends: `data`, the end of it, or a new terminal size."""

    data: bytes = b""
    eof: bool = False
    resize: tuple[int, int] | None = None


class NodeStream:
    """A stream between a feed and one reader. Created by the server; a feed only uses the methods down to `gap`."""

    def __init__(
        self,
        *,
        stream_id: str,
        hub: str,
        kind: str,
        params: dict[str, Any],
        credit: int,
        keys: FrameKeys,
        send: Send,
        boot: str = "",
    ) -> None:
        self.id = stream_id
        self.hub = hub
        self.kind = kind
        self.boot = boot
        self.params = params  # JSON, judged by the feed
        self.closed = asyncio.Event()
        self.inputs: asyncio.Queue[Input] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._keys = keys
        self._send_entry = send
        self._credit = credit
        self._more_credit = asyncio.Event()
        self._next_out = 0
        self._next_in = 1
        self._sending = asyncio.Lock()
        self._input_left = 0

    async def opened(self, **facts: Any) -> None:  # JSON
        """Accept the stream; must be the first thing that a feed does."""
        await self._send("opened", facts={"boot": self.boot, **facts})

    async def write(self, data: bytes, *, channel: int = 0, cursor: str = "") -> None:
        """Send output, waiting for credit; the cursor holds after the last byte. Raises `StreamClosed`."""
        for start in range(0, len(data), LARGEST_FRAME):
            part = data[start : start + LARGEST_FRAME]
            await self.wait_for_credit()
            self._credit -= len(part)
            await self._send(
                "data", data=part, channel=channel, cursor=cursor if start + len(part) == len(data) else ""
            )

    async def wait_for_credit(self) -> None:
        """Wait until the reader can take more (a frame may overdraw the credit once). Raises `StreamClosed`."""
        while self._credit <= 0 or self.closed.is_set():
            if self.closed.is_set():
                raise StreamClosed(self.id)
            self._more_credit.clear()
            await self._more_credit.wait()

    @property
    def has_credit(self) -> bool:
        return self._credit > 0 and not self.closed.is_set()

    def begin_write(self, data: bytes, channel: int = 0, cursor: str = "") -> Future[None]:
        """Begin a `write` from another thread, which may prepare the next one meanwhile; the result is its end."""
        return asyncio.run_coroutine_threadsafe(self.write(data, channel=channel, cursor=cursor), self._loop)

    async def gap(self, skipped_bytes: int) -> None:
        """Tell the reader that bytes were left out here because it was too slow."""
        await self._send("gap", facts={"bytes": skipped_bytes})

    async def grant(self, count: int = INPUT_CREDIT) -> None:
        """Let the reader send that many more bytes of input."""
        self._input_left += count
        await self._send("credit", facts={"bytes": count})

    async def taken(self, item: Input) -> None:
        """Say that an input has been passed on, so that as much may follow."""
        if item.data and not self.closed.is_set():
            await self.grant(len(item.data))

    async def end(self, **facts: Any) -> None:  # JSON
        """Send the last frame."""
        if not self.closed.is_set():
            await self._send("end", facts=facts)
            self.close()

    def close(self) -> None:
        """Wake everybody who waits on this stream; they get `StreamClosed`."""
        self.closed.set()
        self._more_credit.set()
        self.inputs.put_nowait(Input(eof=True))

    def arrived(self, packed: bytes, frame: Frame) -> None:
        """Take a frame from the reader; raises `ContractError` when it is not the reader's or out of order."""
        streams.check(self._keys, packed, to_agent=True)
        if frame.n != self._next_in:
            raise ContractError(f"frame {frame.n} came where {self._next_in} was expected")
        self._next_in += 1
        if frame.t == "credit":
            self._credit += _count(frame.m)
            self._more_credit.set()
        elif frame.t == "data":
            self._input_left -= len(frame.data)
            if self._input_left < 0:
                raise ContractError("more input than was granted")
            self.inputs.put_nowait(Input(frame.data))
        elif frame.t == "eof":
            self.inputs.put_nowait(Input(eof=True))
        elif frame.t == "resize":
            self.inputs.put_nowait(Input(resize=streams.terminal_size(frame.m)))
        elif frame.t == "close":
            self.close()
        else:
            raise ContractError(f"unknown frame {frame.t!r}")

    async def _send(
        self,
        kind: str,
        *,
        data: bytes = b"",
        channel: int = 0,
        cursor: str = "",
        facts: dict[str, Any] | None = None,
    ) -> None:
        async with self._sending:  # numbers and order of arrival must agree
            if self.closed.is_set():
                raise StreamClosed(self.id)
            frame = Frame(self.id, self._next_out, kind, data, channel, cursor, facts or {})
            self._next_out += 1
            await self._send_entry(streams.pack(self._keys, frame, to_agent=False))


@dataclass
class LossyBuffer:
    """A bounded buffer between a source that must never wait and a stream that may: what does not fit is counted.

    The newest bytes are dropped, not the oldest: what the reader has seen stays contiguous up to the gap.
    """

    limit: int = 1024 * 1024
    size: int = 0
    skipped: int = 0
    _items: list[tuple[int, bytes]] = field(default_factory=list)  # channel -1: a gap of len() in ascii
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def put(self, channel: int, data: bytes) -> None:
        """Take data if there is room, else count it; never waits."""
        if self.size + len(data) > self.limit:
            self.skipped += len(data)
            return
        if self.skipped:
            self._items.append((-1, str(self.skipped).encode()))
            self.skipped = 0
        self._items.append((channel, data))
        self.size += len(data)
        self._arrived.set()

    def finish(self) -> None:
        """Say that nothing more comes."""
        self.ended = True
        self._arrived.set()

    async def drain(self, stream: NodeStream) -> None:
        """Write everything to the stream until `finish`; raises `StreamClosed`."""
        while True:
            if not self._items:
                if self.ended:
                    break
                self._arrived.clear()
                await _first(self._arrived, stream.closed)
            await stream.wait_for_credit()
            await self._write_some(stream)
        if self.skipped:
            await stream.gap(self.skipped)

    async def _write_some(self, stream: NodeStream) -> None:
        items, self._items = self._items, []
        joined: list[tuple[int, bytearray]] = []
        for channel, data in items:
            if joined and joined[-1][0] == channel and channel >= 0:
                joined[-1][1].extend(data)
            else:
                joined.append((channel, bytearray(data)))
        for channel, joint in joined:
            if channel < 0:
                await stream.gap(int(joint))
            else:
                await stream.write(bytes(joint), channel=channel)
                self.size -= len(joint)


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _count(facts: dict[str, Any]) -> int:
    value = facts.get("bytes")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 64 * 1024 * 1024:
        raise ContractError("credit out of range")
    return value

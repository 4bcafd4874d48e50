"""Bytes between a client's connection and a stream of the node: attach, exec and logs are this and nothing more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from webapp.dockerapi.call import Call
from webapp.dockerapi.frames import STDERR, STDOUT, SYSTEM_ERROR, frame
from webapp.dockerapi.protocol import Hijacked
from webapp.realtime.streams import Stream, StreamBroken
from workers.contracts.problems import NodeError

logger = logging.getLogger(__name__)

Write = Callable[[bytes], Awaitable[None]]


async def join(connection: Hijacked, stream: Stream, *, tty: bool, stdin: bool) -> None:
    """Carry bytes both ways until the stream ends or the client leaves. A client that closes its input keeps reading."""
    outward = asyncio.create_task(pour(stream, connection.write, tty=tty))
    inward = asyncio.create_task(_feed(connection, stream, stdin=stdin))
    try:
        done, _ = await asyncio.wait((outward, inward), return_when=asyncio.FIRST_COMPLETED)
        if inward in done and not connection.lost:
            await outward
    finally:
        await stop(outward, inward)
        await stream.close()
        await connection.close()


async def pour(stream: Stream, write: Write, *, tty: bool) -> None:
    """Write what the stream brings: raw for a terminal, in frames otherwise. A gap is said in the error channel."""
    try:
        async for chunk in stream:
            if chunk.gap_bytes:
                note = f"\n[{chunk.gap_bytes} bytes were skipped: the reader was too slow]\n".encode()
                await write(note if tty else frame(STDERR, note))
            if chunk.data:
                await write(
                    chunk.data if tty else frame(STDERR if chunk.channel == 2 else STDOUT, chunk.data)
                )
    except (NodeError, StreamBroken) as error:
        text = error.problem.detail if isinstance(error, NodeError) else str(error)
        await write(text.encode() if tty else frame(SYSTEM_ERROR, text.encode()))


async def _feed(connection: Hijacked, stream: Stream, *, stdin: bool) -> None:
    """Pass the client's input on; returns when the client is gone, or has closed its side."""
    try:
        while data := await connection.read():
            if stdin:
                await stream.send(data)
        if stdin and not connection.lost:
            await stream.send_eof()
    except (StreamBroken, OSError) as error:
        logger.debug("input of stream %s ended: %s", stream.id, error)


async def until_gone(call: Call, work: Awaitable[None]) -> None:
    """Await `work`, given up as soon as the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(call.gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        await stop(working, leaving)


async def stop(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they are over; what they raise now interests nobody."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, ConnectionResetError, StreamBroken, NodeError):
            await task

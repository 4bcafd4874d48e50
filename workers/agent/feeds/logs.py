"""Logs of a container: raw bytes, Docker's frames, or a JSON line each; the cursor is the position in the log.

The log on disk is the buffer: a reader that is too slow holds nobody up, and reads on where it was. Only what was removed from the
disk meanwhile is a gap.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import struct
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring
from typing import Any

from engine.runtime.log_reader import Entry, Gap, LogQuery, LogReader, Piece, parse_time
from workers.agent.feeds import params as p
from workers.agent.feeds.follow import Sources, blocks, is_alive
from workers.agent.stream import NodeStream
from workers.contracts.values import ContractError

CHANNELS = {"stdout": 1, "stderr": 2}
_HEADER = struct.Struct(">BxxxL")  # Docker Engine API, "Stream format" of attach

# What is written to the stream: bytes of a channel, or a gap (channel -1, bytes skipped).
Part = tuple[int, bytes, int]
Block = tuple[list[Part], int]  # with the position after it


async def logs(stream: NodeStream, sources: Sources) -> dict[str, Any]:
    """Feed the log as asked for; ends at its end, or with `follow` when the container does.

    `kept` names the log of a container that is gone instead of a `container`.
    """
    params = stream.params
    read = READERS.get(p.text(params, "format", "raw"))
    if read is None:
        raise ContractError(f"format must be one of {', '.join(READERS)}")
    query = query_of(params)
    if kept := p.text(params, "kept", ""):
        log, tty, container, goes_on = sources.engine.kept_log_files(log=kept), False, kept, _never
        query = dataclasses.replace(query, follow=False)
    else:
        found = sources.engine.container_get(ref=p.text(params, "container"))
        log, tty, container = sources.engine.log_files(container=found.id), found.spec.tty, found.id
        goes_on = is_alive(sources.engine, found.id)
    query = dataclasses.replace(query, after=await asyncio.to_thread(LogReader(log).begin, query))
    await stream.opened(tty=tty, container=container)
    async for parts, position in blocks(
        stream, sources, log=log, query=query, read=_paired(read), goes_on=goes_on
    ):
        await write(stream, parts, position)
    return {}


def _never() -> bool:
    return False


async def write(stream: NodeStream, parts: list[Part], position: int) -> None:
    """Send the parts of a block; the cursor goes with the last."""
    for index, (channel, data, skipped) in enumerate(parts):
        if channel < 0:
            await stream.gap(skipped)
        else:
            await stream.write(data, channel=channel, cursor=str(position) if index == len(parts) - 1 else "")


def query_of(params: dict[str, Any]) -> LogQuery:
    """Return the query that a stream's parameters ask for; times are seconds since the epoch."""
    cursor = p.text(params, "cursor", "") or None
    if cursor is not None and not cursor.isdecimal():
        raise ContractError("not a cursor of a log")
    tail = params.get("tail")
    if tail is not None and (not isinstance(tail, int) or isinstance(tail, bool) or tail < 0):
        raise ContractError("tail must be a number")
    return LogQuery(
        tail=tail,
        since_ns=_nanoseconds(p.number(params, "since")),
        until_ns=_nanoseconds(p.number(params, "until")),
        follow=p.truth(params, "follow"),
        stdout=p.truth(params, "stdout", True),
        stderr=p.truth(params, "stderr", True),
        search=p.text(params, "search", ""),
        after=int(cursor) if cursor is not None else None,
        timestamps=p.truth(params, "timestamps"),
    )


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000) * 1000


def read_raw(reader: LogReader, query: LogQuery) -> Iterator[Block]:
    """Bytes as the program wrote them, a part for each change of the stream."""
    for pieces in reader.raw(query):
        if pieces:
            yield [_part(piece) for piece in pieces], pieces[-1].position


def read_mux(reader: LogReader, query: LogQuery) -> Iterator[Block]:
    """The same in the frames of Docker's API, one part a block."""
    for pieces in reader.raw(query):
        if not pieces:
            continue
        gaps: list[Part] = [_part(piece) for piece in pieces if isinstance(piece, Gap)]
        framed = b"".join(
            _HEADER.pack(CHANNELS[piece.stream], len(piece.data)) + piece.data
            for piece in pieces
            if isinstance(piece, Piece)
        )
        yield [*gaps, (0, framed, 0)] if framed else gaps, pieces[-1].position


def read_json(reader: LogReader, query: LogQuery) -> Iterator[Block]:
    """One JSON line `[time_ns, channel, text]` for each line of the log."""
    second = functools.lru_cache(maxsize=4)(
        lambda text: parse_time(f"{text[:19]}.000000000{text[19:]}".encode()) // 1_000_000_000
    )
    for entries in reader.entries(query):
        if not entries:
            continue
        gaps: list[Part] = [_part(entry) for entry in entries if isinstance(entry, Gap)]
        lines = [_json_line(entry, second) for entry in entries if isinstance(entry, Entry)]
        text = "".join(lines).encode()
        yield [*gaps, (0, text, 0)] if text else gaps, entries[-1].position


READERS: dict[str, Callable[[LogReader, LogQuery], Iterator[Block]]] = {
    "raw": read_raw,
    "mux": read_mux,
    "json": read_json,
}


def _json_line(entry: Entry, second: Callable[[str], int]) -> str:
    time, stream, data, _ = entry
    text = encode_basestring(data.decode(errors="replace").removesuffix("\n"))
    return f"[{second(time[:19] + time[29:])}{time[20:29]},{CHANNELS[stream]},{text}]\n"


def _part(item: Piece | Entry | Gap) -> Part:
    if isinstance(item, Gap):
        return -1, b"", item.missed_bytes
    return CHANNELS[item.stream], item.data if isinstance(item, Piece) else item.text, 0


def _paired(
    read: Callable[[LogReader, LogQuery], Iterator[Block]],
) -> Callable[[LogReader, LogQuery], Iterator[tuple[Block, int]]]:
    """Give each block its position a second time, where `blocks` looks for it."""

    def paired(reader: LogReader, query: LogQuery) -> Iterator[tuple[Block, int]]:
        for block in read(reader, query):
            yield block, block[1]

    return paired

"""Following a container's log without a thread of its own: read in a thread while there is something, wait in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TypeVar

from engine.errors import ContainerNotFound
from engine.linux.inotify import CREATE, MODIFY, MOVED_TO
from engine.runtime.log_reader import LogQuery, LogReader
from engine.runtime.logs import LogFiles
from workers.agent.filewatch import FileWatch
from workers.agent.journal import JournalWatch, wait_for_growth
from workers.agent.stream import NodeStream
from workers.facade import EngineFacade

T = TypeVar("T")

LOOK_AGAIN_S = 5.0


@dataclasses.dataclass(frozen=True)
class Sources:
    """What feeds of containers read and wait on."""

    engine: EngineFacade
    files: FileWatch
    journal: JournalWatch


async def blocks(
    stream: NodeStream,
    sources: Sources,
    *,
    log: LogFiles,
    query: LogQuery,
    read: Callable[[LogReader, LogQuery], Iterator[tuple[T, int]]],
    goes_on: Callable[[], bool],
) -> AsyncIterator[T]:
    """Yield what `read` makes of the log, block by block; with `query.follow` as long as `goes_on()` and the reader is there.

    `read` yields pairs of a block and the log's position after it; `query.after` says where to begin.
    """
    grown = sources.journal.subscribe()
    grown.set()
    follow, goes_on_still = query.follow, query.follow
    query = dataclasses.replace(query, follow=False)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(sources.files.watching(grown, log.folder, MOVED_TO | CREATE))
            while not stream.closed.is_set():
                if follow:  # asked before reading: what came before the end is read below
                    goes_on_still = await asyncio.to_thread(goes_on)
                with _watching_newest(sources.files, grown, log):
                    found = read(LogReader(log), query)
                    try:
                        while (item := await asyncio.to_thread(next, found, None)) is not None:
                            query = dataclasses.replace(query, after=item[1])
                            yield item[0]
                    finally:
                        await asyncio.to_thread(_close, found)
                    if not goes_on_still:
                        return
                    await _first(grown, stream.closed)
    finally:
        sources.journal.unsubscribe(grown)


def is_alive(engine: EngineFacade, container: str) -> Callable[[], bool]:
    """Return the question whether a container runs; one that is gone does not."""

    def ask() -> bool:
        try:
            return engine.container_get(ref=container).status.is_alive()
        except ContainerNotFound:
            return False

    return ask


@contextlib.contextmanager
def _watching_newest(files: FileWatch, event: asyncio.Event, log: LogFiles) -> Iterator[None]:
    log.refresh()
    segments = log.segments()
    if not segments:
        yield
        return
    with files.watching(event, log.path(segments[-1]), MODIFY):
        yield


async def _first(grown: asyncio.Event, closed: asyncio.Event) -> None:
    """Wait for either, or for some seconds."""
    waiting = [
        asyncio.ensure_future(wait_for_growth(grown, LOOK_AGAIN_S)),
        asyncio.ensure_future(closed.wait()),
    ]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _close(found: Iterator[object]) -> None:
    assert isinstance(found, Generator)
    with contextlib.suppress(
        ValueError
    ):  # cancelled while a thread is in it: it closes when that thread lets it go
        found.close()

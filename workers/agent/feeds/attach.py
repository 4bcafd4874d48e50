"""Attach: what a container's first process writes, and typing into it.

Output is read from the log, which has every byte in order from the program's first, so an attached reader that is slow, or comes
between create and start, misses nothing and holds nobody up. Only input goes to the monitor's socket, through one pump a
container: the monitor writes to whoever is connected and waits for it, so somebody must always read there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from engine.containers.model import Container, Status
from engine.errors import ContainerNotFound, EngineError, Unavailable, WrongState
from engine.runtime.log_reader import LogQuery, LogReader
from engine.runtime.streams import AttachPump, DetachKeys
from workers.agent.feeds import params as p
from workers.agent.feeds.follow import Sources, blocks
from workers.agent.feeds.logs import _paired, read_mux, read_raw, write
from workers.agent.stream import Input, NodeStream
from workers.agent.tasks import end_tasks

DEFAULT_KEYS = "ctrl-p,ctrl-q"


class Pumps:
    """The connections to monitors, one a container, for as long as anybody types into it."""

    def __init__(self, sources: Sources) -> None:
        self._engine = sources.engine
        self._pumps: dict[str, tuple[AttachPump, int]] = {}
        self._opening = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def pump(self, container: str) -> AsyncIterator[AttachPump]:
        """Share the container's pump for the time of the block; raises `Unavailable` when it does not run."""
        async with self._opening:
            known, users = self._pumps.get(container, (None, 0))
            if known is None or not known.alive:
                known = await asyncio.to_thread(self._engine.attach, container=container)
            self._pumps[container] = (known, users + 1)
        try:
            yield known
        finally:
            current, users = self._pumps[container]
            if users > 1:
                self._pumps[container] = (current, users - 1)
            else:
                del self._pumps[container]
                await asyncio.to_thread(current.close)


async def attach(stream: NodeStream, sources: Sources, pumps: Pumps) -> dict[str, Any]:
    """Feed output until the run ends, passing on what the reader types; `end` has `exit_code`, or `detached`."""
    params = stream.params
    container = sources.engine.container_get(ref=p.text(params, "container"))
    if not container.status.can_attach():
        raise WrongState(f"container {container.name!r} is {container.status}", hint="start it first")
    log = sources.engine.log_files(container=container.id)
    begin = await asyncio.to_thread(
        LogReader(log).begin, LogQuery(tail=None if p.truth(params, "logs") else 0)
    )
    keys = DetachKeys.parse(p.text(params, "detach_keys", "") or DEFAULT_KEYS)
    await stream.opened(tty=container.spec.tty, container=container.id, status=container.status.value)
    query = LogQuery(
        follow=True,
        after=begin,
        stdout=p.truth(params, "stdout", True),
        stderr=p.truth(params, "stderr", True),
    )
    run = Run(sources, container)
    typing = asyncio.create_task(_type(stream, sources, run, pumps, keys))
    showing = asyncio.create_task(_show(stream, sources, run, query, log))
    try:
        await asyncio.wait((typing, showing), return_when=asyncio.FIRST_COMPLETED)
        if not showing.done() and await _left(typing):
            return {"reason": "detached", "detached": True}
        await showing
        return await asyncio.to_thread(run.facts)
    finally:
        await end_tasks((typing, showing))


async def _left(typing: asyncio.Task[bool]) -> bool:
    try:
        return await typing
    except (Unavailable, WrongState):
        return False  # it has ended: the output says how


class Run:
    """One run of a container: the one going on, or the next one if it has not begun. Asked from threads."""

    def __init__(self, sources: Sources, container: Container) -> None:
        self._engine = sources.engine
        self._first = container
        self._waits = container.status in (Status.CREATED, Status.CREATING)
        self._last = container

    @property
    def id(self) -> str:
        return self._first.id

    @property
    def stdin_once(self) -> bool:
        return self._first.spec.stdin_once

    @property
    def tty(self) -> bool:
        return self._first.spec.tty

    def goes_on(self) -> bool:
        """Tell whether more output may come from this run."""
        try:
            now = self._last = self._engine.container_get(ref=self._first.id)
        except ContainerNotFound:
            return False
        if self._waits and not now.started_at:
            return now.status in (Status.CREATED, Status.CREATING)
        same_run = self._waits or now.started_at == self._first.started_at
        if self._waits:
            self._waits, self._first = False, now
        return same_run and now.status.is_alive()

    def has_begun(self) -> bool:
        return self._engine.container_get(ref=self._first.id).status.is_alive()

    def facts(self) -> dict[str, Any]:
        with contextlib.suppress(ContainerNotFound):
            self._last = self._engine.container_get(ref=self._first.id)
        return {"exit_code": self._last.exit_code, "status": self._last.status.value}


async def _show(stream: NodeStream, sources: Sources, run: Run, query: LogQuery, log: Any) -> None:
    read = read_mux if stream.params.get("format") == "mux" else read_raw
    found = blocks(stream, sources, log=log, query=query, read=_paired(read), goes_on=run.goes_on)
    async for parts, position in found:
        await write(stream, parts, position)


async def _type(stream: NodeStream, sources: Sources, run: Run, pumps: Pumps, keys: DetachKeys) -> bool:
    """Pass on input and sizes; return whether the reader pressed the keys that leave. What comes before the start waits."""
    if p.truth(stream.params, "stdin"):
        await stream.grant()
    item = await stream.inputs.get()
    if not await _until_begun(stream, run):
        return False
    async with contextlib.AsyncExitStack() as stack:
        pump: AttachPump | None = None
        while True:
            if item.resize:
                width, height = item.resize
                await asyncio.to_thread(sources.engine.resize, container=run.id, rows=height, columns=width)
            if (item.data or _is_last(item, stream, run)) and pump is None:
                pump = await stack.enter_async_context(pumps.pump(run.id))
            if item.data and pump is not None:
                data, leaving = keys.feed(item.data)
                await asyncio.to_thread(pump.write, data)
                if leaving:
                    return True
                await stream.taken(item)
            if item.eof:
                if _is_last(item, stream, run) and pump is not None:
                    await asyncio.to_thread(pump.end_input)
                return False
            item = await stream.inputs.get()


def _is_last(item: Input, stream: NodeStream, run: Run) -> bool:
    """Tell whether the program's input ends here: the reader said so, or left a container that was promised one reader.

    A terminal's input does not end with a reader: who detached comes back to it.
    """
    return (
        item.eof
        and not run.tty
        and p.truth(stream.params, "stdin")
        and (run.stdin_once or not stream.closed.is_set())
    )


async def _until_begun(stream: NodeStream, run: Run) -> bool:
    while not stream.closed.is_set():
        try:
            if await asyncio.to_thread(run.has_begun):
                return True
        except EngineError:
            return False
        await asyncio.sleep(0.02)
    return False

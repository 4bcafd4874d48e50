"""Live figures of containers: one sampler for all who look, so that ten open pages cost no more than one.

A sample is `{"container", "name", "time", "cpu": {"usage_ns", "user_ns", "kernel_ns", "system_ns", "online", "throttled_periods",
"throttled_ns"}, "cpu_percent", "memory": {"usage_bytes", "inactive_file_bytes", "limit_bytes", "peak_bytes"}, "pids", "pids_limit",
"networks": {name: {"rx_bytes", ...}}, "block_io": {"read_bytes", "write_bytes", "reads", "writes"}, "oom_kills"}`. `cpu_percent` needs the sample
before (100 is one processor); a limit that is not set is the host's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from engine.containers.model import Container, Status
from engine.errors import ContainerNotFound, WrongState
from engine.runtime.stats import Stats, cpu_percent
from workers.agent.feeds import params as p
from workers.agent.journal import JournalWatch
from workers.agent.stream import NodeStream
from workers.contracts.values import dumps
from workers.facade import EngineFacade

SHORTEST_S = 0.5
LONGEST_S = 60.0
FIRST_PAUSE_S = 0.2
MOST_A_SECOND = (
    70  # samples: with more containers than this each is sampled less often, and the load stays where it is
)
_HOST_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

Sample = dict[str, Any]  # JSON, see above


class StatsSampler:
    """Samples what anybody wants to see, as often as the most eager of them; nothing while nobody looks."""

    def __init__(self, engine: EngineFacade, journal: JournalWatch) -> None:
        self._engine = engine
        self._grown = journal.subscribe()
        self._grown.set()
        self._living: dict[str, Container] = {}
        self._before: dict[str, Stats] = {}
        self._readers: dict[int, Reader] = {}
        self._next = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            if not self._readers:
                self._before.clear()
                self._changed.clear()
                await self._changed.wait()
            now = time.monotonic()
            due = [reader for reader in self._readers.values() if reader.next_at <= now]
            if due:
                await self._round(due)
            with contextlib.suppress(TimeoutError):
                pause = (
                    min((reader.next_at for reader in self._readers.values()), default=now) - time.monotonic()
                )
                async with asyncio.timeout(max(0.01, pause)):
                    self._changed.clear()
                    await self._changed.wait()

    @contextlib.contextmanager
    def reading(self, wanted: frozenset[str], interval_s: float) -> Any:  # a context manager of Reader
        """Add a reader of some containers (none: all that run) for the time of the block."""
        reader = Reader(wanted, interval_s)
        self._next += 1
        number = self._next
        self._readers[number] = reader
        self._changed.set()
        try:
            yield reader
        finally:
            del self._readers[number]
            self._changed.set()

    async def _round(self, due: list[Reader]) -> None:
        if self._grown.is_set():
            self._grown.clear()
            running = await asyncio.to_thread(self._engine.container_list)
            self._living = {item.id: item for item in running if item.status.is_alive()}
        everything = any(not reader.wanted for reader in due)
        wanted = (
            self._living.keys()
            if everything
            else {name for reader in due for name in reader.wanted} & self._living.keys()
        )
        samples = await asyncio.to_thread(self._sample, [self._living[name] for name in wanted])
        now = time.monotonic()
        for reader in due:
            pause = max(reader.interval_s, len(samples) / MOST_A_SECOND)
            reader.next_at = max(reader.next_at + pause, now + pause / 2)
            reader.take(
                {name: line for name, line in samples.items() if not reader.wanted or name in reader.wanted}
            )

    def _sample(self, containers: list[Container]) -> dict[str, bytes]:
        lines = {}
        for item in containers:
            stats = self._engine.sample(container=item)
            lines[item.id] = (dumps(to_sample(item, stats, self._before.get(item.id))) + "\n").encode()
            self._before[item.id] = stats
        return lines


@dataclasses.dataclass
class Reader:
    """Somebody who looks at samples. A reader that is slow gets the newest, not a queue of old ones."""

    wanted: frozenset[str]
    interval_s: float
    next_at: float = 0.0
    _newest: dict[str, bytes] = dataclasses.field(default_factory=dict)
    _arrived: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def take(self, lines: dict[str, bytes]) -> None:
        self._newest.update(lines)
        self._arrived.set()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield what arrived since the last time, all containers together."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            found, self._newest = self._newest, {}
            yield b"".join(found.values())


async def stats(stream: NodeStream, *, engine: EngineFacade, sampler: StatsSampler) -> dict[str, Any]:
    """Feed one JSON line a sample: of some containers until they have ended, or of all that run until the reader leaves."""
    wanted = [engine.container_get(ref=name) for name in p.texts(stream.params, "containers")]
    interval_s = min(max(p.number(stream.params, "interval_s", 1.0), SHORTEST_S), LONGEST_S)
    await stream.opened(containers=[item.id for item in wanted])
    if p.truth(stream.params, "one_shot"):
        for item in wanted:
            await stream.write((dumps(await asyncio.to_thread(sample_now, engine, item.id)) + "\n").encode())
        return {}
    names = frozenset(item.id for item in wanted)
    with sampler.reading(names, interval_s) as reader:
        lines = reader.lines()
        while not stream.closed.is_set():
            try:
                data = await asyncio.wait_for(anext(lines), LONGEST_S)
            except TimeoutError:
                continue
            await stream.wait_for_credit()
            if data:
                await stream.write(data)
            elif names and not await asyncio.to_thread(_any_alive, engine, names):
                return {}
    return {}


def sample_now(engine: EngineFacade, ref: str) -> Sample:
    """Take two samples, a moment apart, for the use of processors just now. Raises `WrongState` when it does not run."""
    container = engine.container_get(ref=ref)
    if not container.status.is_alive():
        raise WrongState(f"container {container.name!r} is {container.status}", hint="start it first")
    before = engine.sample(container=container)
    if container.status is Status.RUNNING:
        time.sleep(FIRST_PAUSE_S)
    after = to_sample(container, engine.sample(container=container), before)
    return {**after, "previous": to_sample(container, before, None)}


def to_sample(container: Container, now: Stats, before: Stats | None) -> Sample:
    return {
        "container": container.id,
        "name": container.name,
        "time": now.time_ns / 1e9,
        "cpu": {
            "usage_ns": now.cpu_ns,
            "user_ns": now.cpu_user_ns,
            "kernel_ns": now.cpu_system_ns,
            "system_ns": now.system_cpu_ns,
            "online": now.online_cpus,
            "throttled_periods": now.throttled_periods,
            "throttled_ns": now.throttled_ns,
        },
        "cpu_percent": round(cpu_percent(before, now), 2) if before else None,
        "memory": {
            "usage_bytes": now.memory_total_bytes,
            "inactive_file_bytes": now.memory_total_bytes - now.memory_bytes,
            "limit_bytes": now.memory_limit_bytes or _HOST_MEMORY,
            "peak_bytes": now.memory_peak_bytes,
        },
        "pids": now.pids,
        "pids_limit": now.pids_limit,
        "oom_kills": now.oom_kills,
        "networks": {name: vars(figures) for name, figures in now.networks.items()},
        "block_io": {
            "read_bytes": now.block_read_bytes,
            "write_bytes": now.block_write_bytes,
            "reads": now.block_reads,
            "writes": now.block_writes,
        },
    }


def _any_alive(engine: EngineFacade, names: frozenset[str]) -> bool:
    for name in names:
        with contextlib.suppress(ContainerNotFound):
            if engine.container_get(ref=name).status.is_alive():
                return True
    return False

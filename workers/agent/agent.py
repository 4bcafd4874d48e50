"""The agent as a whole: one event loop, a handful of tasks that are started again when they fail, blocking work in threads.

Without Redis the agent does its duties on the node all the same (exits, restarts, health, names); only what leaves the node waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import fcntl
import functools
import logging
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from engine.config import EngineConfig
from engine.db import Database
from engine.network.dns import DnsServer
from engine.network.guard import FirewallGuard
from workers import broker
from workers.agent import heart, operations
from workers.agent.asks import make_asks
from workers.agent.feeds import transfer
from workers.agent.feeds.attach import Pumps, attach
from workers.agent.feeds.events import events
from workers.agent.feeds.exec import exec_
from workers.agent.feeds.follow import Sources
from workers.agent.feeds.logs import logs
from workers.agent.feeds.operation import operation
from workers.agent.feeds.stats import StatsSampler, stats
from workers.agent.feeds.wait import wait
from workers.agent.filewatch import FileWatch
from workers.agent.journal import JournalWatch, Pump
from workers.agent.requests import Feed, RequestServer
from workers.agent.tasks import end_tasks
from workers.contracts.signing import NodeKey
from workers.facade import EngineFacade
from workers.ledger import SCHEMA, Ledger

logger = logging.getLogger(__name__)

THREADS = 64
RECONCILE_EVERY_S = 4.0  # what a killed commit has frozen goes on within five seconds (F-03)
RECONCILE_LATEST_S = 9.0
RECONCILE_SHARE = 50  # it takes at most a fiftieth of the time
SWEEP_EVERY_S = 30.0
RETRY_S = 1.0

Duty = Callable[[], Awaitable[None]]


class Agent:
    """Everything the agent does; `run` returns after `stop`."""

    def __init__(
        self, *, engine: EngineFacade, config: EngineConfig, home: Path, key: NodeKey, redis_url: str
    ) -> None:
        self._engine = engine
        self._config = config
        self._home = home
        self._key = key
        self._redis_url = redis_url
        self._boot = secrets.token_hex(8)
        self._database = Database(config.database, (SCHEMA,), wake=config.wake_socket)
        self._ledger = Ledger(self._database, config.run_root / "operations")
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Do all duties until `stop`. Containers go on running after it."""
        asyncio.get_running_loop().set_default_executor(
            concurrent.futures.ThreadPoolExecutor(THREADS, "agent")
        )
        connection = broker.connect_async(self._redis_url)
        with (
            _only_one(self._config.run_root / "agent.lock"),
            JournalWatch(self._config.wake_socket) as journal,
            FileWatch() as files,
        ):
            duties = self._duties(connection, journal, files)
            tasks = [asyncio.create_task(self._keep(name, duty), name=name) for name, duty in duties.items()]
            try:
                await self._stopping.wait()
            finally:
                await end_tasks(tasks)
                await connection.aclose()

    def _duties(
        self, connection: redis.asyncio.Redis, journal: JournalWatch, files: FileWatch
    ) -> dict[str, Duty]:
        config, database = self._config, self._database
        pump = Pump(
            database=database,
            connection=connection,
            key=self._key,
            watch=journal,
            lock=config.run_root / "pump.lock",
        )
        sampler = StatsSampler(self._engine, journal)
        server = RequestServer(
            connection,
            self._key,
            boot=self._boot,
            asks=make_asks(self._engine, self._ledger),
            feeds=self._feeds(journal, files, sampler),
        )
        tidy = functools.partial(
            operations.tidy_forever, database, self._ledger, data_root=config.data_root, home=self._home
        )
        return {
            "supervise": self._supervise,
            "names": self._answer_names,
            "firewall": self._guard_firewall,
            "reconcile": self._reconcile,
            "sweep": self._sweep,
            "pump": pump.run,
            "requests": server.run,
            "heart": functools.partial(self._beat, connection),
            "stats": sampler.run,
            "resend": operations.Resender(self._ledger, self._key.node).run,
            "tidy": tidy,
        }

    def _feeds(self, journal: JournalWatch, files: FileWatch, sampler: StatsSampler) -> dict[str, Feed]:
        sources = Sources(self._engine, files, journal)
        about_operations: dict[str, Any] = {
            "data_root": self._config.data_root,
            "ledger": self._ledger,
            "files": files,
            "journal": journal,
        }
        about_events: dict[str, Any] = {
            "database": self._database,
            "node": self._key.node,
            "journal": journal,
        }
        of_containers: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "logs": logs,
            "exec": exec_,
            "wait": wait,
            "container.archive": transfer.container_archive,
            "container.export": transfer.container_export,
            "image.save": transfer.image_save,
            "volume.file": transfer.volume_file,
            "volume.backup": transfer.volume_backup,
            "backup.file": functools.partial(transfer.backup_file, home=self._home),
        }
        return {
            **{kind: functools.partial(feed, sources=sources) for kind, feed in of_containers.items()},
            "attach": functools.partial(attach, sources=sources, pumps=Pumps(sources)),
            "operation": functools.partial(operation, **about_operations),
            "stats": functools.partial(stats, engine=self._engine, sampler=sampler),
            "events": functools.partial(events, **about_events),
            "spool.read": functools.partial(transfer.spool_read, home=self._home),
            "spool.write": functools.partial(transfer.spool_write, home=self._home),
        }

    async def _keep(self, name: str, duty: Duty) -> None:
        """Do a duty for as long as the agent runs: one that fails is begun again."""
        while True:
            try:
                await duty()
            except Exception:  # the seam: a bug in one duty must not end the others
                logger.exception("duty %s failed; beginning it again", name)
            await asyncio.sleep(RETRY_S)

    async def _supervise(self) -> None:
        """Exits, restarts, health checks and logs, in a thread of their own; an exit is noticed at once."""
        stop = threading.Event()
        try:
            await asyncio.to_thread(self._engine.supervisor.run, stop)
        finally:
            stop.set()

    async def _answer_names(self) -> None:
        """The DNS server of the networks."""
        server = DnsServer(self._config, self._database)
        await server.start()
        try:
            await asyncio.Event().wait()
        finally:
            await server.stop()

    async def _guard_firewall(self) -> None:
        """Put the rules of the networks back at once when another program flushed them."""
        await FirewallGuard(self._engine.network).run()

    async def _reconcile(self) -> None:
        """Make engine and kernel agree: at the start, and every few seconds; less often where there is much to look at."""
        while True:
            began = time.monotonic()
            for line in await asyncio.to_thread(self._engine.reconcile):
                logger.warning("reconciled: %s", line)
            took = time.monotonic() - began
            await asyncio.sleep(min(max(RECONCILE_EVERY_S, RECONCILE_SHARE * took), RECONCILE_LATEST_S))

    async def _sweep(self) -> None:
        """Remove what dead builds and interrupted work left in the kernel and on disk."""
        while True:
            for line in await asyncio.to_thread(self._engine.sweep):
                logger.warning("swept: %s", line)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _beat(self, connection: redis.asyncio.Redis) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):
                running = await asyncio.to_thread(self._ledger.running)
                await heart.beat(
                    connection,
                    self._key,
                    boot=self._boot,
                    epoch=self._database.epoch,
                    last_seq=self._database.last_seq(),
                    running=running,
                )
            await asyncio.sleep(heart.EVERY_S)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock of the node's agent: a second one waits until the first has ended."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another agent runs on this node; waiting for it to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

"""The Celery tasks: one a kind of contract, all of them the same runner. Imported by workers only.

Pool of threads: the engine is warm (netlink sockets, database connections, parsed profiles), starting a task costs no fork, and
what takes long waits in the kernel or in libraries that let the interpreter lock go. What a pool of processes would give
besides, time limits and killing one task, comes from `keeper` and from the engine's cancel tokens.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from typing import Any

from celery.signals import worker_init, worker_ready, worker_shutting_down

from engine.config import EngineConfig
from engine.db import Database
from engine.layers.helper import start as start_unpacker
from workers import broker
from workers.celery_app import app
from workers.contracts import all_kinds
from workers.contracts.base import task_name
from workers.keys import home_folder, make_key
from workers.ledger import SCHEMA, Ledger
from workers.tasks.keeper import Keeper
from workers.tasks.progress import ProgressWriter
from workers.tasks.runner import Runner

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1)
def runner() -> Runner:
    """Return this process's runner, built once: it opens the engine."""
    from workers.node import open_engine

    home = home_folder()
    config = EngineConfig.from_home(home)
    config.make_folders()
    key = make_key(home, config.node)
    ledger = Ledger(
        Database(config.database, (SCHEMA,), wake=config.wake_socket), config.run_root / "operations"
    )
    connection = broker.connect()
    return Runner(
        engine=open_engine(config),
        home=home,
        key=key,
        ledger=ledger,
        keeper=Keeper(ledger, connection, key),
        progress=ProgressWriter(connection, config.data_root),
    )


def _register(kind: str) -> None:
    @app.task(name=task_name(kind), ignore_result=True, acks_late=True)  # type: ignore[untyped-decorator]
    def task(text: str) -> None:
        runner().run(kind, text)


for _kind in all_kinds():
    _register(_kind)


@worker_init.connect  # type: ignore[untyped-decorator]
def _warm(**_: object) -> None:
    """Open the engine before the first task, so that the first is as quick as the next."""
    os.umask(0o022)
    runner()
    start_unpacker()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _restore(sender: Any, **_: object) -> None:
    """Put back what an earlier worker on our queues had reserved and not acknowledged, without waiting for its timeout.

    A sibling that lives may get its own tasks twice by this; the ledger knows them.
    """
    queues = set(sender.app.amqp.queues.consume_from)
    with sender.app.connection_for_write() as connection, connection.channel() as channel:
        reserved = channel.client.hgetall(channel.unacked_key)
        for tag, text in reserved.items():
            if json.loads(text)[2] in queues:
                channel.qos.restore_by_tag(tag.decode() if isinstance(tag, bytes) else tag)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    """Stop what runs; the operations stay open in the ledger, and the agent sends them again."""
    logger.info("stopping; what runs is left to the next worker")
    runner().keeper.stop_all(after_s=SHUTDOWN_GRACE_S)


SHUTDOWN_GRACE_S = 5.0

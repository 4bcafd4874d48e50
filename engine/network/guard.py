"""Keeping the rules there: puts them back when somebody flushed them, at once, and looks for other damage now and then.

    await FirewallGuard(network).run()     # in the agent: until it is cancelled

While the rules are gone nothing is open: see `engine.network.firewall`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from engine.errors import EngineError
from engine.linux.nft import listen, tables_changed

logger = logging.getLogger(__name__)

LOOK_S = 3.0
_SETTLE_S = 0.02
_THOROUGH = 20  # every so many looks the other firewalls are looked at too


class Restorable(Protocol):
    """What the guard needs of a `NetworkManager`."""

    @property
    def table_name(self) -> str: ...

    def restore(self, *, neighbours: bool = True) -> Sequence[str]: ...


class FirewallGuard:
    """Watches the rules of one engine. For one event loop; the work itself runs in threads."""

    def __init__(self, network: Restorable) -> None:
        self._network = network
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._alarm = asyncio.Event()
        self.restored = 0  # how often the rules were found missing

    async def run(self) -> None:
        """Keep the rules there until cancelled; raises what a bug or a lost socket ended it with."""
        await self.start()
        try:
            assert self._task is not None
            await self._task
        finally:
            await self.stop()

    async def start(self) -> None:
        self._socket = listen()
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        self._task = asyncio.create_task(self._run(), name="firewall-guard")

    async def stop(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _read(self) -> None:
        assert self._socket is not None
        try:
            while True:
                removed, made = tables_changed(self._socket.recv(65536))
                if self._network.table_name in removed or made - {self._network.table_name}:
                    self._alarm.set()
        except BlockingIOError:
            return
        except OSError:
            self._alarm.set()  # more changes than fit into the socket: look for ourselves

    async def _run(self) -> None:
        quiet = 0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._alarm.wait(), LOOK_S)
                await asyncio.sleep(_SETTLE_S)  # a flush comes in many messages
            quiet = 0 if self._alarm.is_set() else quiet + 1
            self._alarm.clear()
            try:
                repaired = await asyncio.to_thread(self._network.restore, neighbours=quiet % _THOROUGH == 0)
            except (EngineError, OSError) as error:
                logger.error("the networks of this host could not be put right: %s", error)
                continue
            if repaired:
                self.restored += 1
                logger.warning(
                    "another program removed parts of our networks; put back: %s", ", ".join(repaired)
                )

"""A node of real processes on the real engine, in a network namespace of its own, with the image `busybox`."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.containers.model import Container
from engine.db import Database
from engine.engine import Engine
from engine.events import Event
from tests.support.busybox import make_tar
from tests.support.containers import clean_up, machine
from tests.support.hostdiff import assert_nothing_left
from tests.support.redis import RedisServer
from tests.support.worker import Node, Processes, running_node, wait_for
from workers import client
from workers.contracts import ContainerCreate, ContainerRemove, Contract, ImageImport, names
from workers.contracts.events import FINAL
from workers.keys import make_key

REAL_ENGINE = "engine.engine:Engine"


@dataclass
class RealNode:
    """What the web site sees of a node, and what a test looks up behind its back."""

    node: Node
    processes: Processes
    config: EngineConfig
    engine: Engine
    _seen: int = 0
    _events: list[Event] = field(default_factory=list)
    _sent: dict[str, Contract] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def journal(self) -> Database:
        return self.engine.db

    def events(self) -> list[Event]:
        while more := self.journal.events_after(self._seen):
            self._events += more
            self._seen = more[-1].seq
        return self._events

    def send(self, contract: Contract, operation: str = "", *, fence: int = 1) -> str:
        operation = operation or names.new_id()
        client.submit(contract, self.name, operation, fence=fence)
        self._sent[operation] = contract
        return operation

    def outcome(self, operation: str, timeout_s: float = 60) -> dict[str, Any]:
        """Return the attributes of the operation's last event once it has ended.

        What the node has not heard of after some seconds is sent again, as the web site's reaper does: a worker that is
        killed between taking a task off Redis and noting it as taken loses it.
        """
        patience = time.monotonic() + 5

        def ended() -> Event | None:
            nonlocal patience
            self.events()
            if time.monotonic() > patience and not any(e.subject == operation for e in self._events):
                patience = float("inf")
                self.send(self._sent[operation], operation, fence=2)
            return self._final(operation)

        return wait_for(ended, f"the end of {operation}", timeout_s).attributes

    def do(self, contract: Contract, timeout_s: float = 60) -> dict[str, Any]:
        """Send work, wait for it, and return its result."""
        outcome = self.outcome(self.send(contract), timeout_s)
        assert outcome["status"] == "succeeded", outcome["error"]
        return dict(outcome["result"])

    def run(self, *command: str, **spec: Any) -> Container:
        """Create and start a busybox container."""
        identity = names.new_id() * 2
        self.do(
            ContainerCreate(
                id=identity, spec={"image": "busybox", "command": list(command), **spec}, start=True
            )
        )
        return self.container(identity)

    def container(self, ref: str) -> Container:
        return self.engine.container_get(ref=ref)

    def remove_all(self) -> None:
        for item in self.engine.container_list():
            self.do(ContainerRemove(item.id, force=True, volumes=True))

    def _final(self, operation: str) -> Event | None:
        return next((e for e in self.events() if e.subject == operation and e.action in FINAL), None)


@contextmanager
def real_node(redis_server: RedisServer, *names_of_processes: str, **environ: str) -> Iterator[RealNode]:
    """Run a node below /var/tmp (overlayfs needs a real file system); afterwards nothing of it is left."""
    base = Path(tempfile.mkdtemp(prefix="wf-test-", dir="/var/tmp"))
    home = base / "home"
    (home / "spool" / "in").mkdir(parents=True)
    name = "t" + secrets.token_hex(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHARFINGER_HOME", str(home))
        patch.setenv("WHARFINGER_NODE", name)
        patch.setenv("REDIS_URL", redis_server.url)
        node = Node(home, redis_server, make_key(home, name))
        config = EngineConfig.from_home(home)
        config.make_folders()
        try:
            with machine(config.run_root / "machine"):
                with running_node(
                    node, *names_of_processes, engine=REAL_ENGINE, keep_run_root=True, **environ
                ) as processes:
                    running = RealNode(node, processes, config, Engine(config))
                    upload = names.new_id()
                    (home / "spool" / "in" / upload).write_bytes(make_tar())
                    running.do(ImageImport(source=upload, reference="busybox"))
                    yield running
                    for needed in {"worker", "agent"} - set(processes.running):
                        processes.start(needed)
                    running.remove_all()
        finally:
            clean_up(config, base)
            shutil.rmtree(base, ignore_errors=True)
            assert_nothing_left(config.instance)


def is_running(container: Container) -> bool:
    """Tell whether a container's first process lives; one that waits to be collected does not."""
    try:
        return Path(f"/proc/{container.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

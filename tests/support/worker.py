"""A node for tests: its home, its key, its Redis; `running_node` adds real worker and agent processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from engine.config import EngineConfig
from tests.support.redis import WITH_US, RedisServer, private_redis
from webapp.realtime.streams import Hub
from workers import broker
from workers.agent.heart import beat
from workers.agent.requests import Ask, Feed, RequestServer
from workers.agent.tasks import end_tasks
from workers.contracts.signing import NodeKey
from workers.keys import make_key

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
FAKE_ENGINE = "tests.support.fake_engine:FakeEngine"


@dataclass
class Node:
    """The parts of a node that exist before any of its processes."""

    home: Path
    redis: RedisServer
    key: NodeKey

    @property
    def name(self) -> str:
        return self.key.node


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


@pytest.fixture
def node(tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node of a name of its own, so that tests can share one Redis; the environment points to it."""
    home = tmp_path / "home"
    home.mkdir()
    name = "t" + secrets.token_hex(4)
    monkeypatch.setenv("WHARFINGER_HOME", str(home))
    monkeypatch.setenv("WHARFINGER_NODE", name)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    return Node(home, redis_server, make_key(home, name))


@contextlib.asynccontextmanager
async def serving(
    node: Node,
    *,
    asks: Mapping[str, Ask] | None = None,
    feeds: Mapping[str, Feed] | None = None,
    boot: str = "b1",
) -> AsyncIterator[RequestServer]:
    """Run only the request server of an agent, with asks and feeds of the test's, and the hub of this loop."""
    connection = broker.connect_async(node.redis.url)
    server = RequestServer(connection, node.key, boot=boot, asks=asks or {}, feeds=feeds or {})
    await beat(connection, node.key, boot=boot, epoch="e", last_seq=0, running=[])
    task = asyncio.create_task(server.run())
    try:
        yield server
    finally:
        await Hub.current().stop()
        await end_tasks([task])
        await connection.aclose()


def environment(node: Node) -> dict[str, str]:
    """Return the environment of the node's processes."""
    return {
        **os.environ,
        "WHARFINGER_HOME": str(node.home),
        "WHARFINGER_NODE": node.name,
        "REDIS_URL": node.redis.url,
    }


WORKER = ["-m", "celery", "-A", "workers.celery_app", "worker", "--pool", "threads", "--loglevel", "WARNING"]
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


@dataclass
class Processes:
    """The processes of a running node. Those killed can be started again under the same name."""

    node: Node
    environment: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start `agent`, a worker of the quick queue (`worker...`) or one of the other (`bulk...`); log: `<home>/<name>.log`."""
        assert name not in self.running
        if name == "agent":
            argv = ["-m", "workers.agent"]
        else:
            queue = f"node.{self.node.name}" + (".bulk" if name.startswith("bulk") else "")
            argv = [*WORKER, "-Q", queue, "-n", f"{name}@{self.node.name}", "--concurrency", "8", *QUIET]
        with (self.node.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*WITH_US, sys.executable, *argv],
                env=self.environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.running[name]

    def kill(self, name: str) -> None:
        """End a process with SIGKILL."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """End all processes as the supervisor does: SIGTERM, and SIGKILL for what does not listen."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    def log(self, name: str) -> str:
        return (self.node.home / f"{name}.log").read_text()


@contextlib.contextmanager
def running_node(
    node: Node, *names: str, engine: str = "", keep_run_root: bool = False, **environ: str
) -> Iterator[Processes]:
    """Run the named processes of a node (`agent`, `worker`, `bulk`) on the fake engine or the one named."""
    values = {
        **environment(node),
        "WHARFINGER_ENGINE": engine or FAKE_ENGINE,
        "PYTHONPATH": str(ROOT),
        **environ,
    }
    processes = Processes(node, values, {})
    try:
        for name in names:
            processes.start(name)
        yield processes
    except BaseException:
        for path in sorted(node.home.glob("*.log")):
            print(f"--- {path.name}\n{path.read_text()[-3000:]}")
        raise
    finally:
        processes.stop()
        if not keep_run_root:
            shutil.rmtree(EngineConfig.from_home(node.home).run_root, ignore_errors=True)


def wait_for(condition: Callable[[], T | None], what: str = "", timeout_s: float = 20) -> T:
    """Return the first true answer of `condition`, else fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"did not happen in {timeout_s} s: {what}"
        time.sleep(0.01)
    return found

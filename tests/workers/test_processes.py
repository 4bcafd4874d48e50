"""Real worker and agent processes on a fake engine: what dies, sleeps or vanishes in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.events import Event
from tests.support.fake_engine import FakeEngine
from tests.support.redis import private_redis
from tests.support.worker import Node, Processes, running_node, wait_for
from workers import client
from workers.contracts import ContainerCreate, ContainerStart, Contract, ImagePull, names
from workers.contracts.events import FINAL, NodeEvent, read_event
from workers.keys import make_key

pytestmark = [pytest.mark.root, pytest.mark.serial]


@dataclass
class Site:
    """The web site's end of a running node."""

    node: Node
    processes: Processes
    engine: FakeEngine

    def send(self, contract: Contract, *, fence: int = 1, operation: str = "") -> str:
        operation = operation or names.new_id()
        client.submit(contract, self.node.name, operation, fence=fence)
        return operation

    def events(self) -> list[Event]:
        found: list[Event] = []
        while more := self.engine.db.events_after(found[-1].seq if found else 0):
            found += more
        return found

    def said(self, operation: str) -> list[str]:
        return [event.action for event in self.events() if event.subject == operation]

    def until_said(self, operation: str, action: str, timeout_s: float = 20) -> None:
        wait_for(lambda: action in self.said(operation), f"{operation} {action}", timeout_s)

    def pumped(self) -> list[NodeEvent]:
        entries = self.node.redis.client().xrange(names.events_key(self.node.name))
        return [read_event(self.node.key, fields[b"e"]) for _, fields in entries]


@pytest.fixture
def site(node: Node) -> Iterator[Site]:
    with running_node(node, "agent", "worker", "bulk") as processes:
        yield Site(node, processes, FakeEngine(EngineConfig.from_home(node.home)))


def create(number: int = 0, **spec: Any) -> ContainerCreate:
    return ContainerCreate(
        id=names.new_id() * 2, spec={"image": "tiny", "name": f"c{number}", **spec}, start=True
    )


def test_an_operation_reaches_the_relay_through_all_processes(site: Site) -> None:
    operation = site.send(create())
    wait_for(lambda: site.pumped() and site.pumped()[-1].action in FINAL)
    assert [(event.type, event.action) for event in site.pumped()] == [
        ("operation", "running"),
        ("container", "create"),
        ("container", "start"),
        ("operation", "succeeded"),
    ]
    assert site.pumped()[-1].subject == operation
    assert (
        client.query(site.node.name, "operation.get", {"ids": [operation]})["operations"][operation][
            "attempt"
        ]
        == 1
    )


def test_a_worker_killed_in_the_middle_is_replaced_and_the_work_done_once(site: Site) -> None:
    """F-01, F-16: not after the visibility timeout but in seconds."""
    operation = site.send(ImagePull("sleep-1"))
    site.until_said(operation, "running")
    site.processes.kill("bulk")
    site.processes.start("bulk")
    site.until_said(operation, "succeeded")
    assert site.said(operation) == ["running", "running", "succeeded"]
    assert site.engine.effects() == ["pull sleep-1"]


def test_a_worker_killed_between_effect_and_outcome_does_not_do_it_again(site: Site) -> None:
    """F-13, F-16: `start` was done, its event proves it."""
    made = site.send(ContainerCreate(id="e" * 64, spec={"image": "late-30", "name": "late"}))
    site.until_said(made, "succeeded")
    operation = site.send(ContainerStart("late"))
    wait_for(lambda: "start late" in site.engine.effects())
    site.processes.kill("worker")
    site.processes.start("worker")
    site.until_said(operation, "succeeded")
    assert site.engine.effects() == ["create late", "start late"]


def test_tasks_that_a_killed_worker_had_reserved_are_not_lost(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-16: accepted, delivered to the worker, not begun.

    A worker that dies between taking a message from Redis and noting that it has it takes that message along; the web site
    sends again what it hears nothing of, under the same id and the next fencing number, and so does this test.
    """
    with running_node(node, "agent", "bulk", WHARFINGER_VISIBILITY_TIMEOUT_S="2") as processes:
        site = Site(node, processes, FakeEngine(EngineConfig.from_home(node.home)))
        operations = [site.send(ImagePull("sleep-1")) for _ in range(24)]
        site.until_said(operations[0], "running")
        processes.kill("bulk")
        processes.start("bulk")
        for operation in operations:
            with contextlib.suppress(AssertionError):
                site.until_said(operation, "running", timeout_s=20)
        silent = [operation for operation in operations if not site.said(operation)]
        assert len(silent) <= 2, "one at a time is taken from the queue"
        for operation in silent:
            site.send(ImagePull("sleep-1"), operation=operation, fence=2)
        for operation in operations:
            site.until_said(operation, "succeeded", timeout_s=60)
        assert len(site.engine.effects()) == 24


def test_redelivery_while_running_is_one_effect(node: Node) -> None:
    """F-13: visibility timeout far below the task's time, two workers."""
    with running_node(node, "agent", "bulk", WHARFINGER_VISIBILITY_TIMEOUT_S="1") as processes:
        site = Site(node, processes, FakeEngine(EngineConfig.from_home(node.home)))
        processes.start("bulk2")
        operation = site.send(ImagePull("sleep-4"))
        site.until_said(operation, "succeeded", timeout_s=40)
        time.sleep(2)
        assert site.engine.effects() == ["pull sleep-4"]
        assert site.said(operation) == ["running", "succeeded"]


def test_a_worker_that_sleeps_past_its_lease_is_taken_over_and_writes_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-14: SIGSTOP past the lease; the other worker finishes; what wakes up is fenced."""
    with running_node(node, "agent", "bulk", WHARFINGER_LEASE_S="2") as processes:
        site = Site(node, processes, FakeEngine(EngineConfig.from_home(node.home)))
        operation = site.send(ImagePull("sleep-1"))
        site.until_said(operation, "running")
        sleeper = processes.running.pop("bulk")
        os.kill(sleeper.pid, signal.SIGSTOP)
        processes.start("bulk")
        site.until_said(operation, "succeeded", timeout_s=40)
        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.wait(5)
        time.sleep(1)
        assert site.said(operation) == ["running", "running", "succeeded"]
        assert site.engine.effects() == ["pull sleep-1"]


def test_cancelling_reaches_a_running_worker(site: Site) -> None:
    """F-36."""
    operation = site.send(ImagePull("sleep-60"))
    site.until_said(operation, "running")
    client.cancel(site.node.name, operation)
    site.until_said(operation, "cancelled", timeout_s=2)
    assert site.said(operation) == ["running", "cancelled"]
    assert site.engine.effects() == []


def test_an_agent_killed_loses_no_event(site: Site) -> None:
    """F-08: events follow in order when it is back."""
    site.until_said(site.send(create(1)), "succeeded")
    site.processes.kill("agent")
    site.until_said(site.send(create(2)), "succeeded")
    site.processes.start("agent")
    wait_for(lambda: len(site.pumped()) == len(site.events()))
    assert [event.seq for event in site.pumped()] == list(range(1, len(site.events()) + 1))


def test_a_stopping_worker_leaves_long_work_to_the_next(site: Site) -> None:
    """F-32: SIGTERM ends it in ten seconds; nothing is lost."""
    operation = site.send(ImagePull("sleep-8"))
    site.until_said(operation, "running")
    process = site.processes.running.pop("bulk")
    began = time.monotonic()
    process.terminate()
    process.wait(12)
    assert time.monotonic() - began < 10
    site.processes.start("bulk")
    site.until_said(operation, "succeeded", timeout_s=60)
    assert site.engine.effects() == ["pull sleep-8"]


def test_redis_restart_and_flushall_lose_no_accepted_work(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-11: running work goes on, waiting work comes again from Redis's own file, or by the next sending after a flush."""
    with private_redis() as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        own = Node(node.home, server, make_key(node.home, node.name))
        with running_node(own, "agent", "bulk") as processes:
            site = Site(own, processes, FakeEngine(EngineConfig.from_home(own.home)))
            running = site.send(ImagePull("sleep-2"))
            site.until_said(running, "running")
            time.sleep(1.2)  # appendfsync everysec
            server.kill()
            server.start()
            site.until_said(running, "succeeded", timeout_s=30)
            after = site.send(ImagePull("tiny"))
            site.until_said(after, "succeeded", timeout_s=30)
            server.client().flushall()
            flushed = site.send(ImagePull("again"))
            site.until_said(flushed, "succeeded", timeout_s=30)
            wait_for(lambda: site.pumped() and site.pumped()[-1].subject == flushed)
            beat = wait_for(lambda: client.heartbeat(own.name))
            assert beat.last_seq == len(site.events())
            assert sorted(site.engine.effects()) == ["pull again", "pull sleep-2", "pull tiny"]


def test_every_accepted_job_ends_while_workers_die(site: Site) -> None:
    """F-16, cut short: 40 jobs, a worker killed every second for five."""
    operations = [site.send(create(number)) for number in range(20)]
    operations += [site.send(ImagePull("sleep-0.2")) for _ in range(20)]
    for turn in range(5):
        time.sleep(1)
        name = ("worker", "bulk")[turn % 2]
        site.processes.kill(name)
        site.processes.start(name)
    for operation in operations:
        wait_for(lambda operation=operation: set(site.said(operation)) & set(FINAL), operation, 90)  # type: ignore[misc]
    effects = site.engine.effects()
    assert all(effects.count(f"start c{number}") == 1 for number in range(20))

"""Worker and agent with the real engine: containers live, processes of ours die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from statistics import median

import pytest

from engine.containers.model import Status
from tests.support.hostdiff import host_state
from tests.support.real_node import RealNode, is_running, real_node
from tests.support.redis import RedisServer
from tests.support.worker import wait_for
from webapp.realtime import streams as web
from workers.contracts import (
    ContainerCreate,
    ContainerRemove,
    ContainerStart,
    ContainerStop,
    NetworkCreate,
    NetworkRemove,
    names,
)

pytestmark = [pytest.mark.root, pytest.mark.serial]


@pytest.fixture(scope="module")
def site(redis_server: RedisServer) -> Iterator[RealNode]:
    with real_node(redis_server, "agent", "worker", "bulk") as running:
        yield running


@pytest.fixture(autouse=True)
def _whole(site: RealNode) -> Iterator[None]:
    """Give every test all processes and no containers."""
    for name in ("agent", "worker", "bulk"):
        if name not in site.processes.running:
            site.processes.start(name)
    yield
    for name in ("agent", "worker"):
        if name not in site.processes.running:
            site.processes.start(name)
    site.remove_all()


def wait_exited(site: RealNode, ref: str, within_s: float = 10) -> None:
    wait_for(lambda: site.container(ref).status is Status.EXITED, "the exit", within_s)


def test_an_exit_is_recorded_with_its_code_and_noticed_at_once(site: RealNode) -> None:
    delays = []
    for _ in range(5):
        container = site.run("sh", "-c", "sleep 0.2; exit 42")
        exit_file = site.config.run_root / "exits" / container.id
        wait_for(lambda: exit_file.exists() or site.container(container.id).status is Status.EXITED)  # noqa: B023
        began = time.monotonic()
        wait_exited(site, container.id)
        delays.append(time.monotonic() - began)
        assert site.container(container.id).exit_code == 42
    assert median(delays) < 0.5


def test_twice_the_same_operation_is_one_container(site: RealNode) -> None:
    """H12, F-13."""
    operation, contract = (
        names.new_id(),
        ContainerCreate(names.new_id() * 2, {"image": "busybox", "command": ["true"]}),
    )
    site.send(contract, operation)
    site.send(contract, operation)
    assert site.outcome(operation)["status"] == "succeeded"
    assert len(site.engine.container_list()) == 1


def test_the_agent_dies_and_nothing_of_the_containers_is_lost(site: RealNode) -> None:
    """F-08: processes stay, the log is complete, exits meanwhile are recorded with their codes."""
    lives = [site.run("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done") for _ in range(4)]
    ends = [site.run("sh", "-c", f"sleep 1; exit {number + 40}") for number in range(4)]
    site.processes.kill("agent")
    time.sleep(1.5)
    site.processes.start("agent")
    for number, container in enumerate(ends):
        wait_exited(site, container.id)
        assert site.container(container.id).exit_code == number + 40
    for container in lives:
        assert site.container(container.id).pid == container.pid
        site.do(ContainerStop(container.id, timeout_s=0))
        lines = [
            entry.text
            for batch in site.engine.logs(container=container.id)
            for entry in batch
            if hasattr(entry, "text")
        ]
        assert [int(line) for line in lines] == list(range(1, len(lines) + 1))


@pytest.mark.parametrize("turn", range(8))
def test_a_worker_killed_while_it_starts_a_container(site: RealNode, turn: int) -> None:
    """F-04: the container is fully there in the end, and there is one of everything."""
    before = {
        item
        for item in host_state(site.config.instance).objects
        if item.startswith(("mount", "process", "link"))
    }
    identity = names.new_id() * 2
    operation = site.send(
        ContainerCreate(identity, {"image": "busybox", "command": ["sleep", "60"]}, start=True)
    )
    time.sleep(random.Random(turn).uniform(0.0, 0.08))
    site.processes.kill("worker")
    site.processes.start("worker")
    assert site.outcome(operation)["status"] == "succeeded", site.outcome(operation)
    assert site.container(identity).status is Status.RUNNING
    processes = [
        item
        for item in host_state(site.config.instance).objects
        if item.startswith("process") and "conmon" in item
    ]
    assert len(processes) == 1
    site.do(ContainerRemove(identity, force=True))
    wait_for(
        lambda: (
            {
                item
                for item in host_state(site.config.instance).objects
                if item.startswith(("mount", "process"))
            }
            <= before
        ),
        f"kernel objects as before, not {host_state(site.config.instance).objects}",
    )


@pytest.mark.parametrize("turn", range(4))
def test_a_worker_killed_while_it_removes_a_container(site: RealNode, turn: int) -> None:
    """F-05: removal is repeatable at any point; the port is free again."""
    container = site.run("sleep", "60", ports=[{"container_port": 80, "host_port": 8099}])
    operation = site.send(ContainerRemove(container.id, force=True))
    time.sleep(random.Random(turn).uniform(0.0, 0.04))
    site.processes.kill("worker")
    site.processes.start("worker")
    assert site.outcome(operation)["status"] == "succeeded", site.outcome(operation)
    assert site.engine.container_list() == []
    again = site.run("sleep", "60", ports=[{"container_port": 80, "host_port": 8099}])
    assert site.container(again.id).ports[0].host_port == 8099


def test_starting_a_container_whose_first_start_was_not_heard_of(site: RealNode) -> None:
    """F-13: killed at random moments of a start, the program ran once."""
    volume = {"type": "volume", "source": "marks", "target": "/marks"}
    for turn in range(4):
        identity = names.new_id() * 2
        spec = {"image": "busybox", "command": ["sh", "-c", f"echo x >> /marks/{turn}"], "mounts": [volume]}
        site.do(ContainerCreate(identity, spec))
        operation = site.send(ContainerStart(identity))
        time.sleep(0.03 * turn)
        site.processes.kill("worker")
        site.processes.start("worker")
        assert site.outcome(operation)["status"] == "succeeded", site.outcome(operation)
        wait_exited(site, identity)
    folder = site.engine.volume_get(name="marks").path
    for turn in range(4):
        with open(f"{folder}/{turn}") as file:
            assert file.read() == "x\n"


async def test_a_line_reaches_the_reader_within_100_ms(site: RealNode) -> None:
    """The time in the log is the monitor's, on the same clock."""
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 0.2; echo $i; done"
    container = await asyncio.to_thread(site.run, "sh", "-c", script)
    delays = []
    params = {"container": container.id, "follow": True, "format": "json"}
    async with web.open_stream(site.name, "logs", params) as stream:
        async for chunk in stream:
            for line in chunk.data.splitlines():
                delays.append(time.time() - json.loads(line)[0] / 1e9)
    assert len(delays) >= 8
    assert median(delays) < 0.1
    await web.Hub.current().stop()


def test_rules_that_another_program_removed_are_back_at_once(site: RealNode) -> None:
    """NW-03: within 5 seconds, long before the next look for damage; what is not ours stays."""
    table = site.engine.network.table_name
    site.run("sleep", "60", ports=[{"container_port": 80}])
    nft("add", "table", "inet", "foreign")
    before, theirs = nft("list", "table", "inet", table), nft("list", "table", "inet", "foreign")
    delays = []
    for _ in range(3):
        nft("delete", "table", "inet", table)
        began = time.monotonic()
        wait_for(lambda: nft("list", "table", "inet", table) == before, "the rules", 5)
        delays.append(time.monotonic() - began)
    assert median(delays) < 1
    assert nft("list", "table", "inet", "foreign") == theirs
    nft("delete", "table", "inet", "foreign")


def nft(*argv: str) -> str:
    """Return what `nft` says in the node's network; empty where there is no such thing."""
    return subprocess.run(["nft", *argv], capture_output=True, text=True, check=False).stdout


def test_a_container_that_ends_is_started_again_by_its_policy(site: RealNode) -> None:
    """F-38: first after 100 ms, each time later; a stop by somebody ends it."""
    container = site.run("sh", "-c", "sleep 0.1", restart={"name": "always"})
    wait_for(lambda: site.container(container.id).restart_count >= 3, "three restarts", 15)
    site.do(ContainerStop(container.id))
    assert site.container(container.id).status is Status.EXITED


def test_health_is_checked_and_told(site: RealNode) -> None:
    check = {"test": ["CMD-SHELL", "test -f /tmp/well"], "interval_s": 0.3, "retries": 2}
    container = site.run("sh", "-c", "touch /tmp/well; sleep 3; rm /tmp/well; sleep 60", healthcheck=check)
    wait_for(lambda: site.container(container.id).health.status == "healthy", "healthy", 10)
    wait_for(lambda: site.container(container.id).health.status == "unhealthy", "unhealthy", 15)
    told = [event.action for event in site.events() if event.subject == container.id]
    assert "health_status: healthy" in told
    assert "health_status: unhealthy" in told


def test_containers_of_a_network_find_each_other_by_name(site: RealNode) -> None:
    site.do(NetworkCreate(names.new_id() * 2, "together"))
    site.run("sleep", "60", name="database", networks=[{"name": "together"}], network_mode="together")
    asker = site.run("nslookup", "database", networks=[{"name": "together"}], network_mode="together")
    wait_exited(site, asker.id)
    text = "".join(
        entry.text.decode()
        for batch in site.engine.logs(container=asker.id)
        for entry in batch
        if hasattr(entry, "text")
    )
    assert site.container(asker.id).exit_code == 0, text
    site.remove_all()
    site.do(NetworkRemove("together"))


def test_conmon_killed_is_seen_and_the_container_can_be_removed(site: RealNode) -> None:
    """F-09."""
    container = site.run("sleep", "60")
    monitor = int((site.config.run_root / "bundles" / container.id / "conmon.pid").read_text())
    os.kill(monitor, signal.SIGKILL)
    wait_for(lambda: not site.container(container.id).status.is_alive(), "the loss of the monitor", 12)
    site.do(ContainerRemove(container.id))
    assert not is_running(container)


async def test_the_agent_stops_in_time_although_streams_are_open(site: RealNode) -> None:
    """F-32: every reader is told."""
    container = await asyncio.to_thread(site.run, "sleep", "60")
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(
                web.open_stream(
                    site.name, kind, {"container": container.id, "follow": True} if kind == "logs" else {}
                )
            )
            for kind in ["events", "logs"] * 25
        ]
        process = site.processes.running.pop("agent")
        began = time.monotonic()
        process.terminate()
        await asyncio.to_thread(process.wait, 15)
        assert time.monotonic() - began < 10
        for stream in opened:
            assert [chunk async for chunk in stream] == [] or stream.end
            assert stream.end is not None
            assert stream.end["reason"] == "agent stops"
    await web.Hub.current().stop()

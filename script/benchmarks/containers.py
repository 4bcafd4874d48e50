"""Figures of containers at rest and under watch: statistics, memory, lists, how quickly a change is seen, a million log lines."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from engine.config import EngineConfig
from engine.containers.model import ContainerSpec
from engine.runtime.log_reader import LogQuery, Piece
from script.benchmarks import weigh
from script.benchmarks.contests import BASE, LINES, Ring
from script.benchmarks.measure import Contest
from script.benchmarks.ours import ROOT, Rest
from tests.support.busybox import make_tar

MANY, FEW, LISTED = 200, 20, 2000
WATCHED_S = 30.0
MB = 1024 * 1024
IMAGE = "bench-busybox:1"
_ROWS = f"""
from django.utils import timezone
from tests.support.web import container_record
from webapp.nodes.models import Node
from webapp.realtime.apply import confirm
node = Node.objects.get_or_create(name="bench-elsewhere")[0]
confirm(node.name, "container", [
    container_record(id=f"{{number:064x}}", name=f"bench-{{number}}", created_at=1_700_000_000.0 + number)
    for number in range({LISTED})
], timezone.now())
"""


def idle(ring: Ring) -> list[Contest]:
    """All processes of the platform together while nothing happens."""
    found = weigh.platform_processes(_home(ring))
    sizes = {part: weigh.pss_bytes(pid) / MB for pid, part in found.items()}
    note = f"{sum(sizes.values()):.0f} MB: " + ", ".join(f"{part} {size:.0f}" for part, size in sizes.items())
    return [Contest("memory of the whole platform, idle (PSS)", "400 MB", note=note)]


def many(ring: Ring) -> list[Contest]:
    """Two hundred containers watched by somebody: the agent's processor time, and what each of them weighs."""
    before = weigh.kernel_bytes()
    with _ours(ring, MANY):
        kernel = (weigh.kernel_bytes() - before) / MANY / MB
        run_root = str(EngineConfig.from_home(_home(ring)).run_root)
        monitors = [
            weigh.pss_bytes(pid) for pid, line in weigh.processes() if "conmon" in line and run_root in line
        ]
        alone_s = _unwatched(ring, 10.0)
        samples, spent_s = asyncio.run(_watch(ring))
    cpu = Contest(
        f"statistics of {MANY} containers: agent's processor time a second", "30 ms (3 % of a core)"
    )
    cpu.seconds["rest"] = [spent_s / WATCHED_S]
    cpu.note = (
        f"{samples / WATCHED_S:.0f} samples a second over {WATCHED_S:.0f} s by /ws/stats/; "
        f"unwatched {1000 * alone_s:.1f} ms a second"
    )
    note = f"monitor {statistics.mean(monitors) / MB:.2f} MB, kernel {kernel:.2f} MB"
    if (docker := ring.peer("docker")) is not None:
        note += f"; Docker's shim {_shim_mb(ring, docker):.2f} MB"
    return [cpu, Contest("memory of a running container beside its process", "4 MB", note=note)]


def _unwatched(ring: Ring, length_s: float) -> float:
    """Return what the agent spends a second while nobody watches."""
    agent = _agent(ring)
    before = weigh.cpu_s(agent)
    time.sleep(length_s)
    return (weigh.cpu_s(agent) - before) / length_s


def _agent(ring: Ring) -> int:
    return next(pid for pid, part in weigh.platform_processes(_home(ring)).items() if part == "workers.agent")


async def _watch(ring: Ring) -> tuple[int, float]:
    """Read samples of all containers; return how many came and the agent's processor seconds meanwhile."""
    agent = _agent(ring)
    async with _socket(ring.rest, "/ws/stats/") as socket:
        await socket.recv()
        end, before, samples = time.monotonic() + WATCHED_S, weigh.cpu_s(agent), 0
        while (left := end - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(socket.recv(), left)
                samples += 1
        return samples, weigh.cpu_s(agent) - before


def _shim_mb(ring: Ring, docker: Any) -> float:
    """Return what Docker keeps for each running container in the place of our monitor."""
    tar = ring.folder / "busybox.tar"
    tar.write_bytes(make_tar())
    with tar.open("rb") as source:
        docker.run("import", "-", IMAGE, stdin=source)
    names = [f"shim-{number}" for number in range(FEW)]
    known = {pid for pid, _ in weigh.processes()}
    try:
        for name in names:
            docker.run("run", "-d", "--name", name, IMAGE, "/bin/sleep", "600")
        shims = [
            weigh.pss_bytes(pid)
            for pid, line in weigh.processes()
            if pid not in known and "containerd-shim" in line
        ]
        return sum(shims) / FEW / MB
    finally:
        docker.run("rm", "-f", *names)


def listing(ring: Ring) -> list[Contest]:
    """Two thousand containers in one answer."""
    _manage(ring, _ROWS)
    contest = Contest(f"{LISTED:,} containers listed in REST", "p95 150 ms")
    times = contest.seconds.setdefault("rest", [])
    for _ in range(25):
        began = time.perf_counter()
        answer = ring.rest.call("GET", f"/containers/?limit={LISTED + 500}")
        times.append(time.perf_counter() - began)
        assert len(answer["results"]) >= LISTED
    contest.note = f"p95 {_p95_ms(times):.0f} ms"
    _manage(
        ring, 'from webapp.nodes.models import Node; Node.objects.filter(name="bench-elsewhere").delete()'
    )
    return [contest]


def changes(ring: Ring) -> list[Contest]:
    """From the death of a process to the engine's record, and to the message in an open page."""
    noticed = Contest("exit noticed by the engine", "50 ms")
    seen = Contest("status change in an open page (websocket)", "p95 150 ms")
    with _ours(ring, 1) as (identity,):
        asyncio.run(_kill_again_and_again(ring, identity, noticed, seen))
    for contest in (noticed, seen):
        contest.note = f"p95 {_p95_ms(contest.seconds['rest']):.0f} ms"
    return [noticed, seen]


async def _kill_again_and_again(ring: Ring, identity: str, noticed: Contest, seen: Contest) -> None:
    run_root = EngineConfig.from_home(_home(ring)).run_root
    async with _socket(ring.rest, "/ws/events/") as socket:
        for _ in range(20):
            pid = int((run_root / "bundles" / identity / "pid").read_text())
            wall, began = time.time(), time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            event = await _event(socket, identity, "die")
            seen.seconds.setdefault("rest", []).append(time.perf_counter() - began)
            noticed.seconds.setdefault("rest", []).append(_seconds_of(event["at"]) - wall)
            await asyncio.to_thread(ring.rest.call, "POST", f"/containers/{identity}/start/?wait=30", {})
            await _event(socket, identity, "start")


async def _event(socket: Any, identity: str, action: str) -> dict[str, Any]:
    while True:
        event: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 30))
        if event.get("action") == action and event.get("subject") == identity:
            return event


def following(ring: Ring) -> list[Contest]:
    """From a line that a container writes to the message in an open page; each line says when it was written."""
    contest = Contest("a log line in an open page (websocket)", "100 ms")
    script = "while :; do date +%s%N; sleep 0.05; done"
    made = ring.rest.call("POST", "/containers/?wait=60", {"image": BASE, "command": ["sh", "-c", script]})
    try:
        contest.seconds["rest"] = asyncio.run(_delays(ring, made["id"]))
    finally:
        ring.rest.call("DELETE", f"/containers/{made['id']}/?force=true&wait=60")
    contest.note = f"p95 {_p95_ms(contest.seconds['rest']):.0f} ms"
    return [contest]


async def _delays(ring: Ring, identity: str) -> list[float]:
    found: list[float] = []
    async with _socket(ring.rest, f"/ws/containers/{identity}/logs/?tail=0") as socket:
        while len(found) < 60:
            message = json.loads(await asyncio.wait_for(socket.recv(), 30))
            now = time.time()
            found += [now - int(line["text"]) / 1e9 for line in message["lines"]]
    return found


def lines(ring: Ring) -> list[Contest]:
    """A million lines through the engine itself and by REST: written, read back, the last ten."""
    write, read, tail = (
        Contest("1,000,000 log lines until exit, without a command line between", "0.6 of Docker"),
        Contest("1,000,000 log lines read back, likewise", "0.3 of Docker"),
        Contest("tail of 10 of 1,000,000, likewise", "20 ms"),
    )
    for _ in range(3):
        _lines_in_engine(ring, write, read, tail)
        _lines_by_rest(ring, write, read, tail)
        if (docker := ring.peer("docker")) is not None:
            docker.run("create", "--name", "bench-lines", BASE, "seq", "1", str(LINES))
            _timed(
                write,
                "docker",
                lambda: (docker.run("start", "bench-lines"), docker.run("wait", "bench-lines")),
            )
            _timed(read, "docker", lambda: docker.run("logs", "bench-lines"))
            _timed(tail, "docker", lambda: docker.run("logs", "--tail", "10", "bench-lines"))
            docker.run("rm", "-f", "bench-lines")
    return [write, read, tail]


def _lines_in_engine(ring: Ring, write: Contest, read: Contest, tail: Contest) -> None:
    made = ring.engine.create(spec=ContainerSpec(image=BASE, command=["seq", "1", str(LINES)]))

    def run() -> None:
        ring.engine.start(container=made.id)
        ring.engine.wait(container=made.id)

    def size(query: LogQuery) -> int:
        pieces = (piece for batch in ring.engine.containers.raw_logs(made.id, query) for piece in batch)
        return sum(piece.data.count(b"\n") for piece in pieces if isinstance(piece, Piece))

    _timed(write, "engine", run)
    assert _timed(read, "engine", lambda: size(LogQuery())) == LINES
    assert _timed(tail, "engine", lambda: size(LogQuery(tail=10))) == 10
    ring.engine.remove(container=made.id)


def _lines_by_rest(ring: Ring, write: Contest, read: Contest, tail: Contest) -> None:
    wish = {"image": BASE, "command": ["seq", "1", str(LINES)], "start": False}
    place = f"/containers/{ring.rest.call('POST', '/containers/?wait=60', wish)['id']}"

    def run() -> None:
        ring.rest.call("POST", f"{place}/start/?wait=60", {})
        while ring.rest.call("GET", f"{place}/")["status"] != "exited":
            time.sleep(0.005)

    _timed(write, "rest", run)
    assert _timed(read, "rest", lambda: ring.rest.call("GET", f"{place}/logs/")).count(b"\n") == LINES
    assert _timed(tail, "rest", lambda: ring.rest.call("GET", f"{place}/logs/?tail=10")).count(b"\n") == 10
    ring.rest.call("DELETE", f"{place}/?wait=60")


def _timed(contest: Contest, contestant: str, do: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    found = do()
    contest.seconds.setdefault(contestant, []).append(time.perf_counter() - began)
    return found


@contextmanager
def _ours(ring: Ring, count: int) -> Iterator[list[str]]:
    """Have that many containers of a static busybox asleep on our server; gone afterwards."""
    ring.rest.call(
        "POST", f"/images/import/?reference={IMAGE}&wait=60", raw=make_tar(), content_type="application/x-tar"
    )
    wish = {"image": IMAGE, "command": ["/bin/sleep", "3600"]}

    def start(_: int) -> str:
        name = f"bench-{uuid.uuid4().hex[:12]}"
        made = ring.rest.another().call("POST", "/containers/?wait=120", {**wish, "name": name})
        return str(made["id"])

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(start, range(count)))
        try:
            yield made
        finally:
            list(
                threads.map(
                    lambda one: ring.rest.another().call("DELETE", f"/containers/{one}/?force=true&wait=120"),
                    made,
                )
            )


def _socket(rest: Rest, path: str) -> Any:
    return connect(
        f"ws://127.0.0.1:{rest.port}{path}", additional_headers=rest.headers, max_size=None, proxy=None
    )


def _manage(ring: Ring, code: str) -> None:
    environment = {**os.environ, "WHARFINGER_HOME": str(_home(ring)), "WHARFINGER_PORT": str(ring.rest.port)}
    subprocess.run(
        [str(ROOT / "script" / "manage"), "shell", "-v0", "-c", code],
        env=environment,
        check=True,
        capture_output=True,
    )


def _home(ring: Ring) -> Path:
    return ring.folder / "served" / "home"


def _seconds_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _p95_ms(times: list[float]) -> float:
    return 1000 * statistics.quantiles(times, n=20)[-1]


SUBJECTS: dict[str, Callable[[Ring], list[Contest]]] = {
    "idle": idle, "many": many, "listing": listing, "changes": changes, "following": following, "lines": lines,
}  # fmt: skip

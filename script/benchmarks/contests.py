"""The figures: each function measures one subject and returns its contests."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.containers.model import ContainerSpec
from engine.engine import Engine
from script.benchmarks import inputs
from script.benchmarks.measure import Contest, race
from script.benchmarks.ours import Rest
from script.benchmarks.peers import Docker, Podman, run

BASE = "bench-debian:1"
LINES = 1_000_000


@dataclass
class Ring:
    """Who takes part: our engine in this process, our server, and the peers that are installed."""

    folder: Path
    engine: Engine
    rest: Rest
    docker_environment: dict[str, str]
    peers: dict[str, Docker | Podman]
    rounds: int = 7

    def our_docker(self, *argv: str, cwd: Path | None = None) -> str:
        return run("docker", *argv, environment=self.docker_environment, cwd=cwd)

    def peer(self, name: str) -> Docker | Podman | None:
        return self.peers.get(name)


def make_engine(home: Path) -> Engine:
    return Engine(EngineConfig.from_home(home))


def prepare(ring: Ring) -> None:
    """Give everybody the same Debian image."""
    tar = inputs.debian_tar()
    with tar.open("rb") as source:
        ring.engine.image_import(source=source, reference=BASE)
    with tar.open("rb") as source:
        ring.rest.call(
            "POST", f"/images/import/?reference={BASE}&wait=300", raw=source, content_type="application/x-tar"
        )
    for name in ("docker", "podman"):
        if (peer := ring.peer(name)) is not None:
            with tar.open("rb") as source:
                peer.run("import", "-", BASE, stdin=source)


def run_true(ring: Ring) -> list[Contest]:
    """Create, start, see the exit, remove; with a network."""

    def in_engine() -> None:
        made = ring.engine.create(spec=ContainerSpec(image=BASE, command=["true"]))
        ring.engine.start(container=made.id)
        ring.engine.wait(container=made.id)
        ring.engine.remove(container=made.id)

    contestants: dict[str, Any] = {
        "engine": in_engine,
        "rest": lambda: ring.rest.run(BASE, "true"),
        "docker API": lambda: ring.our_docker("run", "--rm", BASE, "true"),
    }
    for name in ("docker", "podman"):
        if (peer := ring.peer(name)) is not None:
            contestants[name] = lambda peer=peer: peer.run("run", "--rm", BASE, "true")
    return [
        race(
            Contest("run `true`, removed after", "60 ms engine, 120 ms REST, 0.35 of Docker"),
            contestants,
            rounds=ring.rounds,
        )
    ]


def exec_true(ring: Ring) -> list[Contest]:
    contestants: dict[str, Any] = {}
    ring.our_docker("run", "-d", "--name", "bench-exec", BASE, "sleep", "3600")
    contestants["docker API"] = lambda: ring.our_docker("exec", "bench-exec", "true")
    for name in ("docker", "podman"):
        if (peer := ring.peer(name)) is not None:
            with suppress(RuntimeError):  # a peer that cannot run here takes no part
                peer.run("run", "-d", "--name", "bench-exec", BASE, "sleep", "3600")
                contestants[name] = lambda peer=peer: peer.run("exec", "bench-exec", "true")
    contest = race(Contest("exec `true`", "0.8 of Docker by its command"), contestants, rounds=ring.rounds)
    ring.our_docker("rm", "-f", "bench-exec")
    for name in ("docker", "podman"):
        if (peer := ring.peer(name)) is not None:
            with suppress(RuntimeError):
                peer.run("rm", "-f", "bench-exec")
    return [contest]


def logs(ring: Ring) -> list[Contest]:
    """A million lines written, read back, and the last ten."""
    script = f"seq 1 {LINES}"
    write, read, tail = (
        Contest("1,000,000 log lines until exit", "0.6 of Docker"),
        Contest("read back", "0.3 to 0.5 of Docker"),
        Contest("tail of 10", "20 ms"),
    )
    sides: dict[str, Any] = {"docker API": ring.our_docker}
    for name in ("docker", "podman"):
        if (peer := ring.peer(name)) is not None:
            sides[name] = peer.run
    for name, say in sides.items():
        with suppress(RuntimeError):
            for _ in range(3):
                say("create", "--name", "bench-log", BASE, "sh", "-c", script)
                for contest, commands in (
                    (write, [("start", "bench-log"), ("wait", "bench-log")]),
                    (read, [("logs", "bench-log")]),
                    (tail, [("logs", "--tail", "10", "bench-log")]),
                ):
                    started = time.perf_counter()
                    for command in commands:
                        say(*command)
                    contest.seconds.setdefault(name, []).append(time.perf_counter() - started)
                say("rm", "-f", "bench-log")
    return [write, read, tail]


def many_starts(ring: Ring) -> list[Contest]:
    """Twenty containers started at once."""

    def ours() -> float:
        return _at_once(
            lambda name: ring.our_docker("run", "-d", "--name", name, BASE, "sleep", "60"), ring.our_docker
        )

    contestants: dict[str, Any] = {"docker API": ours}
    if (docker := ring.peer("docker")) is not None:
        contestants["docker"] = lambda: _at_once(
            lambda name: docker.run("run", "-d", "--name", name, BASE, "sleep", "60"), docker.run
        )
    return [race(Contest("20 starts at once", "0.4 of Docker"), contestants, rounds=3)]


def _at_once(start: Any, say: Any) -> float:
    from concurrent.futures import ThreadPoolExecutor

    names = [f"many-{uuid.uuid4().hex[:8]}" for _ in range(20)]
    began = time.perf_counter()
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(start, names))
    taken = time.perf_counter() - began
    say("rm", "-f", *names)
    return taken


SUBJECTS: dict[str, Any] = {
    "run": run_true,
    "exec": exec_true,
    "starts": many_starts,
    "logs": logs,
}

__all__ = ["SUBJECTS", "Ring", "make_engine", "prepare"]

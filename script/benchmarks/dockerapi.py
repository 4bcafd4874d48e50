"""The unchanged `docker` command against our server and a real dockerd: what people feel when they type."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from script.benchmarks import inputs
from script.benchmarks.contests import BASE, Ring
from script.benchmarks.measure import Contest, race
from script.benchmarks.peers import Docker

COPIED_BYTES = 80_000_000
LISTED = 10  # containers that `docker ps` shows


def _sides(ring: Ring) -> dict[str, Callable[..., Any]]:
    """Return who can run a docker command here, by contestant."""
    sides: dict[str, Callable[..., Any]] = {"docker API": ring.our_docker}
    if isinstance(docker := ring.peer("docker"), Docker):
        sides["docker"] = docker.run
    return sides


def _race(ring: Ring, contest: Contest, *argv: str, rounds: int = 0) -> Contest:
    runs = {name: functools.partial(say, *argv) for name, say in _sides(ring).items()}
    return race(contest, runs, rounds=rounds or ring.rounds)


def looking(ring: Ring) -> list[Contest]:
    """`ps` and `inspect`, most of which is the command's own start."""
    names = [f"bench-seen{number}" for number in range(LISTED)]
    for say in _sides(ring).values():
        for name in names:
            say("create", "--name", name, BASE, "true")
    found = [
        _race(ring, Contest(f"`docker ps -a` of {LISTED}", "2.0 of Docker"), "ps", "-a", rounds=15),
        _race(ring, Contest("`docker inspect`", "2.0 of Docker"), "inspect", names[0], rounds=15),
    ]
    for say in _sides(ring).values():
        say("rm", "-f", *names)
    return found


def copying(ring: Ring) -> list[Contest]:
    """80 MB in one file, into a running container and out of it."""
    source, target = ring.folder / "copied", ring.folder / "copied-back"
    source.write_bytes(os.urandom(1_000_000) * (COPIED_BYTES // 1_000_000))
    for say in _sides(ring).values():
        say("run", "-d", "--name", "bench-copy", BASE, "sleep", "3600")
    found = [
        _race(ring, Contest("`docker cp` of 80 MB in", "1.0 of Docker"), "cp", str(source), "bench-copy:/in"),
        _race(
            ring, Contest("`docker cp` of 80 MB out", "1.0 of Docker"), "cp", "bench-copy:/in", str(target)
        ),
    ]
    for say in _sides(ring).values():
        say("rm", "-f", "bench-copy")
    return found


def cached_build(ring: Ring) -> list[Contest]:
    """`docker build` of ten steps that are all in the cache, by the classic protocol on both sides, upload included."""
    folder: Path = inputs.steps_context(ring.folder / "command-steps", BASE)
    contestants: dict[str, Any] = {
        "docker API": lambda: ring.our_docker("build", "-q", "-t", "bench-command:1", ".", cwd=folder)
    }
    if isinstance(docker := ring.peer("docker"), Docker):
        contestants["docker"] = lambda: docker.build("-q", "-t", "bench-command:1", ".", cwd=folder)
    contest = Contest("`docker build` of 10 cached steps", "1.0 of Docker", note="the classic builder there")
    return [race(contest, contestants, rounds=ring.rounds)]


SUBJECTS: dict[str, Any] = {"looking": looking, "copying": copying, "cached-build": cached_build}

__all__ = ["SUBJECTS"]

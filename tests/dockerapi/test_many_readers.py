"""Fifty `docker logs -f` and fifty `docker attach` at once: all are served, and web and agent do not grow by it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.platform import Platform

pytestmark = [pytest.mark.root, pytest.mark.serial, pytest.mark.timeout(400)]

EACH = 50
LINE_BYTES = 200
WRITTEN = 4_000  # lines in the flood: 0.8 MB, sent to a hundred readers
HELD_S = 5.0
ROUNDS = 4
HELD_MIB = 192  # a hundred streams, their buffers and what the allocator keeps of them
AGAIN_MIB = 20  # one round more, once the threads have met their largest blocks

SCRIPT = f"""
while [ ! -e /go ]; do echo waiting; sleep 0.2; done
i=0; line=$(printf '%0{LINE_BYTES}d' 7)
while [ $i -lt {WRITTEN} ]; do echo $line; i=$((i+1)); done
echo flood is over
while [ ! -e /end ]; do echo still; sleep 0.2; done
"""


def resident_mib(engine: Platform) -> dict[str, float]:
    """Return the resident memory of web and agent."""
    found = {}
    for name in ("webapp.server", "workers.agent"):
        pids = [
            pid for pid in engine.pids(name) if b"setpriv" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        found[name] = sum(
            int(line.split()[1]) / 1024
            for pid in pids
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
    assert all(value > 10 for value in found.values()), found
    return found


@contextlib.contextmanager
def readers(engine: Platform, folder: Path) -> Iterator[list[Path]]:
    """Run all readers, each writing to a file of its own; afterwards they are gone."""
    folder.mkdir()
    running: list[subprocess.Popen[bytes]] = []
    files = []
    environment = engine.docker_environment()
    try:
        for number in range(2 * EACH):
            argv = (
                ["docker", "logs", "-f", "talks"]
                if number % 2
                else ["docker", "attach", "--no-stdin", "talks"]
            )
            files.append(folder / f"{number}-{argv[1]}")
            with files[-1].open("wb") as target:
                running.append(
                    subprocess.Popen(
                        argv, env=environment, stdin=subprocess.DEVNULL, stdout=target, stderr=target
                    )
                )
        yield files
        for process in running:
            assert process.wait(60) == 0
    finally:
        for process in running:
            process.kill()
            process.wait(10)


def wait_until_all_have(files: list[Path], text: bytes, timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    waiting = list(files)
    while waiting := [file for file in waiting if text not in file.read_bytes()[-4096:]]:
        tail = waiting[0].read_bytes()[-300:]
        assert time.monotonic() < deadline, f"{len(waiting)} never had {text!r}: {waiting[0]}: {tail!r}"
        time.sleep(0.2)


def one_round(engine: Platform, folder: Path) -> dict[str, float]:
    """Serve all readers from the first line to the end; return what was resident while they ran."""
    made = engine.docker("run", "-d", "--name", "talks", "busybox", "sh", "-c", SCRIPT)
    assert made.returncode == 0, made.stderr
    with readers(engine, folder) as files:
        wait_until_all_have(files, b"waiting")
        assert engine.docker("exec", "talks", "touch", "/go").returncode == 0
        wait_until_all_have(files, b"still")
        time.sleep(HELD_S)
        held = resident_mib(engine)
        assert engine.docker("exec", "talks", "touch", "/end").returncode == 0
    for file in files:
        lines = file.read_bytes().split(b"\n")
        assert b"flood is over" in lines, file.name
        told = any(b"bytes were skipped" in line for line in lines)  # only who attaches may be too slow
        whole = sum(len(line) == LINE_BYTES for line in lines) == WRITTEN
        assert whole or (told and "attach" in file.name), file.name
    engine.docker("rm", "-f", "talks")
    return held


def test_a_hundred_readers_cost_no_memory_that_stays(engine: Platform, tmp_path: Path) -> None:
    before = resident_mib(engine)
    seen = [one_round(engine, tmp_path / f"round{number}") for number in range(ROUNDS)]
    for name in before:
        assert seen[-1][name] - before[name] < HELD_MIB, (before, seen)
        assert seen[-1][name] - seen[-2][name] < AGAIN_MIB, (before, seen)

"""The figures of the builder, beside BuildKit (in dockerd), Podman and Buildah."""

from __future__ import annotations

import cProfile
import io
import itertools
import os
import pstats
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.build.request import BuildRequest
from engine.containers.model import ContainerSpec
from script.benchmarks import inputs
from script.benchmarks.contests import BASE, Ring
from script.benchmarks.measure import Contest, race
from script.benchmarks.peers import Docker

ROUNDS = 5
_GIGABYTE = 1024**3
_PROFILED = 15  # functions that the profile names


def steps(ring: Ring) -> list[Contest]:
    """Ten RUN steps, cold and then from the cache."""
    folder = inputs.steps_context(ring.folder / "steps", BASE)
    found = []
    for title, bar, cold in (
        ("10 RUN steps, cold", "0.30 of BuildKit", True),
        ("10 RUN steps, all cached", "0.5 of BuildKit by REST", False),
    ):
        builders = {name: _bound(build, folder) for name, build in _builders(ring, cold=cold).items()}
        found.append(race(Contest(title, bar), builders, rounds=ROUNDS))
    return found


def copies(ring: Ring) -> list[Contest]:
    """Ten thousand files: all of them new, then one of them changed."""
    source = inputs.copy_context(ring.folder / "copy", BASE)
    cold = race(
        Contest("COPY of 10,000 files (80 MB), cold, upload included", "0.4 of BuildKit"),
        {name: _on_new_folder(build, source) for name, build in _builders(ring, cold=True).items()},
        rounds=ROUNDS,
    )
    warm = race(
        Contest("the same with one file changed", "0.4 of BuildKit"),
        {
            name: _on_changed_folder(build, source, ring.folder / f"changed-{name}")
            for name, build in _builders(ring, cold=False).items()
        },
        rounds=ROUNDS,
    )
    print(profile(ring, source), flush=True)
    return [cold, warm]


def stages(ring: Ring) -> list[Contest]:
    """Three independent stages of two seconds each."""
    folder = inputs.stages_context(ring.folder / "stages", BASE)
    builders = {name: _bound(build, folder) for name, build in _builders(ring, cold=True).items()}
    return [race(Contest("three stages of 2 s each", "2.4 s"), builders, rounds=3)]


def commit(ring: Ring) -> list[Contest]:
    """A small change of a running container on the Debian image."""
    command = ["sh", "-c", "echo x > /small; sleep 3600"]
    made = ring.engine.create(spec=ContainerSpec(image=BASE, command=command))
    try:
        ring.engine.start(container=made.id)
        return [_commits(ring, made.id, command)]
    finally:
        ring.engine.remove(container=made.id, force=True)


def _commits(ring: Ring, container: str, command: list[str]) -> Contest:
    contestants: dict[str, Any] = {
        "engine": lambda: ring.engine.commit(container=container, reference="bench-commit:1"),
    }
    for name in ("docker", "podman"):
        if (peer := ring.peer(name)) is not None:
            with suppress(RuntimeError):  # a peer that cannot run here takes no part
                peer.run("run", "-d", "--name", "bench-commit", BASE, *command)
                contestants[name] = lambda peer=peer: peer.run("commit", "bench-commit", "bench-commit:1")
    contest = race(Contest("commit of a small change", "40 ms engine"), contestants, rounds=ring.rounds)
    for name in ("docker", "podman"):
        if (peer := ring.peer(name)) is not None:
            with suppress(RuntimeError):
                peer.run("rm", "-f", "bench-commit")
    return contest


def memory(ring: Ring) -> list[Contest]:
    """What the processes of the server hold more while a context of a gigabyte is uploaded and built."""
    contest = Contest("a context of 1 GB: most memory above idle of one process", "150 MB")
    idle = _resident(ring.rest.pid)
    with _Watch(ring.rest.pid) as watch:
        started = time.perf_counter()
        ring.rest.send(_large_context(ring.folder / "large"), "bench-large:1", no_cache="true")
        contest.seconds["rest"] = [time.perf_counter() - started]
    more = {pid: size - idle.get(pid, size) for pid, size in watch.most.items()}
    worst = max(more, key=lambda pid: more[pid])
    contest.note = f"{more[worst] >> 20} MB ({_program(worst)})"
    return [contest]


def profile(ring: Ring, source: Path) -> str:
    """Return where the time of the COPY goes: the functions with the most time of their own, in a build from an upload."""
    archive = ring.folder / "profiled.tar"
    subprocess.run(["tar", "-C", str(source), "-cf", str(archive), "."], check=True)
    profiler = cProfile.Profile()
    profiler.enable()
    ring.engine.build(request=BuildRequest(context=archive, no_cache=True))
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(_PROFILED)
    return "profile of COPY of 10,000 files (calls, seconds of its own):\n" + text.getvalue().strip()


Build = Callable[[Path], object]


def _builders(ring: Ring, *, cold: bool) -> dict[str, Build]:
    """Return who builds a folder, with or without the cache."""
    fields = {"no_cache": "true"} if cold else {}
    builders: dict[str, Build] = {
        "engine": lambda folder: ring.engine.build(request=BuildRequest(context=folder, no_cache=cold)),
        "rest": lambda folder: ring.rest.build(folder, "bench:1", **fields),
        "docker API": lambda folder: ring.our_docker("build", *flags, "-q", ".", cwd=folder),
    }
    flags = ["--no-cache"] if cold else []
    if isinstance(docker := ring.peer("docker"), Docker):
        builders["docker"] = lambda folder: docker.build(*flags, "-q", "-t", "bench:1", ".", cwd=folder)
    layered = ["--no-cache"] if cold else ["--layers"]
    if (podman := ring.peer("podman")) is not None:
        builders["podman"] = lambda folder: podman.run(
            "build", *layered, "-q", "-t", "bench:1", ".", cwd=folder
        )
    if (buildah := ring.peer("buildah")) is not None:
        # the default runtime does not take every machine's control groups
        options = [*layered, "--runtime", shutil.which("runc") or "runc"]
        builders["buildah"] = lambda folder: buildah.run(
            "bud", *options, "-q", "-t", "bench:1", ".", cwd=folder
        )
    return builders


def _bound(build: Build, folder: Path) -> Callable[[], object]:
    return lambda: build(folder)


def _on_new_folder(build: Build, source: Path) -> Callable[[], float]:
    """Build each time in a folder that nobody has seen: BuildKit keeps what was uploaded from the same one before."""
    numbers = itertools.count()

    def run() -> float:
        folder = source.with_name(f"new-{next(numbers)}-{id(build)}")
        subprocess.run(["cp", "-r", str(source), str(folder)], check=True)
        try:
            started = time.perf_counter()
            build(folder)
            return time.perf_counter() - started
        finally:
            shutil.rmtree(folder)

    return run


def _on_changed_folder(build: Build, source: Path, folder: Path) -> Callable[[], float]:
    def run() -> float:
        if not folder.exists():
            subprocess.run(["cp", "-r", str(source), str(folder)], check=True)
        build(folder)
        (folder / "src" / "d7" / "f7.py").write_bytes(os.urandom(inputs.FILE_BYTES))
        started = time.perf_counter()
        build(folder)
        return time.perf_counter() - started

    return run


def _large_context(folder: Path) -> Iterator[bytes]:
    """Give a tar of a gigabyte in sixteen files, and a Dockerfile that copies it."""
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY large* /\n")
    for number in range(16):
        with (folder / f"large{number}").open("wb") as file:
            file.truncate(_GIGABYTE // 16)
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as packing:
        assert packing.stdout is not None
        yield from iter(lambda: packing.stdout.read(1024 * 1024), b"")
    shutil.rmtree(folder)


class _Watch:
    """Notes the most memory that each process below `pid` holds during the block."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most: dict[int, int] = {}

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for pid, size in _resident(self._pid).items():
                self.most[pid] = max(size, self.most.get(pid, 0))


def _resident(top: int) -> dict[int, int]:
    """Return the memory of each process below `top` in bytes: what is its own, without pages of files."""
    parents, sizes = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue  # it has ended
        pid = int(status.parent.name)
        parents[pid] = int(fields["PPid"])
        sizes[pid] = 1024 * int(fields.get("RssAnon", "0 kB").split()[0])
    return {pid: size for pid, size in sizes.items() if _is_below(pid, top, parents)}


def _is_below(pid: int, top: int, parents: dict[int, int]) -> bool:
    while pid and pid != top:
        pid = parents.get(pid, 0)
    return pid == top


def _program(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "ended"
    return " ".join(Path(word).name for word in words[:4])


SUBJECTS: dict[str, Any] = {
    "build-steps": steps,
    "build-copy": copies,
    "build-stages": stages,
    "build-memory": memory,
    "commit": commit,
}

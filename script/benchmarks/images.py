"""Figures of images and registries: pull, push, what there is nothing to do for, memory, and lists of 2,000.

Everybody talks to the same registry: two servers of Debian's `docker-registry` on one storage, one on this machine's
loopback and one on the loopback of dockerd's network namespace. A pull is timed until its bytes are on the disk
(`sync` of the file system), for everybody alike, and the image is removed before each round.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.engine import Engine
from script.benchmarks import inputs
from script.benchmarks.contests import Ring
from script.benchmarks.measure import Contest, race
from script.benchmarks.peers import Docker, Podman
from tests.support.registry import free_port, real_registry

ROOT = Path(__file__).resolve().parents[2]
LIST_LENGTH = 2000
LARGE_BYTES = 1_000_000_000
PODMAN_LIST_S = 120  # a peer that needs longer to load the images takes no part in the list


@dataclass
class Served:
    """The registry under its one name; `clear` forgets all that was pushed."""

    host: str
    storage: Path

    def name(self, repository: str) -> str:
        return f"{self.host}/{repository}:1"

    def clear(self) -> None:
        shutil.rmtree(self.storage / "docker", ignore_errors=True)


@contextlib.contextmanager
def served(ring: Ring) -> Iterator[Served]:
    """Run the registry where everybody reaches it."""
    port, storage, folder = free_port(), ring.folder / "registry-storage", ring.folder / "registry"
    storage.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(real_registry(folder / "here", port=port, storage=storage, remembers=False))
        docker = ring.peer("docker")
        if isinstance(docker, Docker):
            inside = real_registry(
                folder / "docker", port=port, storage=storage, remembers=False, inside=docker.inside()
            )
            stack.enter_context(inside)
        yield Served(f"127.0.0.1:{port}", storage)


@dataclass
class Side:
    """What one contestant does with images, in its own words."""

    name: str
    pull: Callable[[str], object]
    push: Callable[[str], object]
    tag: Callable[[str, str], object]
    remove: Callable[[str], object]
    load_root: Callable[[Path, str], object]


def sides(ring: Ring) -> list[Side]:
    """Return who takes part: our engine, and the peers that are installed."""
    found = [_ours(ring.engine)]
    for name in ("docker", "podman"):
        if (peer := ring.peer(name)) is not None:
            found.append(_theirs(name, peer))
    return found


def _ours(engine: Engine) -> Side:
    def load_root(tar: Path, name: str) -> None:
        with tar.open("rb") as source:
            engine.image_import(source=source, reference=name)

    return Side(
        "engine",
        lambda name: engine.pull(reference=name),
        lambda name: engine.push(image=name),
        lambda image, name: engine.tag(image=image, reference=name),
        lambda name: engine.image_remove(image=name, force=True),
        load_root,
    )


def _theirs(name: str, peer: Docker | Podman) -> Side:
    plain = ["--tls-verify=false"] if name == "podman" else []

    def load_root(tar: Path, image: str) -> None:
        with tar.open("rb") as source:
            peer.run("import", "-", image, stdin=source)

    return Side(
        name,
        lambda image: peer.run("pull", "-q", *plain, image),
        lambda image: peer.run("push", "-q", *plain, image),
        lambda image, other: peer.run("tag", image, other),
        lambda image: peer.run("image", "rm", "-f", image),
        load_root,
    )


def _timed(folder: Path, work: Callable[[], object]) -> float:
    """Return the seconds until `work` is done and its bytes are on the disk; what was written before does not count."""
    _sync(folder)
    started = time.perf_counter()
    work()
    _sync(folder)
    return time.perf_counter() - started


def _sync(folder: Path) -> None:
    subprocess.run(["sync", "-f", str(folder)], check=True)


# --- pulls -----------------------------------------------------------------------------------------------------


def pulls(ring: Ring) -> list[Contest]:
    """One large layer, twenty small ones, and what is here already."""
    with served(ring) as registry:
        large, many = registry.name("bench/debian"), registry.name("bench/twenty")
        _publish(ring, registry)
        found = [
            _pull_race(
                ring,
                Contest("pull of the Debian image (one gzip layer), synced", "0.5 of the faster peer"),
                large,
            ),
            _pull_race(ring, Contest("pull of 20 layers of 10 MB, synced", "0.5 of the faster peer"), many),
        ]
        for side in sides(ring):
            with contextlib.suppress(RuntimeError):
                side.pull(large)
        nothing = {side.name: _bound(side.pull, large) for side in sides(ring)}
        found.append(race(Contest("pull with nothing to do", "100 ms"), nothing, rounds=ring.rounds))
        for side in sides(ring):
            with contextlib.suppress(RuntimeError):
                side.remove(large)
    return found


def debian_of_its_own(ring: Ring) -> Path:
    """Return the Debian file system with one more file: a layer that no other image of the run shares."""
    path = ring.folder / "own.tar"
    if not path.exists():
        shutil.copyfile(inputs.debian_tar(), path)
        with tarfile.open(path, "a") as tar:
            _add(tar, "own", b"own")
    return path


def _publish(ring: Ring, registry: Served) -> None:
    """Put the two images into the registry and take them from our engine again."""
    engine = ring.engine
    large, many = registry.name("bench/debian"), registry.name("bench/twenty")
    with debian_of_its_own(ring).open("rb") as source:
        engine.image_import(source=source, reference=large)
    with io.BytesIO(layers_archive(many)) as archive:
        engine.image_load(source=archive)
    for name in (large, many):
        engine.push(image=name)
        engine.image_remove(image=name, force=True)


def _pull_race(ring: Ring, contest: Contest, name: str) -> Contest:
    def fresh(side: Side) -> float:
        with contextlib.suppress(Exception):  # the first round has nothing to remove
            side.remove(name)
        return _timed(ring.folder, lambda: side.pull(name))

    contestants = {side.name: _bound(fresh, side) for side in sides(ring)}
    race(contest, contestants, rounds=ring.rounds)
    for side in sides(ring):
        with contextlib.suppress(Exception):
            side.remove(name)
    return contest


def _bound(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def layers_archive(name: str, layers: int = 20, size: int = 10_000_000) -> bytes:
    """Return a `docker save` archive of an image with this many layers of random bytes."""
    generator = random.Random(2)
    plain = [_layer({f"blob{number}": generator.randbytes(size)}) for number in range(layers)]
    return _docker_archive(plain, [name])


def _layer(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _docker_archive(layers: list[bytes], names: list[str]) -> bytes:
    """Return an archive in which each name is an image of its own with these layers."""
    out = io.BytesIO()
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
    paths = [f"layer{number}/layer.tar" for number in range(len(layers))]
    entries = []
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in zip(paths, layers, strict=True):
            _add(tar, path, data)
        for name in names:
            config = _config_of(name, diff_ids)
            path = f"{hashlib.sha256(config).hexdigest()}.json"
            _add(tar, path, config)
            entries.append({"Config": path, "RepoTags": [name], "Layers": paths})
        _add(tar, "manifest.json", json.dumps(entries).encode())
    return out.getvalue()


def _config_of(name: str, diff_ids: list[str]) -> bytes:
    labels = {"org.opencontainers.image.title": name, "maintainer": "bench"}
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Labels": labels, "Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "history": [{"created_by": "bench"} for _ in diff_ids],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    return json.dumps(document).encode()


def _add(tar: tarfile.TarFile, path: str, data: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


# --- pushes ----------------------------------------------------------------------------------------------------


def pushes(ring: Ring) -> list[Contest]:
    """The Debian layer to a registry that has nothing, and again when it has all."""
    tar = debian_of_its_own(ring)
    with served(ring) as registry:
        name = registry.name("bench/pushed")

        def imported(side: Side) -> float:
            with contextlib.suppress(Exception):
                side.remove(name)
            registry.clear()
            return _timed(ring.folder, lambda: (side.load_root(tar, name), side.push(name)))

        def first(side: Side) -> float:
            with contextlib.suppress(Exception):
                side.remove(name)
            side.load_root(tar, name)
            registry.clear()
            return _timed(ring.folder, lambda: side.push(name))

        found = [
            race(
                Contest(
                    "push of the Debian image, first time",
                    "0.3 of Docker",
                    note="ours was packed when it was imported",
                ),
                {side.name: _bound(first, side) for side in sides(ring)},
                rounds=min(3, ring.rounds),
                warm_up=0,
            ),
            race(
                Contest("import and first push of the Debian image"),
                {side.name: _bound(imported, side) for side in sides(ring)},
                rounds=min(3, ring.rounds),
                warm_up=0,
            ),
        ]
        for side in sides(ring):
            with contextlib.suppress(RuntimeError):
                side.push(name)
        again = {side.name: _bound(side.push, name) for side in sides(ring)}
        found.append(race(Contest("push with nothing to do", "100 ms"), again, rounds=ring.rounds))
        for side in sides(ring):
            with contextlib.suppress(Exception):
                side.remove(name)
    return found


# --- memory ----------------------------------------------------------------------------------------------------

CHILD = """
import json, sys
def peak():
    # not ru_maxrss, which begins with the parent's
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
home, small, large = json.loads(sys.argv[1])
from script.benchmarks.contests import make_engine
from pathlib import Path
engine = make_engine(Path(home))
engine.pull(reference=small)
idle = peak()
engine.pull(reference=large)
print(peak() - idle)
"""


def memory(ring: Ring) -> list[Contest]:
    """How much more memory a process needs while a layer of 1 GB comes."""
    contest = Contest("pull of a layer of 1 GB, memory above idle", "100 MB")
    grown: dict[str, float] = {}
    with served(ring) as registry:
        small, large = registry.name("bench/small"), registry.name("bench/large")
        _publish_large(ring, small, large)
        started = time.perf_counter()
        grown["engine"] = _grown_of_ours(ring.folder / "memory", small, large)
        contest.seconds["engine"] = [time.perf_counter() - started]
        for name, measure in (("docker", _grown_of_docker), ("podman", _grown_of_podman)):
            peer = ring.peer(name)
            if peer is None:
                continue
            try:
                started = time.perf_counter()
                grown[name] = measure(peer, small, large)
                contest.seconds[name] = [time.perf_counter() - started]
                peer.run("image", "rm", "-f", small, large)
            except (RuntimeError, OSError) as error:
                contest.note = f"{name}: {str(error)[:120]}"
    words = ", ".join(f"{name} {value / 1e6:,.0f} MB" for name, value in grown.items())
    contest.note = "; ".join(filter(None, [words, contest.note]))
    return [contest]


def _publish_large(ring: Ring, small: str, large: str) -> None:
    path = ring.folder / "large.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("large")
        info.size = LARGE_BYTES
        tar.addfile(info, _Noise())  # type: ignore[arg-type]  # only read() is used
    with path.open("rb") as source:
        ring.engine.image_import(source=source, reference=large)
    path.unlink()
    ring.engine.image_import(source=io.BytesIO(_layer({"x": b"x"})), reference=small)
    for name in (small, large):
        ring.engine.push(image=name)
        ring.engine.image_remove(image=name, force=True)


class _Noise:
    """Bytes that no compression makes smaller, as many as somebody reads."""

    def __init__(self) -> None:
        self._generator = random.Random(3)

    def read(self, count: int = 65536) -> bytes:
        return self._generator.randbytes(count)


def _grown_of_ours(home: Path, small: str, large: str) -> float:
    arguments = json.dumps([str(home), small, large])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    shutil.rmtree(home, ignore_errors=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-300:])
    return float(done.stdout)


def _grown_of_docker(peer: Docker, small: str, large: str) -> float:
    peer.run("pull", "-q", small)
    pid = peer.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    before = _status(pid, "VmRSS")
    peer.run("pull", "-q", large)
    return _status(pid, "VmHWM") - before


def _grown_of_podman(peer: Podman, small: str, large: str) -> float:
    """Podman's process ends with the pull: its peak for the large image above that for the small one."""
    return peer.peak_bytes("pull", "-q", "--tls-verify=false", large) - peer.peak_bytes(
        "pull", "-q", "--tls-verify=false", small
    )


def _status(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024.0
    raise OSError(f"no {field} of process {pid}")


# --- lists -----------------------------------------------------------------------------------------------------


def lists(ring: Ring) -> list[Contest]:
    """Two thousand images in one answer."""
    names = [f"bench-list/i{number}:1" for number in range(LIST_LENGTH)]
    whole = Contest(f"list {LIST_LENGTH:,} images", "p95 100 ms by REST")
    part = Contest(f"list the newest 100 of {LIST_LENGTH:,} images", "p95 100 ms")
    _fill_server(ring, names)
    contestants: dict[str, Any] = {
        "rest": lambda: ring.rest.call("GET", f"/images/?limit={LIST_LENGTH + 100}"),
        "docker API": lambda: ring.our_docker("image", "ls"),
    }
    for name in ("docker", "podman"):
        if (peer := ring.peer(name)) is not None and _fill_peer(ring, whole, name, peer, names):
            contestants[name] = _bound(peer.run, "image", "ls")
    race(whole, contestants, rounds=20)
    race(part, {"rest": lambda: ring.rest.call("GET", "/images/")}, rounds=20)
    for contest in (whole, part):
        if len(contest.seconds.get("rest", ())) > 1:
            slow = 1000 * statistics.quantiles(contest.seconds["rest"], n=20)[-1]
            contest.note = "; ".join(filter(None, [f"REST p95 {slow:.1f} ms", contest.note]))
    return [whole, part]


def _fill_server(ring: Ring, names: list[str]) -> None:
    """Load the images into our server, in two archives; wait until its records have them."""
    data = _layer({"x": b"x"})
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        ring.rest.call(
            "POST",
            "/images/load/?wait=600",
            raw=_docker_archive([data], half),
            content_type="application/x-tar",
        )
    deadline = time.monotonic() + 120
    while len(ring.rest.call("GET", f"/images/?limit={len(names) + 100}")["results"]) < len(names):
        if time.monotonic() > deadline:
            raise RuntimeError("the server's records never had all images")
        time.sleep(0.5)


def _fill_peer(ring: Ring, contest: Contest, name: str, peer: Docker | Podman, names: list[str]) -> bool:
    """Load the images into a peer; False, with a note, where it cannot in reasonable time."""
    path = ring.folder / "many.tar"
    path.write_bytes(_docker_archive([_layer({"x": b"x"})], names))
    try:
        peer.run("load", "-q", "-i", str(path), timeout_s=PODMAN_LIST_S)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        contest.note = f"{contest.note} {name}: {type(error).__name__} while loading".strip()
        return False
    return True


SUBJECTS: dict[str, Any] = {"pulls": pulls, "pushes": pushes, "memory": memory, "lists": lists}

__all__ = ["SUBJECTS"]

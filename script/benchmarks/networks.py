"""The figures of networks and volumes: attaching, names, throughput, backups.

`python -m script.benchmarks.networks HOME` answers names for the engine of that home, as the agent does: a process of
its own, so that a figure of answers is not one of the questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import EngineConfig
from engine.containers.model import ContainerSpec, EndpointSpec, PortSpec
from engine.db import Database
from engine.linux.netlink import in_netns
from engine.network import SCHEMA, NetworkManager
from engine.network import dnsmessage as message
from engine.network.dns import DnsServer
from engine.network.model import NetworkSpec
from script.benchmarks import inputs
from script.benchmarks.measure import Contest, race
from script.benchmarks.peers import Docker, run

if TYPE_CHECKING:
    from script.benchmarks.contests import Ring

CROWD = 100
LOOKUPS = 2_000
WINDOW = 16  # questions on the way at once, as from several containers
IPERF_S = 3
BASE = "bench-debian:1"


class Member:
    """A namespace taken through what the engine does for a container's network."""

    def __init__(self, network: NetworkManager, folder: Path, name: str, *, ports: bool = True) -> None:
        self._network = network
        self._name = name
        self._ports = [PortSpec(80), PortSpec(443)] if ports else []
        self.id = os.urandom(32).hex()
        self.netns = folder / f"netns-{self.id[:12]}"
        self.address = self.gateway = ""

    def attach(self, to: str) -> float:
        """Namespace, interface, address, route, published ports, names; return the seconds."""
        started = time.perf_counter()
        bindings = self._network.hold(self.id, self._ports, name=self._name)
        self._network.make_netns(self.netns)
        spec = EndpointSpec(to, aliases=["any"])
        endpoint = self._network.allocate(to, self.id, spec, name=self._name, hostname=self.id[:12])
        endpoint = self._network.attach(self.netns, self.id, endpoint)
        self._network.publish(self.id, endpoint, bindings)
        self.address, self.gateway = endpoint.ipv4_address, endpoint.gateway
        return time.perf_counter() - started

    def detach(self) -> float:
        """What is done when a container ends; return the seconds."""
        started = time.perf_counter()
        self._network.release(self.id)
        self._network.remove_netns(self.netns)
        return time.perf_counter() - started


@contextlib.contextmanager
def network(ring: Ring, name: str) -> Iterator[NetworkManager]:
    """A network of the engine for the time of the block."""
    manager = ring.engine.network
    manager.create(NetworkSpec(name))
    try:
        yield manager
    finally:
        for member in manager.get(name).members:
            manager.detach(member.container_id, name)
        manager.remove(name)


def attach(ring: Ring) -> list[Contest]:
    """One container more and less on a network, in this warm process."""
    joining = Contest("network attach: namespace, interface, two published ports, names", "15 ms")
    leaving = Contest("network detach", "15 ms")
    with network(ring, "bench-attach") as manager:
        for number in range(ring.rounds + 3):
            member = Member(manager, ring.folder, f"member{number}")
            taken = member.attach("bench-attach"), member.detach()
            if number >= 3:
                joining.seconds.setdefault("engine", []).append(taken[0])
                leaving.seconds.setdefault("engine", []).append(taken[1])
            time.sleep(0.1)  # the kernel removes the interface behind our back
    return [joining, leaving]


def crowd(ring: Ring) -> list[Contest]:
    """The 101st container of a network beside the first."""
    contest = Contest(f"attach of the {CROWD + 1}st container of a network", "1.5 of the first")
    with network(ring, "bench-crowd") as manager:
        first = [_attach_once(manager, ring.folder) for _ in range(ring.rounds)]
        members = [Member(manager, ring.folder, f"crowd{number}", ports=False) for number in range(CROWD)]
        try:
            for member in members:
                member.attach("bench-crowd")
            contest.seconds["engine"] = [_attach_once(manager, ring.folder) for _ in range(ring.rounds)]
        finally:
            for member in members:
                member.detach()
    before = 1000 * statistics.median(first)
    contest.note = f"the first: {before:.1f} ms, ratio {contest.median_ms('engine') / before:.2f}"
    return [contest]


def _attach_once(manager: NetworkManager, folder: Path) -> float:
    member = Member(manager, folder, "once")
    taken = member.attach("bench-crowd")
    member.detach()
    time.sleep(0.1)
    return taken


def names(ring: Ring) -> list[Contest]:
    """Lookups from inside a container: one after another, and as many as one core answers."""
    tail = Contest("DNS answer from inside, p99", "2 ms")
    many = Contest("1,000 DNS lookups, server on one core", "1 s")
    with network(ring, "bench-names") as manager, _name_server(ring.folder / "alone") as server:
        member = Member(manager, ring.folder, "asker")
        member.attach("bench-names")
        try:
            os.sched_setaffinity(server, {max(os.sched_getaffinity(0))})
            taken = in_netns(member.netns, lambda: _one_by_one(member.gateway))
            tail.seconds["engine"] = [statistics.quantiles(taken, n=100)[-1]]
            tail.note = f"median {1000 * statistics.median(taken):.2f} ms of {LOOKUPS:,}"
            for _ in range(3):
                answered = in_netns(member.netns, lambda: _many_at_once(member.gateway))
                many.seconds.setdefault("engine", []).append(1000 * answered / LOOKUPS)
            many.note = f"{1_000_000 / many.median_ms('engine'):,.0f} a second"
        finally:
            member.detach()
    return [tail, many]


def _question(number: int) -> bytes:
    return message.make_query(number, "asker", message.A)


def _one_by_one(gateway: str) -> list[float]:
    taken = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((gateway, 53))
        for number in range(100 + LOOKUPS):
            started = time.perf_counter()
            sock.send(_question(number))
            _, code, addresses = message.parse_answer(sock.recv(4096))
            if number >= 100:
                taken.append(time.perf_counter() - started)
            if code or not addresses:
                raise RuntimeError(f"the name is not answered: code {code}")
    return taken


def _many_at_once(gateway: str) -> float:
    """Return the seconds for all lookups, a window of them on the way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((gateway, 53))
        started = time.perf_counter()
        for number in range(LOOKUPS):
            sock.send(_question(number))
            if number >= WINDOW:
                sock.recv(4096)
        for _ in range(WINDOW):
            sock.recv(4096)
        return time.perf_counter() - started


@contextlib.contextmanager
def _name_server(home: Path) -> Iterator[int]:
    """A name server for the engine's networks in a process of its own; the block gets its id once it answers."""
    argv = [sys.executable, "-m", "script.benchmarks.networks", str(home)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the name server did not start")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def throughput(ring: Ring) -> list[Contest]:
    """iperf3 between two containers, and from the host to a published port; seconds for a gigabyte."""
    between = Contest("1 GB from container to container (iperf3)", "0.9 of Docker's throughput")
    published = Contest("1 GB from the host to a published port (iperf3)", "0.9 of Docker's throughput")
    with contextlib.ExitStack() as stack:
        sides = {"engine": stack.enter_context(_our_pair(ring))}
        if isinstance(docker := ring.peer("docker"), Docker):
            sides["docker"] = stack.enter_context(_docker_pair(docker))
        for _ in range(3):
            for name, (client, host, address, gateway, port) in sides.items():
                between.seconds.setdefault(name, []).append(_iperf(client, address, 5201))
                published.seconds.setdefault(name, []).append(_iperf(host, gateway, port))
    for contest in (between, published):
        rates = {name: 8 / statistics.median(taken) for name, taken in contest.seconds.items()}
        contest.note = ", ".join(f"{name} {rate:.1f} Gbit/s" for name, rate in rates.items())
    return [between, published]


Pair = tuple[
    list[str], list[str], str, str, int
]  # enter the client, enter the host, server's address, host's address, its port


@contextlib.contextmanager
def _our_pair(ring: Ring) -> Iterator[Pair]:
    made = []
    spec = ContainerSpec(image=BASE, command=["sleep", "600"], ports=[PortSpec(5201, host_ip="0.0.0.0")])
    try:
        for wanted in (spec, ContainerSpec(image=BASE, command=["sleep", "600"])):
            made.append(ring.engine.create(spec=wanted))
            ring.engine.start(container=made[-1].id)
        server, client = (ring.engine.container_get(ref=item.id) for item in made)
        endpoint = server.endpoints[0]
        with _listening(_enter(server.pid)):
            yield _enter(client.pid), [], endpoint.ipv4_address, endpoint.gateway, server.ports[0].host_port
    finally:
        for item in made:
            ring.engine.remove(container=item.id, force=True)


@contextlib.contextmanager
def _docker_pair(docker: Docker) -> Iterator[Pair]:
    names = ["bench-iperf-server", "bench-iperf-client"]
    docker.run("run", "-d", "--name", names[0], "-p", "0.0.0.0::5201", BASE, "sleep", "600")
    docker.run("run", "-d", "--name", names[1], BASE, "sleep", "600")
    try:
        server, client = (json.loads(docker.run("inspect", name))[0] for name in names)
        settings = server["NetworkSettings"]
        port = int(settings["Ports"]["5201/tcp"][0]["HostPort"])
        with _listening(_enter(server["State"]["Pid"])):
            yield (
                _enter(client["State"]["Pid"]),
                docker.inside(),
                settings["IPAddress"],
                settings["Gateway"],
                port,
            )
    finally:
        docker.run("rm", "-f", *names)


def _enter(pid: int) -> list[str]:
    return ["nsenter", f"--net=/proc/{pid}/ns/net"]


@contextlib.contextmanager
def _listening(enter: list[str]) -> Iterator[None]:
    process = subprocess.Popen([*enter, "iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _iperf(enter: list[str], address: str, port: int) -> float:
    """Return the seconds that a gigabyte takes."""
    found = json.loads(run(*enter, "iperf3", "-J", "-t", str(IPERF_S), "-c", address, "-p", str(port)))
    return 8e9 / float(found["end"]["sum_received"]["bits_per_second"])


def backups(ring: Ring) -> list[Contest]:
    """Proven backups on disk, beside tar and igzip: of a gigabyte as databases keep it, and of many small files."""
    volumes = ring.engine.volumes
    large, small = (Path(volumes.create(f"bench-{name}").path) for name in ("large", "small"))
    segments, files = inputs.fill_volume(large), inputs.fill_with_files(small)
    note = "on disk and synced; ours is read back and compared"
    found = [
        race(
            Contest(
                "backup of a volume of 1 GB (tar.gz)", "1.2 of tar | igzip", note=f"{segments} files; {note}"
            ),
            _packers(ring, "bench-large", "gzip"),
            rounds=3,
        ),
        race(
            Contest("the same, theirs tested as well", note="tar | igzip, then igzip -t"),
            _packers(ring, "bench-large", "gzip", tested=True),
            rounds=3,
        ),
        race(
            Contest("the same as the pages make it (tar.zst)", note="beside tar | igzip"),
            _packers(ring, "bench-large", "zstd"),
            rounds=3,
        ),
        race(
            Contest("backup of a volume of small files (tar.gz)", note=f"{files:,} files of Debian; {note}"),
            _packers(ring, "bench-small", "gzip"),
            rounds=3,
        ),
    ]
    for name in ("bench-large", "bench-small"):
        volumes.remove(name)
    return found


def _packers(ring: Ring, volume: str, compression: str, *, tested: bool = False) -> dict[str, Any]:
    volumes = ring.engine.volumes
    ours, theirs = ring.folder / "ours.backup", ring.folder / "theirs.tar.gz"
    test = f"&& igzip -t {theirs}" if tested else ""
    command = f"tar -C {volumes.get(volume).path} -cf - . | igzip -c > {theirs} && sync {theirs} {test}"

    def engine() -> None:
        volumes.backup_to(volume, ours, compression=compression)
        ours.unlink()

    def tools() -> None:
        run("sh", "-c", command)
        theirs.unlink()

    return {"engine": engine, "tools": tools}


SUBJECTS: dict[str, Any] = {
    "attach": attach,
    "crowd": crowd,
    "names": names,
    "throughput": throughput,
    "backups": backups,
}


async def _answer(home: Path) -> None:
    config = EngineConfig.from_home(home)
    server = DnsServer(config, Database(config.database, [SCHEMA]))
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print("ready", flush=True)
    await stopped.wait()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(_answer(Path(sys.argv[1])))

"""The same docker commands against this engine and a real dockerd: exit codes, output and inspected fields, side by side.

Ids, times, addresses and pids are set aside. What else differs stands in a table with its reason; a row that tells of no
difference any more fails too, so the tables say what is.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from script.benchmarks.peers import Docker
from tests.support.platform import Platform, busybox_context, free_port
from tests.support.pty import Terminal

pytestmark = pytest.mark.root

Completed = subprocess.CompletedProcess[str]

NEWER = "in the words of newer engines (28 against 20.10)"
WORDS = "the same said in this project's words"
REAL_FIRST = "API 1.41 there, 1.44 here"

LOOPBACK = "tcp://127.0.0.1:2375"  # of a network namespace that nobody else is in

# command -> why its text differs (exit codes are the same)
TEXTS = {
    "kill made": NEWER,
    "pause made": WORDS,
    "rm alive": NEWER,
    "exec made true": NEWER,
    "rename alive made": WORDS,
    "image inspect nosuch": "the older engine says it twice",
    "run --rm busybox nosuch": "containerd's shim is not there to be named",
    "run --rm busybox /etc": "containerd's shim is not there to be named",
    "run --rm -w relative busybox true": WORDS,
    "run --rm -m 1k busybox true": WORDS,
    "run --rm --user nosuch busybox true": WORDS,
    "run --rm --cap-add NOSUCH busybox true": WORDS,
    "run --rm --network nosuch busybox true": WORDS,
    "top ended": NEWER,
    "kill ended": NEWER,
    "network create bridge": WORDS,
    "network connect near lonely": WORDS,
    "network disconnect near alive": WORDS,
    "network create --subnet 300.0.0.0/8 far": WORDS,
    "network create -d nosuch far": WORDS,
    "volume create -d nosuch v2": "the older engine names the volume too",
    "volume create bad%name": WORDS,
    "volume rm kept": WORDS,
    "rmi busybox": "names the containers, all of them",
    "load -i /etc/hostname": WORDS,
    "import /etc/hostname": WORDS,
    "save nosuch": "with its tag",
    "update --memory 1k alive": WORDS,
    "update --restart nosuch alive": NEWER,
    "exec -u nosuch alive true": WORDS,
    "exec -w /nosuch alive true": WORDS,
    "ps --filter nosuch=x": NEWER,
    "images --filter nosuch=x": NEWER,
    "volume ls --filter nosuch=x": NEWER,
    "network ls --filter nosuch=x": NEWER,
}
CODES = {
    "exec alive nosuch": "127 as newer engines: a missing program is told from one that may not run",
    "events --since 0 --until 1 --filter nosuch=x": "an unknown filter is refused, as by newer engines",
}
SCRIPT = """
create --name made -e A=b -l k=v --memory 64m -v /tmp/x busybox sh -c true
run -d --name alive busybox sleep 600
run -d --name lonely --network none busybox sleep 600
run --name ended busybox sh -c exit%4
run --rm busybox sh -c echo%out;echo%err>&2;exit%3
run --rm -i busybox cat
network create --subnet 10.99.7.0/24 near
volume create kept
run -d --name holder -v kept:/d busybox sleep 600
inspect nosuch
rm nosuch
start nosuch
logs nosuch
exec nosuch true
stop nosuch
wait nosuch
attach nosuch
export nosuch
history nosuch
port nosuch
diff nosuch
commit nosuch x
tag nosuch a
rmi nosuch
image inspect nosuch
save nosuch
kill made
pause made
unpause alive
rm alive
exec made true
rename alive made
create --name alive busybox
run --rm busybox nosuch
run --rm busybox /etc
run --rm -w relative busybox true
run --rm -m 1k busybox true
run --rm -p 99999:80 busybox true
run --rm --restart always busybox true
run --rm --network nosuch busybox true
run --rm --user nosuch busybox true
run --rm --cap-add NOSUCH busybox true
wait ended
logs ended
start ended
wait ended
stop ended
kill ended
top ended
diff ended
stats --no-stream --format {{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}} ended
exec alive sh -c echo%a;echo%b>&2;exit%5
exec -e A=b -w /tmp alive sh -c echo%$A;pwd
exec alive nosuch
exec -u nosuch alive true
exec -w /nosuch alive true
exec -d alive true
pause alive
ps --filter name=alive --format {{.Names}}|{{.State}}
exec alive true
unpause alive
rename alive living
rename living alive
update --memory 1k alive
update --restart nosuch alive
update --cpu-shares 512 alive
port alive
network inspect nosuch
network rm nosuch
network create bridge
network rm bridge
network create near
network connect nosuch alive
network connect near lonely
network disconnect near alive
network connect --alias other near alive
network disconnect near alive
network create --subnet 300.0.0.0/8 far
network create -d nosuch far
volume inspect nosuch
volume rm nosuch
volume create -d nosuch v2
volume create bad%name
volume rm kept
volume ls --format {{.Driver}}|{{.Name}} --filter name=kept
rmi busybox
tag busybox team/box:2
images --format {{.Repository}}:{{.Tag}} team/box
rmi team/box:2
tag busybox BAD/Name
cp nosuch:/x /tmp
cp alive:/nosuch /tmp/
cp /etc/hostname alive:/nosuch/x
load -i /etc/hostname
import /etc/hostname
ps -a --format {{.Names}}|{{.State}}|{{.Command}} --filter name=made
ps -a --filter status=exited --format {{.Names}}
ps -aq --filter exited=4 --format {{.Names}}
ps -a --filter label=k=v --format {{.Names}}
ps --filter nosuch=x
images --filter nosuch=x
volume ls --filter nosuch=x
network ls --filter nosuch=x
events --since 0 --until 1 --filter nosuch=x
commit -m note -c ENV%X=1 ended kept:1
history --format {{.CreatedBy}}|{{.Comment}} kept:1
inspect --format {{.Config.Env}}|{{.Comment}} kept:1
run --rm kept:1 sh -c echo%$X
rmi -f kept:1
stop -t 0 alive
restart -t 0 alive
rm -f made alive lonely ended holder
volume rm kept
network rm near
"""
# where the history and the environment of the same image are told differently
TEXTS |= {
    "history --format {{.CreatedBy}}|{{.Comment}} kept:1": "the builder writes its own words into an image's history",
    "rmi -f kept:1": "a commit that changes no file adds no layer here",
}

CONTAINER = {
    "Driver": "overlay here, overlay2 there",
    "GraphDriver.*": "folders of the node are not told",
    "HostConfig.CgroupnsMode": "a cgroup namespace of its own, as newer engines on cgroup 2",
    "HostConfig.MaskedPaths*": "newer engines hide more, and so do we",
    "HostConfig.MemorySwap": "no swap limit is made up",
    "HostConfig.KernelMemory*": REAL_FIRST,
    "HostConfig.Annotations": REAL_FIRST,
    "HostConfig.Init": "told, not left out",
    "HostConfig.Sysctls": "told, not left out",
    "HostConfig.Tmpfs": "told, not left out",
    "HostConfig.Mounts*": "an anonymous volume stands with the mounts",
    "Config.Volumes*": "an anonymous volume stands with the mounts",
    "Config.AttachStdout": "what the client that made it attached is not kept",
    "Config.AttachStderr": "what the client that made it attached is not kept",
    "Config.StopSignal": "the signal that is used, not the one that was left out",
    "Config.Env*": "the image's come first, then those of the container",
    "Mounts.0.Source": "another folder",
    "Mounts.0.Mode": "as for named volumes",
    "ResolvConfPath": "folders of the node are not told",
    "HostnamePath": "folders of the node are not told",
    "HostsPath": "folders of the node are not told",
    "LogPath": "folders of the node are not told",
    "NetworkSettings.SandboxKey": "folders of the node are not told",
    "NetworkSettings.*IPPrefixLen": "a range of our own",
    "NetworkSettings.Ports.80/tcp.0.HostIp": "published on loopback unless asked otherwise",
    "NetworkSettings.Ports.80/tcp.1.*": "published on loopback unless asked otherwise",
    "State.Pid": "another process",
    "NetworkSettings.Networks.bridge.DNSNames": REAL_FIRST,
}
IMAGE = {
    "Config.WorkingDir": "BuildKit writes `/` into an image that says nothing of it",
    "Comment": "the builder's name",
    "Container": REAL_FIRST,
    "ContainerConfig*": REAL_FIRST,
    "VirtualSize": REAL_FIRST,
    "GraphDriver*": "folders of the node are not told",
    "Metadata.LastTagTime": "not kept",
}
NETWORK = {
    "IPAM.Options": "no options of an address manager",
    "IPAM.Config.0.Gateway": "known from the start",
}
VOLUME = {"Mountpoint": "another folder"}


@dataclass
class Pair:
    ours: Callable[..., Completed]
    real: Callable[..., Completed]
    host: str


@pytest.fixture(scope="module")
def real() -> Iterator[Docker]:
    """A real dockerd in namespaces of its own, with the same image."""
    if shutil.which("dockerd") is None or shutil.which("docker") is None:
        pytest.skip("no dockerd to compare with (Debian package docker.io)")
    folder = Path(tempfile.mkdtemp(prefix="wharfinger-peer-"))
    made = Docker(folder / "docker", "--host", LOOPBACK, "--tls=false")
    try:
        try:
            made.start()
        except RuntimeError as error:
            pytest.skip(f"dockerd cannot start here: {error}")
        made.build("-q", "-t", "busybox:latest", ".", cwd=busybox_context(folder / "busybox"))
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pair(engine: Platform, real: Docker) -> Pair:
    def ask_real(*argv: str, stdin: str | None = None) -> Completed:
        return subprocess.run(
            ["docker", *argv],
            env={"DOCKER_HOST": f"unix://{real.socket}", "PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_BUILDKIT": "0"},
            capture_output=True, text=True, timeout=60, check=False,
            input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
        )  # fmt: skip

    return Pair(engine.docker, ask_real, f"unix://{real.socket}")


def plain(text: str) -> str:
    """Set ids, times and addresses aside."""
    for pattern, word in (
        (r"sha256:[0-9a-f]{64}", "ID"),
        (r"\b[0-9a-f]{64}\b", "ID"),
        (r"\b[0-9a-f]{12}\b", "ID"),
        (r"\b20\d\d-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (r"\b02:42(:[0-9a-f]{2}){4}\b", "MAC"),
        (r"\b(172|10\.201)\.\d+\.\d+(\.\d+)?\b", "ADDRESS"),
    ):
        text = re.sub(pattern, word, text)
    return text


@pytest.mark.timeout(400)  # a hundred commands, twice
def test_commands_end_alike_and_say_the_same(pair: Pair) -> None:
    wrong, seen = [], set()
    for line in SCRIPT.strip().splitlines():
        argv = [word.replace("%", " ") for word in line.split()]
        real, ours = (side(*argv, stdin="through\n") for side in (pair.real, pair.ours))
        if ours.returncode != real.returncode:
            if line not in CODES:
                wrong.append(
                    f"{line}: ends with {ours.returncode}, there {real.returncode}: {ours.stderr.strip()}"
                )
            seen.add(line)
        elif (plain(ours.stdout), plain(ours.stderr)) != (plain(real.stdout), plain(real.stderr)):
            if line not in TEXTS:
                wrong.append(f"{line}: {ours.stdout + ours.stderr!r}, there {real.stdout + real.stderr!r}")
            seen.add(line)
    assert not wrong, "\n".join(wrong)
    assert set(TEXTS) | set(CODES) == seen, "rows that tell of no difference"


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """Return every leaf of a JSON value by its path; an empty list or map is a leaf."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {}
    for key, item in items:
        found |= flat(item, f"{where}.{key}" if where else str(key))
    return found or {where: value}


def compare(pair: Pair, allowed: dict[str, str], *argv: str) -> None:
    ours, real = (flat(json.loads(plain(side(*argv).stdout))[0]) for side in (pair.ours, pair.real))
    differing = {path for path in ours.keys() | real.keys() if ours.get(path, ...) != real.get(path, ...)}
    wrong = [
        f"{path}: {ours.get(path, 'missing')!r}, there {real.get(path, 'missing')!r}"
        for path in sorted(differing)
        if not any(fnmatch.fnmatchcase(path, pattern) for pattern in allowed)
    ]
    assert not wrong, "\n".join(wrong)
    stale = [pattern for pattern in allowed if not fnmatch.filter(differing, pattern)]
    assert not stale, f"rows that tell of no difference: {stale}"


def test_inspected_fields_are_the_same(pair: Pair) -> None:
    port = free_port()
    for side in (pair.ours, pair.real):
        for argv in (
            f"run -d --name box -e A=b -l k=v -p {port}:80 -m 64m -v /tmp/x --restart on-failure:3 busybox sleep 600",
            "network create --label a=b --subnet 10.99.8.0/24 near",
            "volume create --label x=y kept",
        ):
            done = side(*argv.split())
            assert done.returncode == 0, done.stderr
    try:
        compare(pair, CONTAINER, "inspect", "box")
        compare(pair, IMAGE, "image", "inspect", "busybox")
        compare(pair, NETWORK, "network", "inspect", "near")
        compare(pair, VOLUME, "volume", "inspect", "kept")
    finally:
        for side in (pair.ours, pair.real):
            for argv in ("rm -f -v box", "network rm near", "volume rm kept"):
                side(*argv.split())


@pytest.mark.parametrize("column", ["ps -a", "images", "network ls --filter driver=bridge", "volume ls"])
def test_lists_have_the_same_fields(pair: Pair, column: str) -> None:
    for side in (pair.ours, pair.real):
        side("create", "--name", "listed", "-v", "kept:/d", "busybox")
    try:
        ours, real = (
            json.loads(side(*column.split(), "--format", "json").stdout.splitlines()[0])
            for side in (pair.ours, pair.real)
        )
        assert ours.keys() == real.keys()
        assert {key: type(value) for key, value in ours.items()} == {
            key: type(value) for key, value in real.items()
        }
    finally:
        for side in (pair.ours, pair.real):
            side("rm", "-f", "listed")
            side("volume", "rm", "kept")


def test_events_of_a_life_are_the_same(pair: Pair) -> None:
    told = []
    for side in (pair.ours, pair.real):
        since = side("info", "--format", "{{.SystemTime}}").stdout.strip()
        side("run", "--name", "short", "busybox", "sh", "-c", "exit 3")
        side("rm", "short")
        until = side("info", "--format", "{{.SystemTime}}").stdout.strip()
        shown = side(
            "events", "--since", since, "--until", until, "--filter", "container=short",
            "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}",
        ).stdout  # fmt: skip
        # who attaches before the start stands in the audit book here, and is no event of the container
        told.append([line for line in shown.splitlines() if line != "container attach short <no value>"])
    assert told[0] == told[1]
    assert [line.split()[1] for line in told[0]] == ["create", "start", "die", "destroy"]


def test_detach_keys_over_tcp_are_the_commands_own_trouble(engine: Platform, real: Docker) -> None:
    """The command (28.2) takes its keys in, and hangs, over tcp:// with a real dockerd too; over a unix socket it leaves.

    So nothing that a server sends would help: it sees neither the keys nor an end.
    """

    def leaves(name: str, environment: dict[str, str], *before: str) -> bool:
        values = {"PATH": os.environ["PATH"], **environment}
        with Terminal([*before, "docker", "run", "-it", "--name", name, "busybox", "sh"], values) as shell:
            shell.wait_for("#")
            shell.type("\x10")
            time.sleep(0.2)  # the command looks for its keys in single bytes
            shell.type("\x11")
            try:
                return shell.wait(4) == 0
            except AssertionError:
                return False

    ours = engine.docker_environment()
    try:
        assert leaves("there", {"DOCKER_HOST": f"unix://{real.socket}"})
        assert leaves("here", ours | {"DOCKER_HOST": f"unix://{engine.home}/docker.sock"})
        over_tcp = leaves("there-tcp", {"DOCKER_HOST": LOOPBACK}, *real.inside())
        assert leaves("here-tcp", ours) == over_tcp
    finally:
        real.run("rm", "-f", "there", "there-tcp")

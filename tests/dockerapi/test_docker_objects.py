"""What people type about ports, volumes, files and clearing up: the rest of the rows that the docker command must do."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.dockerapi.test_docker_command import inspect, ok, wait_for_log
from tests.support.platform import Platform, free_port

pytestmark = pytest.mark.root


def said_at(address: tuple[str, int]) -> bytes:
    """Return what a published port says, asked until somebody is there."""
    deadline = time.monotonic() + 15
    while True:
        with socket.socket() as asking:
            asking.settimeout(1)
            try:
                asking.connect(address)
                asking.send(b"ask\n")
                if said := asking.recv(100):
                    return said
            except OSError:
                pass
        assert time.monotonic() < deadline, address
        time.sleep(0.05)


def two_free_ports() -> int:
    """Return the first of two ports beside each other that nobody listens on just now."""
    while True:
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            second.bind(("127.0.0.1", port + 1))
            return port


# 27: ports


def test_ports_of_each_kind(engine: Platform) -> None:
    """An address, a port that is chosen, a range, udp."""
    first = two_free_ports()
    udp = free_port()
    ok(
        engine, "run", "-d", "--name", "ports", "-p", "127.0.0.1::80", "-p", f"{udp}:53/udp",
        "-p", f"127.0.0.1:{first}-{first + 1}:7000-7001", "busybox", "sh", "-c",
        "for p in 80 7000 7001; do nc -ll -p $p -e echo port $p & done; wait",
    )  # fmt: skip
    host, _, chosen = ok(engine, "port", "ports", "80/tcp").rpartition(":")
    assert (host, int(chosen) >= 1024) == ("127.0.0.1", True)
    assert said_at(("127.0.0.1", int(chosen))) == b"port 80\n"
    assert said_at(("127.0.0.1", first)) == b"port 7000\n"
    assert said_at(("127.0.0.1", first + 1)) == b"port 7001\n"
    assert ok(engine, "port", "ports", "53/udp") == f"127.0.0.1:{udp}"
    assert f"127.0.0.1:{first}->7000/tcp" in ok(engine, "ps", "--format", "{{.Ports}}")


def test_every_exposed_port_is_published_on_request(engine: Platform) -> None:
    ok(
        engine,
        "run",
        "-d",
        "-P",
        "--expose",
        "81",
        "--name",
        "all",
        "busybox",
        "nc",
        "-ll",
        "-p",
        "81",
        "-e",
        "echo",
        "p",
    )
    port = int(ok(engine, "port", "all", "81").splitlines()[0].rpartition(":")[2])
    assert said_at(("127.0.0.1", port)) == b"p\n"


# 7, 28-30: volumes


def test_rm_takes_the_anonymous_volumes_on_request_alone(engine: Platform) -> None:
    ok(engine, "create", "--name", "one", "-v", "/data", "-v", "kept:/k", "busybox")
    (anonymous,) = [m["Name"] for m in inspect(engine, "one")["Mounts"] if m["Destination"] == "/data"]
    assert anonymous in ok(engine, "volume", "ls", "-q").split()
    ok(engine, "rm", "-v", "one")
    left = ok(engine, "volume", "ls", "-q").split()
    assert (anonymous in left, "kept" in left) == (False, True)
    ok(engine, "volume", "rm", "kept")


def test_a_volume_is_backed_up_and_restored_with_tar(engine: Platform) -> None:
    ok(
        engine,
        "run",
        "--rm",
        "-v",
        "first:/v",
        "busybox",
        "sh",
        "-c",
        "mkdir /v/d && echo data > /v/d/file && chmod 640 /v/d/file",
    )
    saved = subprocess.run(
        ["docker", "run", "--rm", "-v", "first:/v:ro", "busybox", "tar", "-C", "/v", "-c", "."],
        env=engine.docker_environment(), capture_output=True, check=True,
    ).stdout  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        assert "./d/file" in archive.getnames()
    done = engine.docker(
        "run", "--rm", "-i", "-v", "second:/v", "busybox", "tar", "-C", "/v", "-x", stdin=saved
    )
    assert done.returncode == 0, done.stderr
    assert (
        ok(
            engine,
            "run",
            "--rm",
            "-v",
            "second:/v",
            "busybox",
            "sh",
            "-c",
            "cat /v/d/file; stat -c %a /v/d/file",
        )
        == "data\n640"
    )
    ok(engine, "volume", "rm", "first", "second")


def test_volumes_and_networks_that_nobody_uses_are_pruned(engine: Platform) -> None:
    ok(engine, "volume", "create", "--label", "t=1", "idle")
    ok(engine, "network", "create", "idle-net")
    ok(
        engine,
        "run",
        "-d",
        "--name",
        "user",
        "-v",
        "busy:/d",
        "--network",
        "idle-net",
        "busybox",
        "sleep",
        "60",
    )
    assert "busy" not in ok(engine, "volume", "prune", "-a", "-f", "--filter", "label=t=1")
    assert ok(engine, "volume", "ls", "-q", "--filter", "name=idle") == ""
    assert "idle-net" not in ok(engine, "network", "prune", "-f")
    ok(engine, "rm", "-f", "user")
    assert "idle-net" in ok(engine, "network", "prune", "-f")
    assert "busy" in ok(engine, "volume", "ls", "-q", "--filter", "dangling=true").split()
    ok(engine, "volume", "rm", "busy")


def test_system_prune_and_what_it_leaves(engine: Platform, tmp_path: Path) -> None:
    ok(engine, "run", "--name", "ended", "busybox", "true")
    ok(engine, "run", "-d", "--name", "alive", "busybox", "sleep", "60")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo unnamed > /note\n")
    made = ok(engine, "build", "-q", str(tmp_path))
    shown = ok(engine, "system", "prune", "-f")
    assert "Deleted Containers" in shown
    assert "Total reclaimed space" in shown
    assert ok(engine, "ps", "-a", "--format", "{{.Names}}") == "alive"
    assert engine.docker("image", "inspect", made).returncode == 1
    assert engine.docker("image", "inspect", "busybox").returncode == 0
    assert ok(engine, "builder", "prune", "-f").startswith("Total")


def test_dangling_images_are_listed_and_pruned(engine: Platform, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo dangling > /note\n")
    made = ok(engine, "build", "-q", str(tmp_path))
    assert made in ok(engine, "image", "ls", "-q", "--no-trunc", "--filter", "dangling=true").split()
    assert made in ok(engine, "image", "prune", "-f")
    assert ok(engine, "image", "ls", "-q", "--filter", "dangling=true") == ""


# 8, 10: looking


def test_container_and_image_inspect_by_their_own_commands(engine: Platform) -> None:
    made = ok(engine, "create", "--name", "seen", "busybox", "true")
    assert json.loads(ok(engine, "container", "inspect", "seen"))[0]["Id"] == made
    assert json.loads(ok(engine, "image", "inspect", "busybox"))[0]["RepoTags"] == ["busybox:latest"]
    assert ok(engine, "inspect", "--type", "container", "--size", "--format", "{{.SizeRw}}", "seen") == "0"
    assert engine.docker("image", "inspect", "seen").returncode == 1
    assert ok(engine, "inspect", "--format", "{{.Name}}", made[:7]) == "/seen"


def test_a_short_name_means_the_library_of_the_hub(engine: Platform) -> None:
    """Where the hub cannot be reached it is named; the name is not looked for anywhere else."""
    done = engine.docker("pull", "no-such-image-anywhere")
    assert done.returncode == 1
    assert "docker.io" in done.stderr


# 32: files, events, figures


def test_cp_from_and_to_a_pipe(engine: Platform) -> None:
    ok(
        engine,
        "run",
        "-d",
        "--name",
        "pipe",
        "busybox",
        "sh",
        "-c",
        "mkdir /d && echo one > /d/a && ln -s a /d/b && sleep 60",
    )
    wait_for_files(engine, "pipe", "/d/b")
    packed = subprocess.run(
        ["docker", "cp", "pipe:/d", "-"], env=engine.docker_environment(), capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getmember("d/b").linkname == "a"
    done = engine.docker("cp", "-", "pipe:/tmp", stdin=packed)
    assert done.returncode == 0, done.stderr
    assert ok(engine, "exec", "pipe", "sh", "-c", "cat /tmp/d/b; readlink /tmp/d/b") == "one\na"
    assert set(ok(engine, "diff", "pipe").split("\n")) >= {"A /d", "A /d/a", "C /tmp", "A /tmp/d"}


def wait_for_files(engine: Platform, name: str, path: str) -> None:
    deadline = time.monotonic() + 10
    while engine.docker("exec", name, "test", "-e", path).returncode:
        assert time.monotonic() < deadline


def test_live_events_come_through_their_filters(engine: Platform) -> None:
    argv = ["docker", "events", "--filter", "type=container", "--filter", "label=watch=me", "--filter", "event=die",
            "--format", "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}"]  # fmt: skip
    following = subprocess.Popen(argv, env=engine.docker_environment(), stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(1)  # the command is there
        engine.docker("run", "--rm", "--name", "unseen", "busybox", "true")
        engine.docker(
            "run", "--rm", "--label", "watch=me", "--name", "watched", "busybox", "sh", "-c", "exit 5"
        )
        assert following.stdout is not None
        assert following.stdout.readline() == "die watched 5\n"
    finally:
        following.kill()
        following.communicate()


def test_stats_go_on_while_somebody_reads(engine: Platform) -> None:
    ok(engine, "run", "-d", "--name", "busy", "busybox", "sh", "-c", "echo up; while :; do :; done")
    wait_for_log(engine, "busy", "up")
    following = subprocess.Popen(
        ["docker", "stats", "--format", "{{.Name}} {{.PIDs}}", "busy"],
        env=engine.docker_environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert following.stdout is not None
        seen = [following.stdout.readline() for _ in range(4)]
        assert sum("busy 1" in line for line in seen) >= 2, seen
    finally:
        following.kill()
        following.communicate()


# waiting


@pytest.mark.parametrize("condition", ["", "not-running", "next-exit", "removed"])
def test_each_condition_of_wait(engine: Platform, condition: str) -> None:
    """`next-exit` passes over an end that was before; `removed` answers when the container is gone."""
    engine.docker("run", "--name", "w", "busybox", "sh", "-c", "exit 3")
    waiting = subprocess.Popen(
        ["curl", "-sN", "--noproxy", "*", "-X", "POST", "-H", f"Authorization: Bearer {engine.token}",
         f"{engine.url}/v1.44/containers/w/wait?condition={condition}"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        if condition in ("next-exit", "removed"):
            time.sleep(0.5)
            assert waiting.poll() is None
            ended = engine.docker(*(("start", "-a", "w") if condition == "next-exit" else ("rm", "w")))
            assert ended.returncode == (3 if condition == "next-exit" else 0), ended.stderr
        assert json.loads(waiting.communicate(timeout=20)[0]) == {"StatusCode": 3}
    finally:
        waiting.kill()
        waiting.communicate()

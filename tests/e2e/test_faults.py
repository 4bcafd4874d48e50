"""Processes die at the worst moment; afterwards everything is as if they had not, or is told as failed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.hostdiff import host_state
from tests.support.platform import Platform

pytestmark = [pytest.mark.root, pytest.mark.serial]


def eventually(check, what: str, within_s: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def kill(server: Platform, program: str) -> None:
    pids = server.pids(program)
    assert pids, f"no process {program}"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def kernel_objects(server: Platform) -> set[str]:
    """Return mounts and processes of steps and containers (the table and the bridge stay)."""
    return {
        item for item in host_state(server.config.instance).objects if item.startswith(("mount", "process"))
    }


def test_the_worker_dies_in_a_step_of_a_build(server: Platform, tmp_path: Path) -> None:
    """F-02: no process of the step, no mount, no half layer; the same build succeeds after."""
    before = kernel_objects(server)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN sleep 4 && echo slept > /slept\n")
    answer = server.upload("/builds/", {"tags": "slow:1"}, context=_tar(tmp_path))
    operation = answer.body["operation"]["id"]
    eventually(
        lambda: server.get(f"/operations/{operation}/").body["status"] == "running", "the build did not begin"
    )
    time.sleep(1.5)
    kill(server, "node.local.bulk")
    ended = ("succeeded", "failed")
    eventually(
        lambda: server.get(f"/operations/{operation}/").body["status"] in ended, "the build never ended", 60
    )
    eventually(lambda: kernel_objects(server) <= before, "something of the build is left in the kernel")
    built = server.build(tmp_path, "slow:2")
    assert built.status in (200, 201), built.body


def test_an_exit_is_seen_although_the_agent_was_dead(server: Platform) -> None:
    """F-08: the container goes on without the agent, and its exit code is known after."""
    made = server.post(
        "/containers/?wait=30",
        {"image": "busybox", "name": "mortal", "command": ["sh", "-c", "sleep 2; exit 42"]},
    )
    assert made.status == 201, made.body
    kill(server, "workers.agent")
    eventually(lambda: server.get("/containers/mortal/").body["status"] == "exited", "the exit was not seen")
    assert server.get("/containers/mortal/").body["exit_code"] == 42
    server.remove_containers()


def test_redis_dies_and_nothing_accepted_is_lost(server: Platform) -> None:
    """F-11, F-12: a request is refused or kept; afterwards all goes on."""
    kill(server, "redis-server")
    answer = server.post("/containers/", {"image": "busybox", "name": "outbox", "command": ["true"]})
    assert answer.status in (202, 503), answer.body
    eventually(lambda: server.get("/containers/").status == 200, "the site did not come back")
    if answer.status == 202:
        operation = answer.body["operation"]["id"]
        eventually(
            lambda: server.get(f"/operations/{operation}/").body["status"] in ("succeeded", "failed"),
            "accepted and lost",
            90,
        )
    done = server.post("/containers/?wait=60", {"image": "busybox", "name": "after", "command": ["true"]})
    assert done.status == 201, done.body
    server.remove_containers()


def test_web_dies_during_an_upload_and_leaves_no_upload(server: Platform, tmp_path: Path) -> None:
    import socket

    spool = server.home / "spool" / "in"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = (
            f"POST /api/v1/builds/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {server.token}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 10000000\r\n\r\n"
        )
        connection.sendall(
            head.encode()
            + b'--b\r\nContent-Disposition: form-data; name="context"; filename="c"\r\n\r\n'
            + b"x" * 100_000
        )
        time.sleep(0.5)
        kill(server, "webapp.server")
    eventually(
        lambda: server.get("/containers/").status == 200 if server.pids("webapp.server") else False,
        "web did not come back",
    )
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo again\n")
    assert server.build(tmp_path, "again:1").status in (200, 201)
    # what the cut request had written (its body, and the file in it) is swept within a day; nothing else is there
    assert len(list(spool.iterdir())) <= 2


def test_containers_outlive_a_stop_of_the_whole_platform(server: Platform) -> None:
    """A restart of everything: the same process, the same log, and the published state is right."""
    made = server.post(
        "/containers/?wait=30",
        {
            "image": "busybox",
            "name": "survivor",
            "command": ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"],
        },
    )
    assert made.status == 201, made.body
    pid = server.get("/containers/survivor/").body["record"]["pid"]
    server.stop()
    assert os.path.exists(f"/proc/{pid}")
    server.start()
    assert server.get("/containers/survivor/").body["status"] == "running"
    assert server.get("/containers/survivor/").body["record"]["pid"] == pid
    server.remove_containers()


def _tar(folder: Path) -> bytes:
    import subprocess

    return subprocess.run(["tar", "-C", str(folder), "-c", "."], capture_output=True, check=True).stdout

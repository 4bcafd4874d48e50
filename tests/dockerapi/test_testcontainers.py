"""testcontainers, unchanged: starts a container of our own image and waits for its port and its log."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from tests.support.platform import Platform

pytestmark = pytest.mark.root

PROGRAM = """
import json
from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs

script = "echo ready to accept connections; exec nc -ll -p 5432 -e echo rows"
with DockerContainer("busybox").with_command(["sh", "-c", script]).with_exposed_ports(5432).with_env("A", "b") as made:
    wait_for_logs(made, "ready to accept", timeout=10)
    print(json.dumps([made.get_container_host_ip(), made.get_exposed_port(5432)]), flush=True)
    code, output = made.exec(["sh", "-c", "echo $A"])
    assert (code, output) == (0, b"b\\n"), (code, output)
    input()
"""


def test_a_database_like_container_is_started_and_removed(engine: Platform) -> None:
    pytest.importorskip("testcontainers")
    environment = {**engine.docker_environment(), "TESTCONTAINERS_RYUK_DISABLED": "true", "NO_PROXY": "*"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        line = program.stdout.readline()
        assert line, program.stderr.read() if program.stderr else ""
        _, port = json.loads(line)
        with socket.create_connection(("127.0.0.1", int(port)), 5) as connection:
            assert connection.recv(100) == b"rows\n"
        _, errors = program.communicate("\n", timeout=20)
    assert program.returncode == 0, errors
    assert engine.docker("ps", "-aq").stdout.strip() == ""

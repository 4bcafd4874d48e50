"""`docker run -it`, `exec -it` and `attach` in a real pseudo-terminal; attach over a websocket."""

from __future__ import annotations

import asyncio
import time

import pytest
import websockets
from websockets.exceptions import WebSocketException

from tests.support.platform import Platform
from tests.support.pty import Terminal

pytestmark = pytest.mark.root


def terminal(
    engine: Platform, *argv: str, rows: int = 24, columns: int = 80, local: bool = False
) -> Terminal:
    environment = engine.docker_environment()
    if local:
        environment["DOCKER_HOST"] = f"unix://{engine.home}/docker.sock"
    return Terminal(["docker", *argv], environment, rows=rows, columns=columns)


def wait_until_size(shell: Terminal, size: str) -> None:
    """Ask for the size until it is `size`: it comes by a call of its own, right after the start or the signal."""
    deadline = time.monotonic() + 20
    while True:
        shell.type("stty size; echo do''ne\n")
        if size in shell.wait_for("done"):
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_run_in_a_terminal_knows_its_size_and_exits_as_the_shell_did(engine: Platform) -> None:
    with terminal(engine, "run", "-it", "--rm", "busybox", "sh", rows=33, columns=111) as shell:
        shell.wait_for("#")
        wait_until_size(shell, "33 111")
        shell.resize(40, 100)
        wait_until_size(shell, "40 100")
        shell.type("test -t 0 && exit 7\n")
        assert shell.wait() == 7


def test_exec_in_a_terminal_with_resize(engine: Platform) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    with terminal(engine, "exec", "-it", "box", "sh", rows=30, columns=90) as shell:
        shell.wait_for("#")
        wait_until_size(shell, "30 90")
        shell.resize(20, 70)
        wait_until_size(shell, "20 70")
        shell.type("exit 4\n")
        assert shell.wait() == 4


def test_interrupt_reaches_the_program_in_the_container(engine: Platform) -> None:
    with terminal(
        engine,
        "run",
        "-it",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 9' INT; echo up; while :; do sleep 0.1; done",
    ) as shell:
        shell.wait_for("up")
        shell.type("\x03")
        assert shell.wait() == 9


def test_detach_keys_leave_the_container_running_and_attach_comes_back(engine: Platform) -> None:
    # by the local socket: over TCP the command does not see its own keys (Go wraps the error that says so)
    with terminal(engine, "run", "-it", "--name", "stays", "busybox", "sh", local=True) as shell:
        shell.wait_for("#")
        shell.type("\x10")
        time.sleep(0.2)  # the command looks for its keys in single bytes
        shell.type("\x11")
        assert shell.wait() == 0
    assert engine.docker("ps", "--format", "{{.Names}}").stdout.strip() == "stays"
    with terminal(engine, "attach", "--detach-keys", "ctrl-x", "stays", local=True) as shell:
        shell.wait_for("#")  # the change of size makes the shell draw its line again
        shell.type("echo ba''ck\n")
        shell.wait_for("back")
        shell.type("\x18")
        shell.wait()
    assert engine.docker("ps", "--format", "{{.Names}}").stdout.strip() == "stays"


def test_attach_over_a_websocket(engine: Platform) -> None:
    engine.docker("run", "-dit", "--name", "web", "busybox", "sh")
    address = (
        f"ws://127.0.0.1:{engine.port}/v1.44/containers/web/attach/ws?stdin=1&stdout=1&stderr=1&stream=1"
    )

    async def talk() -> bytes:
        headers = {"Authorization": f"Bearer {engine.token}"}
        async with websockets.connect(address, additional_headers=headers, proxy=None) as connection:
            await connection.send(b"echo web''socket; exit\n")
            shown = b""
            async for message in connection:
                shown += message if isinstance(message, bytes) else message.encode()
            return shown

    assert b"websocket" in asyncio.run(asyncio.wait_for(talk(), 10))


def test_attach_over_a_websocket_needs_somebody_who_may(engine: Platform) -> None:
    """AP-01: no token, no attach; the ordinary cookies of a browser do not count either."""
    engine.docker("run", "-dit", "--name", "web", "busybox", "sh")
    viewer = engine.manage("token", "create", "admin", "--name", "looks", "--scope", "read")

    async def refused(headers: dict[str, str]) -> bool:
        address = f"ws://127.0.0.1:{engine.port}/containers/web/attach/ws?stdin=1&stream=1"
        try:
            async with websockets.connect(address, additional_headers=headers, proxy=None):
                return False
        except WebSocketException:
            return True

    for headers in (
        {},
        {"Cookie": "sessionid=x"},
        {"Authorization": "Bearer no"},
        {"Authorization": f"Bearer {viewer}"},
    ):
        assert asyncio.run(asyncio.wait_for(refused(headers), 10)), headers

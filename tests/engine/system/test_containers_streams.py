"""Exec, attach, terminals and logs of running containers, on the real kernel."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.containers.exec import ExecSpec
from engine.containers.model import Container, ContainerSpec
from engine.errors import BadSpec, Cancelled, CommandFailed, ExecNotFound, Unavailable, WrongState
from engine.linux.process import wait_until
from engine.progress import CancelToken
from engine.runtime.log_reader import Gap, LogQuery, Piece
from engine.runtime.streams import AttachPump
from tests.support.containers import Node, container_node

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


@pytest.fixture(scope="module")
def sleeper(node: Node) -> Container:
    return node.run("sleep", "600", env={"FROM": "container"})


def read_until(pump: AttachPump, text: bytes, after: int = 0, timeout_s: float = 10) -> bytes:
    """Collect output until `text` is in it."""
    seen = b""
    deadline = time.monotonic() + timeout_s
    for batch in pump.read(after):
        seen += b"".join(piece.data for piece in batch if isinstance(piece, Piece))
        if text in seen or time.monotonic() > deadline:
            return seen
    return seen


def test_exec_returns_both_streams_and_the_exit_code(node: Node, sleeper: Container) -> None:
    spec = ExecSpec(
        ["sh", "-c", "echo out; echo err >&2; echo $FROM $MINE; pwd; exit 3"], {"MINE": "x y"}, workdir="/tmp"
    )
    result = node.containers.execs.run(sleeper.id, spec)
    assert result.exit_code == 3
    assert result.stdout == b"out\ncontainer x y\n/tmp\n"
    assert result.stderr == b"err\n"


@pytest.mark.parametrize("user", ["", "alice"])
def test_a_program_may_open_its_streams_by_name(node: Node, sleeper: Container, user: str) -> None:
    """Log files of many images are links to /dev/stdout."""
    script = "echo to the log > /dev/stdout; echo to the other > /dev/stderr"
    container = node.run("sh", "-c", script, user=user)
    node.containers.wait(container.id, timeout_s=10)
    assert sorted(node.log(container.id).splitlines()) == ["to the log", "to the other"]
    result = node.containers.execs.run(sleeper.id, ExecSpec(["sh", "-c", script], user=user, stdin=True))
    assert (result.stdout, result.stderr) == (b"to the log\n", b"to the other\n")


def test_exec_as_another_user(node: Node, sleeper: Container) -> None:
    """RT-06: names are resolved inside, and unknown ones are refused."""
    result = node.containers.execs.run(sleeper.id, ExecSpec(["sh", "-c", "id -un; echo $HOME"], user="alice"))
    assert result.stdout == b"alice\n/home/alice\n"
    for user in ("nobody-here", "4294967296", "-1", "2147483648", "65536", "alice:nogroup", "a\nb"):
        with pytest.raises(BadSpec):
            node.containers.execs.run(sleeper.id, ExecSpec(["id"], user=user))


def test_exec_of_what_is_not_there(node: Node, sleeper: Container) -> None:
    with pytest.raises(CommandFailed) as caught:
        node.containers.execs.run(sleeper.id, ExecSpec(["no-such-program"]))
    assert caught.value.status == 127
    with pytest.raises(CommandFailed) as caught:
        node.containers.execs.run(sleeper.id, ExecSpec(["/etc/passwd"]))
    assert caught.value.status == 126
    with pytest.raises(BadSpec):
        node.containers.execs.run(sleeper.id, ExecSpec([]))
    with pytest.raises(ExecNotFound):
        node.containers.execs.get("nothing")


def test_exec_output_is_capped(node: Node, sleeper: Container) -> None:
    """RT-17: what a program writes does not fill our memory."""
    result = node.containers.execs.run(sleeper.id, ExecSpec(["head", "-c", str(3 << 20), "/dev/zero"]))
    assert (result.exit_code, len(result.stdout), result.truncated) == (0, 1 << 20, True)


def test_exec_with_a_terminal_can_be_resized(node: Node, sleeper: Container) -> None:
    record = node.containers.execs.create(sleeper.id, ExecSpec(["sh"], tty=True, stdin=True))
    session = node.containers.execs.start(record.id, size=(40, 100))
    session.write(b"stty size\n")
    seen = b""
    while b"40 100" not in seen:
        piece = session.read()
        assert piece is not None
        seen += piece.data
    node.containers.execs.resize(record.id, 30, 90)
    session.write(b"stty size; exit 9\n")
    rest = b"".join(piece.data for piece in session.output())
    assert b"30 90" in rest
    assert node.containers.execs.finish(record.id, session) == 9
    assert node.containers.execs.inspect(record.id).exit_code == 9
    for rows, columns in ((-1, 80), (0, 80), (65536, 80), (24, 10**9)):
        with pytest.raises((BadSpec, WrongState)):
            node.containers.execs.resize(record.id, rows, columns)


def test_exec_takes_input_to_its_end(node: Node, sleeper: Container) -> None:
    record = node.containers.execs.create(sleeper.id, ExecSpec(["wc", "-c"], stdin=True))
    session = node.containers.execs.start(record.id)
    session.write(b"x" * 100_000)
    session.end_input()
    assert b"".join(piece.data for piece in session.output()).strip() == b"100000"
    assert node.containers.execs.finish(record.id, session) == 0


def test_many_execs_at_once(node: Node, sleeper: Container) -> None:
    results: list[tuple[int, bytes]] = []

    def run(number: int) -> None:
        spec = ExecSpec(["sh", "-c", f"sleep 0.2; echo {number}; exit {number}"])
        done = node.containers.execs.run(sleeper.id, spec)
        results.append((done.exit_code, done.stdout))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [(number, f"{number}\n".encode()) for number in range(8)]
    assert node.containers.execs.running() == []


def test_an_exec_is_started_once(node: Node, sleeper: Container) -> None:
    record = node.containers.execs.create(sleeper.id, ExecSpec(["true"]), exec_id="e" * 64)
    assert node.containers.execs.create(sleeper.id, ExecSpec(["false"]), exec_id="e" * 64) == record
    session = node.containers.execs.start(record.id)
    for _ in session.output():
        continue
    assert node.containers.execs.finish(record.id, session) == 0
    with pytest.raises(WrongState):
        node.containers.execs.start(record.id)


def test_exec_is_killed_when_cancelled_or_late(node: Node, sleeper: Container) -> None:
    token = CancelToken()
    threading.Timer(0.3, token.cancel).start()
    with pytest.raises(Cancelled):
        node.containers.execs.run(sleeper.id, ExecSpec(["sleep", "77"]), cancel=token)
    with pytest.raises(TimeoutError):
        node.containers.execs.run(sleeper.id, ExecSpec(["sleep", "77"]), timeout_s=0.3)
    assert "sleep 77" not in str(node.containers.top(sleeper.id).processes)


def test_a_detached_exec_is_recorded_without_its_starter(node: Node, sleeper: Container) -> None:
    record = node.containers.execs.create(sleeper.id, ExecSpec(["sh", "-c", "sleep 0.3; exit 4"]))
    session = node.containers.execs.start(record.id)
    session.close()
    node.containers.execs._sessions.clear()  # as after the death of the process that started it
    deadline = time.monotonic() + 5
    while node.containers.execs.inspect(record.id).status != "exited" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert node.containers.execs.inspect(record.id).exit_code == 4


def test_execs_need_a_running_container(node: Node) -> None:
    container = node.containers.create(ContainerSpec("busybox", command=["sleep", "60"]))
    with pytest.raises(WrongState):
        node.containers.execs.run(container.id, ExecSpec(["true"]))
    node.containers.start(container.id)
    record = node.containers.execs.create(container.id, ExecSpec(["sleep", "60"]))
    session = node.containers.execs.start(record.id)
    node.containers.stop(container.id, 0)
    assert list(session.output()) == []
    assert node.containers.execs.finish(record.id, session) == 137
    node.containers.remove(container.id)
    with pytest.raises(ExecNotFound):
        node.containers.execs.get(record.id)


@pytest.mark.parametrize(
    "workdir",
    ["/proc/self/fd/7", "/proc/1/cwd", "/proc/self/cwd", "/sys", "/dev", "/leak", "relative", "/not/there"],
)
def test_working_directories_of_the_kernel_are_refused(node: Node, sleeper: Container, workdir: str) -> None:
    """RT-01: no way through the runtime's descriptors, for start and for exec, straight or by a link."""
    node.containers.execs.run(sleeper.id, ExecSpec(["ln", "-sfn", "/proc/self/fd/7", "/leak"]))
    with pytest.raises(BadSpec):
        node.containers.execs.run(sleeper.id, ExecSpec(["true"], workdir=workdir))
    if workdir not in ("/leak", "/not/there"):
        with pytest.raises(BadSpec):
            node.run("true", workdir=workdir)


def test_only_the_standard_descriptors_are_open(node: Node, sleeper: Container) -> None:
    """RT-01: nothing of ours is inherited, neither at start nor by an exec."""
    record = node.containers.execs.create(sleeper.id, ExecSpec(["sleep", "77"]))
    with node.containers.execs.session(record.id) as session:
        for pid in (sleeper.pid, session.pid):
            assert wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"), 5)  # noqa: B023
            assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        session.kill()
        assert list(session.output()) == []


def test_attach_reads_writes_and_detaches(node: Node) -> None:
    container = node.run(
        "sh", "-c", "while read line; do echo got $line; done; echo bye", stdin_open=True, stdin_once=True
    )
    pump = node.containers.attach(container.id)
    pump.write(b"one\n")
    assert b"got one" in read_until(pump, b"got one")
    pump.end_input()
    assert b"bye" in read_until(pump, b"bye")
    node.containers.wait(container.id, timeout_s=5)
    pump.close()
    assert node.log(container.id) == "got one\nbye\n"
    node.containers.remove(container.id)


def test_attach_to_a_terminal(node: Node) -> None:
    container = node.run("sh", tty=True, stdin_open=True)
    pump = node.containers.attach(container.id)
    node.containers.resize(container.id, 33, 77)
    pump.write(b"stty size\n")
    assert b"33 77" in read_until(pump, b"33 77")
    pump.write(b"exit 6\n")
    assert node.containers.wait(container.id, timeout_s=5).exit_code == 6
    pump.close()
    node.containers.remove(container.id)


def test_a_viewer_that_never_reads_does_not_stall_the_container(node: Node) -> None:
    """D7, DS-05: the pump always reads; who is too slow is told what is missing."""
    container = node.run("sh", "-c", "read go; i=0; while [ $i -lt 300 ]; do cat /bin/busybox | head -c 8000 | tr -c x y; echo; i=$((i+1)); done; echo end", stdin_open=True)  # fmt: skip
    pump = node.containers.attach(container.id)
    pump.write(b"go\n")
    assert node.containers.wait(container.id, timeout_s=30).exit_code == 0
    batch = next(batch for batch in pump.read(0) if batch)
    assert isinstance(batch[0], Gap)
    assert batch[0].missed_bytes > 1_000_000
    held = sum(len(piece.data) for piece in batch if isinstance(piece, Piece))
    assert held <= 300_000
    pump.close()
    node.containers.remove(container.id)


def test_attach_needs_a_running_container(node: Node) -> None:
    container = node.containers.create(ContainerSpec("busybox", command=["true"]))
    with pytest.raises(WrongState):
        node.containers.attach(container.id)
    node.containers.remove(container.id)
    with pytest.raises(Unavailable):
        AttachPump(node.containers.parts.bundle(container.id).attach_socket)


def test_following_a_log_ends_with_the_container(node: Node) -> None:
    container = node.run("sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done")
    lines: list[bytes] = []
    threading.Timer(0.9, node.containers.reap, [container.id]).start()
    for batch in node.containers.raw_logs(container.id, LogQuery(follow=True)):
        lines += [piece.data for piece in batch if isinstance(piece, Piece)]
    assert b"".join(lines) == b"line 1\nline 2\nline 3\nline 4\nline 5\n"
    node.containers.remove(container.id)


def test_a_log_flood_is_bounded_on_disk(node: Node) -> None:
    """DS-03: endless output, in lines and without, never takes more than its limit, and the container ends well."""
    limit = {"max-size": "256k", "max-file": "4"}
    for script in ("i=0; while [ $i -lt 40 ]; do head -c 500000 /dev/zero; i=$((i+1)); done", "seq 1 400000"):
        container = node.run("sh", "-c", script, log_options=limit)
        files = node.containers.parts.log_files(container)
        largest = 0
        while not node.containers.reap(container.id).finished_at:  # type: ignore[union-attr]
            files.refresh()
            largest = max(largest, _disk(files.folder))
            time.sleep(0.01)
        assert largest <= 1024 * 1024 * 1.1
        node.containers.remove(container.id)


def test_no_log_is_kept_when_none_is_wanted(node: Node) -> None:
    container = node.run("echo", "secret", log_driver="none")
    node.containers.wait(container.id, timeout_s=5)
    assert node.log(container.id) == ""
    node.containers.remove(container.id)


def _disk(folder: object) -> int:
    seen: dict[int, int] = {}
    for place, _, names in os.walk(str(folder)):
        for name in names:
            try:
                status = os.stat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            seen[status.st_ino] = status.st_size
    return sum(seen.values())

"""Build steps on the real kernel: the sandbox, the exit status, and that nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import BadSpec, Cancelled
from engine.progress import CancelToken
from engine.runtime.step import StepRunner
from tests.support.runtime import Home, engine_home, mounted_root

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with engine_home() as made:
        yield made


@pytest.fixture
def runner(home: Home) -> StepRunner:
    return StepRunner(home.config, home.runtime, home.cgroups)


class Collected:
    def __init__(self) -> None:
        self.stdout, self.stderr = b"", b""

    def __call__(self, stream: str, data: bytes) -> None:
        setattr(self, stream, getattr(self, stream) + data)


def test_output_and_exit_status_come_back(home: Home, runner: StepRunner) -> None:
    out = Collected()
    with mounted_root(home) as (root, _, idmap):
        status = runner.run_step(
            root, argv=["sh", "-c", "echo hello; echo oops >&2; exit 7"], idmap=idmap, on_output=out
        )
    assert (status, out.stdout, out.stderr) == (7, b"hello\n", b"oops\n")


@pytest.mark.parametrize("user", ["", "alice"])
def test_a_step_may_open_its_streams_by_name(home: Home, runner: StepRunner, user: str) -> None:
    out = Collected()
    argv = ["sh", "-c", "echo hello > /dev/stdout; echo oops > /dev/stderr"]
    with mounted_root(home) as (root, _, idmap):
        assert runner.run_step(root, argv=argv, user=user, idmap=idmap, on_output=out) == 0
    assert (out.stdout, out.stderr) == (b"hello\n", b"oops\n")


def test_files_belong_to_the_mapped_root_and_stubs_are_gone(home: Home, runner: StepRunner) -> None:
    with mounted_root(home) as (root, upper, idmap):
        assert not runner.run_step(
            root, argv=["sh", "-c", "echo x > /made; chown 1000 /made"], idmap=idmap, on_output=Collected()
        )
        assert os.stat(upper / "made").st_uid == idmap.host_start + 1000
        assert not (upper / "etc/hosts").exists()


def test_user_is_resolved_inside(home: Home, runner: StepRunner) -> None:
    out = Collected()
    with mounted_root(home) as (root, _, idmap):
        runner.run_step(root, argv=["sh", "-c", "id; echo $HOME"], user="alice", idmap=idmap, on_output=out)
        assert b"uid=1000(alice) gid=1000(alice) groups=50(staff),60(netdev)" in out.stdout
        assert b"/home/alice" in out.stdout
        with pytest.raises(BadSpec, match="no user 'bob'"):
            runner.run_step(root, argv=["id"], user="bob", idmap=idmap, on_output=out)


def test_a_program_that_is_not_there_gives_127(home: Home, runner: StepRunner) -> None:
    with mounted_root(home) as (root, _, idmap):
        assert runner.run_step(root, argv=["no-such-program"], idmap=idmap, on_output=Collected()) == 127
        assert runner.run_step(root, argv=["/etc/passwd"], idmap=idmap, on_output=Collected()) == 126


def test_cancel_ends_a_step_within_two_seconds(home: Home, runner: StepRunner) -> None:
    token = CancelToken()
    threading.Timer(0.3, token.cancel).start()
    started = time.monotonic()
    with mounted_root(home) as (root, _, idmap), pytest.raises(Cancelled):
        runner.run_step(root, argv=["sleep", "60"], idmap=idmap, on_output=Collected(), cancel=token)
    assert time.monotonic() - started < 2
    assert not home.cgroups.exists(f"wharfinger-{home.config.instance}/step")
    assert not list((home.config.run_root / "steps").iterdir())


def test_background_processes_end_with_the_step(home: Home, runner: StepRunner) -> None:
    """BU-09: nothing of the step's group is left when it returns."""
    with mounted_root(home) as (root, _, idmap):
        argv = ["sh", "-c", "(setsid sleep 999 >/dev/null 2>&1 &) ; true"]
        assert runner.run_step(root, argv=argv, idmap=idmap, on_output=Collected()) == 0
    assert not home.cgroups.processes(f"wharfinger-{home.config.instance}")
    assert not [
        name for name in home.cgroups.children(f"wharfinger-{home.config.instance}") if "step" in name
    ]


CALLER = """
import json, sys
from pathlib import Path
from engine.config import EngineConfig
from engine.linux.cgroup import Cgroups
from engine.linux.userns import IdMap
from engine.runtime.oci_runtime import probe
from engine.runtime.step import StepRunner
data, run, instance, root, start, pin = sys.argv[1:]
config = EngineConfig(Path(data), Path(run), instance)
import os
idmap = IdMap(int(start), 65536, os.open(pin, os.O_RDONLY), Path(pin))
runner = StepRunner(config, probe(config), Cgroups())
runner.run_step(Path(root), argv=["sh", "-c", "echo up; sleep 999"], idmap=idmap,
                on_output=lambda stream, data: print(data.decode(), end="", flush=True))
"""


def test_a_step_whose_caller_was_killed_is_swept(home: Home, runner: StepRunner) -> None:
    """F-02: after kill -9 of the caller no process of the step is left once the sweeper came by."""
    with mounted_root(home) as (root, _, idmap):
        config = home.config
        arguments = [config.data_root, config.run_root, config.instance, root, idmap.host_start, idmap.pin]
        caller = subprocess.Popen(
            [sys.executable, "-c", CALLER, *map(str, arguments)], stdout=subprocess.PIPE, cwd=Path.cwd()
        )
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"up\n"
        assert runner.sweep() == []
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        caller.stdout.close()
        assert len(runner.sweep()) == 1
        assert not home.cgroups.processes(f"wharfinger-{config.instance}")


def test_the_sandbox_is_that_of_a_container(home: Home, runner: StepRunner) -> None:
    """RT-05: the documented capabilities, nothing inheritable or ambient; RT-04: a filter is on."""
    out = Collected()
    with mounted_root(home) as (root, _, idmap):
        runner.run_step(root, argv=["cat", "/proc/self/status"], idmap=idmap, on_output=out)
    status = dict(line.split(":\t", 1) for line in out.stdout.decode().splitlines())
    assert status["CapBnd"] == "00000000a80425fb"
    assert (status["CapInh"], status["CapAmb"]) == ("0" * 16, "0" * 16)
    assert status["Seccomp"] == "2"


def test_a_step_costs_little(home: Home, runner: StepRunner, record_property: pytest.RecordProperty) -> None:
    with mounted_root(home) as (root, _, idmap):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            assert runner.run_step(root, argv=["true"], idmap=idmap, on_output=Collected()) == 0
            times.append(round((time.perf_counter() - began) * 1000, 1))
    record_property("step_ms", json.dumps(times))
    assert min(times) < 1000  # some 30 on a machine that has nothing else to do

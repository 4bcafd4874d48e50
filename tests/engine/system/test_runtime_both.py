"""Both OCI runtimes: which one is taken, where it works, and the same tests with the one that is not the default."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.containers.exec import ExecSpec
from engine.linux.cgroup import Mode, detect
from engine.runtime.oci_runtime import probe
from tests.support.containers import Node, container_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("crun"), reason="crun is not installed")]


@pytest.fixture
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


def test_crun_is_taken_and_does_not_see_the_hybrids_second_hierarchy(engine_config: EngineConfig) -> None:
    runtime = probe(engine_config)
    assert runtime.name == "crun"
    found = runtime.spawn(["cat", "/proc/self/mountinfo"], stdout=subprocess.PIPE)
    text = found.communicate()[0].decode()
    assert ("cgroup2" in text) == (detect().mode is Mode.V2)
    assert "/sys/fs/cgroup" in text


def test_a_wish_is_followed(engine_config: EngineConfig) -> None:
    runtime = probe(replace(engine_config, runtime="runc"))
    assert (runtime.name, runtime.namespace, runtime.filters) == ("runc", None, None)


@pytest.mark.parametrize(("file", "maker"), [("state.json", "runc"), ("status", "crun")])
def test_who_made_the_containers_that_are_there_stays(
    engine_config: EngineConfig, file: str, maker: str
) -> None:
    state = engine_config.run_root / "runtime" / ("ab" * 32)
    state.mkdir(parents=True)
    (state / file).write_text("{}")
    assert probe(engine_config).name == maker


def outside(pid: int, group: str) -> list[str]:
    """Return the hierarchies in which a process is not in `group`."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return [line for line in lines if not line.endswith(f"/{group}")]


def test_every_hierarchy_has_a_container_in_its_group(node: Node) -> None:
    """The one that the runtime does not see too: a service manager counts processes there."""
    container = node.run("sleep", "600")
    group = node.containers.parts.group_of(container.id)
    record = node.containers.execs.create(container.id, ExecSpec(["sleep", "600"]))
    with node.containers.execs.session(record.id) as session:
        assert outside(container.pid, group) == []
        assert outside(session.pid, group) == []
        session.kill()
    node.containers.remove(container.id, force=True)


def test_a_profile_is_translated_once(node: Node) -> None:
    runtime = node.containers.parts.runtime
    assert runtime.filters is not None
    seen = []
    for _ in range(2):
        container = node.run("sleep", "600")
        folder = node.containers.parts.bundle(container.id).folder
        config = json.loads((folder / "config.json").read_text())
        state = Path(runtime.root) / container.id / "seccomp.bpf"
        seen.append(("annotations" in config, state.read_bytes()))
        node.containers.remove(container.id, force=True)
    assert seen[1][0], "the second container was given the program"
    assert seen[0][1] == seen[1][1], "and it is the same"


@pytest.mark.parametrize(
    "tests",
    [
        ["tests/engine/system/test_step.py"],
        ["tests/engine/system/test_containers_life.py", "-k", "exit_status or pause or after_the_grace"],
        ["tests/engine/system/test_containers_streams.py", "-k", "both_streams or terminal or attach_reads"],
        ["tests/engine/system/test_containers_security.py", "-k", "capabilities or masked or devices"],
    ],
    ids=["steps", "life", "streams", "security"],
)  # fmt: skip
def test_the_same_holds_with_runc(tests: list[str]) -> None:
    """Both runtimes, one suite."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "WHARFINGER_RUNTIME": "runc"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        capture_output=True, text=True, cwd=Path.cwd(), env=environment, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]

"""What is asked of a container reaches its program, also while it runs; and what went wrong with it is seen and told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from engine.containers.model import Container, ContainerSpec, Resources, RestartPolicy, Status, Ulimit
from engine.errors import BadSpec, Unsupported
from engine.linux.process import process_id, wait_until
from tests.support.containers import Node, container_node

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


def test_names_and_resolver_are_those_asked_for(node: Node) -> None:
    script = "sleep 0.2; hostname; cat /proc/sys/kernel/domainname; grep -v '^#' /etc/resolv.conf; grep wharf /etc/hosts | cut -f2"
    text = node.output(
        "sh", "-c", script, hostname="wharf", domainname="quay.example", dns=["192.0.2.53"], dns_search=["quay.example"],
        dns_options=["ndots:2"], network_mode="none",
    )  # fmt: skip
    lines = text.splitlines()
    assert lines[:2] == ["wharf", "quay.example"]
    assert {"nameserver 192.0.2.53", "search quay.example", "options ndots:2"} <= set(lines)


def test_scores_sizes_and_limits_are_those_asked_for(node: Node) -> None:
    script = "cat /proc/self/oom_score_adj; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; ulimit -c; ulimit -s"
    limits = [Ulimit("core", 0, 0), Ulimit("stack", 4 << 20, 8 << 20)]
    text = node.output(
        "sh", "-c", script, resources=Resources(oom_score_adj=300, ulimits=limits), shm_size_bytes=3 << 20
    )
    assert text.split() == ["300", "3072", "0", "4096"]


def test_a_weight_of_disk_time_is_given_or_refused_with_the_reason(node: Node) -> None:
    """Never ignored in silence: whether a host can weigh depends on its kernel."""
    spec = ContainerSpec("busybox", command=["sleep", "60"], resources=Resources(blkio_weight=500))
    cgroups = node.containers.parts.cgroups
    names = ("blkio.weight", "blkio.bfq.weight")
    able = "io" in cgroups.controllers() or any(cgroups.has_file("blkio", name) for name in names)
    if not able:
        with pytest.raises(Unsupported, match="block I/O weight") as caught:
            node.containers.create(spec)
        assert caught.value.hint
        return
    container = node.containers.start(node.containers.create(spec).id)
    folder = cgroups.folder("blkio", node.containers.parts.group_of(container.id))
    assert folder is not None
    found = [path for name in (*names, "io.bfq.weight", "io.weight") if (path := folder / name).exists()]
    assert any(path.read_text().split()[-1] not in ("100", "default") for path in found)
    node.containers.remove(container.id, force=True)


def test_a_running_container_gets_other_limits_and_another_policy(node: Node) -> None:
    container = node.run("sleep", "60", resources=Resources(cpus=0.5, memory_bytes=64 << 20))
    updated = node.containers.update(
        container.id,
        {"cpus": 0.25, "cpuset_cpus": "0", "memory_bytes": 32 << 20},
        RestartPolicy("on-failure", 2),
    )
    assert (updated.pid, updated.spec.restart) == (container.pid, RestartPolicy("on-failure", 2))
    quota = _value(node, container, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0]
    assert (quota, _value(node, container, "cpuset", "cpuset.cpus")) == ("25000", "0")
    assert _value(node, container, "memory", "memory.limit_in_bytes", "memory.max") == str(32 << 20)
    with pytest.raises((BadSpec, Unsupported)):
        node.containers.update(container.id, {"cpuset_cpus": "900"})
    assert node.containers.get(container.id).spec.resources.cpuset_cpus == "0"
    again = node.containers.restart(container.id, 0)
    assert again.spec.resources.cpus == 0.25
    assert _value(node, container, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "25000"
    node.containers.remove(container.id, force=True)


def _value(node: Node, container: Container, controller: str, *names: str) -> str:
    folder = node.containers.parts.cgroups.folder(controller, node.containers.parts.group_of(container.id))
    assert folder is not None
    return next((folder / name).read_text().strip() for name in names if (folder / name).exists())


def test_the_timeline_shows_the_last_words_before_an_end(node: Node) -> None:
    container = node.run(
        "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo line $i; done; echo oh no >&2; exit 3"
    )
    node.containers.wait(container.id, timeout_s=10)
    moments = node.containers.timeline(container.id)
    assert [moment.action for moment in moments] == ["create", "start", "die"]
    end = moments[-1]
    assert end.attributes["exitCode"] == "3"
    said = [(line["stream"], line["text"]) for line in end.log]
    assert ("stderr", "oh no") in said
    assert {("stdout", f"line {number}") for number in (6, 7, 8)} <= set(said)
    node.containers.remove(container.id)


def test_out_of_memory_is_in_the_timeline(node: Node) -> None:
    limits = Resources(memory_bytes=16 << 20, memory_swap_bytes=16 << 20)
    container = node.run(
        "sh", "-c", "echo filling; head -c 64000000 /dev/zero | tail -c 64000000", resources=limits
    )
    node.containers.wait(container.id, timeout_s=30)
    found = {moment.action: moment for moment in node.containers.timeline(container.id)}
    assert [line["text"] for line in found["oom"].log][:1] == ["filling"]
    node.containers.remove(container.id)


# --- what does not match any more (F-25) --------------------------------------------------------------------------


def found(node: Node, container: Container) -> str:
    return "\n".join(line for line in node.containers.check() if container.name in line)


def test_a_lost_file_system_is_named_and_the_container_can_be_removed(node: Node) -> None:
    container = node.containers.create(ContainerSpec("busybox", command=["true"]))
    node.containers.parts.snapshots.remove(container.id)
    assert "its file system is gone" in found(node, container)
    node.containers.remove(container.id, force=True)
    assert node.containers.check() == []


def test_a_lost_process_is_named_and_recorded(node: Node) -> None:
    container = node.run("sleep", "600")
    monitor = node.containers.store.private(container.id).monitor_pid
    for pid in (monitor, container.pid):
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: process_id(container.pid) is None, 5)
    assert "its first process is gone" in found(node, container)
    assert node.containers.reconcile()
    assert (node.containers.get(container.id).status, found(node, container)) == (Status.EXITED, "")
    node.containers.remove(container.id)


def test_a_lost_bundle_or_root_is_named_while_the_container_runs(node: Node) -> None:
    container = node.run("sleep", "600")
    node.containers.parts.bundle(container.id).config.unlink()
    assert "its bundle is gone" in found(node, container)
    node.containers.remove(container.id, force=True)
    assert node.containers.check() == []


def test_records_and_kernel_agree_again_within_one_round(node: Node) -> None:
    """One round of the agent, every five seconds, is enough and quick: ten containers lose their processes at once."""
    made = [node.run("sleep", "600") for _ in range(10)]
    node.containers.parts.cgroups.kill(node.containers.parts.group)
    began = time.monotonic()
    node.containers.reconcile()
    assert time.monotonic() - began < 5
    assert {node.containers.get(container.id).status for container in made} == {Status.EXITED}
    assert node.containers.check() == []
    for container in made:
        node.containers.remove(container.id)

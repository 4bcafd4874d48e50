"""Whatever dies, at whatever instruction: afterwards records, kernel and disk agree, and the same request works."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.containers import verdict
from engine.containers.manager import ContainerManager
from engine.containers.model import Container, ContainerSpec, PortSpec, RestartPolicy, Status, to_json
from engine.errors import CommandFailed, ContainerNotFound, EngineError, Unavailable
from engine.linux.cgroup import Cgroups
from engine.linux.mount import LinuxMounts
from engine.linux.process import process_id, wait_until
from engine.runtime.conmon import Monitors
from tests.support.containers import Node, container_node, open_node
from tests.support.crashing import crash

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


@pytest.fixture
def supervised(node: Node) -> Iterator[Node]:
    """The node with its agent's supervision running."""
    stop = threading.Event()
    containers = open_node(node.config).containers
    thread = threading.Thread(target=containers.supervisor.run, args=(stop,))
    thread.start()
    yield node
    stop.set()
    thread.join(10)


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> bool:
    return wait_until(condition, timeout_s, 0.005)


def objects(node: Node, container_id: str) -> set[str]:
    """Return everything in kernel and folders that carries a container's id, but its record."""
    found = {f"mount {entry.target}" for entry in LinuxMounts().entries() if container_id in entry.target}
    found |= {
        f"group {folder}"
        for folder in Cgroups().folders(node.containers.parts.group_of(container_id))
        if folder.exists()
    }
    for root in (node.config.run_root, node.config.data_root):
        for folder, folders, files in os.walk(root):
            found |= {os.path.join(folder, name) for name in [*folders, *files] if container_id in name}
    found |= {f"address {item.ipv4_address}" for item in node.network.endpoints(container_id)}
    found |= {
        f"port {item.binding.host_port}"
        for item in node.network.held_ports()
        if item.container_id == container_id
    }
    return {
        item
        for item in found
        if "container-locks" not in item and not item.endswith(f"data/containers/{container_id}")
    }


def conmons(node: Node) -> list[int]:
    return [
        pid
        for pid in node.containers.parts.cgroups.processes(f"{node.containers.parts.group}/monitors")
        if process_id(pid)
    ]


STARTS = [
    "engine.linux.userns:make_userns", "engine.containers.launch:make_userns", "engine.containers.launch:Launcher._mount_root",
    "engine.containers.launch:Launcher._hold_ports", "engine.containers.launch:Launcher._allocate",
    "engine.containers.launch:Launcher.write_files", "engine.containers.sandbox:Assembler.assemble",
    "engine.runtime.bundle:Bundle.make", "engine.network.manager:NetworkManager.attach",
    "engine.network.manager:NetworkManager.publish", "engine.runtime.conmon:Monitors._spawn",
    "engine.runtime.conmon:Monitors.create", "engine.containers.launch:Launcher._record",
    "engine.runtime.oci_runtime:OciRuntime.start",
]  # fmt: skip


@pytest.mark.parametrize("point", STARTS[1:])
def test_a_start_that_was_killed_is_fully_there_or_fully_gone(node: Node, point: str) -> None:
    """F-04: kill -9 after each step of a start."""
    port = PortSpec(80, host_port=18080 + STARTS.index(point))
    container = node.containers.create(ContainerSpec("busybox", command=["sleep", "600"], ports=[port]))
    idle = objects(node, container.id)
    crash(node, point, "start", container.id)
    node.containers.reconcile()
    found = node.containers.get(container.id)
    if found.status is Status.RUNNING:
        assert point.rpartition(".")[2] in ("_record", "start")
        assert until(lambda: (Path(f"/proc/{found.pid}/cmdline").read_bytes()).startswith(b"sleep"))
    else:
        assert found.status is Status.CREATED
        assert objects(node, container.id) == idle
    assert node.containers.check() == []
    assert node.containers.start(container.id).status is Status.RUNNING
    node.containers.remove(container.id, force=True)
    assert objects(node, container.id) == set()
    assert until(lambda: not conmons(node))


CREATES = [
    "engine.containers.store:ContainerStore.insert", "engine.linux.userns:RangeAllocator.allocate",
    "engine.snapshots.overlay:OverlaySnapshotter.prepare", "engine.volumes.manager:VolumeManager.resolve",
    "engine.snapshots.overlay:OverlaySnapshotter.mount_view", "engine.volumes.manager:VolumeManager.copy_up",
    "engine.containers.store:ContainerStore.save",
]  # fmt: skip


@pytest.mark.parametrize("point", CREATES)
def test_a_create_that_was_killed_leaves_nothing_and_works_again(node: Node, point: str) -> None:
    """F-04: kill -9 after each step of a create; the same request with the same id then succeeds."""
    from engine.containers.model import MountSpec

    identity = f"{CREATES.index(point):02x}" * 32
    spec = ContainerSpec("busybox", name="wanted", command=["true"], mounts=[MountSpec("volume", "/etc")])
    crash(node, point, "create", to_json(spec), identity)
    node.containers.reconcile()
    if not point.endswith("save"):
        with pytest.raises(ContainerNotFound):
            node.containers.get(identity)
        assert objects(node, identity) == set()
    assert node.containers.create(spec, id=identity).status is Status.CREATED
    node.containers.remove(identity, volumes=True)
    assert objects(node, identity) == set()


ENDS = [
    "engine.containers.launch:Launcher.dismantle", "engine.snapshots.overlay:OverlaySnapshotter.detach",
    "engine.volumes.manager:VolumeManager.release", "engine.network.manager:NetworkManager.release",
    "engine.linux.userns:RangeAllocator.release", "engine.runtime.bundle:Bundle.remove",
    "engine.linux.cgroup:Cgroups.kill", "engine.linux.cgroup:Cgroups.remove", "engine.containers.store:ContainerStore.delete",
]  # fmt: skip


@pytest.mark.parametrize("point", ENDS)
def test_a_removal_that_was_killed_can_be_repeated(node: Node, point: str) -> None:
    """F-05: kill -9 at each step of a forced removal; the second one ends it."""
    port = PortSpec(80, host_port=18180 + ENDS.index(point))
    container = node.run("sleep", "600", ports=[port])
    crash(node, point, "remove", container.id, force=True)
    try:
        node.containers.remove(container.id, force=True)
    except ContainerNotFound:
        assert point.endswith("delete")
    node.containers.reconcile()
    assert objects(node, container.id) == set()
    assert until(lambda: process_id(container.pid) is None)
    again = node.run("true", ports=[port])
    node.containers.remove(again.id, force=True)


@pytest.mark.parametrize(
    "point",
    ["engine.containers.lifecycle:Lifecycle._signal", "engine.containers.lifecycle:Lifecycle._await_end"],
)
def test_a_stop_that_was_killed_can_be_repeated(node: Node, point: str) -> None:
    """F-05."""
    container = node.run("sleep", "600", stop_signal="SIGKILL")
    crash(node, point, "stop", container.id, 1)
    assert node.containers.stop(container.id, 1).status is Status.EXITED
    node.containers.remove(container.id)
    assert objects(node, container.id) == set()


def test_containers_outlive_every_process_of_ours(node: Node) -> None:
    """F-08: a second engine finds them with the same process ids, a whole log, and exits that happened meanwhile."""
    script = "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); sleep 0.005; done; exit 42"
    started = subprocess.run(
        ["env", sys.executable, "-c", _RUNNER, str(node.config.data_root), str(node.config.run_root), node.config.instance, script],
        capture_output=True, text=True, check=True, cwd=Path.cwd(),
    )  # fmt: skip
    identity, pid = started.stdout.split()
    other = open_node(node.config)
    assert other.containers.get(identity).pid == int(pid)
    assert until(
        lambda: (
            not other.containers.parts.bundle(identity).folder.exists()
            or other.containers.parts.bundle(identity).read_exit_status() is not None
        )
    )
    assert any("exit status 42" in line for line in other.containers.reconcile())
    ended = other.containers.get(identity)
    assert (ended.status, ended.exit_code) == (Status.EXITED, 42)
    assert node.log(identity) == "".join(f"{number}\n" for number in range(200))
    node.containers.remove(identity)


_RUNNER = """
import sys
from pathlib import Path
from engine.config import EngineConfig
from engine.containers.model import ContainerSpec
from tests.support.containers import open_node
data, run, instance, script = sys.argv[1:]
node = open_node(EngineConfig(Path(data), Path(run), instance))
spec = ContainerSpec("busybox", command=["sh", "-c", script], network_mode="none")
container = node.containers.start(node.containers.create(spec).id)
print(container.id, container.pid)
"""


def test_a_killed_monitor_is_noticed_and_nothing_stays(node: Node) -> None:
    """F-09: the state is honest within one round, no process is left, and removal works."""
    container = node.run("sleep", "600")
    private = node.containers.store.private(container.id)
    os.kill(private.monitor_pid, signal.SIGKILL)
    assert until(lambda: process_id(private.monitor_pid) is None)
    assert any("137" in line for line in node.containers.reconcile())
    ended = node.containers.get(container.id)
    assert (ended.status, ended.exit_code) == (Status.EXITED, 137)
    assert "monitor" in ended.error
    assert until(lambda: process_id(container.pid) is None)
    node.containers.remove(container.id)
    assert objects(node, container.id) == set()


def test_a_killed_monitor_counts_once_for_the_restart_policy(supervised: Node) -> None:
    """F-09: policy applied once."""
    container = supervised.run("sleep", "600", restart=RestartPolicy("always"))
    monitor = supervised.containers.store.private(container.id).monitor_pid
    os.kill(monitor, signal.SIGKILL)
    assert until(lambda: process_id(monitor) is None)
    supervised.containers.reconcile()
    assert until(lambda: supervised.containers.get(container.id).restart_count == 1)
    time.sleep(0.5)
    found = supervised.containers.get(container.id)
    assert (found.status, found.restart_count) == (Status.RUNNING, 1)
    supervised.containers.remove(container.id, force=True)


def reboot(node: Node) -> None:
    """Do to a node what a reboot does: every process, mount and group is gone, the run root is empty."""
    parts = node.containers.parts
    parts.cgroups.kill(parts.group)
    until(lambda: not parts.cgroups.processes(parts.group))
    parts.cgroups.remove(parts.group)
    machine = node.config.run_root / "machine"
    kept = (
        str(node.config.run_root),
        str(machine),
    )  # what belongs to the test's machine, not to what runs on it
    for entry in reversed(LinuxMounts().entries()):
        if entry.target.startswith(str(node.config.run_root)) and entry.target not in kept:
            LinuxMounts().unmount(entry.target, detach=True)
    for name in os.listdir(node.config.run_root):
        if name != "machine":
            subprocess.run(["rm", "-rf", str(node.config.run_root / name)], check=True)
    with node.db.transaction() as connection:
        connection.execute("UPDATE meta SET value = 'another-boot' WHERE key = 'boot'")
        connection.execute("UPDATE containers SET private = json_set(private, '$.boot', 'another-boot')")


def test_after_a_reboot_policies_hold_and_exits_are_honest(node: Node) -> None:
    """F-10: exit 255 with a time for what ran, and those that shall run are started again."""
    node.containers.reconcile()
    plain = node.run("sleep", "600")
    always = node.run("sleep", "600", restart=RestartPolicy("always"))
    stopped = node.run("sleep", "600", restart=RestartPolicy("unless-stopped"))
    node.containers.stop(stopped.id, 0)
    stubborn = node.run("sleep", "600", restart=RestartPolicy("always"))
    node.containers.stop(stubborn.id, 0)
    never = node.containers.create(
        ContainerSpec("busybox", command=["sleep", "600"], restart=RestartPolicy("always"))
    )
    reboot(node)
    again = open_node(node.config)
    again.network.restore()
    again.containers.reconcile()
    ended = again.containers.get(plain.id)
    assert (ended.status, ended.exit_code) == (Status.EXITED, 255)
    assert ended.finished_at >= ended.started_at > 0
    statuses = {
        name: again.containers.get(found.id).status
        for name, found in {
            "always": always,
            "stopped": stopped,
            "stubborn": stubborn,
            "never": never,
        }.items()
    }
    assert statuses == {
        "always": Status.RESTARTING, "stopped": Status.EXITED, "stubborn": Status.RESTARTING, "never": Status.CREATED,
    }  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=again.containers.supervisor.run, args=(stop,))
    thread.start()
    assert until(
        lambda: all(again.containers.get(found.id).status is Status.RUNNING for found in (always, stubborn))
    )
    stop.set()
    thread.join()
    for found in (plain, always, stopped, stubborn, never):
        node.containers.remove(found.id, force=True)


def test_foreign_things_are_never_swept(node: Node, tmp_path: Path) -> None:
    """F-28: what does not carry our mark stays; what does and belongs to nobody goes."""
    foreigner = f"somebody-else-{node.config.instance}"
    foreign_group, own_group = f"{foreigner}/cafe", f"{node.containers.parts.group}/{'ee' * 32}"
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    cgroups = Cgroups()
    cgroups.move(foreign_group, sleepers[0].pid)
    cgroups.move(own_group, sleepers[1].pid)
    foreign_mount = tmp_path / "mount"
    foreign_mount.mkdir()
    LinuxMounts().mount("tmpfs", str(foreign_mount), "tmpfs")
    own = node.containers.parts.roots.make("ee" * 32, 0)
    LinuxMounts().mount("tmpfs", str(own), "tmpfs")
    (node.config.run_root / "bundles" / ("ff" * 32)).mkdir(parents=True)
    (node.config.data_root / "containers" / ("ff" * 32)).mkdir(parents=True)
    try:
        swept = node.containers.sweep()
        assert sorted(swept) == [f"left-overs of container {'e' * 12}", f"left-overs of container {'f' * 12}"]
        assert sleepers[1].wait(5) == -9
        assert sleepers[0].poll() is None
        assert os.path.ismount(foreign_mount)
        assert not own.exists()
        assert node.containers.sweep() == []
    finally:
        LinuxMounts().unmount(str(foreign_mount))
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
        cgroups.remove(foreigner)


def test_a_root_in_use_is_taken_apart_later(node: Node) -> None:
    """F-29: no lazy unmount hides that somebody still reads there; the exit is recorded all the same."""
    container = node.run("sh", "-c", "sleep 0.2; exit 5")
    rootfs = node.containers.parts.roots.rootfs(container.id)
    with open(rootfs / "bin/busybox", "rb"):
        ended = node.containers.wait(container.id, timeout_s=10)
        assert (ended.status, ended.exit_code) == (Status.EXITED, 5)
        assert os.path.ismount(rootfs)
        with pytest.raises(EngineError, match="in use"):
            node.containers.remove(container.id)
    node.containers.reconcile()
    assert not os.path.ismount(rootfs)
    with pytest.raises(ContainerNotFound):
        node.containers.get(container.id)  # the removal that was begun has been finished
    assert objects(node, container.id) == set()


FAKES = {
    "fails": "#!/bin/sh\necho broken >&2\nexit 1\n",
    "hangs": "#!/bin/sh\nexec sleep 600\n",
    "lies": "#!/bin/sh\necho '{\"data\": 999999}' >&$_OCI_SYNCPIPE\n",
    "babbles": "#!/bin/sh\necho 'no json' >&$_OCI_SYNCPIPE\n",
}


@pytest.mark.parametrize("how", FAKES)
def test_a_monitor_or_runtime_that_fails_is_rolled_back(node: Node, tmp_path: Path, how: str) -> None:
    """F-30: failures and hangs end within the time allowed, and leave neither address nor mount."""
    fake = tmp_path / "conmon"
    fake.write_text(FAKES[how])
    fake.chmod(0o755)
    container = node.containers.create(ContainerSpec("busybox", command=["sleep", "600"]))
    idle = objects(node, container.id)
    parts = node.containers.parts
    broken = ContainerManager(
        node.config, node.db, node.images, node.network, node.volumes, apply_changes=lambda config, _: config,
        parts=type(parts)(**{**vars(parts), "monitors": Monitors(parts.runtime, parts.cgroups, parts.group, str(fake), create_timeout_s=1.0)}),
    )  # fmt: skip
    began = time.monotonic()
    with pytest.raises((CommandFailed, Unavailable)):
        broken.start(container.id)
    assert time.monotonic() - began < 10
    assert objects(node, container.id) == idle
    assert node.containers.start(container.id).status is Status.RUNNING
    node.containers.remove(container.id, force=True)


def test_a_container_is_out_of_reach_of_our_own_group(node: Node) -> None:
    """F-35: container and monitor are not below the group of whoever started them; killing that group leaves them."""
    cgroups, mine = Cgroups(), "wharfinger-test-agent"
    program = subprocess.Popen(
        [sys.executable, "-c", _RUNNER + "\nimport time; sys.stdout.flush(); time.sleep(600)",
         str(node.config.data_root), str(node.config.run_root), node.config.instance, "sleep 600"],
        stdout=subprocess.PIPE, text=True, cwd=Path.cwd(),
    )  # fmt: skip
    cgroups.move(mine, program.pid)
    assert program.stdout is not None
    identity, pid = program.stdout.readline().split()
    monitor = node.containers.store.private(identity).monitor_pid
    cgroups.kill(mine)
    program.wait()
    program.stdout.close()
    cgroups.remove(mine)
    assert process_id(int(pid)) is not None
    assert process_id(monitor) is not None
    assert os.getsid(monitor) != os.getsid(0)
    assert node.containers.get(identity).status is Status.RUNNING
    node.containers.remove(identity, force=True)


def test_a_crash_loop_is_slowed_down(supervised: Node) -> None:
    """F-38: pauses of 100 ms, 200 ms, 400 ms ... between starts."""
    container = supervised.run("sh", "-c", "exit 1", restart=RestartPolicy("always"))
    assert until(lambda: supervised.containers.get(container.id).restart_count >= 3, 15)
    supervised.containers.remove(container.id, force=True)
    starts = [
        event.time_ns / 1e9 for event in supervised.db.events_of(container.id) if event.action == "start"
    ]
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)][:3]
    assert pauses[0] >= 0.1
    assert pauses[1] >= 0.2
    assert pauses[2] >= 0.4
    assert pauses[2] < 5


def test_on_failure_gives_up(supervised: Node) -> None:
    container = supervised.run("sh", "-c", "exit 1", restart=RestartPolicy("on-failure", 2))
    assert until(lambda: supervised.containers.get(container.id).status is Status.EXITED, 15)
    found = supervised.containers.get(container.id)
    assert (found.restart_count, found.exit_code) == (2, 1)
    fine = supervised.run("true", restart=RestartPolicy("on-failure"))
    assert until(lambda: supervised.containers.get(fine.id).status is Status.EXITED)
    for one in (container, fine):
        supervised.containers.remove(one.id)


def test_stop_ends_a_restart_loop(supervised: Node) -> None:
    container = supervised.run("sh", "-c", "exit 1", restart=RestartPolicy("always"))
    assert until(lambda: supervised.containers.get(container.id).restart_count >= 1)
    supervised.containers.stop(container.id, 0)
    count = supervised.containers.get(container.id).restart_count
    time.sleep(1.5)
    found = supervised.containers.get(container.id)
    assert (found.status, found.restart_count) == (Status.EXITED, count)
    supervised.containers.remove(container.id)


def test_exits_are_noticed_at_once(supervised: Node) -> None:
    delays = []
    for _ in range(5):
        container = supervised.run("sh", "-c", "sleep 0.1")
        assert until(lambda found=container: supervised.containers.get(found.id).status is Status.EXITED)
        event = next(item for item in supervised.db.events_of(container.id) if item.action == "die")
        delays.append(event.time_ns / 1e9 - supervised.containers.get(container.id).finished_at)
        supervised.containers.remove(container.id)
    assert min(delays) < 0.1  # woken, not polled
    assert sorted(delays)[2] < 0.5  # a machine that is busy with other things adds its own


def health_of(node: Node, container: Container) -> str:
    return node.containers.get(container.id).health.status


def test_health_goes_from_starting_to_healthy_to_unhealthy(supervised: Node) -> None:
    from engine.containers.model import Healthcheck

    check = Healthcheck(["CMD-SHELL", "echo looked; test -e /fine"], interval_s=0.2, timeout_s=5, retries=2)
    container = supervised.run(
        "sh", "-c", "sleep 0.5; touch /fine; sleep 2; rm /fine; sleep 600", healthcheck=check
    )
    assert health_of(supervised, container) == "starting"
    assert until(lambda: health_of(supervised, container) == "healthy", 10)
    assert until(lambda: health_of(supervised, container) == "unhealthy", 15)
    health = supervised.containers.get(container.id).health
    assert health.failing_streak >= 2
    assert health.log[-1].output == "looked\n"
    assert len(health.log) <= 5
    actions = [
        event.action for event in supervised.db.events_of(container.id) if "health_status" in event.action
    ]
    assert actions[-2:] == ["health_status: healthy", "health_status: unhealthy"]
    supervised.containers.remove(container.id, force=True)


def test_a_health_check_that_hangs_is_ended(supervised: Node) -> None:
    from engine.containers.model import Healthcheck

    check = Healthcheck(["CMD", "sleep", "77"], interval_s=0.2, timeout_s=0.5, retries=1)
    container = supervised.run("sleep", "600", healthcheck=check)
    assert until(lambda: health_of(supervised, container) == "unhealthy", 10)
    assert "did not end" in supervised.containers.get(container.id).health.log[-1].output
    supervised.containers.remove(container.id, force=True)


def test_the_pause_before_a_restart() -> None:
    assert [verdict.next_delay_s(0.0), verdict.next_delay_s(0.1), verdict.next_delay_s(50.0)] == [
        0.1,
        0.2,
        60.0,
    ]

"""The life of containers on the real kernel: verbs, states, records and what is left afterwards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from engine.containers.keptlogs import KeptLogs
from engine.containers.model import ContainerSpec, MountSpec, RestartPolicy, Status
from engine.errors import (
    AlreadyExists,
    BadSpec,
    CommandFailed,
    ContainerNotFound,
    ImageNotFound,
    InvalidInput,
    NotFound,
    WrongState,
)
from engine.linux.mount import LinuxMounts
from engine.runtime.log_reader import LogQuery, LogReader, Piece
from tests.support.containers import Node, container_node
from tests.support.crashing import crash

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


def nothing_left(node: Node, container_id: str) -> None:
    """Assert that no mount, group, namespace, file or row of a container is there."""
    assert not [entry.target for entry in LinuxMounts().entries() if container_id in entry.target]
    assert not node.containers.parts.cgroups.exists(f"wharfinger-{node.config.instance}/{container_id}")
    left = [
        os.path.join(folder, name)
        for root in (node.config.run_root, node.config.data_root)
        for folder, folders, files in os.walk(root)
        for name in [*folders, *files]
        if container_id in name
    ]
    assert left == []
    assert container_id not in node.containers.parts.ranges.owners()
    assert node.network.endpoints(container_id) == []


def test_a_container_runs_and_tells_its_exit_status(node: Node) -> None:
    container = node.run("sh", "-c", "echo out; echo err >&2; exit 42")
    assert container.status is Status.RUNNING
    ended = node.containers.wait(container.id, timeout_s=10)
    assert (ended.status, ended.exit_code, ended.oom_killed) == (Status.EXITED, 42, False)
    assert ended.started_at <= ended.finished_at
    assert node.log(container.id) == "out\nerr\n"
    node.containers.remove(container.id)
    nothing_left(node, container.id)


def test_events_tell_the_whole_story_with_records(node: Node) -> None:
    container = node.run("true")
    node.containers.wait(container.id, timeout_s=10)
    node.containers.remove(container.id)
    events = node.db.events_of(container.id)
    assert [event.action for event in events] == ["create", "start", "die", "destroy"]
    assert events[2].attributes["record"]["status"] == "exited"
    assert events[2].attributes["exitCode"] == "0"
    generations = [
        event.attributes["record"]["generation"] for event in events if "record" in event.attributes
    ]
    assert generations == sorted(generations)


def test_a_program_that_is_not_there_is_said_so(node: Node) -> None:
    container = node.containers.create(ContainerSpec("busybox", command=["no-such-program"]))
    with pytest.raises(CommandFailed, match="no-such-program") as caught:
        node.containers.start(container.id)
    assert caught.value.status == 127
    found = node.containers.get(container.id)
    assert (found.status, found.exit_code) == (Status.CREATED, 127)
    assert "no-such-program" in found.error
    node.containers.remove(container.id)
    nothing_left(node, container.id)


def test_names_and_ids_find_a_container(node: Node) -> None:
    container = node.containers.create(ContainerSpec("busybox", name="finder", command=["true"]))
    for ref in ("finder", "/finder", container.id, container.id[:12]):
        assert node.containers.get(ref).id == container.id
    with pytest.raises(ContainerNotFound):
        node.containers.get("nobody")
    with pytest.raises(AlreadyExists, match="finder"):
        node.containers.create(ContainerSpec("busybox", name="finder", command=["true"]))
    renamed = node.containers.rename("finder", "keeper")
    assert node.containers.get("keeper").id == renamed.id
    node.containers.remove("keeper")


@pytest.mark.parametrize("name", ["../x", ".", "-rf", "x" * 300, "a b", "\u202ename", "na\u200bme", "a/b"])
def test_names_that_could_be_paths_or_options_are_refused(node: Node, name: str) -> None:
    """RT-16: one grammar for names."""
    with pytest.raises(BadSpec):
        node.containers.create(ContainerSpec("busybox", name=name, command=["true"]))


def test_what_is_missing_is_named(node: Node) -> None:
    with pytest.raises(ImageNotFound, match="no-image"):
        node.containers.create(ContainerSpec("no-image", command=["true"]))
    with pytest.raises(BadSpec, match="no command"):
        node.containers.create(ContainerSpec("busybox"))


def test_the_same_request_twice_is_one_effect(node: Node) -> None:
    identity = "ab" * 32
    first = node.containers.create(ContainerSpec("busybox", command=["sleep", "60"]), id=identity)
    again = node.containers.create(ContainerSpec("busybox", command=["sleep", "60"]), id=identity)
    assert first == again
    started = node.containers.start(identity)
    assert node.containers.start(identity).pid == started.pid
    stopped = node.containers.stop(identity, 0)
    assert node.containers.stop(identity, 0).generation == stopped.generation
    node.containers.remove(identity)
    with pytest.raises(ContainerNotFound):
        node.containers.remove(identity)
    nothing_left(node, identity)


def test_stop_asks_first_and_kills_after_the_grace_time(node: Node) -> None:
    polite = node.run("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")
    time.sleep(0.2)
    assert node.containers.stop(polite.id, 5).exit_code == 7
    stubborn = node.run("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    time.sleep(0.2)
    began = time.monotonic()
    assert node.containers.stop(stubborn.id, 1).exit_code == 137
    assert 0.9 < time.monotonic() - began < 4
    for container in (polite, stubborn):
        assert node.containers.get(container.id).stopped_by_user
        node.containers.remove(container.id)


def test_the_stop_signal_of_the_spec_is_used(node: Node) -> None:
    container = node.run(
        "sh", "-c", "trap 'exit 9' USR1; while :; do sleep 0.05; done", stop_signal="SIGUSR1"
    )
    time.sleep(0.2)
    assert node.containers.stop(container.id, 5).exit_code == 9
    node.containers.remove(container.id)


def test_kill_sends_any_signal(node: Node) -> None:
    container = node.run("sh", "-c", "trap 'echo hup' HUP; while :; do sleep 0.05; done")
    time.sleep(0.2)
    assert node.containers.kill(container.id, "HUP").status is Status.RUNNING
    deadline = time.monotonic() + 5
    while "hup" not in node.log(container.id) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "hup" in node.log(container.id)
    assert node.containers.kill(container.id).exit_code == 137
    with pytest.raises(WrongState):
        node.containers.kill(container.id)
    with pytest.raises(BadSpec):
        node.containers.kill(container.id, "SIGNOTHING")
    node.containers.remove(container.id)


def test_pause_freezes_and_unpause_lets_go_on(node: Node) -> None:
    container = node.run("sh", "-c", "while :; do echo tick; sleep 0.02; done")
    assert node.containers.pause(container.id).status is Status.PAUSED
    assert node.containers.pause(container.id).status is Status.PAUSED
    before = node.log(container.id)
    time.sleep(0.2)
    assert node.log(container.id) == before
    assert node.containers.unpause(container.id).status is Status.RUNNING
    time.sleep(0.2)
    assert len(node.log(container.id)) > len(before)
    node.containers.pause(container.id)
    assert node.containers.stop(container.id, 0).status is Status.EXITED
    node.containers.remove(container.id)


def test_a_paused_container_can_be_killed_and_removed(node: Node) -> None:
    container = node.run("sleep", "60")
    assert node.containers.pause(container.id).status is Status.PAUSED
    killed = node.containers.kill(container.id)
    assert (killed.status, killed.exit_code) == (Status.EXITED, 137)
    node.containers.start(container.id)
    node.containers.pause(container.id)
    node.containers.remove(container.id, force=True)
    nothing_left(node, container.id)


def test_restart_keeps_files_and_log(node: Node) -> None:
    container = node.run("sh", "-c", "cat /made 2>/dev/null; echo was-here >> /made; echo up; sleep 60")
    time.sleep(0.2)
    again = node.containers.restart(container.id, 0)
    assert again.pid != container.pid
    time.sleep(0.2)
    assert node.log(container.id) == "up\nwas-here\nup\n"
    node.containers.remove(container.id, force=True)


def test_a_running_container_is_removed_only_by_force(node: Node) -> None:
    container = node.run("sleep", "60")
    with pytest.raises(WrongState, match="running"):
        node.containers.remove(container.id)
    node.containers.remove(container.id, force=True)
    nothing_left(node, container.id)


def test_auto_remove_leaves_nothing(node: Node) -> None:
    container = node.run("true", auto_remove=True)
    assert node.containers.wait(container.id, "removed", timeout_s=10).id == container.id
    with pytest.raises(ContainerNotFound):
        node.containers.get(container.id)
    assert [event.action for event in node.db.events_of(container.id)] == [
        "create",
        "start",
        "die",
        "destroy",
    ]
    nothing_left(node, container.id)


def test_a_log_is_kept_after_removal_on_request(node: Node) -> None:
    kept = KeptLogs(node.config)
    one, two = node.run("echo", "worth keeping", name="kept"), node.run("echo", "not")
    for container, keep in ((one, True), (two, False)):
        node.containers.wait(container.id, timeout_s=10)
        node.containers.remove(container.id, keep_log=keep)
    [found] = kept.list()
    assert (found.id, found.name, found.image) == (one.id, "kept", "busybox")
    pieces = [
        p for batch in LogReader(kept.files("kept")).raw(LogQuery()) for p in batch if isinstance(p, Piece)
    ]
    assert b"".join(piece.data for piece in pieces) == b"worth keeping\n"
    with pytest.raises(NotFound):
        kept.files(two.id)
    assert kept.remove(one.id[:8]) == one.id
    assert kept.list() == []
    nothing_left(node, one.id)


def test_a_log_is_kept_although_the_removal_was_cut_off(node: Node) -> None:
    container = node.run("echo", "worth keeping")
    node.containers.wait(container.id, timeout_s=10)
    crash(node, "engine.network.manager:NetworkManager.release", "remove", container.id, keep_log=True)
    node.containers.reconcile()
    assert [log.id for log in KeptLogs(node.config).list()] == [container.id]
    KeptLogs(node.config).remove(container.id)
    nothing_left(node, container.id)


def test_wait_knows_its_conditions(node: Node) -> None:
    container = node.run("sleep", "0.3")
    assert node.containers.wait(container.id, "next-exit", timeout_s=10).status is Status.EXITED
    assert node.containers.wait(container.id, timeout_s=1).status is Status.EXITED
    threading.Timer(0.2, node.containers.remove, [container.id]).start()
    assert node.containers.wait(container.id, "removed", timeout_s=5).id == container.id
    with pytest.raises(BadSpec):
        node.containers.wait(node.run("true").id, "sometime")


def test_an_exit_while_nobody_looked_is_found_by_start(node: Node) -> None:
    container = node.run("sh", "-c", "exit 3")
    time.sleep(0.4)
    assert node.containers.get(container.id).status is Status.RUNNING  # nobody has processed it
    again = node.containers.start(container.id)
    assert again.status is Status.RUNNING
    assert node.containers.wait(container.id, timeout_s=5).exit_code == 3
    actions = [event.action for event in node.db.events_of(container.id)]
    assert actions == ["create", "start", "die", "start", "die"]
    node.containers.remove(container.id)


def test_prefixes_of_several_ids_are_refused(node: Node) -> None:
    one = node.containers.create(ContainerSpec("busybox", command=["true"]), id="c0ffee" + "1" * 58)
    two = node.containers.create(ContainerSpec("busybox", command=["true"]), id="c0ffee" + "2" * 58)
    with pytest.raises(InvalidInput, match="several"):
        node.containers.get("c0ffee")
    for container in (one, two):
        node.containers.remove(container.id)


def test_a_failed_create_leaves_nothing(node: Node) -> None:
    with pytest.raises(BadSpec):
        node.containers.create(
            ContainerSpec("busybox", name="half", command=["true"], volumes_from=["x:bad"]), id="dd" * 32
        )
    with pytest.raises(ContainerNotFound):
        node.containers.get("half")
    nothing_left(node, "dd" * 32)


def test_bad_combinations_are_refused(node: Node) -> None:
    for fields in (
        {"auto_remove": True, "restart": RestartPolicy("always")},
        {"restart": RestartPolicy("sometimes")},
        {"restart": RestartPolicy("always", 3)},
        {"stop_signal": "SIGNOPE"},
        {"pid_mode": "container:"},
        {"hostname": "bad\nname"},
        {"domainname": "x" * 65},
        {"extra_hosts": ["a:1.2.3.4\nevil"]},
        {"env": {"A\nB": "x"}},
        {"mounts": [MountSpec("tmpfs", "/x"), MountSpec("tmpfs", "/x")]},
        {"labels": {"a\nb": "x"}},
    ):
        with pytest.raises(BadSpec):
            node.containers.create(ContainerSpec("busybox", command=["true"], **fields))  # type: ignore[arg-type]


def test_prune_removes_only_what_has_ended(node: Node) -> None:
    running, ended = node.run("sleep", "60"), node.run("true")
    node.containers.wait(ended.id, timeout_s=5)
    pruned = node.containers.prune()
    assert ended.id in pruned.removed
    assert running.id not in pruned.removed
    node.containers.remove(running.id, force=True)


def test_many_workers_on_one_container_make_a_linear_history(node: Node) -> None:
    """F-15: whatever the order, never two first processes, and every state follows from the one before."""
    container = node.containers.create(ContainerSpec("busybox", command=["sleep", "60"]))
    errors: list[BaseException] = []

    def work(number: int) -> None:
        for turn in range(6):
            try:
                if (turn + number) % 2:
                    node.containers.start(container.id)
                else:
                    node.containers.stop(container.id, 0)
            except WrongState:
                continue
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    lives = [event.action for event in node.db.events_of(container.id) if event.action in ("start", "die")]
    assert lives == (["start", "die"] * len(lives))[: len(lives)]
    node.containers.remove(container.id, force=True)
    nothing_left(node, container.id)

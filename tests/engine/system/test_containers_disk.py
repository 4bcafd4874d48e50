"""A full disk: who fills it is stopped, and the engine still works (on a small file system of the test's own)."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.containers.diskguard import REASON, free_bytes, is_low
from engine.containers.model import Container, ContainerSpec, MountSpec, Status
from engine.errors import NoSpace
from engine.linux.process import wait_until
from tests.support.busybox import make_tar
from tests.support.containers import Node, clean_up, machine, open_node
from tests.support.loops import ext4

pytestmark = pytest.mark.root


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    instance = os.environ.get("WHARFINGER_TEST_INSTANCE") or secrets.token_hex(4)
    with ext4(tmp_path, 64) as disk:
        config = EngineConfig(
            disk / "data", Path("/run") / f"wharfinger-{instance}", instance, subnet_pool="10.250.0.0/16"
        )
        config.make_folders()
        try:
            with machine(config.run_root / "machine"):
                made = open_node(config)
                made.add_image("busybox", make_tar())
                made.network.restore()
                yield made
                for container in made.containers.list():
                    made.containers.remove(container.id, force=True, volumes=True)
        finally:
            clean_up(config, disk / "data")


FILL = "sleep 0.5; i=0; while :; do dd if=/dev/zero of={folder}/f$i bs=65536 count=16 2>/dev/null; i=$((i+1)); sleep 0.15; done"


@pytest.mark.parametrize("folder", ["/root", "/data"])
def test_a_container_that_fills_the_disk_is_paused(node: Node, folder: str) -> None:
    """DS-04: in its own layer and in a volume; others go on, and removal gives the space back."""
    stop = threading.Event()
    thread = threading.Thread(target=node.containers.supervisor.run, args=(stop,))
    thread.start()
    try:
        other = node.run("sleep", "600")
        filler = node.run("sh", "-c", FILL.format(folder=folder), mounts=[MountSpec("volume", "/data")])
        full = 1024 * 1024  # waiting longer would not help: it has filled the disk
        assert wait_until(
            lambda: is_paused(node, filler) or free_bytes(node.config.data_root) < full, timeout_s=30
        )
        assert is_paused(node, filler)
        assert node.containers.get(filler.id).error == REASON
        assert node.containers.get(other.id).status is Status.RUNNING
        assert free_bytes(node.config.data_root) > 0
        with pytest.raises(NoSpace):
            node.containers.create(ContainerSpec("busybox", command=["true"]))
        node.containers.remove(filler.id, force=True, volumes=True)
        assert not is_low(node.config.data_root)
        assert node.output("echo", "again") == "again\n"
    finally:
        stop.set()
        thread.join()


def is_paused(node: Node, container: Container) -> bool:
    return node.containers.get(container.id).status is Status.PAUSED


def test_exit_codes_are_kept_and_removal_works_at_zero_bytes(node: Node) -> None:
    """F-22: with nobody watching and no byte left."""
    container = node.run("sh", "-c", "dd if=/dev/zero of=/fill bs=65536 2>/dev/null; echo lost; exit 7")
    assert wait_until(lambda: node.containers.parts.bundle(container.id).read_exit_status() == 7, 30)
    assert free_bytes(node.config.data_root) < 1024 * 1024
    filling = node.config.data_root / "filling"
    with suppress_full(), open(filling, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    try:
        assert node.containers.wait(container.id, timeout_s=10).exit_code == 7
    finally:
        os.unlink(filling)
    node.containers.remove(container.id)
    assert wait_until(lambda: not is_low(node.config.data_root), 10)


class suppress_full:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, OSError)

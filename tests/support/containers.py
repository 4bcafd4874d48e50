"""A whole node for tests of containers: real stores, networks and volumes, and an image of nothing but busybox."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.build.changes import apply_changes
from engine.config import EngineConfig
from engine.containers.exec import SCHEMA as EXECS_SCHEMA
from engine.containers.manager import ContainerManager
from engine.containers.model import Container, ContainerSpec
from engine.containers.store import SCHEMA as CONTAINERS_SCHEMA
from engine.content.store import ContentStore
from engine.db import Database
from engine.images.store import SCHEMA as IMAGES_SCHEMA
from engine.images.store import ImageStore
from engine.linux.cgroup import Cgroups
from engine.linux.mount import LinuxMounts, unmount_below
from engine.linux.netlink import set_netns
from engine.linux.userns import SCHEMA as SUBUID_SCHEMA
from engine.network.interfaces import make_netns, remove_netns
from engine.network.manager import NetworkManager
from engine.network.store import SCHEMA as NETWORK_SCHEMA
from engine.reference import parse_reference
from engine.runtime.log_reader import Entry, LogQuery
from engine.runtime.oci_runtime import probe
from engine.snapshots.overlay import SCHEMA as SNAPSHOTS_SCHEMA
from engine.snapshots.overlay import OverlaySnapshotter
from engine.volumes.manager import VolumeManager
from engine.volumes.records import SCHEMA as VOLUMES_SCHEMA
from tests.support.busybox import make_tar

SCHEMAS = (
    SNAPSHOTS_SCHEMA,
    IMAGES_SCHEMA,
    NETWORK_SCHEMA,
    VOLUMES_SCHEMA,
    SUBUID_SCHEMA,
    CONTAINERS_SCHEMA,
    EXECS_SCHEMA,
)


FOLDERS = Path("/var/tmp")  # a real disk: overlayfs and quotas behave as in earnest


@dataclass(frozen=True)
class Node:
    config: EngineConfig
    db: Database
    content: ContentStore
    images: ImageStore
    network: NetworkManager
    volumes: VolumeManager
    containers: ContainerManager

    def add_image(self, name: str, tar: bytes, config: dict[str, Any] | None = None) -> str:
        """Store an image of one layer; return its id."""
        diff_id, _ = self.content.put(tar)
        document = {
            "architecture": "amd64", "os": "linux", "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }  # fmt: skip
        config_bytes = json.dumps(document).encode()
        digest = "sha256:" + hashlib.sha256(config_bytes).hexdigest()
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest,
                "size": len(config_bytes),
            },
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diff_id, "size": len(tar)}
            ],
        }
        return self.images.add(json.dumps(manifest).encode(), config_bytes, names=[parse_reference(name)]).id

    def run(self, *command: str, **fields: Any) -> Container:
        """Create and start a busybox container."""
        spec = ContainerSpec("busybox", command=list(command), **fields)
        return self.containers.start(self.containers.create(spec).id)

    def output(self, *command: str, status: int = 0, **fields: Any) -> str:
        """Run a program to its end and return what it wrote; the container is removed."""
        container = self.run(*command, **fields)
        try:
            ended = self.containers.wait(container.id, timeout_s=30)
            text = self.log(container.id)
            assert ended.exit_code == status, f"exit status {ended.exit_code}: {text}"
        finally:
            self.containers.remove(container.id, force=True, volumes=True)
        return text

    def log(self, ref: str) -> str:
        batches = self.containers.logs(ref, LogQuery())
        return b"".join(
            entry.text for batch in batches for entry in batch if isinstance(entry, Entry)
        ).decode()


def open_node(config: EngineConfig) -> Node:
    """Open the parts of an engine in `config`'s folders, as a new process would."""
    db = Database(config.database, SCHEMAS, wake=config.wake_socket)
    content = ContentStore(config.data_root / "content")
    snapshots = OverlaySnapshotter(config.data_root / "snapshots", db, LinuxMounts())
    images = ImageStore(db, content, snapshots)
    network, volumes = NetworkManager(config, db), VolumeManager(config, db)
    containers = ContainerManager(
        config,
        db,
        images,
        network,
        volumes,
        apply_changes=lambda found, texts: apply_changes(found, texts).config,
    )
    images.users_of = containers.store.users_of_image
    return Node(config, db, content, images, network, volumes, containers)


@contextmanager
def container_node(**changes: Any) -> Iterator[Node]:
    """Make a node on a real disk with the image `busybox`; afterwards nothing of it is left.

    Whoever must find what a killed run leaves names the instance beforehand (`tests.support.cage`).
    """
    instance = os.environ.get("WHARFINGER_TEST_INSTANCE") or secrets.token_hex(4)
    base = Path(tempfile.mkdtemp(prefix=f"wf-test-{instance}-", dir=FOLDERS))
    pool = f"10.{200 + int(instance[:2], 16) % 50}.0.0/16"  # only inside the test's own network namespace
    values: dict[str, Any] = {
        "subnet_pool": pool,
        "allowed_bind_roots": (str(base / "binds"),),
        "runtime": os.environ.get("WHARFINGER_RUNTIME", ""),
        **changes,
    }
    config = EngineConfig(base / "data", Path("/run") / f"wharfinger-{instance}", instance, **values)
    config.make_folders()
    (base / "binds").mkdir()
    probe(config)  # shares the run root, which must be empty for it
    try:
        with machine(config.run_root / "machine"):
            yield from _node(config)
    finally:
        clean_up(config, base)


@contextmanager
def machine(pin: Path) -> Iterator[None]:
    """Move this thread into a network namespace of its own: bridges and rules go with it."""
    make_netns(pin)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pin.open("rb") as file:
            set_netns(file.fileno())
        yield
    finally:
        set_netns(outside)
        os.close(outside)
        remove_netns(pin)


def _node(config: EngineConfig) -> Iterator[Node]:
    node = open_node(config)
    try:
        node.add_image("busybox", make_tar())
        node.network.restore()
        yield node
    finally:
        for container in node.containers.list():
            node.containers.remove(container.id, force=True, volumes=True)


def clean_up(config: EngineConfig, *bases: Path) -> None:
    """Remove what an engine has left of processes, mounts and folders."""
    cgroups = Cgroups()
    group = f"wharfinger-{config.instance}"
    cgroups.kill(group)
    cgroups.remove(group)
    for folder in (*bases, config.run_root):
        unmount_below(LinuxMounts(), folder, detach=True)
        shutil.rmtree(folder, ignore_errors=True)

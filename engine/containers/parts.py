"""What the verbs on containers are made of: the other parts of the engine, and the places and names that they agree on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.config import EngineConfig
from engine.containers.model import Container
from engine.containers.store import ContainerStore
from engine.db import Database
from engine.errors import ContainerNotFound, Unsupported
from engine.images.store import ImageStore
from engine.linux.cgroup import Cgroups
from engine.linux.locks import file_lock
from engine.linux.mount import LinuxMounts, Mounts
from engine.linux.reserve import Reserve
from engine.linux.userns import RangeAllocator
from engine.network.manager import NetworkManager
from engine.runtime.bundle import Bundle
from engine.runtime.conmon import Monitors
from engine.runtime.logs import LogFiles
from engine.runtime.oci_runtime import OciRuntime, probe
from engine.runtime.roots import Roots
from engine.snapshots.folders import Snapshotter
from engine.volumes.manager import VolumeManager

LOCK_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Parts:
    """Everything below the containers, opened once."""

    config: EngineConfig
    db: Database
    store: ContainerStore
    images: ImageStore
    snapshots: Snapshotter
    network: NetworkManager
    volumes: VolumeManager
    ranges: RangeAllocator
    runtime: OciRuntime
    cgroups: Cgroups
    monitors: Monitors
    roots: Roots
    mounts: Mounts
    reserve: Reserve

    @classmethod
    def open(
        cls,
        config: EngineConfig,
        db: Database,
        images: ImageStore,
        network: NetworkManager,
        volumes: VolumeManager,
    ) -> Parts:
        """Find the runtime and the monitor of this host and put the parts together."""
        cgroups, runtime, mounts = Cgroups(), probe(config), LinuxMounts()
        return cls(
            config, db, ContainerStore(db), images, images.snapshots, network, volumes, RangeAllocator(db, config), runtime,
            cgroups, Monitors(runtime, cgroups, f"wharfinger-{config.instance}"), Roots(config, mounts), mounts,
            Reserve(images.content.root / "reserve"),
        )  # fmt: skip

    @property
    def group(self) -> str:
        """The control group that holds those of all containers."""
        return f"wharfinger-{self.config.instance}"

    def group_of(self, container_id: str) -> str:
        return f"{self.group}/{container_id}"

    def bundle(self, container_id: str) -> Bundle:
        return Bundle(container_id, self.config.run_root)

    def data_folder(self, container_id: str) -> Path:
        return self.config.data_root / "containers" / container_id

    def log_files(self, container: Container) -> LogFiles:
        """Return the log of a container with the limit that it asked for, never above the engine's own."""
        return LogFiles(
            self.data_folder(container.id) / "log", log_limit(container, self.config.log_max_bytes)
        )

    @contextmanager
    def locked(self, ref: str) -> Iterator[Container]:
        """Hold the container's lock against every other process and give its record as it is now."""
        container_id = self.store.id_of(ref)
        with self.lock_id(container_id):
            container = self.store.find(container_id)
            if container is None:
                raise ContainerNotFound(f"container {ref[:128]!r} has been removed")
            yield container

    @contextmanager
    def lock_id(self, container_id: str) -> Iterator[None]:
        with file_lock(self.lock_path(container_id), timeout_s=LOCK_TIMEOUT_S):
            yield

    def lock_path(self, container_id: str) -> Path:
        folder = self.config.run_root / "container-locks"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / container_id


def log_limit(container: Container, most: int) -> int:
    """Return the bytes that a container's log may take: `max-size` times `max-file`, at most `most`."""
    from engine.volumes.spec import parse_size  # the one reader of sizes like 10m

    options = container.spec.log_options
    if "max-size" not in options or options["max-size"] in ("-1", "0"):
        return most
    files = options.get("max-file", "1")
    count = int(files) if files.isascii() and files.isdigit() and 0 < int(files) < 1000 else 1
    return max(64 * 1024, min(parse_size(options["max-size"]) * count, most))


def init_program() -> str:
    """Return the static init program of this host, for containers that ask for one."""
    for name in ("catatonit", "tini-static"):
        if path := shutil.which(name):
            return path
    raise Unsupported("no init program is installed", hint="install the package catatonit")

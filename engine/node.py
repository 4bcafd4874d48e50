"""The node as a whole: what it is, what fills its disk, what does not match, tidying up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.digest import Digest
from engine.errors import EngineError
from engine.images import check as images_check
from engine.images import repair as images_repair
from engine.images.check import Finding
from engine.images.model import Image
from engine.linux import userns
from engine.linux.mount import LinuxMounts
from engine.linux.process import run
from engine.platform import host_platform
from engine.progress import CancelToken, Message, Reporter, silent
from engine.volumes.manager import disk_usage

if TYPE_CHECKING:
    from engine.engine import Engine


@dataclass(frozen=True)
class Used:
    """What one kind of thing takes on the disk. `reclaimable_bytes` is what a prune of unused ones would free."""

    count: int = 0
    size_bytes: int = 0
    reclaimable_bytes: int = 0


@dataclass(frozen=True)
class Disk:
    """The file system that holds the engine's data."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class NodeUsage:
    images: Used
    containers: Used
    volumes: Used
    build_cache: Used
    disk: Disk
    container_bytes: dict[str, int] = field(default_factory=dict)  # by id: what each wrote itself
    volume_bytes: dict[str, int] = field(default_factory=dict)  # by name


@dataclass(frozen=True)
class Pruned:
    """`removed` names what is gone, by kind where several kinds were asked for."""

    removed: list[Any] = field(default_factory=list)  # names or the lines of an image's removal
    freed_bytes: int = 0


def info(engine: Engine) -> dict[str, Any]:
    """Return versions, sizes and abilities of this node, as JSON."""
    parts = engine.parts
    release = _os_release()
    disk = shutil.disk_usage(engine.config.data_root)
    return {
        "node": engine.config.node,
        "epoch": engine.db.epoch,
        "hostname": os.uname().nodename,
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "architecture": host_platform().architecture,
        "operating_system": release.get("PRETTY_NAME", "Linux"),
        "os_version": release.get("VERSION_ID", ""),
        "cpus": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "disk_total_bytes": disk.total,
        "disk_free_bytes": disk.free,
        "data_root": str(engine.config.data_root),
        "storage_driver": engine.snapshots.driver,
        "filesystem": _filesystem_of(engine.config.data_root),
        "runtime": parts.runtime.name,
        "runtime_version": parts.runtime.version,
        "conmon_version": _conmon_version(),
        "cgroup_version": str(parts.cgroups.mode),
        "seccomp": True,
        "user_namespaces": True,
        "publish_address": engine.config.default_publish_address,
        "bind_roots": list(engine.config.allowed_bind_roots),
    }


def usage(engine: Engine) -> NodeUsage:
    """Measure what everything takes. Walks the upper folders of containers and the volumes."""
    images = engine.images.usage()
    containers = engine.container_list()
    written = {item.id: _written(engine, item.id) for item in containers}
    idle = sum(written[item.id] for item in containers if not item.status.is_alive())
    volumes = engine.volumes.list()
    sizes = {item.name: disk_usage(Path(item.path)) for item in volumes}
    unused = sum(sizes[item.name] for item in volumes if not item.uses)
    cached, cached_bytes = engine.builder().cache.usage()
    disk = shutil.disk_usage(engine.config.data_root)
    return NodeUsage(
        images=Used(len(images.images), images.layers + images.packed, images.reclaimable),
        containers=Used(len(containers), sum(written.values()), idle),
        volumes=Used(len(volumes), sum(sizes.values()), unused),
        build_cache=Used(cached, cached_bytes, cached_bytes),
        disk=Disk(disk.total, disk.free),
        container_bytes=written,
        volume_bytes=sizes,
    )


def prune(
    engine: Engine,
    *,
    images: str = "",
    containers: bool = False,
    volumes: bool = False,
    networks: bool = False,
    build_cache: bool = False,
    older_than_s: float = 0.0,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Remove what nobody uses, of the kinds named, containers first since they hold the others."""
    removed: dict[str, Any] = {}
    freed = 0
    steps: list[tuple[str, bool, Any]] = [
        ("containers", containers, lambda: engine.container_prune(older_than_s=older_than_s, labels=labels)),
        ("networks", networks, lambda: engine.network_prune(older_than_s=older_than_s, labels=labels)),
        ("volumes", volumes, lambda: engine.volume_prune(all=True, labels=labels)),
        ("build_cache", build_cache, lambda: engine.build_cache_prune(older_than_s=older_than_s, all=True)),
        (
            "images",
            bool(images),
            lambda: engine.image_prune(mode=images, older_than_s=older_than_s, labels=labels),
        ),
    ]
    for name, wanted, step in steps:
        if wanted:
            done: Pruned = step()
            removed[name] = done.removed
            freed += done.freed_bytes
    return {"removed": removed, "freed_bytes": freed}


def _written(engine: Engine, container_id: str) -> int:
    """Return the bytes of a container's own files (its upper folder)."""
    row = engine.db.read().execute("SELECT seq FROM snapshots WHERE name = ?", (container_id,)).fetchone()
    return 0 if row is None else int(engine.snapshots.usage(container_id).size)


def _conmon_version() -> str:
    try:
        words = run(["conmon", "--version"], timeout_s=5).stdout.decode().split()
    except (EngineError, OSError):
        return ""
    return words[2] if len(words) > 2 else ""


def _os_release() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines) if key}


def _filesystem_of(path: Path) -> str:
    found = ""
    longest = -1
    for entry in LinuxMounts().entries():
        target = entry.target.rstrip("/")
        if (str(path) == entry.target or str(path).startswith(target + "/")) and len(target) >= longest:
            found, longest = entry.fstype, len(target)
    return found


def check(engine: Engine, *, deep: bool, report: Reporter, cancel: CancelToken) -> list[Finding]:
    """Return everything that does not match: images, containers, volumes, networks."""
    findings = images_check.check(engine.images, deep=deep, cancel=cancel)
    alive = [item.id for item in engine.container_list() if item.status.is_alive()]
    builds = [
        owner
        for owner in userns.RangeAllocator(engine.db, engine.config).owners()
        if owner.startswith("build-")
    ]
    lines = {
        "container": engine.containers.check(),
        "volume": engine.volumes.check(),
        "network": engine.network.check([*alive, *builds]),
    }
    for kind, texts in lines.items():
        findings += [Finding(kind, f"{kind}-{number}", text) for number, text in enumerate(texts)]
    for finding in findings:
        report(Message(finding.detail))
    return findings


def repair(
    engine: Engine, *, problems: Sequence[str], report: Reporter, cancel: CancelToken
) -> dict[str, Any]:
    """Put right what a check finds: reconcile and sweep first, then what lies on disk."""
    done = [*engine.reconcile(), *engine.sweep()]
    findings = images_check.check(engine.images, deep=True, cancel=cancel)
    chosen = [item for item in findings if not problems or item.subject in problems]
    repaired = images_repair.repair(engine.images, chosen, fetch=_fetch_from(engine), cancel=cancel)
    for finding in repaired:
        report(Message(f"{'repaired' if finding.repaired else 'not repaired'}: {finding.detail}"))
    left = check(engine, deep=False, report=silent, cancel=cancel)
    return {
        "repaired": done + [item.detail for item in repaired if item.repaired],
        "left": [item.detail for item in left],
    }


def _fetch_from(engine: Engine) -> Callable[[Image, Digest], None]:
    """Return a way to fetch a lost blob again, from where the image came."""

    def fetch(image: Image, digest: Digest) -> None:
        del digest  # a pull fetches whatever of the image is missing
        for reference in (*image.repo_digests, *image.names):
            engine.pull(reference=reference)
            return

    return fetch

"""What does not match between the records of containers, the kernel and the disk. Looks only; `reconcile` is what repairs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from engine.containers.launch import boot_id
from engine.containers.model import Container, Status
from engine.containers.parts import Parts
from engine.errors import EngineError
from engine.linux.locks import is_locked


def check(parts: Parts) -> list[str]:
    """Return a line for each thing that does not match; containers that somebody works on just now are left out."""
    found: list[str] = []
    for container in parts.store.list():
        if not is_locked(parts.lock_path(container.id)):
            found += [f"container {container.name}: {text}" for text in _one(parts, container)]
    return found


def _one(parts: Parts, container: Container) -> Iterator[str]:
    if container.status in (Status.CREATING, Status.REMOVING):
        yield f"is {container.status}, but nobody works on it"
        return
    try:
        parts.snapshots.get(container.id)
    except EngineError:
        yield "its file system is gone"
    try:
        parts.images.get(container.image_id)
    except EngineError:
        yield f"its image {container.image_id[:19]} is gone"
    mounted = os.path.ismount(parts.roots.rootfs(container.id))
    if container.status.is_alive():
        yield from _living(parts, container, mounted)
    elif mounted:
        yield "does not run, but its root is mounted"
    elif parts.cgroups.processes(parts.group_of(container.id)):
        yield "does not run, but processes of it do"


def _living(parts: Parts, container: Container, mounted: bool) -> Iterator[str]:
    private = parts.store.private(container.id)
    if private.boot != boot_id() or private.init is None or not private.init.alive:
        yield "is on record as running, but its first process is gone"
        return
    if private.monitor is None or not private.monitor.alive:
        yield "its monitor is gone"
    if not mounted:
        yield "its root is not mounted"
    if not parts.bundle(container.id).config.exists():
        yield "its bundle is gone"

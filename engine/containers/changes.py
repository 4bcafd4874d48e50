"""Changing a container that is there: limits, restart policy, networks; and removing many at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from engine.containers.launch import endpoint_specs
from engine.containers.lifecycle import Lifecycle
from engine.containers.model import (
    Container,
    Endpoint,
    EndpointSpec,
    Resources,
    RestartPolicy,
    Status,
    from_json,
    to_json,
)
from engine.containers.parts import Parts
from engine.containers.policy import check_resources, check_restart
from engine.containers.sandbox import effective_resources, hostname
from engine.errors import BadSpec, ContainerNotFound, Unsupported, WrongState
from engine.runtime.spec import build_resources

_FIXED = ("ulimits", "oom_score_adj", "oom_kill_disable")


@dataclass(frozen=True)
class Pruned:
    """Ids of removed containers, and the bytes of their own layers."""

    removed: list[str] = field(default_factory=list)
    freed_bytes: int = 0


class Changes:
    """Verbs that change a container's settings."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle) -> None:
        self._parts = parts
        self._lifecycle = lifecycle

    def update(
        self, ref: str, resources: dict[str, Any] | None = None, restart: RestartPolicy | None = None
    ) -> Container:
        """Change limits (those that `resources` names; 0 takes one away) and restart policy, of a running container too."""
        with self._parts.locked(ref) as container:
            if not (container.status.is_alive() or container.status.can_start()):
                raise WrongState(f"container {container.name!r} is {container.status}")
            spec = container.spec
            if restart is not None:
                check_restart(restart, auto_remove=spec.auto_remove)
                spec = dataclasses.replace(spec, restart=restart)
            if resources:
                wanted = self._changed(spec.resources, resources)
                if container.status.is_alive():
                    self._apply(container, spec.resources, wanted)
                spec = dataclasses.replace(spec, resources=wanted)
            return self._parts.store.save(dataclasses.replace(container, spec=spec), "update")

    def connect(self, network: str, ref: str, endpoint: EndpointSpec) -> Container:
        """Join one more network, at once if the container runs. Idempotent for one that it is on."""
        with self._parts.locked(ref) as container:
            _require_networks(container)
            found = self._parts.network.get(network)
            if any(item.network_id == found.id for item in container.endpoints):
                return container
            wanted = dataclasses.replace(endpoint, name=found.name)
            joined = Endpoint(found.id, found.name, list(wanted.aliases))
            if container.status.is_alive():
                if not self._parts.bundle(container.id).netns.exists():
                    raise WrongState(f"container {container.name!r} was started without a network")
                allocated = self._parts.network.allocate(
                    found.id, container.id, wanted, name=container.name, hostname=hostname(container),
                    dns=container.spec.dns,
                )  # fmt: skip
                try:
                    joined = self._parts.network.attach(
                        self._parts.bundle(container.id).netns, container.id, allocated
                    )
                except BaseException:
                    self._parts.network.detach(container.id, found.id)
                    raise
            spec = dataclasses.replace(container.spec, networks=[*container.spec.networks, wanted])
            container = dataclasses.replace(container, spec=spec, endpoints=[*container.endpoints, joined])
            return self._joined(container)

    def disconnect(self, network: str, ref: str, *, force: bool = False) -> Container:
        """Leave a network. With `force` also one that is not there any more."""
        with self._parts.locked(ref) as container:
            left = [item for item in container.endpoints if network in (item.network, item.network_id)]
            if not left:
                found = self._parts.network.get(network)
                left = [item for item in container.endpoints if item.network_id == found.id]
            if not left:
                if force:
                    return container
                raise WrongState(f"container {container.name!r} is not on network {network[:128]!r}")
            for item in left:
                self._parts.network.detach(container.id, item.network_id)
            names = {item.network for item in left} | {item.network_id for item in left}
            kept = [item for item in endpoint_specs(container) if item.name not in names]
            mode = kept[0].name if kept else "none"
            spec = dataclasses.replace(container.spec, networks=kept, network_mode=mode)
            endpoints = [item for item in container.endpoints if item not in left]
            return self._joined(dataclasses.replace(container, spec=spec, endpoints=endpoints))

    def prune(
        self, *, older_than_s: float = 0.0, matches: Callable[[Container], bool] = lambda _: True
    ) -> Pruned:
        """Remove the containers that do not run and match, at least `older_than_s` old."""
        removed, freed, now = [], 0, time.time()
        for container in self._parts.store.list([Status.CREATED, Status.EXITED, Status.DEAD]):
            if now - container.created_at < older_than_s or not matches(container):
                continue
            with suppress(ContainerNotFound, WrongState):
                size = self._parts.snapshots.usage(container.id).size
                self._lifecycle.remove(container.id)
                removed.append(container.id)
                freed += size
        return Pruned(removed, freed)

    def _joined(self, container: Container) -> Container:
        """Save the new memberships and let the container's files tell of them."""
        container = self._parts.store.save(container, "update")
        if container.status.is_alive():
            self._lifecycle.launcher.write_files(container)
        return container

    def _changed(self, current: Resources, changes: dict[str, Any]) -> Resources:
        if fixed := sorted(set(changes) & set(_FIXED)):
            raise Unsupported(f"{fixed[0]} cannot be changed once a container is created")
        wanted = from_json(Resources, {**to_json(current), **changes})
        if (
            wanted.memory_bytes
            and "memory_swap_bytes" not in changes
            and 0 < wanted.memory_swap_bytes < wanted.memory_bytes
        ):
            raise BadSpec(
                "the memory limit would be above that of memory and swap together",
                hint="change memory_swap_bytes too",
            )
        check_resources(wanted, self._parts.cgroups)
        return wanted

    def _apply(self, container: Container, before: Resources, after: Resources) -> None:
        """Have the runtime write the new limits; a limit that is taken away is written as "none"."""
        limit = self._parts.config.default_pids_limit
        new = build_resources(effective_resources(after, limit))
        new.pop("devices")
        for section, values in build_resources(effective_resources(before, limit)).items():
            if section == "devices":
                continue
            for name in values:
                if name not in new.get(section, {}):
                    new.setdefault(section, {})[name] = _NONE.get(f"{section}.{name}", -1)
        self._parts.runtime.update(container.id, new)


_NONE = {"cpu.shares": 1024, "cpu.period": 100_000, "cpu.cpus": "", "cpu.mems": "", "blockIO.weight": 100}


def _require_networks(container: Container) -> None:
    mode = container.spec.network_mode
    if mode in ("host",) or mode.startswith("container:"):
        raise BadSpec(f"a container with network {mode} cannot join others")


def label_filter(labels: Sequence[str], without: Sequence[str] = ()) -> Callable[[Container], bool]:
    """Return a test for `prune`: every one of `labels` (`key` or `key=value`) is there, none of `without`."""

    def has(container: Container, wanted: str) -> bool:
        name, separator, value = wanted.partition("=")
        found = container.config.get("Labels", {}).get(name)
        return found is not None and (not separator or found == value)

    return lambda container: (
        all(has(container, item) for item in labels) and not any(has(container, item) for item in without)
    )

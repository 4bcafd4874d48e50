"""Making records, kernel and disk agree again after anything has died: a worker, the agent, a monitor, the machine.

Two halves. *Records*: every container whose lock is free is looked at; what was cut off is finished or taken back, what has ended is
recorded, what came up twice is left once. *Orphans*: what carries this engine's mark and belongs to no record is removed.
Everything here is found by our own folders, our own control group and our own table; nobody else's is ever touched.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from engine.containers.launch import boot_id
from engine.containers.lifecycle import Lifecycle
from engine.containers.model import Container, Status
from engine.containers.parts import Parts
from engine.containers.verdict import after_boot
from engine.errors import EngineError, Unavailable
from engine.linux.files import remove_tree
from engine.linux.locks import file_lock
from engine.linux.process import process_id
from engine.linux.userns import unpin
from engine.runtime.bundle import bundles
from engine.runtime.step import StepRunner

logger = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f]{64}\Z")


class Reconciler:
    """Run `run` at the start of the agent and every few seconds; it is quick when all is well."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle) -> None:
        self._parts = parts
        self._lifecycle = lifecycle
        self._steps = StepRunner(parts.config, parts.runtime, parts.cgroups)

    def run(self) -> list[str]:
        """Bring everything into agreement; return what had to be done, in words."""
        done = self._after_boot()
        monitors = self._parts.cgroups.processes(f"{self._parts.group}/monitors")
        for container in self._parts.store.list():
            if not self._is_odd(container, monitors):
                continue
            with suppress(Unavailable), self._free(container.id):
                current = self._parts.store.find(container.id)
                if current is not None:
                    done += self._guarded(current)
        return done + self.sweep()

    def _is_odd(self, container: Container, monitors: set[int]) -> bool:
        """Tell, without its lock and in a tenth of a millisecond, whether a container needs a closer look."""
        launcher = self._lifecycle.launcher
        if not container.status.is_alive():
            return container.status in (Status.CREATING, Status.REMOVING) or launcher.has_leftovers(container)
        parts, private = self._parts, self._parts.store.private(container.id)
        if private.boot != boot_id() or private.monitor is None or not private.monitor.alive:
            return True
        if private.monitor.pid not in monitors or parts.bundle(container.id).exit_file.exists():
            return True
        if (parts.runtime.root / container.id / "exec.fifo").exists():
            return True
        return container.status is Status.RUNNING and parts.cgroups.is_frozen(parts.group_of(container.id))

    def sweep(self) -> list[str]:
        """Remove what belongs to no container and to no build step; return what was removed."""
        done = [f"build step {name}" for name in self._steps.sweep()]
        for container_id in self._leftover_ids():
            with suppress(Unavailable), self._free(container_id):
                if self._parts.store.find(container_id) is None:
                    self._remove_orphan(container_id)
                    done.append(f"left-overs of container {container_id[:12]}")
        done += self._network()
        return done

    def _guarded(self, container: Container) -> list[str]:
        try:
            return [f"container {container.name}: {text}" for text in self._one(container)]
        except (EngineError, OSError) as error:
            logger.warning("container %s cannot be reconciled yet: %s", container.id[:12], error)
            return []

    def _one(self, container: Container) -> Iterator[str]:
        """Look at one container whose lock is ours."""
        if container.status in (Status.CREATING, Status.REMOVING):
            self._lifecycle.erase_leftover(container)
            yield f"was {container.status}, finished removing it"
        elif container.status.is_alive():
            yield from self._living(container)
        elif self._lifecycle.launcher.has_leftovers(container):
            self._lifecycle.launcher.dismantle(container)
            yield "took away what a start that was cut off had set up"

    def _living(self, container: Container) -> Iterator[str]:
        private, bundle = self._parts.store.private(container.id), self._parts.bundle(container.id)
        if private.boot != boot_id():
            self._parts.store.save_private(
                container.id, dataclasses.replace(private, init_pid=0, monitor_pid=0)
            )
        if (ended := self._lifecycle.exit_locked(container)) is not None:
            yield f"had ended with exit status {ended.exit_code}"
            return
        init = private.init
        waiting = (self._parts.runtime.root / container.id / "exec.fifo").exists()
        if waiting and init is not None and init.alive:
            self._parts.runtime.start(container.id, init)
            yield "was created but not let go; started it"
        group = self._parts.group_of(container.id)
        if container.status is Status.RUNNING and self._parts.cgroups.is_frozen(group):
            self._parts.cgroups.freeze(group, False)
            yield "was frozen by somebody who died; let it go on"
        monitor = process_id(bundle.read_pid(bundle.monitor_pid_file))
        if monitor is not None and not self._parts.monitors.settled(monitor):
            with suppress(ProcessLookupError):
                self._parts.cgroups.move(f"{self._parts.group}/monitors", monitor.pid)
                yield "moved its monitor into the monitors' group"

    def _after_boot(self) -> list[str]:
        """Once after the machine came up: let those start that shall, also ones that had ended before."""
        boot = boot_id()
        row = self._parts.db.read().execute("SELECT value FROM meta WHERE key = 'boot'").fetchone()
        known = None if row is None else row["value"]
        if known == boot:
            return []
        with self._parts.db.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (boot,))
        if known is None:
            return []
        done = []
        for container in self._parts.store.list([Status.EXITED]):
            if after_boot(container):
                with suppress(Unavailable), self._free(container.id):
                    self._schedule(container)
                    done.append(f"container {container.name}: to be started after the boot")
        return done

    def _schedule(self, container: Container) -> None:
        private = dataclasses.replace(self._parts.store.private(container.id), restart_at=time.time())
        due = dataclasses.replace(container, status=Status.RESTARTING, stopped_by_user=False)
        self._parts.store.save(due, "restart_scheduled", private=private)

    @contextmanager
    def _free(self, container_id: str) -> Iterator[None]:
        """Hold the lock if nobody else does; raises `Unavailable` at once otherwise."""
        with file_lock(self._parts.lock_path(container_id), timeout_s=0):
            yield

    def _leftover_ids(self) -> list[str]:
        """Return ids that appear in our places, but not among the records."""
        parts, config = self._parts, self._parts.config
        found: set[str] = {
            *bundles(config),
            *parts.roots.names(),
            *parts.runtime.ids(),
            *parts.cgroups.children(parts.group),
        }
        for folder in (config.run_root / "ns", config.run_root / "exits", config.data_root / "containers"):
            with suppress(FileNotFoundError):
                found.update(os.listdir(folder))
        found.update(info.name for info in parts.snapshots.walk() if info.kind == "active")
        found.update(parts.ranges.owners())
        with suppress(FileNotFoundError):
            found.update(name for name in os.listdir(config.run_root / "container-locks"))
        known = parts.store.ids()  # read last: a container's row comes before everything else of it
        return sorted(name for name in found - known if _ID.match(name))

    def _remove_orphan(self, container_id: str) -> None:
        parts, bundle = self._parts, self._parts.bundle(container_id)
        monitor = process_id(bundle.read_pid(bundle.monitor_pid_file))
        parts.cgroups.kill(parts.group_of(container_id))
        if monitor is not None and parts.monitors.settled(monitor):
            parts.monitors.end(monitor, 0.5)
        parts.cgroups.remove(parts.group_of(container_id))
        parts.network.release(container_id)
        parts.runtime.forget(container_id)
        unpin(bundle.userns, mounts=parts.mounts)
        unpin(bundle.netns, mounts=parts.mounts)
        remove_tree(bundle.userns.parent)
        bundle.remove()
        parts.snapshots.remove(container_id)
        parts.roots.remove(container_id)
        parts.volumes.release(container_id, remove_anonymous=True)
        parts.ranges.release(container_id)
        remove_tree(parts.data_folder(container_id))
        parts.lock_path(container_id).unlink(missing_ok=True)

    def _network(self) -> list[str]:
        """Take back addresses and ports of containers that do not run and are not being started."""
        parts = self._parts
        holders = {member.container_id for network in parts.network.list() for member in network.members}
        holders |= {port.container_id for port in parts.network.held_ports()}
        done = []
        for container in parts.store.list():
            if container.id not in holders or container.status.is_alive():
                continue
            with suppress(Unavailable), self._free(container.id):
                current = parts.store.find(container.id)
                if current is not None and not current.status.is_alive():
                    parts.network.release(container.id)
                    done.append(f"container {container.name}: gave back its addresses and ports")
        return done

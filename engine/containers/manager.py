"""The one way into containers for the rest of the engine: every verb on a container, composed from the parts beside it.

manager = ContainerManager(config, db, images, network, volumes)
container = manager.create(ContainerSpec("busybox", command=["echo", "hi"]))
manager.start(container.id)
manager.wait(container.id).exit_code
for batch in manager.logs(container.id, LogQuery(tail=10)): ...
manager.remove(container.id)
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.config import EngineConfig
from engine.containers.archive import Archive
from engine.containers.changes import Changes, Pruned, label_filter
from engine.containers.check import check
from engine.containers.commit import ApplyChanges, Committer
from engine.containers.exec import Execs
from engine.containers.lifecycle import Lifecycle
from engine.containers.model import Container, ContainerSpec, EndpointSpec, RestartPolicy
from engine.containers.parts import Parts
from engine.containers.processes import Processes, list_processes
from engine.containers.reconcile import Reconciler
from engine.containers.supervise import Supervisor
from engine.containers.timeline import Moment, timeline
from engine.db import Database
from engine.errors import WrongState
from engine.images.store import ImageStore
from engine.network.manager import NetworkManager
from engine.progress import CancelToken, Reporter, silent
from engine.runtime.log_reader import Entry, Gap, LogQuery, LogReader, Piece
from engine.runtime.stats import Sampler, Stats
from engine.runtime.streams import AttachPump, check_size
from engine.volumes.manager import VolumeManager


class ContainerManager:
    """All verbs on the containers of one engine; safe for any number of threads and processes."""

    def __init__(
        self,
        config: EngineConfig,
        db: Database,
        images: ImageStore,
        network: NetworkManager,
        volumes: VolumeManager,
        *,
        apply_changes: ApplyChanges,
        parts: Parts | None = None,
    ) -> None:
        self.parts = parts or Parts.open(config, db, images, network, volumes)
        self.store = self.parts.store
        self.lifecycle = Lifecycle(self.parts)
        self.execs = Execs(self.parts)
        self.archive = Archive(self.parts, self.lifecycle.launcher)
        self.committer = Committer(self.parts, self.archive, apply_changes)
        self.changer = Changes(self.parts, self.lifecycle)
        self.reconciler = Reconciler(self.parts, self.lifecycle)
        self.supervisor = Supervisor(self.parts, self.lifecycle, self.execs)
        self.sampler = Sampler(self.parts.cgroups)

    # records

    def get(self, ref: str) -> Container:
        """Return a container by id, name or unique beginning of its id."""
        return self.store.get(ref)

    def list(self, *, all: bool = True) -> builtins.list[Container]:
        """Return the containers, newest first; without `all` only those that run."""
        return [found for found in self.store.list() if all or found.status.is_alive()]

    # life

    def create(
        self,
        spec: ContainerSpec,
        *,
        id: str = "",
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Container:
        return self.lifecycle.create(spec, container_id=id, report=report, cancel=cancel)

    def start(self, ref: str) -> Container:
        return self.lifecycle.start(ref)

    def stop(
        self, ref: str, timeout_s: float | None = None, *, signal: str = "", cancel: CancelToken | None = None
    ) -> Container:
        return self.lifecycle.stop(ref, timeout_s, signal=signal, cancel=cancel)

    def restart(
        self, ref: str, timeout_s: float | None = None, *, signal: str = "", cancel: CancelToken | None = None
    ) -> Container:
        return self.lifecycle.restart(ref, timeout_s, signal=signal, cancel=cancel)

    def kill(self, ref: str, signal: str = "SIGKILL") -> Container:
        return self.lifecycle.kill(ref, signal)

    def pause(self, ref: str) -> Container:
        return self.lifecycle.pause(ref)

    def unpause(self, ref: str) -> Container:
        return self.lifecycle.unpause(ref)

    def rename(self, ref: str, name: str) -> Container:
        return self.lifecycle.rename(ref, name)

    def wait(
        self,
        ref: str,
        condition: str = "not-running",
        *,
        timeout_s: float | None = None,
        cancel: CancelToken | None = None,
    ) -> Container:
        return self.lifecycle.wait(ref, condition, timeout_s=timeout_s, cancel=cancel)

    def remove(self, ref: str, *, force: bool = False, volumes: bool = False, keep_log: bool = False) -> str:
        return self.lifecycle.remove(ref, force=force, volumes=volumes, keep_log=keep_log)

    def reap(self, ref: str) -> Container | None:
        return self.lifecycle.reap(ref)

    def update(
        self, ref: str, resources: dict[str, Any] | None = None, restart: RestartPolicy | None = None
    ) -> Container:
        return self.changer.update(ref, resources, restart)

    def connect(self, network: str, ref: str, endpoint: EndpointSpec) -> Container:
        return self.changer.connect(network, ref, endpoint)

    def disconnect(self, network: str, ref: str, *, force: bool = False) -> Container:
        return self.changer.disconnect(network, ref, force=force)

    def prune(
        self, *, older_than_s: float = 0.0, labels: Sequence[str] = (), without_labels: Sequence[str] = ()
    ) -> Pruned:
        return self.changer.prune(older_than_s=older_than_s, matches=label_filter(labels, without_labels))

    def reconcile(self) -> builtins.list[str]:
        """Make records, kernel and disk agree; return what had to be done."""
        return self.reconciler.run()

    def sweep(self) -> builtins.list[str]:
        """Remove what belongs to no container and to no build step; return what was removed."""
        return self.reconciler.sweep()

    def check(self) -> builtins.list[str]:
        """Return what does not match, in words, and change nothing."""
        return check(self.parts)

    # looking

    def stats(self, ref: str) -> Stats:
        """Take one sample of a running container's figures; raises `WrongState` for others."""
        container = self._alive(ref)
        return self.sampler.sample(self.parts.group_of(container.id), container.pid)

    def top(self, ref: str, ps_args: str = "-ef") -> Processes:
        """Return the processes of a running container as `ps` shows them."""
        container = self._alive(ref)
        pids = self.parts.cgroups.processes(self.parts.group_of(container.id))
        found = list_processes(
            pids, ps_args, id_start=container.subuid, names=self.archive.user_names(container)
        )
        self.store.announce(container, "top")
        return found

    def timeline(self, ref: str, limit: int = 200) -> builtins.list[Moment]:
        """Return what happened to a container, with the log lines around it."""
        return timeline(self.parts, self.store.get(ref), limit=limit)

    # streams

    def attach(self, ref: str) -> AttachPump:
        """Connect to a running container's input and output; the caller closes it."""
        container = self._alive(ref)
        pump = AttachPump(self.parts.bundle(container.id).attach_socket)
        self.store.announce(container, "attach")
        return pump

    def resize(self, ref: str, rows: int, columns: int) -> None:
        """Change the size of a running container's terminal; without one nothing happens."""
        rows, columns = check_size(rows, columns)
        container = self._alive(ref)
        if container.spec.tty:
            self.parts.bundle(container.id).send_control(f"1 {rows} {columns}\n")

    def _alive(self, ref: str) -> Container:
        container = self.store.get(ref)
        if not container.status.is_alive():
            raise WrongState(f"container {container.name!r} is not running", hint="start it first")
        return container

    # logs

    def logs(self, ref: str, query: LogQuery | None = None) -> Iterator[builtins.list[Entry | Gap]]:
        """Yield lines of a container's log (see `LogReader.entries`)."""
        reader, alive = self.log_reader(ref)
        return reader.entries(query or LogQuery(), alive)

    def raw_logs(self, ref: str, query: LogQuery | None = None) -> Iterator[builtins.list[Piece | Gap]]:
        """Yield what a container wrote, as bytes (see `LogReader.raw`)."""
        reader, alive = self.log_reader(ref)
        return reader.raw(query or LogQuery(), alive)

    def log_reader(self, ref: str) -> tuple[LogReader, Callable[[], bool]]:
        """Return a reader of a container's log, and the question whether more may come."""
        container = self.store.get(ref)

        def alive() -> bool:
            found = self.store.find(container.id)
            return found is not None and found.status.is_alive()

        return LogReader(self.parts.log_files(container)), alive

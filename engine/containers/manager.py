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
from collections.abc import Callable, Iterator

from engine.config import EngineConfig
from engine.containers.lifecycle import Lifecycle
from engine.containers.model import Container, ContainerSpec
from engine.containers.parts import Parts
from engine.db import Database
from engine.images.store import ImageStore
from engine.network.manager import NetworkManager
from engine.progress import CancelToken, Reporter, silent
from engine.runtime.log_reader import Entry, Gap, LogQuery, LogReader, Piece
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
        parts: Parts | None = None,
    ) -> None:
        self.parts = parts or Parts.open(config, db, images, network, volumes)
        self.store = self.parts.store
        self.lifecycle = Lifecycle(self.parts)

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

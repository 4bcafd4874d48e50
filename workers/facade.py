"""What workers and agent call of `engine.engine.Engine`, as a Protocol: the real engine and the tests' fake both are one.

All arguments are keywords. Verbs raise `EngineError`, are idempotent where their words allow it, look at `cancel` at least every second,
and return the engine's own values (`workers.records.to_record` makes JSON of them).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

from engine.build.request import BuildRequest
from engine.config import EngineConfig
from engine.containers.exec import ExecRecord, ExecSpec
from engine.containers.keptlogs import KeptLog
from engine.containers.model import Container, ContainerSpec, EndpointSpec, RestartPolicy
from engine.db import Database
from engine.events import Event
from engine.network.guard import Restorable
from engine.network.model import NetworkSpec
from engine.progress import CancelToken, Reporter
from engine.registry.settings import RegistrySettings
from engine.runtime.exec_session import ExecSession
from engine.runtime.logs import LogFiles
from engine.runtime.stats import Stats
from engine.runtime.streams import AttachPump

# Values whose classes belong to parts of the engine that this module does not name; records.to_record knows them.
Value = Any


class Supervised(Protocol):
    """What happens by itself while containers run; see `engine.containers.supervise`."""

    def run(self, stop: threading.Event) -> None: ...


class EngineFacade(Protocol):
    config: EngineConfig
    db: Database

    # images ---------------------------------------------------------------------------------------------------------
    def pull(
        self,
        *,
        reference: str,
        platform: str,
        registries: Sequence[RegistrySettings],
        report: Reporter,
        cancel: CancelToken,
    ) -> Value: ...  # Image
    def pull_all(
        self,
        *,
        reference: str,
        platform: str,
        registries: Sequence[RegistrySettings],
        report: Reporter,
        cancel: CancelToken,
    ) -> Value: ...  # Image
    def push(
        self,
        *,
        image: str,
        reference: str,
        compression: str,
        all_platforms: bool,
        registries: Sequence[RegistrySettings],
        report: Reporter,
        cancel: CancelToken,
    ) -> Value: ...  # .reference, .digest, .size_bytes
    def tag(self, *, image: str, reference: str) -> Value: ...  # Image
    def untag(self, *, reference: str) -> None: ...
    def protect_names(self, *, patterns: Sequence[str], revision: int) -> list[str]: ...
    def image_remove(self, *, image: str, force: bool, keep_parents: bool) -> list[dict[str, str]]: ...
    def image_load(
        self, *, source: BinaryIO, report: Reporter, cancel: CancelToken
    ) -> list[Value]: ...  # Images
    def image_import(
        self,
        *,
        source: BinaryIO,
        reference: str,
        message: str,
        changes: Sequence[str],
        platform: str,
        report: Reporter,
        cancel: CancelToken,
    ) -> Value: ...  # Image
    def image_save(
        self, *, images: Sequence[str], out: BinaryIO, report: Reporter, cancel: CancelToken
    ) -> None: ...
    def image_prune(
        self, *, mode: str, older_than_s: float, labels: Sequence[str], without_labels: Sequence[str]
    ) -> Value: ...  # .removed, .freed_bytes
    def image_get(self, *, ref: str) -> Value: ...
    def image_list(self) -> list[Value]: ...
    def image_history(self, *, ref: str) -> list[Value]: ...
    def image_layers(self, *, ref: str) -> list[Value]: ...
    def image_layer_files(self, *, ref: str, index: int) -> list[Value]: ...
    def image_search(
        self, *, term: str, limit: int, registries: Sequence[RegistrySettings]
    ) -> list[Value]: ...

    def registry_login(self, *, registry: RegistrySettings) -> Value: ...
    def registry_tags(self, *, reference: str, registries: Sequence[RegistrySettings]) -> list[str]: ...
    def image_remote(self, *, reference: str, registries: Sequence[RegistrySettings]) -> Value: ...

    # builds ---------------------------------------------------------------------------------------------------------
    def build(
        self,
        *,
        request: BuildRequest,
        registries: Sequence[RegistrySettings],
        report: Reporter,
        cancel: CancelToken,
    ) -> Value: ...  # BuildResult
    def build_cache_prune(self, *, keep_bytes: int, older_than_s: float, all: bool) -> Value: ...

    # containers -----------------------------------------------------------------------------------------------------
    def create(
        self,
        *,
        spec: ContainerSpec,
        id: str,
        pull: str,
        platform: str,
        registries: Sequence[RegistrySettings],
        report: Reporter,
        cancel: CancelToken,
    ) -> Container: ...
    def start(self, *, container: str) -> Container: ...
    def stop(
        self, *, container: str, timeout_s: float | None, signal: str, cancel: CancelToken
    ) -> Container: ...
    def restart(
        self, *, container: str, timeout_s: float | None, signal: str, cancel: CancelToken
    ) -> Container: ...
    def kill(self, *, container: str, signal: str) -> Container: ...
    def pause(self, *, container: str) -> Container: ...
    def unpause(self, *, container: str) -> Container: ...
    def rename(self, *, container: str, name: str) -> Container: ...
    def update(
        self, *, container: str, resources: dict[str, Any], restart: RestartPolicy | None
    ) -> Container: ...
    def remove(self, *, container: str, force: bool, volumes: bool, keep_log: bool) -> str: ...
    def kept_logs(self) -> list[KeptLog]: ...
    def kept_log_files(self, *, log: str) -> LogFiles: ...
    def kept_log_remove(self, *, log: str) -> str: ...
    def commit(
        self,
        *,
        container: str,
        reference: str,
        message: str,
        author: str,
        changes: Sequence[str],
        pause: bool,
    ) -> Value: ...  # Image
    def container_get(self, *, ref: str) -> Container: ...
    def container_list(self) -> list[Container]: ...
    def container_prune(
        self, *, older_than_s: float, labels: Sequence[str], without_labels: Sequence[str]
    ) -> Value: ...
    def exec_run(
        self,
        *,
        container: str,
        exec_id: str,
        command: Sequence[str],
        env: dict[str, str],
        user: str,
        workdir: str,
        tty: bool,
        privileged: bool,
        detach: bool,
        cancel: CancelToken,
    ) -> Value: ...  # .exit_code, .stdout, .stderr, .truncated; None when detached
    def exec_inspect(self, *, exec_id: str) -> ExecRecord: ...
    def top(self, *, container: str, ps_args: str) -> Value: ...
    def stats(self, *, container: str) -> Value: ...
    def changes(self, *, container: str) -> list[Value]: ...
    def archive_stat(self, *, container: str, path: str) -> Value: ...
    def archive_get(self, *, container: str, path: str, out: BinaryIO) -> None: ...
    def archive_put(
        self,
        *,
        container: str,
        path: str,
        source: BinaryIO,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None: ...
    def list_files(self, *, container: str, path: str) -> list[Value]: ...
    def export(self, *, container: str, out: BinaryIO) -> None: ...

    # streams of containers ------------------------------------------------------------------------------------------
    def log_files(self, *, container: str) -> LogFiles: ...
    def attach(self, *, container: str) -> AttachPump: ...
    def resize(self, *, container: str, rows: int, columns: int) -> None: ...
    def exec_create(self, *, container: str, spec: ExecSpec, exec_id: str) -> ExecRecord: ...
    def exec_start(self, *, exec_id: str, size: tuple[int, int] | None) -> ExecSession: ...
    def exec_finish(self, *, exec_id: str, session: ExecSession) -> int: ...
    def exec_leave(self, *, exec_id: str, session: ExecSession) -> None: ...
    def exec_resize(self, *, exec_id: str, rows: int, columns: int) -> None: ...

    # networks and volumes -------------------------------------------------------------------------------------------
    def network_create(self, *, spec: NetworkSpec, id: str) -> Value: ...
    def network_get(self, *, ref: str) -> Value: ...
    def network_list(self) -> list[Value]: ...
    def network_remove(self, *, network: str) -> str: ...
    def network_connect(self, *, network: str, container: str, endpoint: EndpointSpec) -> Container: ...
    def network_disconnect(self, *, network: str, container: str, force: bool) -> Container: ...
    def network_prune(
        self, *, older_than_s: float, labels: Sequence[str], without_labels: Sequence[str]
    ) -> Value: ...
    def network_probe(self, *, container: str, name: str, port: int) -> Value: ...
    def volume_create(
        self, *, name: str, driver: str, options: dict[str, str], labels: dict[str, str]
    ) -> Value: ...
    def volume_get(self, *, name: str) -> Value: ...
    def volume_list(self) -> list[Value]: ...
    def volume_remove(self, *, volume: str, force: bool) -> str: ...
    def volume_prune(self, *, all: bool, labels: Sequence[str], without_labels: Sequence[str]) -> Value: ...
    def volume_browse(self, *, volume: str, path: str) -> list[Value]: ...
    def volume_read(self, *, volume: str, path: str, out: BinaryIO) -> None: ...
    def volume_backup(
        self, *, volume: str, out: BinaryIO, compression: str, report: Reporter, cancel: CancelToken
    ) -> Value: ...  # .files, .digest, .size_bytes
    def volume_restore(
        self,
        *,
        volume: str,
        source: BinaryIO,
        create: bool,
        files: Sequence[str],
        report: Reporter,
        cancel: CancelToken,
    ) -> Value: ...  # Volume

    # the node -------------------------------------------------------------------------------------------------------
    def prune(
        self,
        *,
        images: str,
        containers: bool,
        volumes: bool,
        networks: bool,
        build_cache: bool,
        older_than_s: float,
        labels: Sequence[str],
    ) -> Value: ...
    def timeline(self, *, container: str, limit: int) -> list[Value]: ...
    def last_record(self, *, container: str) -> Container | None: ...
    def check(self, *, deep: bool, report: Reporter, cancel: CancelToken) -> list[Value]: ...
    def repair(self, *, problems: Sequence[str], report: Reporter, cancel: CancelToken) -> Value: ...
    def info(self) -> dict[str, Any]: ...
    def usage(self) -> Value: ...
    def events_after(self, *, seq: int, limit: int) -> list[Event]: ...

    def sample(self, *, container: Container) -> Stats: ...

    # for the agent --------------------------------------------------------------------------------------------------
    @property
    def supervisor(self) -> Supervised: ...
    @property
    def network(self) -> Restorable: ...
    def reconcile(self) -> list[str]: ...
    def sweep(self) -> list[str]: ...

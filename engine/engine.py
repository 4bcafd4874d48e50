"""`Engine`: the one thing that callers of the engine use. One short method a verb; what it means stands where it is done.

    engine = Engine(EngineConfig.from_home("/var/lib/wharfinger"))
    image = engine.build(request=BuildRequest(context=Path("app"), tags=["app:1"]))
    container = engine.create(spec=ContainerSpec(image="app:1", ports=[PortSpec(80, host_port=8080)]))
    engine.start(container=container.id)

Any number of processes may have an engine on the same folders at once: state lives in SQLite, on disk and in the kernel,
and each object is changed under its own lock. All arguments are keywords; all errors are `engine.errors.EngineError`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from engine import node
from engine.build import SCHEMAS as build_schemas
from engine.build.builder import Builder
from engine.build.cache import BuildCache
from engine.build.changes import apply_changes
from engine.build.request import BuildRequest, BuildResult
from engine.config import EngineConfig
from engine.containers import exec as containers_exec
from engine.containers import store as containers_store
from engine.containers.archive import PathStat
from engine.containers.exec import ExecRecord, ExecResult, Execs, ExecSpec
from engine.containers.keptlogs import KeptLog, KeptLogs
from engine.containers.manager import ContainerManager
from engine.containers.model import Container, ContainerSpec, EndpointSpec, RestartPolicy
from engine.containers.parts import Parts
from engine.containers.processes import Processes
from engine.containers.supervise import Supervisor
from engine.containers.timeline import Moment, last_record
from engine.content.store import ContentStore
from engine.db import Database
from engine.errors import ImageNotFound, RegistryError, WrongState
from engine.events import Event
from engine.images import archive
from engine.images import push as images_push
from engine.images import rows as images_rows
from engine.images.check import Finding
from engine.images.model import HistoryEntry, Image, LayerFile, LayerInfo
from engine.images.platforms import parse_platform
from engine.images.pull import Puller
from engine.images.push import Pushed, Pusher
from engine.images.search import RemoteImage, Searcher, SearchResult, search_local, split_term
from engine.images.store import ImageStore
from engine.layers.compression import Compression
from engine.layers.diff import Change
from engine.linux import userns
from engine.linux.mount import LinuxMounts
from engine.network import NetworkManager
from engine.network import store as network_store
from engine.network.model import Network, NetworkSpec
from engine.network.tester import Trial, try_connection
from engine.oci.image_config import ContainerConfig
from engine.platform import Platform
from engine.progress import CancelToken, Reporter, silent
from engine.reference import parse_reference
from engine.registry import realms
from engine.registry.client import Registries
from engine.registry.proxy import Proxies
from engine.registry.settings import RegistrySettings
from engine.runtime.exec_session import ExecSession
from engine.runtime.log_reader import Entry, Gap, LogQuery
from engine.runtime.logs import LogFiles
from engine.runtime.stats import Stats
from engine.runtime.step import StepRunner
from engine.runtime.streams import AttachPump
from engine.snapshots import overlay
from engine.snapshots.overlay import OverlaySnapshotter
from engine.volumes import Volume, VolumeManager
from engine.volumes import records as volume_records
from engine.volumes.backup import BackupResult
from engine.volumes.browse import FileEntry

SCHEMAS = (
    overlay.SCHEMA,
    images_rows.SCHEMA,
    images_push.SCHEMA,
    realms.SCHEMA,
    userns.SCHEMA,
    network_store.SCHEMA,
    volume_records.SCHEMA,
    containers_store.SCHEMA,
    containers_exec.SCHEMA,
    *build_schemas,
)


class Engine:
    """The container engine of one node."""

    def __init__(self, config: EngineConfig) -> None:
        config.make_folders()
        self.config = config
        self.db = Database(config.database, SCHEMAS, wake=config.wake_socket)
        self.content = ContentStore(config.data_root / "content", config.run_root / "content")
        self.snapshots = OverlaySnapshotter(config.data_root / "snapshots", self.db, LinuxMounts())
        store = containers_store.ContainerStore(self.db)
        self.images = ImageStore(
            self.db,
            self.content,
            self.snapshots,
            users_of=store.users_of_image,
            running_users_of=lambda image_id: store.users_of_image(image_id, alive=True),
        )
        self.network = NetworkManager(config, self.db)
        self.volumes = VolumeManager(config, self.db)
        self.registries = Registries(
            insecure=config.insecure_registries,
            on_realm=realms.RealmBook(self.db).seen,
            proxies=Proxies(config.https_proxy, config.http_proxy, config.no_proxy),
        )
        self.pusher = Pusher(self.images, self.content, self.registries, self.db)
        self.images.roots.append(self.pusher.roots)
        BuildCache(self.db, self.snapshots).keep_layers(self.images.roots)

    @cached_property
    def parts(self) -> Parts:
        """What the verbs on containers are made of; opened when the first of them is called."""
        return Parts.open(self.config, self.db, self.images, self.network, self.volumes)

    @cached_property
    def containers(self) -> ContainerManager:
        return ContainerManager(
            self.config,
            self.db,
            self.images,
            self.network,
            self.volumes,
            apply_changes=lambda config, changes: apply_changes(config, changes).config,
            parts=self.parts,
        )

    @property
    def execs(self) -> Execs:
        return self.containers.execs

    @property
    def supervisor(self) -> Supervisor:
        """Restarts and health checks; run by one process of the node, the agent."""
        return self.containers.supervisor

    @cached_property
    def steps(self) -> StepRunner:
        return StepRunner(self.config, self.parts.runtime, self.parts.cgroups)

    def builder(self, registries: Sequence[RegistrySettings] = ()) -> Builder:
        """Return a builder whose missing bases come from registries, reached as `registries` says."""

        def pull(reference: str, platform: Platform, report: Reporter, cancel: CancelToken) -> Image:
            return self.pull(
                reference=reference,
                platform=str(platform),
                registries=registries,
                report=report,
                cancel=cancel,
            )

        return Builder(
            self.config,
            self.db,
            self.images,
            self.content,
            self.snapshots,
            self.steps,
            self.network,
            pull=pull,
        )

    # images and registries ------------------------------------------------------------------------------------------

    def pull(
        self,
        *,
        reference: str,
        platform: str = "",
        registries: Sequence[RegistrySettings] = (),
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Image:
        named = parse_reference(reference)
        settings = settings_for(named.domain, registries)
        puller = Puller(self.images, self.content, self.snapshots, self.registries)
        return puller.pull(
            named,
            platform=parse_platform(platform) if platform else None,
            settings=settings,
            credentials=settings.credentials if settings else None,
            report=report,
            cancel=cancel,
        )

    def pull_all(
        self,
        *,
        reference: str,
        platform: str = "",
        registries: Sequence[RegistrySettings] = (),
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Image:
        """Pull every tag of the repository that `reference` names; return the last. Ends at the first that fails."""
        named = parse_reference(reference)
        settings = settings_for(named.domain, registries)
        puller = Puller(self.images, self.content, self.snapshots, self.registries)
        pulled = puller.pull_all(
            named,
            platform=parse_platform(platform) if platform else None,
            settings=settings,
            credentials=settings.credentials if settings else None,
            report=report,
            cancel=cancel,
        )
        if not pulled:
            raise ImageNotFound(
                f"{named.familiar_name} has no tags", hint="check the name for a typing error"
            )
        return pulled[-1]

    def push(
        self,
        *,
        image: str,
        reference: str = "",
        compression: str = "",
        all_platforms: bool = False,
        registries: Sequence[RegistrySettings] = (),
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Pushed:
        target = parse_reference(reference or image)
        settings = settings_for(target.domain, registries)
        return self.pusher.push(
            image,
            target,
            compression=Compression.ZSTD if compression == "zstd" else None,
            all_platforms=all_platforms,
            settings=settings,
            credentials=settings.credentials if settings else None,
            report=report,
            cancel=cancel,
        )

    def tag(self, *, image: str, reference: str) -> Image:
        return self.images.tag(image, reference)

    def untag(self, *, reference: str) -> None:
        self.images.untag(reference)

    def image_remove(
        self, *, image: str, force: bool = False, keep_parents: bool = False
    ) -> list[dict[str, str]]:
        del keep_parents  # layers belong to images here; there are no parent images that could stay
        return self.images.remove(image, force=force)

    def protect_names(self, *, patterns: Sequence[str], revision: int) -> list[str]:
        """Hold to these protected names unless a newer list is here; return those in force (`engine.images.protection`)."""
        self.images.protection.replace(patterns, revision)
        return self.images.protection.patterns()

    def image_get(self, *, ref: str) -> Image:
        return self.images.resolve(ref)

    def image_list(self) -> list[Image]:
        return self.images.list()

    def image_history(self, *, ref: str) -> list[HistoryEntry]:
        return self.images.history(ref)

    def image_layers(self, *, ref: str) -> list[LayerInfo]:
        return self.images.layers(ref)

    def image_layer_files(self, *, ref: str, index: int) -> list[LayerFile]:
        return self.images.layer_files(ref, index)

    def image_load(
        self, *, source: BinaryIO, report: Reporter = silent, cancel: CancelToken | None = None
    ) -> list[Image]:
        return archive.load(self.images, source, report=report, cancel=cancel)

    def image_import(
        self,
        *,
        source: BinaryIO,
        reference: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Image:
        """Make an image of a root file system. `changes` are Dockerfile lines that set its configuration."""
        del report  # one archive, one pass: there is nothing to tell but its end
        names = [parse_reference(reference)] if reference else []
        self.images.refuse_move(names, "")  # the image is a new one, whatever is in the archive
        return archive.import_root(
            self.images,
            source,
            names=names,
            config=apply_changes(ContainerConfig(), changes).config,
            message=message,
            platform=parse_platform(platform) if platform else None,
            cancel=cancel,
        )

    def image_save(
        self,
        *,
        images: Sequence[str],
        out: BinaryIO,
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> None:
        del report
        archive.save(self.images, images, out, check=cancel.check if cancel else None)

    def image_prune(
        self,
        *,
        mode: str = "dangling",
        older_than_s: float = 0.0,
        labels: Sequence[str] = (),
        without_labels: Sequence[str] = (),
    ) -> node.Pruned:
        fits = label_filter(labels, without_labels)
        done = self.images.prune(
            mode, older_than_s=older_than_s, match=lambda image: fits(image.config.config.labels)
        )
        return node.Pruned(done.removed, done.reclaimed)

    def image_search(
        self, *, term: str, limit: int = 25, registries: Sequence[RegistrySettings] = ()
    ) -> list[SearchResult]:
        """Search a registry named before the first slash, else Docker Hub; images of this node come first."""
        here = search_local(self.images.list(), term)[:limit]
        domain, _ = split_term(term)
        try:
            settings = settings_for(domain, registries)
            found = Searcher(self.registries).search(term, limit=limit, settings=settings)
        except RegistryError:
            if not here:
                raise
            found = []  # the registry is away, but what is here can be found all the same
        names = {item.name for item in here}
        return [*here, *(item for item in found if item.name not in names)][:limit]

    def registry_login(self, *, registry: RegistrySettings) -> dict[str, str]:
        """Ask a registry whether it accepts an account; raises what it says."""
        with self.registries.open(registry.host, settings=registry) as client:
            client.ping()
        return {"status": "Login Succeeded"}

    def registry_tags(self, *, reference: str, registries: Sequence[RegistrySettings] = ()) -> list[str]:
        named = parse_reference(reference)
        settings = settings_for(named.domain, registries)
        return Searcher(self.registries).tags(named, settings=settings)

    def image_remote(self, *, reference: str, registries: Sequence[RegistrySettings] = ()) -> RemoteImage:
        named = parse_reference(reference)
        return Searcher(self.registries).remote(named, settings=settings_for(named.domain, registries))

    # builds ---------------------------------------------------------------------------------------------------------

    def build(
        self,
        *,
        request: BuildRequest,
        registries: Sequence[RegistrySettings] = (),
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> BuildResult:
        return self.builder(registries).build(request, report, cancel)

    def build_cache_prune(
        self, *, keep_bytes: int = 0, older_than_s: float = 0.0, all: bool = False
    ) -> node.Pruned:
        """Forget cached steps; `all` empties the folders of cache mounts too."""
        builder = self.builder()
        before = self.images.usage().layers
        gone = builder.cache.prune(older_than_s=older_than_s, keep_bytes=keep_bytes)
        freed = builder.cache_mounts.prune(older_than_s=older_than_s) if all else 0
        self.images.collect(0.0)
        return node.Pruned(
            [record.text for record in gone], max(0, before - self.images.usage().layers) + freed
        )

    # containers -----------------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        spec: ContainerSpec,
        id: str = "",
        pull: str = "never",
        platform: str = "",
        registries: Sequence[RegistrySettings] = (),
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Container:
        """Make a container. `pull`: `never`, `missing` (fetch the image if it is not here) or `always`."""
        if pull == "always" or (pull == "missing" and self.images.find(spec.image) is None):
            self.pull(
                reference=spec.image, platform=platform, registries=registries, report=report, cancel=cancel
            )
        return self.containers.create(spec, id=id, report=report, cancel=cancel)

    def start(self, *, container: str) -> Container:
        return self.containers.start(container)

    def stop(
        self,
        *,
        container: str,
        timeout_s: float | None = None,
        signal: str = "",
        cancel: CancelToken | None = None,
    ) -> Container:
        return self.containers.stop(container, timeout_s, signal=signal, cancel=cancel)

    def restart(
        self,
        *,
        container: str,
        timeout_s: float | None = None,
        signal: str = "",
        cancel: CancelToken | None = None,
    ) -> Container:
        return self.containers.restart(container, timeout_s, signal=signal, cancel=cancel)

    def kill(self, *, container: str, signal: str = "SIGKILL") -> Container:
        return self.containers.kill(container, signal)

    def pause(self, *, container: str) -> Container:
        return self.containers.pause(container)

    def unpause(self, *, container: str) -> Container:
        return self.containers.unpause(container)

    def rename(self, *, container: str, name: str) -> Container:
        return self.containers.rename(container, name)

    def wait(
        self,
        *,
        container: str,
        condition: str = "not-running",
        timeout_s: float | None = None,
        cancel: CancelToken | None = None,
    ) -> Container:
        return self.containers.wait(container, condition, timeout_s=timeout_s, cancel=cancel)

    def remove(
        self, *, container: str, force: bool = False, volumes: bool = False, keep_log: bool = False
    ) -> str:
        return self.containers.remove(container, force=force, volumes=volumes, keep_log=keep_log)

    def kept_logs(self) -> list[KeptLog]:
        """Return the logs that were kept when their containers were removed, the newest first."""
        return KeptLogs(self.config).list()

    def kept_log_files(self, *, log: str) -> LogFiles:
        return KeptLogs(self.config).files(log)

    def kept_log_remove(self, *, log: str) -> str:
        return KeptLogs(self.config).remove(log)

    def container_get(self, *, ref: str) -> Container:
        return self.parts.store.get(ref)

    def container_list(self) -> list[Container]:
        return self.parts.store.list()

    def logs(self, *, container: str, query: LogQuery | None = None) -> Iterator[list[Entry | Gap]]:
        """Yield a container's log lines in lists; with `query.follow` until it has ended."""
        return self.containers.logs(container, query)

    def update(
        self, *, container: str, resources: dict[str, Any] | None = None, restart: RestartPolicy | None = None
    ) -> Container:
        """Change limits and the restart policy, also of a running container."""
        return self.containers.update(container, resources, restart)

    def commit(
        self,
        *,
        container: str,
        reference: str = "",
        message: str = "",
        author: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
    ) -> Image:
        """Make an image of what a container is now."""
        self.images.refuse_move([parse_reference(reference)] if reference else [], "")
        return self.containers.committer.commit(
            container, reference, message=message, author=author, changes=list(changes), pause=pause
        )

    def top(self, *, container: str, ps_args: str = "-ef") -> Processes:
        return self.containers.top(container, ps_args)

    def stats(self, *, container: str) -> Stats:
        return self.containers.stats(container)

    def sample(self, *, container: Container) -> Stats:
        """Take one sample of a container that was found to run; quick, for many at once."""
        return self.containers.sampler.sample(self.parts.group_of(container.id), container.pid)

    def timeline(self, *, container: str, limit: int = 200) -> list[Moment]:
        return self.containers.timeline(container, limit)

    def last_record(self, *, container: str) -> Container | None:
        """Return a container as the journal last told of it: how one ended that is gone already. Takes an id."""
        return last_record(self.db, container)

    def changes(self, *, container: str) -> list[Change]:
        return self.containers.archive.changes(container)

    def archive_stat(self, *, container: str, path: str) -> PathStat:
        return self.containers.archive.stat(container, path)

    def archive_get(self, *, container: str, path: str, out: BinaryIO) -> None:
        self.containers.archive.get(container, path, out)

    def archive_put(
        self,
        *,
        container: str,
        path: str,
        source: BinaryIO,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        self.containers.archive.put(
            container,
            path,
            source,
            no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
            copy_uid_gid=copy_uid_gid,
        )

    def list_files(self, *, container: str, path: str) -> list[PathStat]:
        return self.containers.archive.list_files(container, path)

    def export(self, *, container: str, out: BinaryIO) -> None:
        self.containers.archive.export(container, out)

    def _is_alive(self, container_id: str) -> bool:
        found = self.parts.store.find(container_id)
        return found is not None and found.status.is_alive()

    # streams of containers ------------------------------------------------------------------------------------------

    def log_files(self, *, container: str) -> LogFiles:
        return self.parts.log_files(self.parts.store.get(container))

    def attach(self, *, container: str) -> AttachPump:
        """Return a connection to a container's input and output; the caller closes it."""
        return self.containers.attach(container)

    def resize(self, *, container: str, rows: int, columns: int) -> None:
        """Tell the size of a container's terminal."""
        self.containers.resize(container, rows, columns)

    def exec_create(self, *, container: str, spec: ExecSpec, exec_id: str = "") -> ExecRecord:
        return self.execs.create(container, spec, exec_id=exec_id)

    def exec_start(self, *, exec_id: str, size: tuple[int, int] | None = None) -> ExecSession:
        return self.execs.start(exec_id, size=size)

    def exec_finish(self, *, exec_id: str, session: ExecSession) -> int:
        return self.execs.finish(exec_id, session)

    def exec_leave(self, *, exec_id: str, session: ExecSession) -> None:
        """Let go of a session whose program goes on."""
        self.execs.leave(exec_id, session)

    def exec_resize(self, *, exec_id: str, rows: int, columns: int) -> None:
        self.execs.resize(exec_id, rows, columns)

    def exec_inspect(self, *, exec_id: str) -> ExecRecord:
        return self.execs.inspect(exec_id)

    def exec_run(
        self,
        *,
        container: str,
        exec_id: str = "",
        command: Sequence[str],
        env: dict[str, str] | None = None,
        user: str = "",
        workdir: str = "",
        tty: bool = False,
        privileged: bool = False,
        detach: bool = False,
        cancel: CancelToken | None = None,
    ) -> ExecResult | None:
        """Run a program in a container to its end, or with `detach` leave it running and return None."""
        spec = ExecSpec(list(command), env or {}, user, workdir, tty, False, privileged)
        if detach:
            self.execs.detach(self.execs.create(container, spec, exec_id=exec_id).id)
            return None
        return self.execs.run(container, spec, exec_id=exec_id, cancel=cancel)

    # networks and volumes -------------------------------------------------------------------------------------------

    def network_create(self, *, spec: NetworkSpec, id: str = "") -> Network:
        return self.network.create(spec, id)

    def network_get(self, *, ref: str) -> Network:
        return self.network.get(ref)

    def network_list(self) -> list[Network]:
        return self.network.list()

    def network_remove(self, *, network: str) -> str:
        return self.network.remove(network).id

    def volume_create(
        self,
        *,
        name: str = "",
        driver: str = "local",
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
    ) -> Volume:
        return self.volumes.create(name, driver=driver, labels=labels, options=options)

    def volume_get(self, *, name: str) -> Volume:
        return self.volumes.get(name)

    def volume_list(self) -> list[Volume]:
        return self.volumes.list()

    def volume_remove(self, *, volume: str, force: bool = False) -> str:
        self.volumes.remove(volume, force=force)
        return volume

    def network_probe(self, *, container: str, name: str, port: int = 0) -> Trial:
        """Try from inside a running container: resolve a name and connect to a port, with the reason of a failure."""
        found = self.parts.store.get(container)
        if not found.status.is_alive():
            raise WrongState(f"container {found.name!r} is not running", hint="start it first")
        everything = self.network.list()
        joined = {item.network_id for item in found.endpoints}
        resolvers = [
            line.split()[1]
            for line in self.network.resolv_conf(found).splitlines()
            if line.startswith("nameserver ") and len(line.split()) > 1
        ]
        return try_connection(
            Path(f"/proc/{found.pid}/ns/net"),
            name,
            port,
            own=[network for network in everything if network.id in joined],
            everything=everything,
            resolvers=resolvers,
        )

    def volume_browse(self, *, volume: str, path: str = "/") -> list[FileEntry]:
        return self.volumes.browse(volume, path).entries

    def volume_read(self, *, volume: str, path: str, out: BinaryIO) -> None:
        self.volumes.read(volume, path, out)

    def volume_backup(
        self,
        *,
        volume: str,
        out: BinaryIO,
        compression: str = "gzip",
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> BackupResult:
        del report
        return self.volumes.backup(
            volume, out, compression=compression, check=cancel.check if cancel else None
        )

    def volume_restore(
        self,
        *,
        volume: str,
        source: BinaryIO,
        create: bool = False,
        files: Sequence[str] = (),
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Volume:
        del report
        return self.volumes.restore(
            volume,
            source,
            create=create,
            files=files,
            runs=self._is_alive,
            check=cancel.check if cancel else None,
        )

    def network_connect(self, *, network: str, container: str, endpoint: EndpointSpec) -> Container:
        return self.containers.connect(network, container, endpoint)

    def network_disconnect(self, *, network: str, container: str, force: bool = False) -> Container:
        return self.containers.disconnect(network, container, force=force)

    def network_prune(
        self, *, older_than_s: float = 0.0, labels: Sequence[str] = (), without_labels: Sequence[str] = ()
    ) -> node.Pruned:
        """Remove networks that no container is on, running or not."""
        fits, limit = label_filter(labels, without_labels), time.time() - older_than_s
        wanted = {name for item in self.container_list() for name in networks_of(item)}
        removed = self.network.prune(
            keep=wanted, matches=lambda network: fits(network.labels) and network.created_at <= limit
        )
        return node.Pruned([network.name for network in removed])

    def volume_prune(
        self, *, all: bool = False, labels: Sequence[str] = (), without_labels: Sequence[str] = ()
    ) -> node.Pruned:
        fits = label_filter(labels, without_labels)
        removed = self.volumes.prune(everything=all, matches=lambda volume: fits(volume.labels))
        return node.Pruned([name for name, _ in removed], sum(size for _, size in removed))

    def container_prune(
        self, *, older_than_s: float = 0.0, labels: Sequence[str] = (), without_labels: Sequence[str] = ()
    ) -> node.Pruned:
        """Remove the containers that do not run."""
        done = self.containers.prune(older_than_s=older_than_s, labels=labels, without_labels=without_labels)
        return node.Pruned(list(done.removed), done.freed_bytes)

    # the node -------------------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        return node.info(self)

    def usage(self) -> node.NodeUsage:
        return node.usage(self)

    def prune(
        self,
        *,
        images: str = "",
        containers: bool = False,
        volumes: bool = False,
        networks: bool = False,
        build_cache: bool = False,
        older_than_s: float = 0.0,
        labels: Sequence[str] = (),
    ) -> dict[str, Any]:
        return node.prune(
            self,
            images=images,
            containers=containers,
            volumes=volumes,
            networks=networks,
            build_cache=build_cache,
            older_than_s=older_than_s,
            labels=labels,
        )

    def events_after(self, *, seq: int, limit: int = 500) -> list[Event]:
        return self.db.events_after(seq, limit)

    def reap(self, *, container: str) -> Container | None:
        return self.containers.reap(container)

    def reconcile(self) -> list[str]:
        """Make records, kernel and host agree again; return in words what was not as it should be."""
        repaired = self.network.restore(neighbours=False)
        return [*repaired, *self.containers.reconcile(), *self.execs.settle()]

    def sweep(self) -> list[str]:
        """Remove what dead builds and interrupted work left in the kernel and on disk; say what."""
        swept = [f"build {name}" for name in self.builder().sweep()]
        swept += self.containers.sweep()
        swept += [f"snapshot {name}" for name in self.snapshots.sweep()]
        swept += [f"blob {name}" for name in self.content.sweep()]
        swept += self.volumes.sweep()
        # a build's steps have addresses too, under the name of their range of ids
        owners = userns.RangeAllocator(self.db, self.config).owners()
        builds = {owner for owner in owners if owner.startswith("build-")}
        return swept + self.network.sweep(self.parts.store.ids() | builds)

    def check(
        self, *, deep: bool = False, report: Reporter = silent, cancel: CancelToken | None = None
    ) -> list[Finding]:
        """Compare rows, disk and kernel; `deep` reads every byte. Changes nothing."""
        return node.check(self, deep=deep, report=report, cancel=cancel or CancelToken())

    def repair(
        self, *, problems: Sequence[str] = (), report: Reporter = silent, cancel: CancelToken | None = None
    ) -> dict[str, Any]:
        """Put right what can be put right of what `check` finds (`problems`: only these subjects)."""
        return node.repair(self, problems=problems, report=report, cancel=cancel or CancelToken())


def settings_for(domain: str, registries: Sequence[RegistrySettings]) -> RegistrySettings | None:
    """Return the settings of one registry among those that came with a verb."""
    return next((item for item in registries if item.host == domain), None)


def networks_of(container: Container) -> list[str]:
    """Return the names of the networks that a container wants when it runs."""
    asked = [item.name for item in container.spec.networks]
    return [*asked, container.spec.network_mode, *(item.network_id for item in container.endpoints)]


def label_filter(labels: Sequence[str], without: Sequence[str] = ()) -> Callable[[Mapping[str, str]], bool]:
    """Return a test of labels: all of `labels` (`key` or `key=value`) there, none of `without`."""

    def has(held: Mapping[str, str], wanted: str) -> bool:
        key, has_value, value = wanted.partition("=")
        return key in held and (not has_value or held[key] == value)

    return lambda held: (
        all(has(held, item) for item in labels) and not any(has(held, item) for item in without)
    )


__all__ = ["Engine", "label_filter", "settings_for"]

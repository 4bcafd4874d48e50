"""`Engine`: the one thing that callers of the engine use. One short method a verb; what it means stands where it is done.

    engine = Engine(EngineConfig.from_home("/var/lib/wharfinger"))
    image = engine.build(request=BuildRequest(context=Path("app"), tags=["app:1"]))
    container = engine.create(spec=ContainerSpec(image="app:1", ports=[PortSpec(80, host_port=8080)]))
    engine.start(container=container.id)

Any number of processes may have an engine on the same folders at once: state lives in SQLite, on disk and in the kernel,
and each object is changed under its own lock. All arguments are keywords; all errors are `engine.errors.EngineError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

from engine.build import cache as build_cache
from engine.build.builder import Builder
from engine.build.request import BuildRequest, BuildResult
from engine.config import EngineConfig
from engine.containers import store as containers_store
from engine.containers.lifecycle import Lifecycle
from engine.containers.model import Container, ContainerSpec
from engine.containers.parts import Parts
from engine.content.store import ContentStore
from engine.db import Database
from engine.events import Event
from engine.images import push as images_push
from engine.images import rows as images_rows
from engine.images.model import HistoryEntry, Image, LayerFile, LayerInfo
from engine.images.platforms import parse_platform
from engine.images.pull import Puller
from engine.images.push import Pushed, Pusher
from engine.images.store import ImageStore
from engine.layers.compression import Compression
from engine.linux import userns
from engine.linux.mount import LinuxMounts
from engine.network import NetworkManager
from engine.network import store as network_store
from engine.network.model import Network, NetworkSpec
from engine.platform import Platform
from engine.progress import CancelToken, Reporter, silent
from engine.reference import parse_reference
from engine.registry.client import Registries
from engine.registry.settings import RegistrySettings
from engine.runtime.log_reader import Entry, Gap, LogQuery, LogReader
from engine.runtime.step import StepRunner
from engine.snapshots import overlay
from engine.snapshots.overlay import OverlaySnapshotter
from engine.volumes import Volume, VolumeManager
from engine.volumes import records as volume_records

SCHEMAS = (
    overlay.SCHEMA,
    images_rows.SCHEMA,
    images_push.SCHEMA,
    userns.SCHEMA,
    network_store.SCHEMA,
    volume_records.SCHEMA,
    containers_store.SCHEMA,
    build_cache.SCHEMA,
)


class Engine:
    """The container engine of one node."""

    def __init__(self, config: EngineConfig) -> None:
        config.make_folders()
        self.config = config
        self.db = Database(config.database, SCHEMAS, wake=config.wake_socket)
        self.content = ContentStore(config.data_root / "content")
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
        self.registries = Registries(insecure=config.insecure_registries)
        self.pusher = Pusher(self.images, self.content, self.registries, self.db)
        self.images.roots.append(self.pusher.roots)

    @cached_property
    def parts(self) -> Parts:
        """What the verbs on containers are made of; opened when the first of them is called."""
        return Parts.open(self.config, self.db, self.images, self.network, self.volumes)

    @cached_property
    def lifecycle(self) -> Lifecycle:
        return Lifecycle(self.parts)

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

    def push(
        self,
        *,
        image: str,
        reference: str = "",
        compression: str = "",
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
        return self.lifecycle.create(spec, container_id=id, report=report, cancel=cancel)

    def start(self, *, container: str) -> Container:
        return self.lifecycle.start(container)

    def stop(
        self,
        *,
        container: str,
        timeout_s: float | None = None,
        signal: str = "",
        cancel: CancelToken | None = None,
    ) -> Container:
        return self.lifecycle.stop(container, timeout_s, signal=signal, cancel=cancel)

    def restart(
        self,
        *,
        container: str,
        timeout_s: float | None = None,
        signal: str = "",
        cancel: CancelToken | None = None,
    ) -> Container:
        return self.lifecycle.restart(container, timeout_s, signal=signal, cancel=cancel)

    def kill(self, *, container: str, signal: str = "SIGKILL") -> Container:
        return self.lifecycle.kill(container, signal)

    def pause(self, *, container: str) -> Container:
        return self.lifecycle.pause(container)

    def unpause(self, *, container: str) -> Container:
        return self.lifecycle.unpause(container)

    def rename(self, *, container: str, name: str) -> Container:
        return self.lifecycle.rename(container, name)

    def wait(
        self,
        *,
        container: str,
        condition: str = "not-running",
        timeout_s: float | None = None,
        cancel: CancelToken | None = None,
    ) -> Container:
        return self.lifecycle.wait(container, condition, timeout_s=timeout_s, cancel=cancel)

    def remove(self, *, container: str, force: bool = False, volumes: bool = False) -> str:
        return self.lifecycle.remove(container, force=force, volumes=volumes)

    def container_get(self, *, ref: str) -> Container:
        return self.parts.store.get(ref)

    def container_list(self) -> list[Container]:
        return self.parts.store.list()

    def logs(self, *, container: str, query: LogQuery | None = None) -> Iterator[list[Entry | Gap]]:
        """Yield a container's log lines in lists; with `query.follow` until it has ended."""
        found = self.parts.store.get(container)
        reader = LogReader(self.parts.log_files(found))
        return reader.entries(query or LogQuery(), alive=lambda: self._is_alive(found.id))

    def _is_alive(self, container_id: str) -> bool:
        found = self.parts.store.find(container_id)
        return found is not None and found.status.is_alive()

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

    # the node -------------------------------------------------------------------------------------------------------

    def events_after(self, *, seq: int, limit: int = 500) -> list[Event]:
        return self.db.events_after(seq, limit)

    def reap(self, *, container: str) -> Container | None:
        return self.lifecycle.reap(container)


def settings_for(domain: str, registries: Sequence[RegistrySettings]) -> RegistrySettings | None:
    """Return the settings of one registry among those that came with a verb."""
    return next((item for item in registries if item.host == domain), None)


def label_filter(labels: Sequence[str], without: Sequence[str] = ()) -> Callable[[Mapping[str, str]], bool]:
    """Return a test of labels: all of `labels` (`key` or `key=value`) there, none of `without`."""

    def has(held: Mapping[str, str], wanted: str) -> bool:
        key, has_value, value = wanted.partition("=")
        return key in held and (not has_value or held[key] == value)

    return lambda held: (
        all(has(held, item) for item in labels) and not any(has(held, item) for item in without)
    )


__all__ = ["Engine", "label_filter", "settings_for"]

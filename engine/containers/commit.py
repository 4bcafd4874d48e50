"""An image from a container: its own layer on the image it was made from, with a changed config.

A running container is frozen while its files are read, and let go on whatever happens; if this process dies meanwhile, reconcile
sees a frozen container that is not on record as paused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from engine.containers.archive import Archive
from engine.containers.model import Container, Status
from engine.containers.parts import Parts
from engine.digest import digest_bytes
from engine.images.model import Image
from engine.layers.compression import Compression
from engine.layers.diff import diff_layer
from engine.layers.pack import PackedLayer, pack
from engine.layers.tar import Writable
from engine.oci import media_types
from engine.oci.descriptor import Descriptor
from engine.oci.image_config import ContainerConfig, Healthcheck, History, ImageConfig
from engine.oci.manifest import Manifest
from engine.progress import CancelToken
from engine.reference import parse_reference

# lays Dockerfile instructions ("CMD [...]", "ENV a=b") over a config; given by the build part, which stands above
ApplyChanges = Callable[[ContainerConfig, list[str]], ContainerConfig]


class Committer:
    """Makes images of containers."""

    def __init__(self, parts: Parts, archive: Archive, apply_changes: ApplyChanges) -> None:
        self._parts = parts
        self._archive = archive
        self._apply = apply_changes

    def commit(
        self, ref: str, reference: str = "", *, message: str = "", author: str = "", changes: list[str] | None = None,
        pause: bool = True, cancel: CancelToken | None = None,
    ) -> Image:  # fmt: skip
        """Make an image of the container as it is now and give it a name if one is wanted."""
        cancel = cancel or CancelToken()
        names = [parse_reference(reference)] if reference else []
        parts = self._parts
        found = parts.store.get(ref)
        base = parts.images.get(found.image_id)
        config = self._apply(own_config(base.config.config, found), list(changes or []))
        content = parts.images.content
        with content.lease(f"commit {found.id[:12]}") as lease:
            with parts.locked(found.id) as container, self._held_still(container, pause):
                packed = pack(
                    lambda out: self._write(container, out, cancel),
                    content,
                    kind=Compression.GZIP,
                    lease=lease,
                )
            try:
                blob = packed.blob.wait()
                image_config = _config(base.config, config, packed, message, author, container)
                config_bytes = image_config.to_bytes()
                manifest = _manifest(base, config_bytes, blob)
                image = parts.images.add(manifest.to_bytes(), config_bytes, names=names, action="commit")
            except BaseException:
                packed.blob.cancel()
                raise
        parts.store.announce(container, "commit", comment=message, imageID=image.id, imageRef=reference)
        return image

    def _write(self, container: Container, out: Writable, cancel: CancelToken) -> tuple[int, int]:
        upper = self._parts.snapshots.snapshot(container.id).upper
        result = diff_layer(
            upper,
            out,
            idmap_start=container.subuid,
            exclude=self._archive.stubs(container),
            check=cancel.check,
        )
        return result.size, result.entries

    @contextmanager
    def _held_still(self, container: Container, pause: bool) -> Iterator[None]:
        group = self._parts.group_of(container.id)
        if not pause or container.status is not Status.RUNNING:
            yield
            return
        self._parts.cgroups.freeze(group, True)
        try:
            yield
        finally:
            self._parts.cgroups.freeze(group, False)


def own_config(base: ContainerConfig, container: Container) -> ContainerConfig:
    """Return the config that an image of this container has: what the container really runs, as with Docker."""
    config = container.config
    stop_signal = container.spec.stop_signal or base.stop_signal
    return dataclasses.replace(
        base, user=config["User"], env=tuple(config["Env"]), working_dir=config["WorkingDir"], labels=dict(config["Labels"]),
        entrypoint=None if config["Entrypoint"] is None else tuple(config["Entrypoint"]),
        cmd=None if config["Cmd"] is None else tuple(config["Cmd"]),
        exposed_ports=tuple(config["ExposedPorts"]), volumes=tuple(config["Volumes"]), stop_signal=stop_signal,
        healthcheck=_healthcheck(config.get("Healthcheck")),
    )  # fmt: skip


def _healthcheck(found: dict[str, Any] | None) -> Healthcheck | None:
    if not found:
        return None
    return Healthcheck(
        tuple(found["Test"]),
        found["Interval"],
        found["Timeout"],
        found["StartPeriod"],
        found["StartInterval"],
        found["Retries"],
    )


def _config(
    base: ImageConfig,
    config: ContainerConfig,
    packed: PackedLayer,
    message: str,
    author: str,
    container: Container,
) -> ImageConfig:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    entry = History(
        created=now, created_by=" ".join([container.path, *container.args])[:4096], author=author, comment=message,
        empty_layer=False,
    )  # fmt: skip
    return dataclasses.replace(
        base, created=now, author=author or base.author, config=config, diff_ids=(*base.diff_ids, packed.diff_id),
        history=(*base.history, entry),
    )  # fmt: skip


def _manifest(base: Image, config_bytes: bytes, blob: Descriptor) -> Manifest:
    config = Descriptor(media_types.OCI_CONFIG, digest_bytes(config_bytes), len(config_bytes))
    layers = (*(layer.descriptor for layer in base.layers), blob)
    return Manifest(media_type=media_types.OCI_MANIFEST, config=config, layers=layers)

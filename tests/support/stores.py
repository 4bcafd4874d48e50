"""The storage of one node for tests (database, blobs, snapshots, images), and images made of archives."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.content.store import ContentStore
from engine.db import Database
from engine.digest import Digest, digest_bytes
from engine.events import Event
from engine.images.store import SCHEMA as IMAGES_SCHEMA
from engine.images.store import ImageStore, nobody
from engine.images.unpack import Unpacker
from engine.linux.mount import LinuxMounts, Mounts
from engine.linux.userns import RANGE_SIZE, IdMap, make_userns, open_idmap, unpin
from engine.oci import ContainerConfig, Descriptor, History, ImageConfig, Manifest
from engine.oci import media_types as mt
from engine.reference import parse_reference
from engine.snapshots.overlay import SCHEMA as SNAPSHOTS_SCHEMA
from engine.snapshots.overlay import OverlaySnapshotter
from tests.support import tars

START = 0x20000000


@dataclass(frozen=True)
class Stores:
    """One node's storage below `root`."""

    root: Path
    db: Database
    content: ContentStore
    snapshots: OverlaySnapshotter
    images: ImageStore

    def layers(self) -> set[str]:
        return {info.name for info in self.snapshots.walk() if info.kind == "layer"}

    def active(self) -> set[str]:
        return {info.name for info in self.snapshots.walk() if info.kind == "active"}

    def blobs(self) -> set[str]:
        return {blob.digest for blob in self.content.walk()}

    def events(self) -> list[Event]:
        return self.db.events_after(0)

    def told(self) -> list[tuple[str, str]]:
        """Return (action, name) of every event."""
        return [(event.action, event.attributes.get("name", "")) for event in self.events()]


def open_stores(
    root: Path,
    *,
    users_of: Callable[[str], list[str]] = nobody,
    running_users_of: Callable[[str], list[str]] = nobody,
    mounts: Mounts | None = None,
    leases: Path | None = None,
    boot: str = "",
) -> Stores:
    """Open (or make) the storage below `root`."""
    db = Database(root / "engine.db", [SNAPSHOTS_SCHEMA, IMAGES_SCHEMA])
    content = ContentStore(root / "content", leases, boot=boot)
    snapshots = OverlaySnapshotter(root / "snapshots", db, mounts or LinuxMounts(), boot=boot)
    return Stores(
        root, db, content, snapshots, ImageStore(db, content, snapshots, users_of, running_users_of)
    )


def add_image(
    stores: Stores,
    *layers: bytes,
    name: str = "",
    unpack: bool = True,
    config: ContainerConfig | None = None,
    created: str = "2026-01-01T00:00:00Z",
    action: str = "create",
):
    """Add an image whose layers are these archives (uncompressed tars), bottom first."""
    diff_ids = [digest_bytes(data) for data in layers]
    descriptors = []
    for data in layers:
        blob = stores.content.put(tars.zipped(data))
        descriptors.append(Descriptor(mt.OCI_LAYER_GZIP, blob.digest, blob.size))
    document = ImageConfig(
        "amd64",
        created=created,
        config=config or ContainerConfig(),
        diff_ids=tuple(diff_ids),
        history=tuple(History(created_by=f"step {index}") for index in range(len(layers))),
    ).to_bytes()
    described = Descriptor(mt.OCI_CONFIG, digest_bytes(document), len(document))
    manifest = Manifest(described, tuple(descriptors)).to_bytes()
    if unpack:
        unpack_layers(stores, layers)
    names = [parse_reference(name)] if name else []
    return stores.images.add(manifest, document, names=names, action=action)


def unpack_layers(stores: Stores, layers: tuple[bytes, ...] | list[bytes]) -> Digest | None:
    """Make layers of these archives; return the chain id of the topmost."""
    unpacker = Unpacker(stores.content, stores.snapshots)
    chain: Digest | None = None
    for data in layers:
        chain = unpacker.unpack_layer(io.BytesIO(data), parent=chain, diff_id=digest_bytes(data))
    return chain


@contextmanager
def mapped_ids(folder: Path, start: int = START) -> Iterator[IdMap]:
    """Give a user namespace with its own range of ids for the length of the block."""
    pin = folder / "userns"
    make_userns(start, RANGE_SIZE, pin)
    try:
        with open_idmap(start, pin) as idmap:
            yield idmap
    finally:
        unpin(pin)

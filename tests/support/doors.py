"""The doors by which foreign archives come in, all with one face: put an archive in, look at where it landed, look for leavings."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.build.context import unpack_context
from engine.containers.model import Container
from engine.digest import digest_bytes
from engine.errors import BadArchive
from engine.images.archive import import_root, load
from engine.images.unpack import Unpacker
from engine.layers.compression import open_any
from engine.layers.limits import LAYER, UPLOAD, Limits
from engine.oci import ImageConfig
from tests.support import tars
from tests.support.building import BuildNode
from tests.support.containers import Node
from tests.support.stores import Stores

Put = Callable[[bytes, Limits | None], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Door:
    """`put` takes an archive in and shows the folder where it landed; `leavings` are what a refused one left behind.

    `whiteouts`: `.wh.` names remove what lies below. `nodes`: what becomes of device nodes. `fifos`: whether they are made.
    """

    name: str
    put: Put
    leavings: Callable[[], list[str]]
    whiteouts: bool = False
    nodes: str = "refuse"
    fifos: bool = False


def layer_door(stores: Stores) -> Door:
    """A layer of an image that is pulled."""

    @contextmanager
    def put(data: bytes, limits: Limits | None = None) -> Iterator[Path]:
        digest = digest_bytes(_plain(data))
        unpacker = Unpacker(stores.content, stores.snapshots, limits or LAYER)
        chain = unpacker.unpack_layer(io.BytesIO(data), parent=None, diff_id=digest)
        yield stores.snapshots.lowers(chain)[0]
        stores.snapshots.remove(chain)

    return Door("layer", put, lambda: _stored(stores), whiteouts=True, nodes="skip", fifos=True)


def load_door(stores: Stores) -> Door:
    """A layer in an archive of images."""

    @contextmanager
    def put(data: bytes, limits: Limits | None = None) -> Iterator[Path]:
        config = ImageConfig("amd64", diff_ids=(digest_bytes(_plain(data)),)).to_bytes()
        manifest = [{"Config": "c.json", "RepoTags": [], "Layers": ["layer.tar"]}]
        archive = tars.archive(
            tars.member("layer.tar", data=data),
            tars.member("c.json", data=config),
            tars.member("manifest.json", data=json.dumps(manifest).encode()),
        )
        (image,) = load(stores.images, io.BytesIO(archive), limits=limits or LAYER)
        assert image.chain is not None
        yield stores.snapshots.lowers(image.chain)[0]
        stores.images.remove(image.id)

    return Door("load", put, lambda: _stored(stores), whiteouts=True, nodes="skip", fifos=True)


def import_door(stores: Stores) -> Door:
    """A root file system."""

    @contextmanager
    def put(data: bytes, limits: Limits | None = None) -> Iterator[Path]:
        image = import_root(stores.images, io.BytesIO(data), limits=limits or LAYER)
        assert image.chain is not None
        yield stores.snapshots.lowers(image.chain)[0]
        stores.images.remove(image.id)

    return Door("import", put, lambda: _stored(stores), whiteouts=True, nodes="skip", fifos=True)


def context_door(folder: Path) -> Door:
    """A build context, tar or zip."""
    staging = folder / "staging"

    @contextmanager
    def put(data: bytes, limits: Limits | None = None) -> Iterator[Path]:
        archive = folder / secrets.token_hex(4)
        archive.write_bytes(data)
        try:
            context = unpack_context(
                archive, staging, "Dockerfile", check=lambda: None, limits=limits or UPLOAD
            )
        finally:
            archive.unlink()
        yield context.tree.root
        staging.rename(folder / secrets.token_hex(4))

    return Door("context", put, lambda: [staging.name] if staging.exists() else [])


def add_door(node: BuildNode, limit: Callable[[str, Limits], None]) -> Door:
    """A local archive that a Dockerfile adds."""

    @contextmanager
    def put(data: bytes, limits: Limits | None = None) -> Iterator[Path]:
        if limits is not None:
            limit("engine.build.ops.archives.UPLOAD", limits)
        result = node.build("FROM scratch\nADD a.tar /\n", files={"a.tar": data}, no_cache=True)
        with node.root(result) as root:
            yield root

    return Door("add", put, node.leftovers, nodes="skip", fifos=True)


def copy_door(node: Node, container: Container, limit: Callable[[str, Limits], None]) -> Door:
    """`cp` into a container that runs."""

    @contextmanager
    def put(data: bytes, limits: Limits | None = None) -> Iterator[Path]:
        name = secrets.token_hex(4)
        archive = node.containers.archive
        archive.put(container.id, "/", io.BytesIO(tars.archive(tars.folder(name))))
        if limits is not None:
            limit("engine.containers.archive.UPLOAD", limits)
        archive.put(container.id, f"/{name}", io.BytesIO(data))
        yield Path(f"/proc/{container.pid}/root/{name}")

    return Door("cp", put, list)


def restore_door(node: Node, limit: Callable[[str, Limits], None]) -> Door:
    """A volume's backup."""
    name = f"v{secrets.token_hex(4)}"
    data_folder = Path(node.volumes.create(name).path)

    @contextmanager
    def put(data: bytes, limits: Limits | None = None) -> Iterator[Path]:
        if limits is not None:
            limit("engine.volumes.restore.VOLUME", limits)
            limit("engine.volumes.restore._limits", lambda _: limits)  # type: ignore[arg-type]
        node.volumes.restore(name, io.BytesIO(data))
        yield data_folder

    def leavings() -> list[str]:
        return [path.name for path in data_folder.parent.iterdir() if path != data_folder]

    return Door("restore", put, leavings, fifos=True)


def _plain(data: bytes) -> bytes:
    """Return the archive without its packing; what cannot be unpacked is no layer anyway, and keeps its bytes."""
    try:
        return open_any(io.BytesIO(data), LAYER).read()
    except BadArchive:
        return data


def _stored(stores: Stores) -> list[str]:
    return sorted({*stores.active(), *stores.layers(), *stores.blobs(), *stores.content.sweep()})

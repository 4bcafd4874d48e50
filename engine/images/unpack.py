"""From blobs to layers: unpacking an image, and turning a folder that was written to into a layer with its blob."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from engine.content.leases import Lease
from engine.content.store import ContentStore
from engine.digest import Digest, chain_id
from engine.errors import BadDigest, Unsupported
from engine.images.model import Image, ImageLayer
from engine.layers.compression import OUT_CHUNK, Compression, open_any
from engine.layers.confined import apply_layer
from engine.layers.limits import LAYER, Limits
from engine.layers.pack import PendingBlob, pack_layer
from engine.layers.pipe import ReadAhead
from engine.layers.tar import Readable
from engine.linux.owners import shift_owners
from engine.oci import media_types
from engine.progress import CancelToken, LayerProgress, Reporter, silent
from engine.snapshots.folders import Snapshotter


class Unpacker:
    """Unpacks layers into snapshots. Several processes may unpack the same layers; each is unpacked once."""

    def __init__(self, content: ContentStore, snapshots: Snapshotter, limits: Limits = LAYER) -> None:
        self._content = content
        self._snapshots = snapshots
        self._limits = limits

    def unpack(
        self, image: Image, report: Reporter = silent, cancel: CancelToken | None = None
    ) -> Digest | None:
        """Unpack what is missing of an image whose blobs are here; return the chain id of its topmost layer."""
        cancel = cancel or CancelToken()
        chain: Digest | None = None
        for layer in image.layers:
            if self._snapshots.exists(layer.chain):
                chain = layer.chain
                continue
            report(LayerProgress(layer.descriptor.digest, "extracting", 0, layer.descriptor.size))
            chain = self._unpack_blob(layer, chain, cancel)
            report(
                LayerProgress(layer.descriptor.digest, "done", layer.descriptor.size, layer.descriptor.size)
            )
        self._snapshots.sync()
        return chain

    def unpack_layer(
        self,
        stream: Readable,
        *,
        parent: Digest | None,
        diff_id: Digest,
        check: Callable[[], None] | None = None,
    ) -> Digest:
        """Make the layer on `parent` from its archive, packed or not; return its chain id.

        The content must be `diff_id`, else `BadDigest` is raised and nothing stays. Where the layer is here already, the
        stream is not read. It is durable after the next `snapshots.sync()`.
        """
        chain = chain_id(parent, diff_id)
        with self._snapshots.lock(chain):
            if not self._snapshots.exists(chain):
                self._make(stream, chain, parent, diff_id, check)
        return chain

    def replace_layer(
        self,
        stream: Readable,
        *,
        parent: Digest | None,
        diff_id: Digest,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Make a layer anew although it is here: its folder was damaged. What runs from the old one is not disturbed."""
        chain = chain_id(parent, diff_id)
        with self._snapshots.lock(chain):
            self._make(stream, chain, parent, diff_id, check)

    def _unpack_blob(self, layer: ImageLayer, parent: Digest | None, cancel: CancelToken) -> Digest:
        if layer.descriptor.media_type in media_types.FOREIGN_LAYERS and not self._content.has(
            layer.descriptor.digest
        ):
            raise Unsupported("the image has a layer that may not be distributed and is not here")
        with self._content.open(layer.descriptor.digest) as blob:
            return self.unpack_layer(blob, parent=parent, diff_id=layer.diff_id, check=cancel.check)

    def _make(
        self,
        stream: Readable,
        chain: Digest,
        parent: Digest | None,
        diff_id: Digest,
        check: Callable[[], None] | None,
    ) -> None:
        key = self._snapshots.transient_key("unpack")
        snapshot = self._snapshots.prepare(key, parent)
        try:
            unpacked = open_any(stream, self._limits)
            digest = hashlib.sha256()
            with ReadAhead(lambda: unpacked.read(OUT_CHUNK), digest.update) as ahead:
                lowers = self._snapshots.lowers(parent)
                result = apply_layer(ahead, snapshot.upper, limits=self._limits, lowers=lowers, check=check)
            found = Digest("sha256:" + digest.hexdigest())
            if found != diff_id:
                raise BadDigest(f"the layer unpacks to {found}, the image promises {diff_id}", digest=diff_id)
            commit = self._snapshots.replace if self._snapshots.exists(chain) else self._snapshots.commit
            commit(key, chain, parent, diff_id=diff_id, size=result.size, sync=False)
        except BaseException:
            self._snapshots.remove(key)
            raise


@dataclass(frozen=True)
class CommittedLayer:
    """A layer made from a written snapshot. `blob.wait()` gives the descriptor for the manifest."""

    chain: Digest
    diff_id: Digest
    size: int
    blob: PendingBlob


def commit_layer(
    content: ContentStore,
    snapshots: Snapshotter,
    key: str,
    *,
    idmap_start: int = 0,
    kind: Compression = Compression.GZIP,
    lease: Lease | None = None,
    check: Callable[[], None] | None = None,
) -> CommittedLayer:
    """Turn the active, unmounted snapshot `key` into a layer, its blob being made in the background.

    Owners are brought back to those inside (`idmap_start`). Layer and blob are durable after `snapshots.sync()` and
    `content.sync()`, which `ImageStore.add` calls. The key is free afterwards.
    """
    snapshot = snapshots.snapshot(key)
    packed = pack_layer(snapshot.upper, content, idmap_start=idmap_start, kind=kind, lease=lease, check=check)
    try:
        chain = chain_id(snapshot.parent, packed.diff_id)
        if lease is not None:
            lease.add(chain)
        shift_owners(snapshot.upper, idmap_start)
        snapshots.commit(key, chain, snapshot.parent, diff_id=packed.diff_id, size=packed.size, sync=False)
    except BaseException:
        packed.blob.cancel()
        raise
    return CommittedLayer(chain, packed.diff_id, packed.size, packed.blob)

"""Making an image of a root file system: one archive becomes one layer, in one pass over its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from engine.content.leases import Lease
from engine.content.store import ContentStore
from engine.digest import Digest, digest_bytes
from engine.errors import BadArchive
from engine.images.model import Image
from engine.images.store import ImageStore
from engine.layers.compression import OUT_CHUNK, Compression, detect, layer_media_type, open_any
from engine.layers.confined import apply_layer
from engine.layers.limits import LAYER, Limits
from engine.layers.pack import PendingBlob
from engine.layers.pipe import ReadAhead
from engine.layers.tar import Readable
from engine.oci import media_types
from engine.oci.descriptor import Descriptor
from engine.oci.image_config import ContainerConfig, History, ImageConfig
from engine.oci.manifest import Manifest
from engine.platform import Platform, host_platform
from engine.progress import CancelToken
from engine.reference import Reference

_KEPT = (Compression.GZIP, Compression.ZSTD)


def import_root(
    images: ImageStore,
    stream: Readable,
    *,
    names: Sequence[Reference] = (),
    config: ContainerConfig | None = None,
    message: str = "",
    platform: Platform | None = None,
    cancel: CancelToken | None = None,
    limits: Limits = LAYER,
) -> Image:
    """Make an image of the root file system in the archive `stream`, packed or not; raises `BadArchive`.

    A gzip or zstd archive is kept as it is, so its digest is the layer's; anything else is compressed with gzip.
    """
    with images.content.lease("import") as lease:
        layer, diff_id = _make_layer(images, stream, lease, limits, cancel or CancelToken())
        document = _config(
            platform or host_platform(), config or ContainerConfig(), diff_id, message
        ).to_bytes()
        described = Descriptor(media_types.OCI_CONFIG, digest_bytes(document), len(document))
        manifest = Manifest(described, (layer,))
        return images.add(manifest.to_bytes(), document, names=names, action="import")


def now_text() -> str:
    """Return the present time as image configs write it (RFC 3339, UTC)."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _config(platform: Platform, config: ContainerConfig, diff_id: Digest, message: str) -> ImageConfig:
    created = now_text()
    return ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        created=created,
        config=config,
        diff_ids=(diff_id,),
        history=(History(created=created, created_by="import", comment=message),),
    )


def _make_layer(
    images: ImageStore, stream: Readable, lease: Lease, limits: Limits, cancel: CancelToken
) -> tuple[Descriptor, Digest]:
    snapshots = images.snapshots
    key = snapshots.transient_key("import")
    snapshot = snapshots.prepare(key, None)
    try:
        with _Kept(images.content, stream, lease) as kept:
            unpacked = open_any(kept, limits)
            kept.begin(unpacked.compression)
            with ReadAhead(lambda: unpacked.read(OUT_CHUNK), kept.note) as ahead:
                result = apply_layer(
                    ahead, snapshot.upper, limits=limits, require_end=True, check=cancel.check
                )
            if not result.entries:
                raise BadArchive("the archive is empty: a root file system was expected")
            layer, diff_id = kept.finish()
        lease.add(diff_id)
        snapshots.commit(key, diff_id, None, diff_id=diff_id, size=result.size, sync=False)
    except BaseException:
        snapshots.remove(key)
        raise
    return layer, diff_id


class _Kept:
    """The stream on its way: its packed bytes go into a blob as they are, or its unpacked ones are compressed into one."""

    def __init__(self, content: ContentStore, stream: Readable, lease: Lease) -> None:
        self._content = content
        self._stream = stream
        self._lease = lease
        self._writer = content.writer()
        self._pending: PendingBlob | None = None
        self._kind = Compression.NONE
        self._known = False
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        if not self._known:
            self._known = True
            while len(data) < 6 and (more := self._stream.read(size)):
                data += more
            self._kind = detect(data)
        if data and self._kind in _KEPT:
            self._writer.write(data)
        return data

    def begin(self, kind: Compression) -> None:
        """Take note of how the stream is packed, before its first byte is unpacked."""
        self._kind = kind
        if kind not in _KEPT:
            self._pending = PendingBlob(self._content, Compression.GZIP, 0, self._lease)

    def note(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        if self._pending is not None:
            self._pending.feed(chunk, last=not chunk)

    def finish(self) -> tuple[Descriptor, Digest]:
        """Return the blob's descriptor and the DiffID; the stream must be at its end."""
        diff_id = Digest("sha256:" + self._hash.hexdigest())
        if self._pending is not None:
            return self._pending.wait(), diff_id
        self._lease.add(self._writer.digest())
        blob = self._writer.commit(sync=False)
        return Descriptor(layer_media_type(self._kind), blob.digest, blob.size), diff_id

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._pending is not None and kind is not None:
            self._pending.cancel()
        self._writer.abort()

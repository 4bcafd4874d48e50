"""Unpacking a layer while it arrives: one pass over the bytes, nothing visible before all of them are known to be right."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from engine.digest import Digest, short
from engine.errors import Cancelled, EngineError, Unavailable
from engine.images.growing import DiffStream, Growing, GrowingReader, Restarted
from engine.images.reports import LayerReports
from engine.layers.confined import apply_layer
from engine.oci.descriptor import Descriptor
from engine.progress import CancelToken
from engine.registry.errors import BadContent
from engine.snapshots.overlay import OverlaySnapshotter

logger = logging.getLogger(__name__)

_LOCK_POLL_S = 0.5


class StreamUnpacker:
    """Makes layers of growing blobs. A layer that two pulls want is made by one of them; the other waits."""

    def __init__(self, snapshots: OverlaySnapshotter, reports: LayerReports, cancel: CancelToken) -> None:
        self._snapshots = snapshots
        self._reports = reports
        self._cancel = cancel

    def unpack(
        self, blob: Descriptor, growing: Growing, *, diff_id: Digest, chain: Digest, parent: Digest | None
    ) -> None:
        """Make the layer `chain` from `blob`; `parent` must be here. Not durable before the snapshots' next `sync`.

        Raises `BadContent` where the unpacked bytes are not `diff_id`, `BadArchive` for an archive that is refused.
        """
        with self._locked(chain):
            while not self._snapshots.exists(chain):
                try:
                    self._unpack(blob, growing, diff_id=diff_id, chain=chain, parent=parent)
                except Restarted:
                    logger.info("layer %s is unpacked from the beginning again", blob.digest)

    def _unpack(
        self, blob: Descriptor, growing: Growing, *, diff_id: Digest, chain: Digest, parent: Digest | None
    ) -> None:
        key = self._snapshots.transient_key("unpack")
        with closing(growing.reader()) as reader:
            snapshot = self._snapshots.prepare(key, parent)
            try:
                size = self._apply(
                    blob, growing, reader, diff_id=diff_id, parent=parent, upper=snapshot.upper
                )
                self._snapshots.commit(key, chain, parent, diff_id=diff_id, size=size, sync=False)
            except BaseException as error:
                self._snapshots.remove(key)
                refused = isinstance(error, EngineError) and not isinstance(error, Cancelled)
                if refused and growing.settle() != reader.generation:
                    raise Restarted from error  # the bytes were wrong, and are on their way once more
                raise

    def _apply(
        self,
        blob: Descriptor,
        growing: Growing,
        reader: GrowingReader,
        *,
        diff_id: Digest,
        parent: Digest | None,
        upper: Path,
    ) -> int:
        """Unpack into the folder `upper`; return the bytes of its files."""
        with DiffStream(reader) as stream:
            lowers = self._snapshots.lowers(parent)
            result = apply_layer(
                stream, upper, lowers=lowers, check=lambda: self._tell(blob, growing, stream)
            )
            stream.drain()
        if stream.diff_id != diff_id:
            raise BadContent(f"layer {blob.digest} unpacks to {stream.diff_id}, the image says {diff_id}")
        return result.size

    def _tell(self, blob: Descriptor, growing: Growing, stream: DiffStream) -> None:
        self._cancel.check()
        if growing.finished:
            self._reports.layer(short(blob.digest), "extracting", stream.packed_offset, blob.size)

    @contextmanager
    def _locked(self, chain: Digest) -> Iterator[None]:
        """Hold the lock of a layer, looking at `cancel` while somebody else has it."""
        while True:
            self._cancel.check()
            lock = self._snapshots.lock(chain, timeout_s=_LOCK_POLL_S)
            try:
                lock.__enter__()
            except Unavailable:
                continue
            break
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

"""Where the bytes of a push come from: blobs as they are stored, and layers that are packed while they go.

Which blob a layer became is remembered, so that it is packed once and has the same digest at the next push.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import BinaryIO

from engine.content.leases import Lease
from engine.content.store import BlobWriter, ContentStore
from engine.db import Database, Schema
from engine.digest import Digest
from engine.errors import NotFound
from engine.images.growing import Growing
from engine.images.linked import LinkedToken
from engine.images.model import ImageLayer
from engine.layers.compression import Compression, compressor, layer_media_type, open_any
from engine.oci.descriptor import Descriptor
from engine.progress import CancelToken

_CHUNK = 1024 * 1024

SCHEMA = Schema(
    "packed_layers",
    (
        """CREATE TABLE packed_layers (diff_id TEXT NOT NULL, kind TEXT NOT NULL, digest TEXT NOT NULL,
            size INTEGER NOT NULL, PRIMARY KEY (diff_id, kind)) STRICT""",
    ),
)


class PackedLayers:
    """Which blob a layer became when it was packed for a push."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, diff_id: Digest, kind: Compression) -> Descriptor | None:
        query = "SELECT digest, size FROM packed_layers WHERE diff_id = ? AND kind = ?"
        row = self._db.read().execute(query, (diff_id, kind)).fetchone()
        return Descriptor(layer_media_type(kind), row["digest"], row["size"]) if row else None

    def put(self, diff_id: Digest, kind: Compression, blob: Descriptor) -> None:
        with self._db.transaction() as connection:
            values = (diff_id, kind, blob.digest, blob.size)
            connection.execute("INSERT OR REPLACE INTO packed_layers VALUES (?, ?, ?, ?)", values)

    def digests(self) -> list[Digest]:
        """Return the blobs of layers that some image still has; the others are forgotten."""
        with self._db.transaction() as connection:
            connection.execute(
                "DELETE FROM packed_layers WHERE diff_id NOT IN (SELECT diff_id FROM image_layers)"
            )
            return [row["digest"] for row in connection.execute("SELECT digest FROM packed_layers")]


class StoredSource:
    """A blob of the content store as it goes to a registry."""

    def __init__(self, content: ContentStore, blob: Descriptor) -> None:
        self._content = content
        self._blob = blob

    @property
    def size(self) -> int | None:
        return self._blob.size

    def open(self) -> BinaryIO:
        try:
            return self._content.open(self._blob.digest)
        except NotFound as error:
            raise NotFound(
                f"blob {self._blob.digest} is not on this node", hint="pull or build the image again"
            ) from error

    def pieces(self, offset: int) -> Iterator[bytes]:
        with self.open() as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                yield chunk

    def wait(self) -> tuple[Digest, int]:
        return self._blob.digest, self._blob.size


class PackedSource:
    """A layer that is packed by a thread while it goes to a registry. The end of the `with` block ends the thread."""

    def __init__(
        self, content: ContentStore, layer: ImageLayer, kind: Compression, lease: Lease, cancel: CancelToken
    ) -> None:
        self._content = content
        self._layer = layer
        self._kind = kind
        self._lease = lease
        self._cancel = LinkedToken(cancel)
        self._growing = Growing(self._cancel.check)
        self._blob: tuple[Digest, int] | None = None
        self._thread = threading.Thread(target=self._pack, name="pack", daemon=True)
        self.on_read: Callable[[int], None] = lambda offset: None

    @property
    def size(self) -> int | None:
        return self._blob[1] if self._blob else None

    def open(self) -> BinaryIO:
        return self._content.open(self.wait()[0])

    def pieces(self, offset: int) -> Iterator[bytes]:
        reader = self._growing.reader()
        try:
            reader.offset = offset
            while chunk := reader.read(_CHUNK):
                yield chunk
                self.on_read(reader.offset)
        finally:
            reader.close()

    def wait(self) -> tuple[Digest, int]:
        self._growing.settle()
        assert self._blob is not None
        return self._blob

    def __enter__(self) -> PackedSource:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel.cancel()
        self._thread.join()
        self._growing.close()

    def _pack(self) -> None:
        try:
            self._store()
        except BaseException as error:  # raised where the bytes are read
            self._growing.fail(error)

    def _store(self) -> None:
        # the key gives the writer's file a name, so that it can be read while it grows; nobody resumes it
        key = f"pack {self._layer.diff_id} {self._kind} {os.getpid()} {threading.get_native_id()}"
        with self._content.writer(resume_key=key) as writer, ExitStack() as undo:
            undo.callback(writer.cut)
            writer.restart()
            self._growing.begin(self._content.ingest_path(key), 0)
            self._fill(writer)
            self._lease.add(writer.digest())
            self._blob = writer.commit(sync=False)
            undo.pop_all()
        self._growing.finish()

    def _fill(self, writer: BlobWriter) -> None:
        packer = compressor(writer, self._kind)
        with self._content.open(self._layer.descriptor.digest) as blob:
            stream = open_any(blob)
            while chunk := stream.read(_CHUNK):
                self._cancel.check()
                packer.write(chunk)
                self._growing.grow(writer.offset)
        packer.close()
        self._growing.grow(writer.offset)

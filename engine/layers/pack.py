"""Making a layer's blob out of a folder in one pass: archive, hash, compress, hash again, store.

The archive is made and hashed by the caller's thread (that gives the DiffID, which a build needs at once); a second
thread compresses and stores behind it. `PackedLayer.blob` is waited for only when the manifest is written.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.content.leases import Lease
from engine.content.store import Blob, ContentStore
from engine.digest import Digest
from engine.layers.compression import Compression, compressor, layer_media_type
from engine.layers.diff import diff_layer
from engine.layers.tar import Writable
from engine.oci.descriptor import Descriptor

_CHUNK = 512 * 1024
_QUEUED = 16
_END = b""


class PendingBlob:
    """A layer's blob that is being compressed and stored in the background."""

    def __init__(self, content: ContentStore, kind: Compression, level: int, lease: Lease | None) -> None:
        self._content = content
        self._kind = kind
        self._level = level
        self._lease = lease
        self._queue: queue.Queue[bytes] = queue.Queue(_QUEUED)
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self._blob: Blob | None = None
        self._cancelled = False
        self._is_new = False

    def feed(self, chunk: bytes, *, last: bool) -> None:
        """Take the next chunk of the archive. A small archive is done at once, without a thread."""
        if self._thread is None and last:
            self._queue.put(chunk)
            self._queue.put(_END)
            self._run()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="compress", daemon=True)
            self._thread.start()
        if chunk:
            self._queue.put(chunk)
        if last:
            self._queue.put(_END)

    def cancel(self) -> None:
        """Give up: the blob is not stored, or taken away again if this made it."""
        self._cancelled = True
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(_END)
            self._thread.join()
        if self._blob is not None and self._is_new:
            self._content.remove(self._blob.digest)

    def wait(self) -> Descriptor:
        """Wait until the blob is stored; return its descriptor. Raises what went wrong. It is durable after `sync()`."""
        if self._thread is not None:
            self._thread.join()
        if self._failed is not None:
            raise self._failed
        assert self._blob is not None
        return Descriptor(layer_media_type(self._kind), self._blob.digest, self._blob.size)

    def _run(self) -> None:
        try:
            self._store()
        except BaseException as error:
            self._failed = error
            while self._queue.get():
                pass  # let the other side come to its end

    def _store(self) -> None:
        with self._content.writer() as writer:
            packer = compressor(writer, self._kind, self._level)
            while chunk := self._queue.get():
                packer.write(chunk)
            if self._cancelled:
                return
            packer.close()
            if self._lease is not None:
                self._lease.add(writer.digest())
            self._is_new = not self._content.has(writer.digest())
            self._blob = writer.commit(sync=False)


@dataclass(frozen=True)
class PackedLayer:
    """`diff_id` names the archive, `size` is the bytes of its files; `blob` becomes its compressed form."""

    diff_id: Digest
    size: int
    entries: int
    blob: PendingBlob


def pack_layer(
    upper: Path | int,
    content: ContentStore,
    *,
    idmap_start: int = 0,
    kind: Compression = Compression.GZIP,
    level: int = 0,
    lease: Lease | None = None,
    check: Callable[[], None] | None = None,
) -> PackedLayer:
    """Make the layer blob of an overlay upper; its owners are written as seen inside. The upper is not changed."""
    return pack(
        lambda out: _diff(upper, out, idmap_start, check), content, kind=kind, level=level, lease=lease
    )


def pack(
    make: Callable[[Writable], tuple[int, int]],
    content: ContentStore,
    *,
    kind: Compression = Compression.GZIP,
    level: int = 0,
    lease: Lease | None = None,
) -> PackedLayer:
    """Store what `make` writes (it returns bytes of files and number of entries) as a layer blob."""
    blob = PendingBlob(content, kind, level, lease)
    gather = _Gather(blob, hashes=kind is not Compression.NONE)
    try:
        size, entries = make(gather)
        gather.close()
    except BaseException:
        blob.cancel()
        raise
    # an archive that is stored as it is was hashed by the thread that stored it
    diff_id = blob.wait().digest if kind is Compression.NONE else gather.digest()
    return PackedLayer(diff_id, size, entries, blob)


def _diff(
    upper: Path | int, out: Writable, idmap_start: int, check: Callable[[], None] | None
) -> tuple[int, int]:
    result = diff_layer(upper, out, idmap_start=idmap_start, check=check)
    return result.size, result.entries


class _Gather:
    """Joins the many small writes of an archive into chunks, which are hashed and passed on."""

    def __init__(self, blob: PendingBlob, *, hashes: bool) -> None:
        self._blob = blob
        self._hashes = hashes
        self._hash = hashlib.sha256()
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _CHUNK:
            self._flush(last=False)

    def close(self) -> None:
        self._flush(last=True)

    def digest(self) -> Digest:
        return Digest("sha256:" + self._hash.hexdigest())

    def _flush(self, *, last: bool) -> None:
        chunk = b"".join(self._parts)
        self._parts, self._size = [], 0
        if self._hashes:
            self._hash.update(chunk)
        self._blob.feed(chunk, last=last)

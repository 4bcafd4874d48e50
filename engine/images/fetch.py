"""Bringing blobs from a registry into the content store, once, however many pulls want them.

The writer of a blob that is resumed holds a lock on its file, so there is one download of a blob on the node: whoever else
wants it, in this process or another, waits and takes what the first one stored, or goes on where it died.
"""

from __future__ import annotations

import logging
from contextlib import closing

from engine.content.store import BlobWriter, ContentStore
from engine.digest import Digest, short
from engine.errors import BadDigest, EngineError, Unavailable
from engine.images.growing import Growing
from engine.images.reports import LayerReports
from engine.oci.descriptor import Descriptor
from engine.progress import CancelToken
from engine.registry.blobs import download
from engine.registry.client import RegistryClient
from engine.registry.errors import BadContent

logger = logging.getLogger(__name__)

_WAIT_S = 0.05


class Fetcher:
    """Fetches blobs of one repository. A blob whose bytes turn out to be wrong is fetched once more, then refused."""

    def __init__(
        self,
        *,
        client: RegistryClient,
        repository: str,
        content: ContentStore,
        reports: LayerReports,
        cancel: CancelToken,
    ) -> None:
        self._client = client
        self._repository = repository
        self._content = content
        self._reports = reports
        self._cancel = cancel

    def fetch(self, blob: Descriptor, growing: Growing | None = None) -> bool:
        """Make sure that the content store has `blob`; return False where it had it before.

        `growing` lets somebody read the bytes as they come; it is told of success and failure. A failure other than
        a cancel leaves what came so far for the next time, unless it was wrong.
        """
        if growing is None:
            with closing(Growing(self._cancel.check)) as unread:
                return self._fetch(blob, unread)
        try:
            return self._fetch(blob, growing)
        except BaseException as error:
            growing.fail(error)
            raise

    def _fetch(self, blob: Descriptor, growing: Growing) -> bool:
        wrong: EngineError | None = None
        while True:
            self._cancel.check()
            if self._content.has(blob.digest):
                growing.begin(self._content.path(blob.digest), blob.size)
                growing.finish()
                return False
            try:
                with self._content.writer(blob.digest, blob.size, resume_key=blob.digest) as writer:
                    if self._content.has(blob.digest):
                        writer.cut()
                        continue
                    self._download(blob, writer, growing)
                    return True
            except Unavailable as error:
                if error.code != "unavailable":
                    raise
                self._wait_for_other(blob)
            except (BadDigest, BadContent) as error:
                if wrong is not None:
                    raise BadContent(
                        f"{self._client.domain} sends wrong bytes: {error}", hint="its storage may be damaged"
                    ) from error
                logger.warning("wrong bytes from %s, once more: %s", self._client.domain, error)
                wrong = error
                self._forget(blob.digest, blob.size)

    def _download(self, blob: Descriptor, writer: BlobWriter, growing: Growing) -> None:
        sink = _Sink(writer, growing, self._content, blob, self._reports)
        name = short(blob.digest)
        download(
            self._client,
            self._repository,
            digest=blob.digest,
            size=blob.size,
            sink=sink,
            on_state=lambda status: self._reports.layer(name, status, sink.offset, blob.size),
        )
        self._reports.layer(name, "verifying", blob.size, blob.size)
        # not synced one by one: the pull syncs once, before the image gets its name
        writer.commit(sync=False)
        growing.finish()

    def _wait_for_other(self, blob: Descriptor) -> None:
        """Another pull fetches this blob: show how far it is, and look again in a moment."""
        try:
            current = self._content.ingest_path(blob.digest).stat().st_size
        except FileNotFoundError:
            current = 0
        self._reports.layer(short(blob.digest), "downloading", min(current, blob.size), blob.size)
        self._cancel.wait(_WAIT_S)

    def _forget(self, digest: Digest, size: int) -> None:
        """Throw away the bytes kept for a resume."""
        try:
            with self._content.writer(digest, size, resume_key=digest) as writer:
                writer.cut()
        except Unavailable:
            return  # somebody else is at it


class _Sink:
    """Writes into the store and tells those who read along and those who watch."""

    def __init__(
        self,
        writer: BlobWriter,
        growing: Growing,
        content: ContentStore,
        blob: Descriptor,
        reports: LayerReports,
    ) -> None:
        self._writer = writer
        self._growing = growing
        self._path = content.ingest_path(blob.digest)
        self._name = short(blob.digest)
        self._size = blob.size
        self._reports = reports
        growing.begin(self._path, writer.offset)

    @property
    def offset(self) -> int:
        return self._writer.offset

    def write(self, data: bytes) -> int:
        count = self._writer.write(data)
        self._growing.grow(self._writer.offset)
        self._reports.layer(self._name, "downloading", self._writer.offset, self._size)
        return count

    def restart(self) -> None:
        self._writer.restart()
        self._growing.begin(self._path, 0)

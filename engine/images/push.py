"""Pushing an image: only what the registry lacks, the manifest last.

A layer goes as its blob lies in the content store, so that the digest is the same at every push. A layer that is not
packed yet (a loaded image), or shall be packed otherwise, is packed once while it is sent, and the packed blob is kept.

Before a layer is sent the registry is asked for it, and asked to take it from another repository that has it. When a push
fails or is cancelled its upload sessions are cancelled, and no tag has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from engine.content.leases import Lease
from engine.content.store import ContentStore
from engine.db import Database
from engine.digest import Digest, digest_bytes, short
from engine.errors import BadReference, Corrupt, InvalidInput, RegistryError
from engine.images.linked import LinkedToken
from engine.images.model import Image, ImageLayer
from engine.images.push_index import index_of, push_index
from engine.images.push_sources import SCHEMA, PackedLayers, PackedSource, StoredSource
from engine.images.reports import LayerReports
from engine.images.store import ImageStore
from engine.layers.compression import Compression, layer_media_type
from engine.oci import media_types as mt
from engine.oci.descriptor import Descriptor
from engine.oci.manifest import parse_manifest
from engine.progress import CancelToken, Reporter, silent
from engine.reference import Reference, parse_reference
from engine.registry.client import Document, Registries, RegistryClient
from engine.registry.settings import Credentials, RegistrySettings
from engine.registry.uploads import Upload, has_blob

logger = logging.getLogger(__name__)

__all__ = ["SCHEMA", "Pushed", "Pusher"]

AT_ONCE = 4  # uploads of one push
_CHUNK = 1024 * 1024
_UNPACKED = frozenset({mt.OCI_LAYER, mt.DOCKER_LAYER})


@dataclass(frozen=True)
class Pushed:
    """What a registry has now: `reference` with its tag, `digest` and `size` of the manifest."""

    reference: Reference
    digest: Digest
    size: int


class Pusher:
    """Pushes images of one node. Safe to use from several threads and processes at once."""

    def __init__(
        self, images: ImageStore, content: ContentStore, registries: Registries, db: Database
    ) -> None:
        self._images = images
        self._content = content
        self._registries = registries
        self._packed = PackedLayers(db)

    def roots(self) -> list[Digest]:
        """Return the blobs that were packed for a push and are kept for the next; a root of garbage collection."""
        return self._packed.digests()

    def push(
        self,
        image: str,
        reference: Reference | None = None,
        *,
        compression: Compression | None = None,
        all_platforms: bool = False,
        settings: RegistrySettings | None = None,
        credentials: Credentials | None = None,
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Pushed:
        """Push `image` (a name or id of this node) as `reference`, or under its own name.

        `compression` packs the layers anew where they are packed otherwise; without it only unpacked ones are, with gzip.
        `all_platforms` pushes the index that the image was pulled from, with all its images as they are. Raises `ImageNotFound`,
        `InvalidInput`, `BadReference`, `AccessRefused`, `Untrusted`, `RegistryError`, `Cancelled`.
        """
        if all_platforms and compression is not None:
            raise InvalidInput("an index is pushed as it is: its layers cannot be packed otherwise")
        found = self._images.resolve(image)
        target = reference or parse_reference(image)
        if target.digest is not None:
            raise BadReference(f"a push needs a tag, not a digest: {target.familiar()}", hint="push name:tag")
        linked = LinkedToken(cancel or CancelToken())
        opened = self._registries.open(
            target.domain, settings=settings, credentials=credentials, cancel=linked
        )
        with opened as client, self._content.lease(f"push {target.path}") as lease:
            reports = LayerReports(report)

            def push_one(image: Image, to: Reference, packing: Compression | None, exact: bool) -> Pushed:
                parts = (self._content, self._packed, client, reports, linked, lease)
                work = _Push(image, to, packing, *parts, exact=exact)
                return work.run(lambda digest: self._repositories_with(digest, target))

            if all_platforms:
                pushed = self._push_all(found, target, client, lease, reports, push_one)
            else:
                pushed = push_one(found, target, compression, False)
        digest_reference = replace(target, tag="", digest=pushed.digest)
        if str(digest_reference) not in found.repo_digests:
            self._images.add_repo_digest(found.id, digest_reference)
        return pushed

    def _push_all(
        self,
        found: Image,
        target: Reference,
        client: RegistryClient,
        lease: Lease,
        reports: LayerReports,
        push_one: Callable[[Image, Reference, Compression | None, bool], Pushed],
    ) -> Pushed:
        index, document = index_of(self._images, self._content, found)
        lease.add(document.digest)
        push_index(
            index,
            document,
            images=self._images,
            content=self._content,
            client=client,
            target=target,
            push_one=lambda image: push_one(
                image, replace(target, tag="", digest=image.manifest.digest), None, True
            ),
        )
        reports.note(f"{target.tag}: digest: {document.digest} size: {len(document.data)}")
        return Pushed(target, document.digest, len(document.data))

    def _repositories_with(self, digest: Digest, target: Reference) -> list[str]:
        """Return the paths of other repositories of the same registry that are known to have a blob."""
        rows = self._images.db.read().execute(
            """SELECT DISTINCT d.repository FROM image_digests d JOIN image_layers l ON l.image = d.image
            WHERE (l.digest = ?1 OR l.diff_id IN (SELECT diff_id FROM packed_layers WHERE digest = ?1))
            AND d.repository LIKE ?2 ORDER BY 1 LIMIT 3""",
            (digest, f"{target.domain}/%"),
        )
        paths = [row["repository"].removeprefix(f"{target.domain}/") for row in rows]
        return [path for path in paths if path != target.path]


class _Push:
    """One push."""

    def __init__(
        self,
        image: Image,
        target: Reference,
        compression: Compression | None,
        content: ContentStore,
        packed: PackedLayers,
        client: RegistryClient,
        reports: LayerReports,
        cancel: CancelToken,
        lease: Lease,
        *,
        exact: bool = False,
    ) -> None:
        self._exact = exact  # the manifest goes as it is, whatever its layers are packed with
        self._image = image
        self._target = target
        self._compression = compression
        self._content = content
        self._packed = packed
        self._client = client
        self._reports = reports
        self._cancel = cancel
        self._lease = lease

    def run(self, repositories_with: Callable[[Digest], list[str]]) -> Pushed:
        self._lease.add(self._image.manifest.digest, self._image.id)
        self._lease.add(*(layer.descriptor.digest for layer in self._image.layers))
        blobs: list[Descriptor | None] = [self._known_blob(layer) for layer in self._image.layers]
        if None not in blobs:
            document = self._document([blob for blob in blobs if blob])
            head = self._client.head_manifest(self._target.path, self._target.target, push=True)
            if head is not None and head.digest == document.digest:
                return self._nothing_to_do(document)
        blobs = self._send_layers(blobs, repositories_with)
        document = self._document([blob for blob in blobs if blob])
        config = Descriptor(mt.OCI_CONFIG, self._image.id, self._content.size(self._image.id))
        self._send_blob(config, [], lambda status, current: None)
        self._client.put_manifest(self._target.path, self._target.target, document)
        self._tell(document)
        return Pushed(self._target, document.digest, len(document.data))

    def _tell(self, document: Document) -> None:
        if self._target.tag:
            self._reports.note(f"{self._target.tag}: digest: {document.digest} size: {len(document.data)}")

    def _nothing_to_do(self, document: Document) -> Pushed:
        for layer in self._image.layers:
            blob = layer.descriptor
            self._reports.layer(short(blob.digest), "exists", blob.size, blob.size)
        self._tell(document)
        return Pushed(self._target, document.digest, len(document.data))

    # -- what goes ----------------------------------------------------------------------------------

    def _wanted_kind(self, layer: ImageLayer) -> Compression | None:
        """Return how a layer must be packed before it goes, None where it goes as it is."""
        media_type = layer.descriptor.media_type
        if self._exact:
            return None
        if self._compression is None:
            return Compression.GZIP if media_type in _UNPACKED else None
        return None if media_type == layer_media_type(self._compression) else self._compression

    def _known_blob(self, layer: ImageLayer) -> Descriptor | None:
        """Return the blob that goes for a layer, None where it must be packed first."""
        kind = self._wanted_kind(layer)
        if kind is None:
            return layer.descriptor
        blob = self._packed.get(layer.diff_id, kind)
        if blob is None:
            return None
        self._lease.add(blob.digest)
        return blob if self._content.has(blob.digest) else None

    def _document(self, blobs: list[Descriptor]) -> Document:
        """Return the manifest for these layers: the image's own bytes where nothing was packed anew."""
        data = self._content.read(self._image.manifest.digest)
        manifest = parse_manifest(data, self._image.manifest.media_type)
        if tuple(blobs) != tuple(layer.descriptor for layer in self._image.layers):
            config = replace(manifest.config, media_type=mt.OCI_CONFIG)
            manifest = replace(manifest, layers=tuple(blobs), config=config, media_type=mt.OCI_MANIFEST)
            data = manifest.to_bytes()
        return Document(manifest.media_type, digest_bytes(data), data)

    # -- sending ------------------------------------------------------------------------------------

    def _send_layers(
        self, blobs: list[Descriptor | None], repositories_with: Callable[[Digest], list[str]]
    ) -> list[Descriptor | None]:
        """Send all layers, several at once; return their blobs. The first failure ends the others."""
        for layer in self._image.layers:
            self._reports.layer(short(layer.descriptor.digest), "waiting", 0, layer.descriptor.size)
        sent: dict[Digest, Descriptor] = {}

        def send(layer: ImageLayer, blob: Descriptor | None) -> None:
            sent[layer.diff_id] = self._send_layer(layer, blob, repositories_with)

        with ThreadPoolExecutor(AT_ONCE, "push") as executor:
            unique = {
                layer.diff_id: (layer, blob) for layer, blob in zip(self._image.layers, blobs, strict=True)
            }
            futures = [executor.submit(send, layer, blob) for layer, blob in unique.values()]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((future for future in done if future.exception() is not None), None)
            if failed is not None:
                self._cancel.cancel()
                executor.shutdown(cancel_futures=True)
                failed.result()
        return [sent[layer.diff_id] for layer in self._image.layers]

    def _send_layer(
        self, layer: ImageLayer, blob: Descriptor | None, repositories_with: Callable[[Digest], list[str]]
    ) -> Descriptor:
        name = short(layer.descriptor.digest)
        total = blob.size if blob else 0

        def tell(status: str, current: int) -> None:
            self._reports.layer(name, status, current, total or (current if status == "done" else 0))

        if blob is None:
            return self._pack_and_send(layer, tell)
        if blob.media_type in mt.FOREIGN_LAYERS and not self._content.has(blob.digest):
            tell("exists", blob.size)  # its manifest says where it is
            return blob
        self._send_blob(blob, repositories_with(blob.digest), tell)
        return blob

    def _send_blob(self, blob: Descriptor, others: list[str], tell: Callable[[str, int], None]) -> None:
        if has_blob(self._client, self._target.path, blob.digest):
            return tell("exists", blob.size)
        source = StoredSource(self._content, blob)
        upload = Upload(self._client, self._target.path, source, lambda offset: tell("uploading", offset))
        try:
            mounted = upload.run(blob.digest if others else None, others[0] if others else "")
        except RegistryError as error:
            if error.status == 400 and not self._content.verify(blob.digest):
                raise Corrupt(
                    f"blob {blob.digest} is damaged on disk", hint="pull or build the image again"
                ) from error
            raise
        return tell("mounted" if mounted else "done", blob.size)

    def _pack_and_send(self, layer: ImageLayer, tell: Callable[[str, int], None]) -> Descriptor:
        kind = self._wanted_kind(layer)
        assert kind is not None
        with PackedSource(self._content, layer, kind, self._lease, self._cancel) as source:
            source.on_read = lambda offset: tell("uploading", offset)
            Upload(self._client, self._target.path, source, lambda offset: tell("uploading", offset)).run()
            digest, size = source.wait()
        blob = Descriptor(layer_media_type(kind), digest, size)
        self._content.sync()
        self._packed.put(layer.diff_id, kind, blob)
        tell("done", size)
        return blob

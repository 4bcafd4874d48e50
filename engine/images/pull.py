"""Pulling an image: from a name to layers ready to run, believing nothing unchecked.

    resolve    the name becomes a digest (HEAD); an image that is here under that digest is up to date
    choose     an index gives the manifest of one platform
    fetch      config and layers, several at once, each blob once on the node (`fetch`)
    unpack     in order, each layer while it still arrives (`stream_unpack`)
    record     one transaction gives the image its row, name, repository digest and event

What was fetched and verified stays when a pull fails, so the next one goes on from there. A lease keeps garbage
collection away from everything that a pull relies on. Layers with `urls` elsewhere are fetched from the registry alone.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing
from dataclasses import dataclass, replace

from engine.content.leases import Lease
from engine.content.store import ContentStore
from engine.digest import Digest, chain_ids, short
from engine.errors import Cancelled, EngineError, ImageNotFound, NoSpace, Unsupported
from engine.images.downloads import Downloads
from engine.images.fetch import Fetcher
from engine.images.growing import Growing
from engine.images.linked import LinkedToken
from engine.images.model import Image
from engine.images.platforms import choose, fits
from engine.images.reports import LayerReports
from engine.images.store import ImageStore
from engine.images.stream_unpack import StreamUnpacker
from engine.oci import media_types as mt
from engine.oci.descriptor import Descriptor
from engine.oci.image_config import ImageConfig, parse_config
from engine.oci.manifest import Index, Manifest, parse_document
from engine.platform import Platform, host_platform
from engine.progress import CancelToken, Reporter, silent
from engine.reference import Reference
from engine.registry.client import Document, Registries, RegistryClient
from engine.registry.errors import BadContent
from engine.registry.settings import Credentials, RegistrySettings
from engine.snapshots.overlay import OverlaySnapshotter

logger = logging.getLogger(__name__)

CONFIG_LIMIT = 4 * 1024 * 1024
_INDEX_DEPTH = 3
_RESERVE = 64 * 1024 * 1024  # bytes that a pull leaves free on the disk


class Puller:
    """Pulls images into one node's stores. Safe to use from several threads and processes at once."""

    def __init__(
        self, images: ImageStore, content: ContentStore, snapshots: OverlaySnapshotter, registries: Registries
    ) -> None:
        self._images = images
        self._content = content
        self._snapshots = snapshots
        self._registries = registries

    def pull(
        self,
        reference: Reference,
        *,
        platform: Platform | None = None,
        settings: RegistrySettings | None = None,
        credentials: Credentials | None = None,
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Image:
        """Make sure that the image a registry has under `reference` is here, unpacked and named.

        `platform` None means this host's, with a note where only another one is there. Raises `ImageNotFound`,
        `AccessRefused`, `Untrusted`, `NotARegistry`, `BadContent` (the registry lies), `RegistryError`, `Cancelled`,
        `NoSpace`, `Unsupported`, `ProtectedName` (before any layer is fetched).
        """
        cancel = LinkedToken(cancel or CancelToken())
        reports = LayerReports(report)
        opened = self._registries.open(
            reference.domain, settings=settings, credentials=credentials, cancel=cancel
        )
        with opened as client, self._content.lease(f"pull {reference.path}") as lease:
            work = _Pull(
                reference=reference,
                wanted=platform,
                images=self._images,
                content=self._content,
                snapshots=self._snapshots,
                client=client,
                reports=reports,
                cancel=cancel,
                lease=lease,
            )
            return work.run()

    def pull_all(
        self,
        repository: Reference,
        *,
        platform: Platform | None = None,
        settings: RegistrySettings | None = None,
        credentials: Credentials | None = None,
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> list[Image]:
        """Pull every tag of a repository; raises as `pull` does, at the first tag that fails."""
        cancel = cancel or CancelToken()
        opened = self._registries.open(
            repository.domain, settings=settings, credentials=credentials, cancel=cancel
        )
        with opened as client:
            tags = client.tags(repository.path)
        return [
            self.pull(
                replace(repository, digest=None).with_tag(tag),
                platform=platform,
                settings=settings,
                credentials=credentials,
                report=report,
                cancel=cancel,
            )
            for tag in tags
        ]


@dataclass(frozen=True)
class _Found:
    """What the name led to: the manifest of one platform, and the digest by which the repository knows the whole."""

    manifest: Manifest
    document: Document
    top: Digest
    indexes: tuple[Document, ...] = ()


class _Pull:
    """One pull."""

    def __init__(
        self,
        *,
        reference: Reference,
        wanted: Platform | None,
        images: ImageStore,
        content: ContentStore,
        snapshots: OverlaySnapshotter,
        client: RegistryClient,
        reports: LayerReports,
        cancel: CancelToken,
        lease: Lease,
    ) -> None:
        self._reference = reference
        self._wanted = wanted
        self._platform = wanted or host_platform()
        self._images = images
        self._content = content
        self._snapshots = snapshots
        self._client = client
        self._reports = reports
        self._cancel = cancel
        self._lease = lease
        self._fetcher = self._new_fetcher(reports)

    def run(self) -> Image:
        here = self._here()
        if here is not None:
            try:
                return self._up_to_date(here)
            except ImageNotFound:
                logger.info("image %s was removed while it was pulled: it is made again", here.id)
        found = self._find()
        self._lease.add(found.document.digest, found.manifest.config.digest)
        if self._reference.tag:
            self._images.refuse_move([self._reference], found.manifest.config.digest)
        config = self._config(found.manifest)
        self._check_space(found.manifest)
        known = self._images.find(found.manifest.config.digest)
        self._fetch_and_unpack(found.manifest, config)
        for index in found.indexes[
            :1
        ]:  # kept for a push of all platforms, as long as the name with its digest is
            self._lease.add(index.digest)
            self._content.put(index.data, index.digest, sync=False)
        image = self._images.add(
            found.document.data,
            self._content.read(found.manifest.config.digest, CONFIG_LIMIT),
            names=[self._reference.without_digest()] if self._reference.tag else [],
            repo_digests=[
                replace(self._reference, tag="", digest=digest)
                for digest in {found.top, found.document.digest}
            ],
            action="pull",
            media_type=found.document.media_type,
        )
        self._reports.note(f"Digest: {found.top}")
        state = "Image is up to date" if known is not None else "Downloaded newer image"
        self._reports.note(f"Status: {state} for {self._reference.familiar()}")
        return image

    def _new_fetcher(self, reports: LayerReports) -> Fetcher:
        return Fetcher(
            client=self._client,
            repository=self._reference.path,
            content=self._content,
            reports=reports,
            cancel=self._cancel,
        )

    # -- resolve and choose -----------------------------------------------------------------------

    def _here(self) -> Image | None:
        """Return the image if what the registry has under the name is here, whole and for the right platform."""
        digest = self._reference.digest
        if digest is None:
            head = self._client.head_manifest(self._reference.path, self._reference.target)
            digest = head.digest if head else None
        if digest is None:
            return None
        image = self._images.find(f"{self._reference.name}@{digest}")
        if image is None or not fits(image.config.platform, self._platform):
            return None
        self._lease.add(
            *(layer.chain for layer in image.layers), *(layer.descriptor.digest for layer in image.layers)
        )
        whole = all(
            self._snapshots.exists(layer.chain) and self._content.has(layer.descriptor.digest)
            for layer in image.layers
        )
        return image if whole and self._content.has(image.manifest.digest) else None

    def _up_to_date(self, image: Image) -> Image:
        name = self._reference.without_digest()
        if self._reference.tag and str(name) not in image.names:
            image = self._images.tag(image.id, name)
        for layer in image.layers:
            self._reports.layer(
                short(layer.descriptor.digest), "exists", layer.descriptor.size, layer.descriptor.size
            )
        self._reports.note(f"Status: Image is up to date for {self._reference.familiar()}")
        return image

    def _find(self) -> _Found:
        """Return the manifest that the name means on the wanted platform."""
        document = self._document(self._reference.target)
        top = document.digest
        seen, indexes = {top}, list[Document]()
        for _ in range(_INDEX_DEPTH):
            parsed = self._parsed(document)
            if isinstance(parsed, Manifest):
                self._check_kind(parsed)
                return _Found(parsed, document, top, tuple(indexes))
            indexes.append(document)
            entry = choose(parsed.manifests, self._platform, self._reference.familiar())
            if entry.digest in seen or entry.size > CONFIG_LIMIT:
                break
            seen.add(entry.digest)
            document = self._document(entry.digest)
            if len(document.data) != entry.size:
                raise BadContent(
                    f"manifest {entry.digest} has {len(document.data)} bytes, the index says {entry.size}"
                )
        raise BadContent(f"the index of {self._reference.familiar()} leads to itself or too deep")

    def _document(self, target: str) -> Document:
        try:
            return self._client.manifest(self._reference.path, target)
        except BadContent as error:
            logger.warning("wrong manifest from %s, once more: %s", self._client.domain, error)
            return self._client.manifest(self._reference.path, target)

    def _parsed(self, document: Document) -> Manifest | Index:
        try:
            return parse_document(document.data, document.media_type)
        except Unsupported:
            raise
        except EngineError as error:
            raise BadContent(
                f"{self._reference.familiar()} has a manifest that is refused: {error}", hint=error.hint
            ) from error

    def _check_kind(self, manifest: Manifest) -> None:
        if manifest.config.media_type not in mt.CONFIGS:
            kind = manifest.artifact_type or manifest.config.media_type
            raise Unsupported(f"{self._reference.familiar()} is no container image but {kind[:100]!r}")
        for layer in manifest.layers:
            if layer.media_type not in mt.LAYERS:
                raise Unsupported(
                    f"{self._reference.familiar()} has a layer of the unknown kind {layer.media_type[:100]!r}"
                )

    def _config(self, manifest: Manifest) -> ImageConfig:
        blob = manifest.config
        if blob.size > CONFIG_LIMIT:
            raise BadContent(
                f"the config of {self._reference.familiar()} has {blob.size} bytes, {CONFIG_LIMIT} are allowed"
            )
        self._new_fetcher(LayerReports(silent)).fetch(blob)  # people count layers
        try:
            config = parse_config(self._content.read(blob.digest, CONFIG_LIMIT))
        except EngineError as error:
            raise BadContent(
                f"the config of {self._reference.familiar()} is refused: {error}", hint=error.hint
            ) from error
        if len(config.diff_ids) != len(manifest.layers):
            raise BadContent(
                f"{self._reference.familiar()} has {len(manifest.layers)} layers and {len(config.diff_ids)} diff ids"
            )
        self._check_platform(config)
        return config

    def _check_platform(self, config: ImageConfig) -> None:
        if fits(config.platform, self._platform):
            return
        if self._wanted is not None:
            raise ImageNotFound(
                f"{self._reference.familiar()} has no image for {self._wanted}",
                hint=f"it has: {config.platform}",
            )
        self._reports.note(
            f"{self._reference.familiar()} is made for {config.platform}, this host is {self._platform}"
        )

    # -- fetch and unpack -------------------------------------------------------------------------

    def _check_space(self, manifest: Manifest) -> None:
        """Refuse early what cannot fit: the blobs that are missing, not counting what they unpack to."""
        missing = sum(layer.size for layer in manifest.layers if not self._content.has(layer.digest))
        disk = os.statvfs(self._content.ingest_path("").parent)
        if missing + _RESERVE > disk.f_bavail * disk.f_frsize and missing:
            raise NoSpace(
                f"{self._reference.familiar()} needs {missing} bytes, the disk has {disk.f_bavail * disk.f_frsize} left",
                hint="remove images that nobody uses, or make room on the disk",
            )

    def _fetch_and_unpack(self, manifest: Manifest, config: ImageConfig) -> None:
        chains = chain_ids(list(config.diff_ids))
        self._lease.add(*(layer.digest for layer in manifest.layers), *chains)
        for layer in manifest.layers:
            self._reports.layer(short(layer.digest), "waiting", 0, layer.size)
        unpacker = StreamUnpacker(self._snapshots, self._reports, self._cancel)
        with Downloads(self._fetcher, manifest.layers, self._cancel) as downloads:
            parent: Digest | None = None
            for layer, diff_id, chain in zip(manifest.layers, config.diff_ids, chains, strict=True):
                self._bring(layer, downloads, unpacker, diff_id, chain, parent)
                parent = chain

    def _bring(
        self,
        layer: Descriptor,
        downloads: Downloads,
        unpacker: StreamUnpacker,
        diff_id: Digest,
        chain: Digest,
        parent: Digest | None,
    ) -> None:
        """Wait until one layer is here, blob and folder."""
        unpacked = not self._snapshots.exists(chain)
        if unpacked:
            try:
                unpacker.unpack(layer, downloads.growing(layer), diff_id=diff_id, chain=chain, parent=parent)
            except Cancelled:
                raise
            except EngineError:
                if downloads.fetched(layer) or self._content.verify(layer.digest):
                    raise
                logger.warning("blob %s was damaged on disk: it is fetched again", layer.digest)
                self._content.quarantine(layer.digest)
                with closing(Growing(self._cancel.check)) as again:
                    self._fetcher.fetch(layer, again)
                    unpacker.unpack(layer, again, diff_id=diff_id, chain=chain, parent=parent)
        fetched = downloads.fetched(layer)
        self._reports.layer(
            short(layer.digest), "done" if fetched or unpacked else "exists", layer.size, layer.size
        )

"""Reading images from an archive, in one pass, whoever wrote it: OCI layouts, `docker save` of any age, podman, skopeo.

Every file of the archive goes into the content store under its own digest as it comes; paths are only names in a
dictionary, never paths of the node's file system (AR-18). When the archive is at its end its `index.json` and
`manifest.json` say which files are images; what they need is unpacked, its DiffIDs checked, and the rest forgotten.

Layers that an archive holds unpacked (old `docker save`) are compressed on the way in. Sources: as `engine.images.saving`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from engine.content.leases import Lease
from engine.content.store import Blob, BlobWriter, ContentStore
from engine.digest import Digest, chain_ids, digest_bytes
from engine.errors import BadArchive, BadDigest, BadReference, InvalidInput, NotFound
from engine.images.model import Image
from engine.images.platforms import choose
from engine.images.saving import FULL_NAME, REF_NAME
from engine.images.store import ImageStore
from engine.images.unpack import Unpacker
from engine.layers.compression import Compression, compressor, detect, layer_media_type, open_any
from engine.layers.limits import LAYER, Limits
from engine.layers.names import clean_name, shown
from engine.layers.tar import Kind, Readable, TarEntry, TarReader
from engine.oci import media_types
from engine.oci.descriptor import Descriptor
from engine.oci.fields import Fields
from engine.oci.image_config import ImageConfig, parse_config
from engine.oci.manifest import Index, Manifest, parse_document, parse_index
from engine.oci.strict_json import parse_json
from engine.platform import host_platform
from engine.progress import CancelToken, LayerProgress, Message, Reporter, silent
from engine.reference import Reference, parse_reference

IMAGES_LIMIT = 1000
INDEX_DEPTH = 3
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})\Z")
_LINKS = 40


@dataclass(frozen=True)
class _Member:
    """A file of the archive that is now a blob. `plain` says that the blob is the compressed form of the file."""

    blob: Blob
    diff_id: Digest | None = None


@dataclass
class _Candidate:
    """An image that the archive holds."""

    manifest: bytes
    config: bytes
    names: list[Reference]


def load(
    images: ImageStore,
    stream: Readable,
    *,
    report: Reporter = silent,
    cancel: CancelToken | None = None,
    limits: Limits = LAYER,
) -> list[Image]:
    """Read every image of the archive `stream` (packed or not); return them.

    Raises `BadArchive`, `InvalidInput`, `ProtectedName` (then none of its images is taken). Nothing stays of an archive that is refused; images that were loaded before the fault was met stay.
    """
    with images.content.lease("load") as lease:
        loader = _Loader(images, lease, report, cancel or CancelToken(), limits)
        try:
            return loader.load(stream)
        finally:
            loader.forget()


class _Loader:
    def __init__(
        self, images: ImageStore, lease: Lease, report: Reporter, cancel: CancelToken, limits: Limits
    ) -> None:
        self._images = images
        self._content: ContentStore = images.content
        self._lease = lease
        self._report = report
        self._cancel = cancel
        self._limits = limits
        self._members: dict[str, _Member] = {}
        self._links: dict[str, str] = {}
        self._new: set[Digest] = set()

    def load(self, stream: Readable) -> list[Image]:
        with open_any(stream, self._limits) as unpacked:
            reader = TarReader(unpacked, self._limits)
            for entry in reader:
                self._cancel.check()
                self._take(entry, reader)
        candidates = list(self._candidates())
        if not candidates:
            raise BadArchive(
                "the archive holds no image",
                hint="it has neither an index.json nor a manifest.json; to make an image of a root file system use import",
            )
        for candidate in candidates:
            self._images.refuse_move(candidate.names, digest_bytes(candidate.config))
        return [self._add(candidate) for candidate in candidates]

    def forget(self) -> None:
        """Remove the blobs that no image took."""
        needed = {
            digest
            for image in self._images.list()
            for digest in (
                image.id,
                image.manifest.digest,
                *(layer.descriptor.digest for layer in image.layers),
            )
        }
        for digest in self._new - needed:
            self._content.remove(digest)

    # files of the archive --------------------------------------------------------------------------------------

    def _take(self, entry: TarEntry, reader: TarReader) -> None:
        if entry.kind is Kind.DIRECTORY:
            return
        name = clean_name(entry.name)
        if entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
            folder = name.rpartition("/")[0] if entry.kind is Kind.SYMLINK else ""
            self._links[name] = _joined(folder, entry.linkname, entry.name)
            return
        if entry.kind is not Kind.FILE:
            raise BadArchive(
                f"{shown(entry.name)} is a {entry.kind} node, which no image archive has", entry=entry.name
            )
        match = _BLOB.match(name)
        try:
            if match:
                self._members[name] = self._store(reader, Digest(f"sha256:{match[1]}"))
            elif name.endswith(".tar"):
                self._members[name] = self._store_layer(reader)
            else:
                self._members[name] = self._store(reader, None)
        except BadDigest as error:
            raise BadArchive(f"{shown(entry.name)} is not what its name says", entry=entry.name) from error

    def _store(self, reader: TarReader, expected: Digest | None, head: bytes = b"") -> _Member:
        with self._content.writer(expected) as writer:
            if head:
                writer.write(head)
            for chunk in reader.chunks():
                writer.write(chunk)
                self._cancel.check()
            return _Member(self._commit(writer))

    def _store_layer(self, reader: TarReader) -> _Member:
        """Store a layer, compressed when the archive has it plain."""
        head = reader.read(1024)
        if detect(head) is not Compression.NONE:
            return self._store(reader, None, head)
        digest = hashlib.sha256(head)
        with self._content.writer() as writer:
            packer = compressor(writer)
            packer.write(head)
            for chunk in reader.chunks():
                digest.update(chunk)
                packer.write(chunk)
                self._cancel.check()
            packer.close()
            return _Member(self._commit(writer), Digest("sha256:" + digest.hexdigest()))

    def _commit(self, writer: BlobWriter) -> Blob:
        digest = writer.digest()
        self._lease.add(digest)
        if not self._content.has(digest):
            self._new.add(digest)
        return writer.commit(sync=False)

    def _member(self, name: str) -> _Member:
        path = clean_name(name)
        for _ in range(_LINKS):
            if path in self._members:
                return self._members[path]
            if path not in self._links:
                break
            path = self._links[path]
        raise BadArchive(f"the archive lacks {shown(name)}, which its manifest names", entry=name)

    # what the archive says it holds ----------------------------------------------------------------------------

    def _candidates(self) -> Iterator[_Candidate]:
        docker = self._docker_entries() if "manifest.json" in self._members else []
        seen: set[Digest] = set()
        if "index.json" in self._members:
            for candidate, config_digest in self._oci_images():
                tagged = [name for digest, names, _ in docker if digest == config_digest for name in names]
                candidate.names += [name for name in tagged if name not in candidate.names]
                seen.add(config_digest)
                yield candidate
        for digest, names, layers in docker:
            if digest not in seen:
                yield self._from_docker(digest, names, layers)

    def _oci_images(self) -> Iterator[tuple[_Candidate, Digest]]:
        index = parse_index(self._document(self._members["index.json"].blob.digest), media_types.OCI_INDEX)
        found: dict[Digest, _Candidate] = {}
        configs: dict[Digest, Digest] = {}
        for entry in index.manifests:
            for digest, document, manifest in self._manifests(entry, (), INDEX_DEPTH):
                candidate = found.get(digest)
                if candidate is None:
                    config = self._document(manifest.config.digest)
                    candidate = found[digest] = _Candidate(document, config, [])
                    configs[digest] = manifest.config.digest
                candidate.names += [name for name in _annotated(entry) if name not in candidate.names]
        for digest, candidate in found.items():
            yield candidate, configs[digest]

    def _manifests(
        self, entry: Descriptor, above: tuple[Digest, ...], depth: int
    ) -> Iterator[tuple[Digest, bytes, Manifest]]:
        """Give the image manifests that an entry leads to: itself, or the one of a nested index that fits this host."""
        if entry.digest in above or depth == 0:
            raise InvalidInput("the archive's index leads in a circle or too deep")
        if entry.artifact_type or entry.media_type not in media_types.INDEXES | media_types.MANIFESTS:
            return
        data = self._document(entry.digest)
        document = parse_document(data, entry.media_type)
        if isinstance(document, Index):
            inner = choose(document.manifests, host_platform(), "the archive")
            yield from self._manifests(inner, (*above, entry.digest), depth - 1)
        elif document.config.media_type in media_types.CONFIGS:
            yield entry.digest, data, document

    def _docker_entries(self) -> list[tuple[Digest, list[Reference], list[str]]]:
        """Return (config, names, layer paths) of each image in manifest.json."""
        value = parse_json(self._document(self._members["manifest.json"].blob.digest), "manifest.json")
        if not isinstance(value, list) or len(value) > IMAGES_LIMIT:
            raise InvalidInput("manifest.json must be a list of images")
        found = []
        for item in value:
            fields = Fields(item, "manifest.json")
            names = [parse_reference(text) for text in fields.texts("RepoTags") or ()]
            config = self._member(fields.text("Config")).blob.digest
            found.append((config, names, list(fields.texts("Layers") or ())))
        return found

    def _from_docker(self, config_digest: Digest, names: list[Reference], paths: list[str]) -> _Candidate:
        data = self._document(config_digest)
        config = parse_config(data)
        members = [self._member(path) for path in paths]
        if len(members) != len(config.diff_ids):
            raise InvalidInput(
                f"manifest.json names {len(members)} layers, the config {len(config.diff_ids)}"
            )
        for member, diff_id in zip(members, config.diff_ids, strict=True):
            if member.diff_id is not None and member.diff_id != diff_id:
                raise BadDigest(f"a layer is {member.diff_id}, the image promises {diff_id}")
        manifest = Manifest(
            Descriptor(media_types.OCI_CONFIG, config_digest, len(data)),
            tuple(self._layer_descriptor(member.blob) for member in members),
        )
        return _Candidate(manifest.to_bytes(), data, names)

    def _layer_descriptor(self, blob: Blob) -> Descriptor:
        with self._content.open(blob.digest) as file:
            kind = detect(file.read(6))
        if kind not in (Compression.NONE, Compression.GZIP, Compression.ZSTD):
            raise InvalidInput(f"a layer is packed with {kind}, which image manifests do not know")
        return Descriptor(layer_media_type(kind), blob.digest, blob.size)

    def _document(self, digest: Digest) -> bytes:
        try:
            return self._content.read(digest)
        except NotFound as error:
            raise BadArchive(f"the archive lacks the blob {digest}") from error

    # adding ----------------------------------------------------------------------------------------------------

    def _add(self, candidate: _Candidate) -> Image:
        manifest = parse_document(candidate.manifest)
        assert isinstance(manifest, Manifest)
        config = parse_config(candidate.config)
        self._check(manifest, config)
        self._unpack(manifest, config)
        image = self._images.add(candidate.manifest, candidate.config, names=candidate.names, action="load")
        for name in candidate.names:
            self._report(Message(f"Loaded image: {name.familiar()}"))
        if not candidate.names:
            self._report(Message(f"Loaded image ID: {image.id}"))
        return image

    def _check(self, manifest: Manifest, config: ImageConfig) -> None:
        if len(manifest.layers) != len(config.diff_ids):
            raise InvalidInput(
                f"the manifest has {len(manifest.layers)} layers, the config {len(config.diff_ids)}"
            )
        for layer in manifest.layers:
            if not self._content.has(layer.digest):
                raise BadArchive(f"the archive lacks the layer {layer.digest}")
            if self._content.size(layer.digest) != layer.size:
                raise BadArchive(f"the layer {layer.digest} has not the size that the manifest says")

    def _unpack(self, manifest: Manifest, config: ImageConfig) -> None:
        unpacker = Unpacker(self._content, self._images.snapshots, self._limits)
        parent: Digest | None = None
        self._lease.add(*chain_ids(list(config.diff_ids)))
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            self._report(LayerProgress(layer.digest, "extracting", 0, layer.size))
            with self._content.open(layer.digest) as blob:
                parent = unpacker.unpack_layer(blob, parent=parent, diff_id=diff_id, check=self._cancel.check)
            self._report(LayerProgress(layer.digest, "done", layer.size, layer.size))


def _joined(folder: str, target: str, entry: str) -> str:
    """Return where a link inside the archive leads, as a name of the archive."""
    parts = [] if target.startswith("/") else [part for part in folder.split("/") if part]
    for part in target.split("/"):
        if part == "..":
            if not parts:
                raise BadArchive(f"{shown(entry)} is a link that leads out of the archive", entry=entry)
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _annotated(entry: Descriptor) -> list[Reference]:
    """Return the name that an index gives an image; a bare word other than a tag is taken as a repository."""
    text = entry.annotations.get(FULL_NAME) or entry.annotations.get(REF_NAME, "")
    if not text or text == "latest":
        return []
    with suppress(BadReference):
        return [parse_reference(text).without_digest()]
    return []

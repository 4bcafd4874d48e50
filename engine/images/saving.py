"""Writing images into one archive that every tool reads: an OCI image layout which is a `docker save` archive as well.

`index.json` and `oci-layout` make it an OCI layout, `manifest.json` a docker archive; both name the same blobs, so nothing
is in it twice. Blobs are verified while they are written: a damaged one ends the archive with `Corrupt`.

Sources: OCI image specification, image-layout.md and annotations.md; Docker Image Specification v1.2, "Combined Image
JSON + Filesystem Changeset Format", with the paths below `blobs/` that Docker writes since version 25.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.digest import Digest, hex_of
from engine.errors import BadReference, NotFound
from engine.images.model import Image
from engine.images.store import ImageStore
from engine.layers.diff import DiffResult, pack_tree
from engine.layers.tar import Kind, TarEntry, TarWriter, Writable
from engine.oci.descriptor import Descriptor
from engine.oci.manifest import Index
from engine.oci.strict_json import canonical_json
from engine.reference import IDENTIFIER, parse_exact, parse_named

REF_NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_CHUNK = 1024 * 1024


@dataclass
class _Chosen:
    """An image to save and the names that the archive gives it."""

    image: Image
    names: list[str] = field(default_factory=list)


def save(
    images: ImageStore, references: Sequence[str], out: Writable, *, check: Callable[[], None] | None = None
) -> list[Image]:
    """Write the images that `references` name to `out`, as they come; return them.

    A name brings itself, a repository without a tag all its names, an id no name. Raises `ImageNotFound` before
    anything is written.
    """
    chosen = _choose(images, references)
    with images.content.lease("save") as lease:
        for item in chosen:
            lease.add(
                item.image.id, item.image.manifest.digest, *(x.descriptor.digest for x in item.image.layers)
            )
        _Saver(images, TarWriter(out), check).write(chosen)
    return [item.image for item in chosen]


def _choose(images: ImageStore, references: Sequence[str]) -> list[_Chosen]:
    chosen: dict[Digest, _Chosen] = {}
    for text in references:
        for image, name in _named(images, text):
            item = chosen.setdefault(image.id, _Chosen(image))
            if name and name not in item.names:
                item.names.append(name)
    return list(chosen.values())


def _named(images: ImageStore, text: str) -> list[tuple[Image, str]]:
    """Return the images that `text` means, each with the name it shall have in the archive (or none)."""
    if not text.startswith("sha256:") and not IDENTIFIER.fullmatch(text):
        try:
            reference = parse_named(text)
        except BadReference:
            return [(images.resolve(text), "")]
        if not reference.tag and reference.digest is None:
            found = [
                (image, name)
                for image in images.list()
                for name in image.names
                if parse_exact(name).name == reference.name
            ]
            if found:
                return found
        elif reference.digest is None:
            return [(images.resolve(text), str(reference))]
    return [(images.resolve(text), "")]


class _Saver:
    def __init__(self, images: ImageStore, tar: TarWriter, check: Callable[[], None] | None) -> None:
        self._content = images.content
        self._tar = tar
        self._check = check
        self._written: set[Digest] = set()

    def write(self, chosen: Sequence[_Chosen]) -> None:
        self._file("oci-layout", LAYOUT)
        for folder in ("blobs", "blobs/sha256"):
            self._tar.add(TarEntry(folder, Kind.DIRECTORY, mode=0o755))
        for item in chosen:
            for layer in item.image.layers:
                self._blob(layer.descriptor.digest)
            self._blob(item.image.id)
            self._blob(item.image.manifest.digest)
        self._file("index.json", Index(tuple(_entries(chosen))).to_bytes())
        self._file("manifest.json", canonical_json([_docker_entry(item) for item in chosen]))
        self._tar.close()

    def _blob(self, digest: Digest) -> None:
        if digest in self._written:
            return
        self._written.add(digest)
        try:
            size = self._content.size(digest)
        except NotFound as error:
            raise NotFound(
                f"the blob {digest} of the image is missing", hint="pull the image again"
            ) from error
        self._tar.add(TarEntry(f"blobs/sha256/{hex_of(digest)}", size=size))
        with self._content.open_verified(digest) as blob:
            while chunk := blob.read(_CHUNK):
                self._tar.write(chunk)
                if self._check is not None:
                    self._check()

    def _file(self, name: str, data: bytes) -> None:
        self._tar.add_bytes(TarEntry(name), data)


def _entries(chosen: Sequence[_Chosen]) -> list[Descriptor]:
    """Return the entries of index.json: one for each name, one for an image without."""
    found = []
    for item in chosen:
        platform = item.image.config.platform
        entry = replace(item.image.manifest, platform=platform)
        for name in item.names:
            annotations = {FULL_NAME: name, REF_NAME: parse_exact(name).tag}
            found.append(replace(entry, annotations=annotations))
        if not item.names:
            found.append(entry)
    return found


def _docker_entry(item: _Chosen) -> dict[str, Any]:
    return {
        "Config": f"blobs/sha256/{hex_of(item.image.id)}",
        "RepoTags": [parse_exact(name).familiar() for name in item.names],
        "Layers": [f"blobs/sha256/{hex_of(layer.descriptor.digest)}" for layer in item.image.layers],
    }


def export_root(
    images: ImageStore, reference: str, out: Writable, *, check: Callable[[], None] | None = None
) -> DiffResult:
    """Write the root file system of an image to `out` as a plain tar."""
    image = images.resolve(reference)
    chain = images.unpack(image)
    with images.content.lease("export") as lease, images.snapshots.viewed(chain) as root:
        lease.add(*(layer.chain for layer in image.layers))
        return pack_tree(root, out, check=check)

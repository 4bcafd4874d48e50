"""Looking for what does not match between the images' rows, their blobs and their unpacked layers.

The quick check looks at names and sizes; the deep one reads every byte: blobs against their digests, layers against
their blobs. It changes nothing. `engine.images.repair` puts right what can be put right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from engine.digest import Digest, digest_bytes, short
from engine.errors import BadArchive, NotFound
from engine.images.model import Image, ImageLayer
from engine.images.store import ImageStore
from engine.layers.compare import compare_layer
from engine.layers.compression import open_any
from engine.oci import media_types
from engine.progress import CancelToken
from engine.snapshots.model import SnapshotInfo

SHOWN_DIFFERENCES = 20


@dataclass(frozen=True)
class Finding:
    """Something that does not match.

    `kind`: `blob_missing`, `blob_damaged`, `layer_missing`, `layer_changed`, `layer_unknown`, `snapshot_missing`,
    `record_damaged`. `subject` is the digest, chain id, folder or key it is about; `images` are the images that suffer.
    `detail` is for people; `repaired` is set by a repair.
    """

    kind: str
    subject: str
    detail: str
    images: tuple[Digest, ...] = ()
    repaired: bool = False


def check(images: ImageStore, *, deep: bool = False, cancel: CancelToken | None = None) -> list[Finding]:
    """Return what does not match; empty when all is well. `deep` reads everything on disk."""
    checker = _Checker(images, deep, cancel or CancelToken())
    return merged(checker.findings())


def merged(findings: Iterator[Finding]) -> list[Finding]:
    """Join findings about the same thing in several images into one."""
    found: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.kind, finding.subject)
        if key in found:
            known = found[key]
            found[key] = replace(known, images=tuple(dict.fromkeys((*known.images, *finding.images))))
        else:
            found[key] = finding
    return list(found.values())


class _Checker:
    def __init__(self, images: ImageStore, deep: bool, cancel: CancelToken) -> None:
        self._images = images
        self._content = images.content
        self._snapshots = images.snapshots
        self._deep = deep
        self._cancel = cancel
        self._verified: dict[Digest, bool] = {}
        self._compared: dict[Digest, str] = {}

    def findings(self) -> Iterator[Finding]:
        infos = {info.name: info for info in self._snapshots.walk()}
        for image in self._images.list():
            self._cancel.check()
            yield from self._image(image, infos)
        for info in infos.values():
            yield from self._folder(info)
        for name in self._snapshots.unknown_folders():
            yield Finding("layer_unknown", name, f"the folder {name} of the layers belongs to nothing")

    def _image(self, image: Image, infos: dict[str, SnapshotInfo]) -> Iterator[Finding]:
        if digest_bytes(self._images.config_bytes(image.id)) != image.id:
            yield Finding(
                "record_damaged", image.id, f"the record of image {image.title} is damaged", (image.id,)
            )
        yield from self._blob(image, image.id, None, "config")
        yield from self._blob(image, image.manifest.digest, image.manifest.size, "manifest")
        for index, layer in enumerate(image.layers):
            what = f"layer {index}"
            if layer.descriptor.media_type not in media_types.FOREIGN_LAYERS:
                yield from self._blob(image, layer.descriptor.digest, layer.descriptor.size, what)
            yield from self._layer(image, layer, infos.get(layer.chain), what)

    def _blob(self, image: Image, digest: Digest, size: int | None, what: str) -> Iterator[Finding]:
        try:
            found = self._content.size(digest)
            whole = (size is None or found == size) and self._verify(digest)
        except (NotFound, FileNotFoundError):
            yield Finding(
                "blob_missing", digest, f"the {what} of image {image.title} is missing", (image.id,)
            )
            return
        if not whole:
            yield Finding(
                "blob_damaged", digest, f"the {what} of image {image.title} is damaged", (image.id,)
            )

    def _verify(self, digest: Digest) -> bool:
        if not self._deep:
            return True
        if digest not in self._verified:
            self._verified[digest] = self._content.verify(digest)
        return self._verified[digest]

    def _layer(
        self, image: Image, layer: ImageLayer, info: SnapshotInfo | None, what: str
    ) -> Iterator[Finding]:
        about = f"the unpacked {what} of image {image.title}"
        if info is None or not (info.folder / "fs").is_dir():
            yield Finding("layer_missing", layer.chain, f"{about} is missing", (image.id,))
            return
        if (
            self._deep
            and self._content.has(layer.descriptor.digest)
            and self._verify(layer.descriptor.digest)
        ):
            detail = self._compare(layer, info)
            if detail:
                yield Finding("layer_changed", layer.chain, f"{about} has changed: {detail}", (image.id,))

    def _compare(self, layer: ImageLayer, info: SnapshotInfo) -> str:
        if layer.chain not in self._compared:
            try:
                with self._content.open(layer.descriptor.digest) as blob:
                    found = compare_layer(open_any(blob), info.folder / "fs", check=self._cancel.check)
            except BadArchive as error:
                self._compared[layer.chain] = error.message
                return error.message
            parts = [" ".join(part for part in item if part) for item in found[:SHOWN_DIFFERENCES]]
            more = f" and {len(found) - SHOWN_DIFFERENCES} more" if len(found) > SHOWN_DIFFERENCES else ""
            self._compared[layer.chain] = ", ".join(parts) + more
        return self._compared[layer.chain]

    def _folder(self, info: SnapshotInfo) -> Iterator[Finding]:
        if (info.folder / "fs").is_dir():
            return
        if info.kind == "active":
            yield Finding("snapshot_missing", info.name, f"the files of snapshot {info.name} are gone")
        else:
            yield Finding("layer_missing", info.name, f"the unpacked layer {short(info.name)} is missing")


Fetch = Callable[[Image, Digest], None]
"""Brings a blob of an image back from where it came; raises an `EngineError` where it cannot."""

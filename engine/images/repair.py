"""Putting right what `check` found, from what is still good: a blob from the registry or from its unpacked layer, a layer
from its blob, a record from its config blob. Damaged blobs are kept in quarantine, never used again.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from engine.digest import Digest, digest_bytes
from engine.errors import EngineError, NotFound
from engine.images.check import Fetch, Finding, check
from engine.images.model import Image, ImageLayer
from engine.images.store import ImageStore
from engine.images.unpack import Unpacker
from engine.layers.compression import Compression
from engine.layers.pack import pack_layer
from engine.oci import media_types
from engine.progress import CancelToken

logger = logging.getLogger(__name__)

_ORDER = ("record_damaged", "blob_damaged", "blob_missing", "layer_missing", "layer_changed", "layer_unknown")
_PACKED = {
    media_types.OCI_LAYER: Compression.NONE,
    media_types.OCI_LAYER_GZIP: Compression.GZIP,
    media_types.DOCKER_LAYER_GZIP: Compression.GZIP,
    media_types.OCI_LAYER_ZSTD: Compression.ZSTD,
}


def repair(
    images: ImageStore,
    findings: list[Finding] | None = None,
    *,
    fetch: Fetch | None = None,
    cancel: CancelToken | None = None,
) -> list[Finding]:
    """Repair `findings` (of a deep check made now, where none are given); return them with `repaired` set where it worked.

    What cannot be repaired stays as it is: the finding says what a person can do.
    """
    cancel = cancel or CancelToken()
    found = check(images, deep=True, cancel=cancel) if findings is None else findings
    repairer = _Repairer(images, fetch, cancel)
    done = []
    for finding in sorted(
        found, key=lambda item: _ORDER.index(item.kind) if item.kind in _ORDER else len(_ORDER)
    ):
        cancel.check()
        done.append(replace(finding, repaired=repairer.repair(finding)))
    images.content.sync()
    images.snapshots.sync()
    return done


class _Repairer:
    def __init__(self, images: ImageStore, fetch: Fetch | None, cancel: CancelToken) -> None:
        self._images = images
        self._content = images.content
        self._snapshots = images.snapshots
        self._fetch = fetch
        self._cancel = cancel
        self._unpacker = Unpacker(images.content, images.snapshots)

    def repair(self, finding: Finding) -> bool:
        """Try to repair one finding; tell whether it is good now."""
        try:
            match finding.kind:
                case "record_damaged":
                    return self._record(Digest(finding.subject))
                case "blob_damaged" | "blob_missing":
                    return self._blob(Digest(finding.subject), finding)
                case "layer_missing" | "layer_changed":
                    return self._layer(Digest(finding.subject), finding)
                case "layer_unknown":
                    return bool(self._snapshots.sweep())
        except EngineError as error:
            logger.warning("%s %s cannot be repaired: %s", finding.kind, finding.subject, error)
        return False

    def _record(self, image_id: Digest) -> bool:
        config = self._content.read(image_id)
        self._images.restore_config(image_id, config)
        return True

    def _blob(self, digest: Digest, finding: Finding) -> bool:
        if finding.kind == "blob_damaged":
            self._content.quarantine(digest)
        for image in self._images_of(finding):
            if self._from_record(image, digest) or self._from_folder(image, digest):
                return True
            if self._fetch is not None:
                self._fetch(image, digest)
                if self._content.has(digest) and self._content.verify(digest):
                    return True
        return False

    def _from_record(self, image: Image, digest: Digest) -> bool:
        """Write a lost config from the record."""
        if digest != image.id:
            return False
        config = self._images.config_bytes(image.id)
        if digest_bytes(config) != digest:
            return False
        self._content.put(config, digest)
        return True

    def _from_folder(self, image: Image, digest: Digest) -> bool:
        """Pack the unpacked layer again: what this node made comes out the same, byte for byte."""
        layer = next((item for item in image.layers if item.descriptor.digest == digest), None)
        kind = _PACKED.get(layer.descriptor.media_type) if layer is not None else None
        if layer is None or kind is None or not self._snapshots.exists(layer.chain):
            return False
        folder = self._snapshots.get(layer.chain).folder / "fs"
        if not folder.is_dir():
            return False
        packed = pack_layer(folder, self._content, kind=kind, check=self._cancel.check).blob.wait()
        if packed.digest == digest:
            return True
        self._content.remove(packed.digest)
        return False

    def _layer(self, chain: Digest, finding: Finding) -> bool:
        found = next(
            ((image, layer) for image in self._images_of(finding) if (layer := _layer_of(image, chain))), None
        )
        if found is None:
            return self._drop_unused(chain)
        image, layer = found
        parent = image.layers[image.layers.index(layer) - 1].chain if image.layers[0] != layer else None
        with self._content.open(layer.descriptor.digest) as blob:
            self._unpacker.replace_layer(blob, parent=parent, diff_id=layer.diff_id, check=self._cancel.check)
        return True

    def _drop_unused(self, chain: Digest) -> bool:
        """Remove the record of a layer without files that no image needs (it was only kept for the build cache)."""
        self._snapshots.remove(chain)
        return True

    def _images_of(self, finding: Finding) -> list[Image]:
        found = []
        for image_id in finding.images:
            try:
                found.append(self._images.get(image_id))
            except NotFound:
                continue
        return found


def _layer_of(image: Image, chain: Digest) -> ImageLayer | None:
    return next((layer for layer in image.layers if layer.chain == chain), None)

"""Freeing what nothing needs: blobs and layers that no image, container, build cache or running operation names.

The collector holds off new leases from before it reads who needs what until the last name is gone (see
`engine.content.leases`); the files of layers are removed after that, from the trash folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine.content.store import ContentStore
from engine.db import Database
from engine.digest import Digest
from engine.errors import InUse, NotFound
from engine.images.model import Image
from engine.linux.files import remove_tree
from engine.snapshots.folders import Snapshotter


@dataclass
class Freed:
    """What one collection removed: bytes, layers by their diff ids, blobs."""

    size: int = 0
    diff_ids: list[str] = field(default_factory=list)
    blobs: list[Digest] = field(default_factory=list)


class Collector:
    """Garbage collection of content store and snapshots together."""

    def __init__(
        self,
        db: Database,
        content: ContentStore,
        snapshots: Snapshotter,
        roots: list[Callable[[], Iterable[Digest]]],
    ) -> None:
        self._db = db
        self._content = content
        self._snapshots = snapshots
        self._roots = roots

    def collect(self, min_age_s: float) -> Freed:
        """Free everything that is not needed and older than `min_age_s`."""
        self._content.sweep()
        born_before = time.time() - min_age_s
        chains = [
            info.name
            for info in self._snapshots.walk()
            if info.kind == "layer" and info.created <= born_before
        ]
        blobs = [blob.digest for blob in self._content.walk() if self._is_older(blob.digest, born_before)]
        return self._free(blobs, chains[::-1])

    def collect_of(self, image: Image) -> Freed:
        """Free what only this image, already removed, needed."""
        blobs = [image.id, image.manifest.digest, *(layer.descriptor.digest for layer in image.layers)]
        blobs += [Digest(name.rpartition("@")[2]) for name in image.repo_digests]
        return self._free(blobs, [layer.chain for layer in reversed(image.layers)])

    def packed_bytes(self) -> int:
        """Return the bytes of all blobs."""
        return sum(blob.size for blob in self._content.walk())

    def bytes(self) -> int:
        """Return the bytes of all blobs and of all layers' files."""
        query = "SELECT coalesce(sum(size), 0) FROM snapshots WHERE kind = 'layer'"
        return self.packed_bytes() + int(self._db.read().execute(query).fetchone()[0])

    def _free(self, blobs: Iterable[Digest], chains: Iterable[str]) -> Freed:
        """Remove those of `blobs` and `chains` (topmost first) that nothing needs."""
        freed = Freed()
        trash: list[Path] = []
        with self._content.leases.collecting() as kept:
            kept |= self._needed()
            for digest in blobs:
                if digest not in kept:
                    self._free_blob(digest, freed)
            self._free_layers([chain for chain in chains if chain not in kept], freed, trash)
        for folder in trash:
            remove_tree(folder)
        return freed

    def _free_blob(self, digest: Digest, freed: Freed) -> None:
        with suppress(NotFound, FileNotFoundError):
            freed.size += self._content.size(digest)
            self._content.remove(digest)
            freed.blobs.append(digest)

    def _free_layers(self, chains: list[str], freed: Freed, trash: list[Path]) -> None:
        """Take away layers, those below after those above; what something else stands on stays."""
        while chains:
            rest = [chain for chain in chains if not self._free_layer(chain, freed, trash)]
            if len(rest) == len(chains):
                return
            chains = rest

    def _free_layer(self, chain: str, freed: Freed, trash: list[Path]) -> bool:
        try:
            info = self._snapshots.get(chain)
            folder = self._snapshots.detach(chain)
        except (InUse, NotFound):
            return False
        freed.size += info.size
        freed.diff_ids.append(info.diff_id)
        if folder is not None:
            trash.append(folder)
        return True

    def _needed(self) -> set[Digest]:
        rows = self._db.read().execute(
            """SELECT digest FROM image_layers UNION SELECT chain FROM image_layers UNION SELECT id FROM images
            UNION SELECT manifest FROM images UNION SELECT digest FROM image_digests"""
        )
        needed = {Digest(row[0]) for row in rows}
        for root in self._roots:
            needed.update(root())
        return needed

    def _is_older(self, digest: Digest, born_before: float) -> bool:
        try:
            return self._content.path(digest).stat().st_mtime <= born_before
        except (NotFound, FileNotFoundError):
            return False

"""The images of this node: what they are called, what they consist of, who may remove them.

An image is named by the digest of its config, as Docker names it; its manifest and blobs are in the content store, its
unpacked layers among the snapshots. An image is here when its row is, and the row is written last: everything that it
needs is on disk by then. Every change appends its event in the same transaction, with the image's `record`.

A name belongs to one image at a time. Tagging moves it; the image that had it stays, without that name ("dangling"),
for as long as nobody prunes it, because containers may run from it.
"""

from __future__ import annotations

import builtins
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence

from engine.content.store import ContentStore
from engine.db import Database
from engine.digest import Digest, digest_bytes
from engine.errors import BadDigest, BadReference, ImageNotFound, InvalidInput, NotFound
from engine.images import rows, views
from engine.images.collect import Collector
from engine.images.model import (
    DiskUsage,
    HistoryEntry,
    Image,
    LayerFile,
    LayerInfo,
    PruneResult,
)
from engine.images.names import Names, missing
from engine.images.removal import Remover
from engine.images.rows import SCHEMA
from engine.images.unpack import Unpacker
from engine.linux.reserve import Reserve
from engine.oci import media_types
from engine.oci.descriptor import Descriptor
from engine.oci.image_config import parse_config
from engine.oci.manifest import parse_manifest
from engine.progress import CancelToken, Reporter, silent
from engine.reference import Reference, parse_reference
from engine.snapshots.folders import Snapshotter

__all__ = ["SCHEMA", "Image", "ImageStore"]

Users = Callable[[str], list[str]]
Roots = Callable[[], Iterable[Digest]]


def nobody(image_id: str) -> list[str]:
    """Say that no container uses the image."""
    return []


class ImageStore:
    """The images of one node.

    `users_of` returns the names of the containers made from an image, `running_users_of` of those that run: these keep
    their image even from a forced removal. Append to `roots` whatever else names blobs or chains that must stay.
    """

    def __init__(
        self,
        db: Database,
        content: ContentStore,
        snapshots: Snapshotter,
        users_of: Users = nobody,
        running_users_of: Users = nobody,
    ) -> None:
        self.db = db
        self.content = content
        self.snapshots = snapshots
        self.users_of = users_of
        self.running_users_of = running_users_of
        self.roots: builtins.list[Roots] = []
        self._collector = Collector(db, content, snapshots, self.roots)
        self._unpacker = Unpacker(content, snapshots)
        self._names = Names(db)
        self.protection = self._names.protection
        reserve = Reserve(content.root / "reserve")
        self._remover = Remover(db, self._names, self._collector, reserve, users_of, running_users_of)

    # finding ---------------------------------------------------------------------------------------------------

    def list(self) -> builtins.list[Image]:
        """Return every image, newest first."""
        return rows.load(self.db.read())

    def get(self, image_id: str) -> Image:
        """Return the image with this id; raises `ImageNotFound`."""
        found = rows.load(self.db.read(), [image_id])
        if not found:
            raise missing(image_id)
        return found[0]

    def resolve(self, text: str) -> Image:
        """Return the image that `text` names: an id, a name, a name with digest, or the beginning of one image's id.

        A name goes before the beginning of an id. Raises `ImageNotFound`, `BadReference`, or `InvalidInput` where the
        beginning fits several images.
        """
        return self.get(self._names.resolve(text)[0])

    def find(self, text: str) -> Image | None:
        """Return the image that `text` names, None where there is none."""
        try:
            return self.resolve(text)
        except ImageNotFound:
            return None

    # adding and naming -----------------------------------------------------------------------------------------

    def add(
        self,
        manifest: bytes,
        config: bytes,
        *,
        names: Sequence[Reference] = (),
        repo_digests: Sequence[Reference] = (),
        action: str = "create",
        media_type: str = "",
    ) -> Image:
        """Add an image whose layer blobs are in the content store. Idempotent; its names move here from other images.

        `repo_digests` are repositories with the digest they know the image by. `action` is the word of the event
        (`pull`, `load`, `import`, `build`, `commit`). Everything is durable when this returns. Raises `InvalidInput`,
        `BadDigest` or `NotFound` where manifest, config and blobs do not fit together, `ProtectedName` where a name must
        stay with the image that has it.
        """
        image = self._checked(manifest, config, media_type)
        with self.content.lease("add-image") as lease:
            lease.add(image.id, image.manifest.digest, *(layer.descriptor.digest for layer in image.layers))
            lease.add(*(layer.chain for layer in image.layers))
            for layer in image.layers:
                if layer.descriptor.media_type not in media_types.FOREIGN_LAYERS and not self.content.has(
                    layer.descriptor.digest
                ):
                    raise NotFound(f"the blob {layer.descriptor.digest} of the image is missing")
            here = self._whole(image.id)
            self.content.put(config, image.id, sync=False)
            if here is None or any(item.digest == image.manifest.digest for item in repo_digests):
                self.content.put(manifest, image.manifest.digest, sync=False)
            self._sync()
            with self.db.transaction() as connection:
                self._insert(connection, here or image, config, names, repo_digests, action)
                added = rows.load(connection, [image.id])[0]  # it may be gone again a moment later
            self.db.flush()
        return added

    def _whole(self, image_id: Digest) -> Image | None:
        """Return the image if it is here with all its blobs: then it keeps the manifest that it has."""
        found = rows.load(self.db.read(), [image_id])
        if not found:
            return None
        blobs = (found[0].manifest.digest, *(layer.descriptor.digest for layer in found[0].layers))
        return found[0] if all(self.content.has(digest) for digest in blobs) else None

    def _sync(self) -> None:
        """Make blobs and layers durable, with one sync of the file system where both are on the same."""
        flushed = self.snapshots.sync()
        same = self.snapshots.root.stat().st_dev == self.content.root.stat().st_dev
        self.content.sync(flushed=flushed and same)

    def refuse_move(self, names: Sequence[Reference], image_id: str) -> None:
        """Raise `ProtectedName` where `add` would refuse these names; for work that is long until it gets there."""
        self._names.refuse_move(names, image_id)

    def tag(self, text: str, reference: Reference | str) -> Image:
        """Give the image `text` another name, taking it from the image that had it. Raises `ProtectedName`."""
        name = parse_reference(reference) if isinstance(reference, str) else reference
        if name.digest is not None:
            raise BadReference(
                f"a name with a digest cannot be given: {name.familiar()}", hint="use name:tag"
            )
        with self.db.transaction() as connection:
            image_id, _ = self._names.resolve(text)
            self._names.give(connection, image_id, name)
            self._names.tell(connection, image_id, "tag", name.familiar())
        return self.get(image_id)

    def untag(self, name: str) -> Image:
        """Take a name from its image, which stays. Raises `ImageNotFound`, `ProtectedName`."""
        with self.db.transaction() as connection:
            image_id, reference = self._names.resolve(name)
            if reference is None:
                raise BadReference(f"{name} is an image id, not a name")
            self._names.take(connection, image_id, reference)
        return self.get(image_id)

    def add_repo_digest(self, image_id: Digest, repository: Reference) -> None:
        """Remember that a registry knows the image by this digest (after a push)."""
        with self.db.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO image_digests VALUES (?, ?, ?)",
                (repository.name, repository.digest, image_id),
            )
            self._names.tell(connection, image_id, "update", repository.familiar())

    def config_bytes(self, image_id: Digest) -> bytes:
        """Return the config of an image as its record has it, unchecked; raises `ImageNotFound`."""
        row = self.db.read().execute("SELECT config FROM images WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            raise missing(image_id)
        return str(row["config"]).encode()

    def restore_config(self, image_id: Digest, config: bytes) -> None:
        """Write the config of an image into its record again."""
        if digest_bytes(config) != image_id:
            raise BadDigest(f"this is not the config of image {image_id}")
        with self.db.transaction() as connection:
            connection.execute("UPDATE images SET config = ? WHERE id = ?", (config.decode(), image_id))

    def _checked(self, manifest_bytes: bytes, config_bytes: bytes, media_type: str) -> Image:
        manifest = parse_manifest(manifest_bytes, media_type)
        config = parse_config(config_bytes)
        image_id = digest_bytes(config_bytes)
        if manifest.config.digest != image_id:
            raise BadDigest(f"the manifest names the config {manifest.config.digest}, this one is {image_id}")
        if len(manifest.layers) != len(config.diff_ids):
            raise InvalidInput(
                f"the manifest has {len(manifest.layers)} layers, the config {len(config.diff_ids)}",
                hint="the image is broken: build or push it again",
            )
        descriptor = Descriptor(manifest.media_type, digest_bytes(manifest_bytes), len(manifest_bytes))
        layers = rows.make_layers(manifest.layers, config.diff_ids)
        return Image(image_id, descriptor, config, layers, added=time.time())

    def _insert(
        self,
        connection: sqlite3.Connection,
        image: Image,
        config: bytes,
        names: Sequence[Reference],
        repo_digests: Sequence[Reference],
        action: str,
    ) -> None:
        rows.insert(connection, image, config)
        for reference in repo_digests:
            connection.execute(
                "INSERT OR REPLACE INTO image_digests VALUES (?, ?, ?)",
                (reference.name, reference.digest, image.id),
            )
        for name in names:
            self._names.give(connection, image.id, name)
        shown = next((reference.familiar() for reference in (*names, *repo_digests)), "")
        self._names.tell(connection, image.id, action, shown)
        if action not in ("pull", "load"):
            for name in names:
                self._names.tell(connection, image.id, "tag", name.familiar())

    # removing --------------------------------------------------------------------------------------------------

    def remove(self, text: str, *, force: bool = False) -> builtins.list[dict[str, str]]:
        """Remove a name, or the image where it was the last one; return `{"untagged": name}` and `{"deleted": id}` lines.

        By id an image with names in several repositories goes only by force. A container made from the image keeps it
        from being deleted unless forced, a running one always. Raises `InUse` with the reasons, `ImageNotFound`.
        """
        return self._remover.remove(text, force=force)

    def prune(
        self,
        mode: str = "dangling",
        *,
        older_than_s: float = 0.0,
        match: Callable[[Image], bool] | None = None,
    ) -> PruneResult:
        """Remove images that no container uses: `dangling` ones (without a name), or all `unused`.

        `older_than_s` spares what was made later than that many seconds ago (by the time in its config); `match` may
        spare more. What nothing needs any more is freed from the disk, also what earlier failures left.
        """
        return self._remover.prune(mode, older_than_s=older_than_s, match=match)

    def collect(self, min_age_s: float = 3600.0) -> int:
        """Free blobs and layers that nothing needs and that are older than `min_age_s`; return the bytes freed."""
        return self._remover.collect(min_age_s)

    # looking inside --------------------------------------------------------------------------------------------

    def history(self, text: str) -> builtins.list[HistoryEntry]:
        """Return an image's instructions with the bytes each added, newest first."""
        return views.history(self.resolve(text))

    def layers(self, text: str) -> builtins.list[LayerInfo]:
        """Return an image's layers, bottom first, with the instruction that made each and who shares it."""
        return views.layers(self.db.read(), self.resolve(text))

    def layer_files(self, text: str, index: int) -> builtins.list[LayerFile]:
        """Return the files of one layer (0 is the bottom), and which of them later layers hide. Reads the folders."""
        return views.layer_files(self.snapshots, self.resolve(text), index)

    def usage(self) -> DiskUsage:
        """Return what images take on disk, shared and own."""
        return views.usage(self.list(), self.users_of, self._collector.packed_bytes())

    def unpack(
        self, image: Image, report: Reporter = silent, cancel: CancelToken | None = None
    ) -> Digest | None:
        """Make sure that an image's layers are unpacked; return the chain id of the topmost (None without layers)."""
        return self._unpacker.unpack(image, report, cancel or CancelToken())

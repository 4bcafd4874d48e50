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
from functools import partial

from engine.content.store import ContentStore
from engine.db import Database
from engine.digest import Digest, digest_bytes
from engine.errors import BadDigest, BadReference, ImageNotFound, InUse, InvalidInput, NotFound
from engine.events import Event
from engine.images import rows, views
from engine.images.collect import Collector
from engine.images.model import (
    DiskUsage,
    HistoryEntry,
    Image,
    LayerFile,
    LayerInfo,
    PruneResult,
    created_at,
    image_to_json,
)
from engine.images.rows import SCHEMA
from engine.images.unpack import Unpacker
from engine.linux.reserve import Reserve
from engine.oci import media_types
from engine.oci.descriptor import Descriptor
from engine.oci.image_config import parse_config
from engine.oci.manifest import parse_manifest
from engine.progress import CancelToken, Reporter, silent
from engine.reference import IDENTIFIER, Reference, parse_exact, parse_named, parse_reference
from engine.snapshots.overlay import OverlaySnapshotter

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
        snapshots: OverlaySnapshotter,
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
        self._reserve = Reserve(content.root / "reserve")

    # finding ---------------------------------------------------------------------------------------------------

    def list(self) -> builtins.list[Image]:
        """Return every image, newest first."""
        return rows.load(self.db.read())

    def get(self, image_id: str) -> Image:
        """Return the image with this id; raises `ImageNotFound`."""
        found = rows.load(self.db.read(), [image_id])
        if not found:
            raise _missing(image_id)
        return found[0]

    def resolve(self, text: str) -> Image:
        """Return the image that `text` names: an id, a name, a name with digest, or the beginning of one image's id.

        A name goes before the beginning of an id. Raises `ImageNotFound`, `BadReference`, or `InvalidInput` where the
        beginning fits several images.
        """
        return self.get(self._resolve(text)[0])

    def find(self, text: str) -> Image | None:
        """Return the image that `text` names, None where there is none."""
        try:
            return self.resolve(text)
        except ImageNotFound:
            return None

    def _resolve(self, text: str) -> tuple[str, Reference | None]:
        """Return the id, and the name where `text` was one."""
        connection = self.db.read()
        bare = text.removeprefix("sha256:")
        if IDENTIFIER.fullmatch(bare):
            row = connection.execute(
                "SELECT id FROM images WHERE id = ?1 OR manifest = ?1 ORDER BY id = ?1 DESC",
                (f"sha256:{bare}",),
            ).fetchone()
            if row is None:
                raise _missing(text)
            return row["id"], None
        if not text.startswith("sha256:"):
            named = self._by_name(connection, text)
            if named is not None:
                return named
        if bare and not bare.strip("0123456789abcdef"):
            matches = connection.execute(
                "SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2",
                (f"sha256:{bare}", f"sha256:{bare}g"),
            ).fetchall()
            if len(matches) > 1:
                raise InvalidInput(
                    f"{text} is the beginning of several image ids", hint="give more of the id"
                )
            if matches:
                return matches[0]["id"], None
        raise _missing(text)

    def _by_name(self, connection: sqlite3.Connection, text: str) -> tuple[str, Reference] | None:
        reference = parse_reference(text)
        if reference.digest is not None:
            query = "SELECT image FROM image_digests WHERE repository = ? AND digest = ?"
            row = connection.execute(query, (reference.name, reference.digest)).fetchone()
        else:
            query = "SELECT image FROM image_names WHERE name = ?"
            row = connection.execute(query, (str(reference),)).fetchone()
        return None if row is None else (row["image"], reference)

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
        `BadDigest` or `NotFound` where manifest, config and blobs do not fit together.
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

    def tag(self, text: str, reference: Reference | str) -> Image:
        """Give the image `text` another name, taking it from the image that had it."""
        name = parse_reference(reference) if isinstance(reference, str) else reference
        if name.digest is not None:
            raise BadReference(
                f"a name with a digest cannot be given: {name.familiar()}", hint="use name:tag"
            )
        image_id, _ = self._resolve(text)
        with self.db.transaction() as connection:
            self._give_name(connection, image_id, name)
            self._tell(connection, image_id, "tag", name.familiar())
        return self.get(image_id)

    def untag(self, name: str) -> Image:
        """Take a name from its image, which stays. Raises `ImageNotFound`."""
        image_id, reference = self._resolve(name)
        if reference is None:
            raise BadReference(f"{name} is an image id, not a name")
        with self.db.transaction() as connection:
            self._take_name(connection, image_id, reference)
        return self.get(image_id)

    def add_repo_digest(self, image_id: Digest, repository: Reference) -> None:
        """Remember that a registry knows the image by this digest (after a push)."""
        with self.db.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO image_digests VALUES (?, ?, ?)",
                (repository.name, repository.digest, image_id),
            )
            self._tell(connection, image_id, "update", repository.familiar())

    def config_bytes(self, image_id: Digest) -> bytes:
        """Return the config of an image as its record has it, unchecked; raises `ImageNotFound`."""
        row = self.db.read().execute("SELECT config FROM images WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            raise _missing(image_id)
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
            self._give_name(connection, image.id, name)
        shown = next((reference.familiar() for reference in (*names, *repo_digests)), "")
        self._tell(connection, image.id, action, shown)
        if action not in ("pull", "load"):
            for name in names:
                self._tell(connection, image.id, "tag", name.familiar())

    def _give_name(self, connection: sqlite3.Connection, image_id: str, name: Reference) -> None:
        text = str(name.without_digest())
        row = connection.execute("SELECT image FROM image_names WHERE name = ?", (text,)).fetchone()
        if row is not None and row["image"] == image_id:
            return
        connection.execute("INSERT OR REPLACE INTO image_names VALUES (?, ?)", (text, image_id))
        if row is not None:
            self._tell(connection, row["image"], "untag", name.familiar())

    def _take_name(
        self, connection: sqlite3.Connection, image_id: str, reference: Reference
    ) -> builtins.list[str]:
        """Remove a name; with the last tag of a repository its digests go too. Return what went."""
        if reference.digest is not None:
            connection.execute(
                "DELETE FROM image_digests WHERE repository = ? AND digest = ?",
                (reference.name, reference.digest),
            )
            gone = [reference.familiar()]
        else:
            connection.execute("DELETE FROM image_names WHERE name = ?", (str(reference),))
            gone = [reference.familiar(), *self._take_digests(connection, image_id, reference)]
        for text in gone:
            self._tell(connection, image_id, "untag", text)
        return gone

    def _take_digests(
        self, connection: sqlite3.Connection, image_id: str, reference: Reference
    ) -> builtins.list[str]:
        names = connection.execute("SELECT name FROM image_names WHERE image = ?", (image_id,)).fetchall()
        if any(parse_exact(row["name"]).name == reference.name for row in names):
            return []
        found = connection.execute(
            "DELETE FROM image_digests WHERE image = ? AND repository = ? RETURNING digest",
            (image_id, reference.name),
        )
        return [f"{reference.familiar_name}@{row['digest']}" for row in found.fetchall()]

    def _tell(self, connection: sqlite3.Connection, image_id: str, action: str, name: str) -> None:
        """Append an event about an image that is there."""
        image = rows.load(connection, [image_id])[0]
        attributes = {"name": name or image.title, "record": image_to_json(image)}
        self.db.append_event(connection, Event("image", action, image_id, attributes))

    # removing --------------------------------------------------------------------------------------------------

    def remove(self, text: str, *, force: bool = False) -> builtins.list[dict[str, str]]:
        """Remove a name, or the image where it was the last one; return `{"untagged": name}` and `{"deleted": id}` lines.

        By id an image with names in several repositories goes only by force. A container made from the image keeps it
        from being deleted unless forced, a running one always. Raises `InUse` with the reasons, `ImageNotFound`.
        """
        return self._reserve.run(lambda: self._remove(text, force))

    def _remove(self, text: str, force: bool) -> builtins.list[dict[str, str]]:
        with self.db.transaction() as connection:  # from the first look on: nobody tags or uses it in between
            image_id, reference = self._resolve(text)
            image = self.get(image_id)
            if reference is not None and self._only_untag(image, reference, force):
                return [{"untagged": name} for name in self._take_name(connection, image_id, reference)]
            if reference is None and len({parse_exact(name).name for name in image.names}) > 1 and not force:
                raise InUse(
                    f"image {image.id[7:19]} has names in several repositories: {', '.join(image.familiar_names())}",
                    hint="remove them by name, or use force",
                )
            self._refuse_in_use(image, force)
            lines = self._delete(connection, image)
        return lines + self._free(image)

    def _only_untag(self, image: Image, reference: Reference, force: bool) -> bool:
        """Tell whether the image has other names, or must stay for a running container although forced."""
        if reference.digest is not None:
            rest = set(image.repo_digests) - {str(reference)}
            return bool(image.names) or bool(rest)
        if set(image.names) - {str(reference)}:
            return True
        return force and bool(self.running_users_of(image.id))

    def _refuse_in_use(self, image: Image, force: bool) -> None:
        running = self.running_users_of(image.id)
        users = running if force else self.users_of(image.id)
        if not users:
            return
        what = "running container" if running else "container"
        raise InUse(
            f"image {image.title} is used by {what} {', '.join(users[:5])}{' …' if len(users) > 5 else ''}",
            hint="stop and remove the container first"
            if running
            else "remove the container first, or use force",
            users=users,
        )

    def _delete(self, connection: sqlite3.Connection, image: Image) -> builtins.list[dict[str, str]]:
        for name in image.familiar_names():
            self.db.append_event(connection, Event("image", "untag", image.id, {"name": name}))
        connection.execute("DELETE FROM images WHERE id = ?", (image.id,))
        attributes = {"name": image.title, "record": None}
        self.db.append_event(connection, Event("image", "delete", image.id, attributes))
        lines = [{"untagged": name} for name in (*image.familiar_names(), *image.familiar_digests())]
        return [*lines, {"deleted": image.id}]

    def _free(self, image: Image) -> builtins.list[dict[str, str]]:
        """Free what only the deleted image needed."""
        return [{"deleted": diff_id} for diff_id in self._collector.collect_of(image).diff_ids]

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
        if mode not in ("dangling", "unused", "all"):
            raise InvalidInput(f"unknown kind of prune: {mode!r}", hint="dangling or unused")
        before = self._collector.bytes()
        limit = time.time() - older_than_s if older_than_s else float("inf")
        removed: builtins.list[dict[str, str]] = []
        for image in self.list():
            if created_at(image.created) <= limit and (match is None or match(image)):
                removed += self._reserve.run(partial(self._prune_one, image.id, mode == "dangling"))
        self.collect()
        return PruneResult(removed, max(0, before - self._collector.bytes()))

    def _prune_one(self, image_id: Digest, dangling_only: bool) -> builtins.list[dict[str, str]]:
        with self.db.transaction() as connection:
            image = next(iter(rows.load(connection, [image_id])), None)
            if image is None or (dangling_only and not image.is_dangling) or self.users_of(image_id):
                return []
            lines = self._delete(connection, image)
        return lines + self._free(image)

    def collect(self, min_age_s: float = 3600.0) -> int:
        """Free blobs and layers that nothing needs and that are older than `min_age_s`; return the bytes freed."""
        return self._reserve.run(lambda: self._collector.collect(min_age_s).size)

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


def _missing(text: str) -> ImageNotFound:
    try:
        shown = parse_named(text).familiar() if not text.startswith("sha256:") else text
    except BadReference:
        shown = text
    return ImageNotFound(
        f"no such image: {shown}", hint="list images to see their names, or pull it", image=text
    )

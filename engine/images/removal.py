"""Removing images: by name, by id, by age; what still needs one keeps it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial

from engine.db import Database
from engine.digest import Digest
from engine.errors import InUse, InvalidInput
from engine.events import Event
from engine.images import rows
from engine.images.collect import Collector
from engine.images.model import Image, PruneResult, created_at
from engine.images.names import Names, missing
from engine.linux.reserve import Reserve
from engine.reference import Reference, parse_exact

Users = Callable[[str], list[str]]


class Remover:
    """Removes images and what only they needed, also on a full disk."""

    def __init__(
        self,
        db: Database,
        names: Names,
        collector: Collector,
        reserve: Reserve,
        users_of: Users,
        running_users_of: Users,
    ) -> None:
        self._db = db
        self._names = names
        self._collector = collector
        self._reserve = reserve
        self._users_of = users_of
        self._running_users_of = running_users_of

    def remove(self, text: str, *, force: bool = False) -> list[dict[str, str]]:
        """Remove a name, or the image where it was the last one; return `{"untagged": name}` and `{"deleted": id}` lines.

        By id an image with names in several repositories goes only by force. A container made from the image keeps it
        from being deleted unless forced, a running one always. Raises `InUse` with the reasons, `ProtectedName`,
        `ImageNotFound`.
        """
        return self._reserve.run(lambda: self._remove(text, force))

    def _remove(self, text: str, force: bool) -> list[dict[str, str]]:
        with (
            self._db.transaction() as connection
        ):  # from the first look on: nobody tags or uses it in between
            image_id, reference = self._names.resolve(text)
            image = self._load(connection, image_id)
            if reference is not None and self._only_untag(image, reference, force):
                return [{"untagged": name} for name in self._names.take(connection, image_id, reference)]
            if reference is None and len({parse_exact(name).name for name in image.names}) > 1 and not force:
                raise InUse(
                    f"image {image.id[7:19]} has names in several repositories: {', '.join(image.familiar_names())}",
                    hint="remove them by name, or use force",
                )
            self._names.protection.refuse(connection, image.names, what="taken away")
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
        return force and bool(self._running_users_of(image.id))

    def _refuse_in_use(self, image: Image, force: bool) -> None:
        running = self._running_users_of(image.id)
        users = running if force else self._users_of(image.id)
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

    def _delete(self, connection: sqlite3.Connection, image: Image) -> list[dict[str, str]]:
        for name in image.familiar_names():
            self._db.append_event(connection, Event("image", "untag", image.id, {"name": name}))
        connection.execute("DELETE FROM images WHERE id = ?", (image.id,))
        attributes = {"name": image.title, "record": None}
        self._db.append_event(connection, Event("image", "delete", image.id, attributes))
        lines = [{"untagged": name} for name in (*image.familiar_names(), *image.familiar_digests())]
        return [*lines, {"deleted": image.id}]

    def _free(self, image: Image) -> list[dict[str, str]]:
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
        spare more; an image with a protected name stays. What nothing needs any more is freed from the disk, also what earlier failures left.
        """
        if mode not in ("dangling", "unused", "all"):
            raise InvalidInput(f"unknown kind of prune: {mode!r}", hint="dangling or unused")
        before = self._collector.bytes()
        limit = time.time() - older_than_s if older_than_s else float("inf")
        removed: list[dict[str, str]] = []
        for image in rows.load(self._db.read()):
            if created_at(image.created) <= limit and (match is None or match(image)):
                removed += self._reserve.run(partial(self._prune_one, image.id, mode == "dangling"))
        self.collect()
        return PruneResult(removed, max(0, before - self._collector.bytes()))

    def _prune_one(self, image_id: Digest, dangling_only: bool) -> list[dict[str, str]]:
        with self._db.transaction() as connection:
            image = next(iter(rows.load(connection, [image_id])), None)
            if image is None or (dangling_only and not image.is_dangling) or self._users_of(image_id):
                return []
            if any(self._names.protection.protecting(name, connection) for name in image.names):
                return []
            lines = self._delete(connection, image)
        return lines + self._free(image)

    def collect(self, min_age_s: float = 3600.0) -> int:
        """Free blobs and layers that nothing needs and that are older than `min_age_s`; return the bytes freed."""
        return self._reserve.run(lambda: self._collector.collect(min_age_s).size)

    def _load(self, connection: sqlite3.Connection, image_id: str) -> Image:
        found = rows.load(connection, [image_id])
        if not found:
            raise missing(image_id)
        return found[0]

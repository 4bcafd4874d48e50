"""Snapshots: stacks of read-only layers with one writable folder on top.

Vocabulary
- A *layer* is a committed snapshot, named by its chain id: one folder with what it changes over its parent, in
  overlayfs' own form (whiteouts, opaque directories), with owners as they are inside (0 is root). It never changes.
- An *active* snapshot has a key chosen by its owner (a container's id, a build step) and a writable upper folder.

Lifecycle: `prepare` makes an active snapshot on a parent; `mount` shows it at a path; `unmount`; then `commit` turns
its upper folder into a layer in place, or `remove` throws it away.

    snapshot = snapshots.prepare("step-1", parent)
    snapshots.mount("step-1", target, idmap=idmap, volatile=True)
    ...
    snapshots.unmount("step-1")
    snapshots.commit("step-1", chain, parent, diff_id=diff_id, size=size)

What exists is decided by rows of the engine's database alone; a folder without a row is rubbish, swept at `sweep`.
A row is written after the data is on disk (`syncfs`). With `sync=False` the row carries this boot's id instead and is
made good by the next `sync()`; after a power cut rows of another boot do not count (D9, F-24).

Here is what does not depend on how a stack is shown: rows and folders. `OverlaySnapshotter` mounts, `PlainSnapshotter`
copies.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.db import Database
from engine.digest import Digest, hex_of
from engine.errors import AlreadyExists, Corrupt, InUse, NotFound
from engine.linux.boot import boot_id
from engine.linux.files import fsync_dir, opened_directory, remove_tree, space_translated, syncfs
from engine.linux.inode_flags import spread_children
from engine.linux.locks import file_lock
from engine.linux.mount import Mounts
from engine.linux.process_keys import is_orphan, process_key
from engine.linux.walk import fsync_trees, walk
from engine.snapshots.model import Snapshot, SnapshotInfo, Usage

if TYPE_CHECKING:
    from engine.linux.userns import IdMap

COPY = "copy."  # how names in staging begin that are no mount points
SYNC_LIMIT = 64  # files and folders
_COMMIT = "UPDATE snapshots SET name = ?, kind = 'layer', diff_id = ?, size = ?, created = ?, boot = ? WHERE seq = ?"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Snapshotter(ABC):
    """The snapshots of one node; safe for any number of threads and processes at once."""

    driver: str

    def __init__(self, root: Path, db: Database, mounts: Mounts, *, boot: str = "") -> None:
        self._root = root
        self._db = db
        self._mounts = mounts
        self._layers = root / "layers"
        self._staging = root / "staging"
        self._trash = root / "trash"
        self._locks = root / "locks"
        self._empty = root / "empty"
        for folder in (root, self._layers, self._staging, self._trash, self._locks, self._empty):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._empty.chmod(0o755)
        spread_children(self._layers)
        self._boot = boot or boot_id()
        self._forget_unsynced()

    @abstractmethod
    def mount(
        self,
        key: str,
        target: Path,
        *,
        idmap: IdMap | None = None,
        read_only: bool = False,
        volatile: bool = False,
    ) -> None:
        """Show an active snapshot at `target`. With `idmap` owners appear mapped, and the upper belongs to the mapped root.

        `volatile` allows to skip every sync: for uppers that are thrown away when anything goes wrong.
        """

    @abstractmethod
    def mount_view(self, chain: Digest | None, target: Path, *, idmap: IdMap | None = None) -> None:
        """Show a layer and all below it at `target`, read-only. The caller unmounts it (`unmount_view`)."""

    @property
    def root(self) -> Path:
        return self._root

    def exists(self, chain: Digest) -> bool:
        """Tell whether the layer is here, complete."""
        row = (
            self._db.read()
            .execute("SELECT 1 FROM snapshots WHERE name = ? AND kind = 'layer'", (chain,))
            .fetchone()
        )
        return row is not None

    def get(self, name: str) -> SnapshotInfo:
        """Return what is known of a layer (by chain id) or an active snapshot (by key); raises `NotFound`."""
        return self._info(self._row(name))

    def lowers(self, chain: Digest | None) -> list[Path]:
        """Return the folders of a layer and all below it, topmost first; raises `NotFound` where one is missing."""
        return [self._folder(seq) / "fs" for seq in self._stack(chain)]

    def walk(self) -> Iterator[SnapshotInfo]:
        """Give every layer and active snapshot, oldest first."""
        for row in self._db.read().execute("SELECT * FROM snapshots ORDER BY seq").fetchall():
            yield self._info(row)

    def usage(self, name: str) -> Usage:
        """Measure a snapshot's own files; walks all of them."""
        return tree_usage(self._folder(self._row(name)["seq"]) / "fs")

    def prepare(self, key: str, parent: Digest | None) -> Snapshot:
        """Make an active snapshot on `parent`; raises `AlreadyExists` for a key in use, `NotFound` without the parent."""
        with space_translated("a snapshot"):
            try:
                with self._db.transaction() as connection:
                    root_mode = self._parent_mode(connection, parent)
                    seq = self._insert(connection, key, "active", parent)
            except sqlite3.IntegrityError as error:
                raise AlreadyExists(f"snapshot {key} is there already") from error
            try:
                return self._make_folders(key, parent, seq, root_mode)
            except BaseException:
                self._drop(seq)
                raise

    def snapshot(self, key: str) -> Snapshot:
        """Return an active snapshot made earlier; raises `NotFound`."""
        info = self.get(key)
        return Snapshot(key, info.parent, info.folder / "fs", info.folder / "work")

    def commit(
        self, key: str, chain: Digest, parent: Digest | None, *, diff_id: Digest, size: int, sync: bool = True
    ) -> None:
        """Turn an active, unmounted snapshot into the layer `chain`, in place; the key is free again afterwards.

        Its owners must be those inside already (`shift_owners`). Idempotent: if the layer is here, the snapshot is
        dropped. With `sync=False` the layer is durable only after the next `sync()`.
        """
        row = self._row(key)
        if row["target"]:
            raise InUse(f"snapshot {key} is mounted at {row['target']}")
        if row["parent"] != parent:
            raise NotFound(f"snapshot {key} does not stand on {parent}")
        if self.exists(chain):
            self.remove(key)
            return
        self._finish(row["seq"], sync=sync)
        values = (chain, diff_id, size, time.time(), "" if sync else self._boot, row["seq"])
        try:
            with self._db.transaction() as connection:
                connection.execute(_COMMIT, values)
        except sqlite3.IntegrityError:
            self.remove(key)  # another process committed the same layer meanwhile

    def replace(
        self, key: str, chain: Digest, parent: Digest | None, *, diff_id: Digest, size: int, sync: bool = True
    ) -> None:
        """As `commit`, but take the place of the layer `chain` that is here: its files were found damaged."""
        row, old = self._row(key), self._row(chain)
        if row["parent"] != parent or old["parent"] != parent:
            raise NotFound(f"snapshot {key} does not stand on {parent}")
        self._finish(row["seq"], sync=sync)
        values = (chain, diff_id, size, time.time(), "" if sync else self._boot, row["seq"])
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM snapshots WHERE seq = ?", (old["seq"],))
            connection.execute(_COMMIT, values)
        self._to_trash(old["seq"])  # removed by the next sweep: something may still run from it

    def _finish(self, seq: int, *, sync: bool) -> None:
        remove_tree(self._folder(seq) / "work")
        if sync:
            with space_translated("a layer"):
                syncfs(self._layers)

    def sync(self) -> bool:
        """Make every layer committed so far durable; tell whether the whole file system was synced for it.

        A few small layers are synced file by file: to sync all would also wait for what others are writing.
        """
        rows = self._db.read().execute("SELECT seq FROM snapshots WHERE boot = ?", (self._boot,)).fetchall()
        if not rows:
            return False
        with space_translated("a layer"):
            by_file = self._sync_by_file([self._folder(row["seq"]) for row in rows])
            if not by_file:
                syncfs(self._layers)
        with self._db.transaction() as connection:
            connection.executemany(
                "UPDATE snapshots SET boot = '' WHERE seq = ?", [(row["seq"],) for row in rows]
            )
        return not by_file

    def _sync_by_file(self, folders: list[Path]) -> bool:
        try:
            if not fsync_trees(folders, limit=SYNC_LIMIT):
                return False
        except FileNotFoundError:
            return False  # a layer was removed meanwhile
        fsync_dir(self._layers)
        return True

    def remove(self, name: str) -> None:
        """Remove a layer or an active snapshot; what is not there counts as done. Raises `InUse` if something stands on it."""
        trash = self.detach(name)
        if trash is not None:
            remove_tree(trash)

    def detach(self, name: str) -> Path | None:
        """As `remove`, but leave the files in a folder that is returned, for the caller to remove when it has time."""
        with self._db.transaction() as connection:
            row = connection.execute("SELECT * FROM snapshots WHERE name = ?", (name,)).fetchone()
            if row is None:
                return None
            child = connection.execute("SELECT name FROM snapshots WHERE parent = ?", (name,)).fetchone()
            if child is not None and row["kind"] == "layer":
                raise InUse(f"layer {name} is below {child['name']}")
            if row["target"]:
                self._mounts.unmount(row["target"])
            connection.execute("DELETE FROM snapshots WHERE seq = ?", (row["seq"],))
        return self._to_trash(row["seq"])

    def transient_key(self, what: str) -> str:
        """Return a new key that says which process made it: `sweep` removes the snapshot when that one is dead."""
        return process_key(what)

    def lock(self, chain: Digest, *, timeout_s: float = 3600) -> AbstractContextManager[None]:
        """Hold off everybody else who wants to make the layer `chain` (for the time of one layer, never two at once).

        Raises `Unavailable` after `timeout_s`.
        """
        return file_lock(self._locks / hex_of(chain)[:2], timeout_s=timeout_s)

    def sweep(self) -> list[str]:
        """Remove folders that no row names and staging that no process uses; return their names."""
        removed = []
        for folder in self._staging.iterdir():
            if Path("/proc", folder.name.rpartition(".")[2]).exists():
                continue
            self._mounts.unmount(str(folder), detach=True)
            if folder.name.startswith(COPY):
                remove_tree(folder)
            else:
                folder.rmdir()  # never by force: were it still mounted, all layers would be in it
            removed.append(f"staging/{folder.name}")
        for info in list(self.walk()):
            if info.kind == "active" and is_orphan(info.name):
                self.remove(info.name)
                removed.append(info.name)
        for folder in self._trash.iterdir():
            remove_tree(folder)
            removed.append(f"trash/{folder.name}")
        for name in self.unknown_folders():
            self._throw_away(int(name, 36))
            removed.append(f"layers/{name}")
        return removed

    def unknown_folders(self) -> list[str]:
        """Return the names of layer folders that no row names."""
        names = sorted(os.listdir(self._layers))  # before the rows: a folder is made after its row
        known = {base36(row["seq"]) for row in self._db.read().execute("SELECT seq FROM snapshots")}
        return [name for name in names if name not in known and _is_base36(name)]

    def _forget_unsynced(self) -> None:
        """Drop layers that were not synced when the machine went down, and everything that stands on them."""
        query = "SELECT 1 FROM snapshots WHERE boot NOT IN ('', ?) LIMIT 1"
        if self._db.read().execute(query, (self._boot,)).fetchone() is None:
            return
        with self._db.transaction() as connection:
            connection.execute(
                """WITH RECURSIVE lost(name) AS (
                    SELECT name FROM snapshots WHERE boot NOT IN ('', ?)
                    UNION SELECT s.name FROM snapshots s JOIN lost ON s.parent = lost.name AND s.kind = 'layer')
                DELETE FROM snapshots WHERE name IN lost""",
                (self._boot,),
            )

    def _row(self, name: str) -> sqlite3.Row:
        row: sqlite3.Row | None = (
            self._db.read().execute("SELECT * FROM snapshots WHERE name = ?", (name,)).fetchone()
        )
        if row is None:
            raise NotFound(f"no snapshot {name} on this node")
        return row

    def _info(self, row: sqlite3.Row) -> SnapshotInfo:
        return SnapshotInfo(
            row["name"],
            row["kind"],
            row["parent"],
            row["diff_id"],
            row["size"],
            row["target"],
            row["created"],
            self._folder(row["seq"]),
        )

    def _folder(self, seq: int) -> Path:
        return self._layers / base36(seq)

    def _stack(self, chain: str | None) -> list[int]:
        """Return the sequence numbers of a layer and all below it, topmost first."""
        if chain is None:
            return []
        rows = self._db.read().execute(
            """WITH RECURSIVE stack(seq, parent, level) AS (
                SELECT seq, parent, 1 FROM snapshots WHERE name = ? AND kind = 'layer'
                UNION ALL SELECT s.seq, s.parent, level + 1 FROM snapshots s JOIN stack ON s.name = stack.parent)
            SELECT seq, parent FROM stack ORDER BY level""",
            (chain,),
        )
        found = rows.fetchall()
        if not found or found[-1]["parent"] is not None:
            raise NotFound(f"layer {found[-1]['parent'] if found else chain} is not on this node")
        return [row["seq"] for row in found]

    def _parent_mode(self, connection: sqlite3.Connection, parent: Digest | None) -> tuple[int, int, int]:
        """Return mode, uid and gid of the parent's root folder: a new upper looks like it."""
        if parent is None:
            return 0o755, 0, 0
        query = "SELECT seq FROM snapshots WHERE name = ? AND kind = 'layer'"
        row = connection.execute(query, (parent,)).fetchone()
        if row is None:
            raise NotFound(f"layer {parent} is not on this node")
        try:
            info = (self._folder(row["seq"]) / "fs").stat()
        except FileNotFoundError as error:
            raise Corrupt(f"the folder of layer {parent} is gone", hint="run check and repair") from error
        return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid

    def _insert(self, connection: sqlite3.Connection, name: str, kind: str, parent: Digest | None) -> int:
        cursor = connection.execute(
            "INSERT INTO snapshots (name, kind, parent, created) VALUES (?, ?, ?, ?)",
            (name, kind, parent, time.time()),
        )
        return int(cursor.lastrowid or 0)

    def _make_folders(
        self, key: str, parent: Digest | None, seq: int, root: tuple[int, int, int]
    ) -> Snapshot:
        folder = self._folder(seq)
        if folder.exists():
            remove_tree(folder)  # of a database that is no more
        folder.mkdir(mode=0o700)
        upper, work = folder / "fs", folder / "work"
        upper.mkdir(mode=0o700)
        work.mkdir(mode=0o700)
        mode, uid, gid = root
        if uid or gid:
            os.chown(upper, uid, gid)
        upper.chmod(mode)
        return Snapshot(key, parent, upper, work)

    def _drop(self, seq: int) -> None:
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM snapshots WHERE seq = ?", (seq,))
        self._throw_away(seq)

    def _throw_away(self, seq: int) -> None:
        trash = self._to_trash(seq)
        if trash is not None:
            remove_tree(trash)

    def _to_trash(self, seq: int) -> Path | None:
        name = base36(seq)
        trash = self._trash / f"{name}.{time.monotonic_ns()}"
        try:
            (self._layers / name).rename(trash)
        except FileNotFoundError:
            return None
        return trash

    def _db_set_target(self, key: str, target: str) -> None:
        with self._db.transaction() as connection:
            connection.execute("UPDATE snapshots SET target = ? WHERE name = ?", (target, key))

    @contextmanager
    def viewed(self, chain: Digest | None, *, idmap: IdMap | None = None) -> Iterator[Path]:
        """Give a folder that shows a layer and all below it, read-only, for the length of the block."""
        target = self._staging / f"view.{secrets.token_hex(6)}.{os.getpid()}"
        target.mkdir(mode=0o700)
        try:
            self.mount_view(chain, target, idmap=idmap)
            try:
                yield target
            finally:
                self.unmount_view(target)
        finally:
            target.rmdir()

    def unmount_view(self, target: Path) -> None:
        """Undo `mount_view`; what is not mounted counts as done."""
        self._mounts.unmount(str(target))

    def unmount(self, key: str) -> None:
        """Undo `mount`; what is not mounted counts as done."""
        target = self._row(key)["target"]
        if target:
            self._mounts.unmount(target)
            self._db_set_target(key, "")


def tree_usage(root: Path) -> Usage:
    """Measure the files below `root`, hard links counted once."""
    seen: set[tuple[int, int]] = set()
    size = inodes = 0
    with opened_directory(root) as fd:
        for folder in walk(fd):
            for _, info in folder.entries:
                if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                    if (info.st_dev, info.st_ino) in seen:
                        continue
                    seen.add((info.st_dev, info.st_ino))
                size += info.st_blocks * 512
                inodes += 1
    return Usage(size, inodes)


def base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def _is_base36(name: str) -> bool:
    return bool(name) and all(character in _DIGITS for character in name) and not name.startswith("0")

"""Snapshots on overlayfs: stacks of read-only layers with one writable folder on top.

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

Gotchas
- Folder names are short (a running number in base 36) and mounts of tall stacks name them relative to the layers'
  folder, because all options of mount(2) must fit into one page.
- All layers are idmapped by one mount of their common folder. It is needed only for the length of the mount call:
  overlayfs keeps its own private copy of it.
- `index`, `redirect_dir` and `metacopy` are off: an upper must be readable as a diff by itself, whatever the host's
  defaults are.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.db import Database, Schema
from engine.digest import Digest, hex_of
from engine.errors import AlreadyExists, Corrupt, InUse, NotFound, Unsupported
from engine.linux.boot import boot_id
from engine.linux.files import fsync_dir, opened_directory, remove_tree, space_translated, syncfs
from engine.linux.inode_flags import spread_children
from engine.linux.locks import file_lock
from engine.linux.mount import MS_NODEV, MS_RDONLY, Mounts
from engine.linux.walk import fsync_trees, walk

if TYPE_CHECKING:
    from engine.linux.userns import IdMap

SCHEMA = Schema(
    "snapshots",
    (
        """CREATE TABLE snapshots (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, parent TEXT,
            diff_id TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0, target TEXT NOT NULL DEFAULT '',
            created REAL NOT NULL, boot TEXT NOT NULL DEFAULT '') STRICT""",
        "CREATE INDEX snapshots_parent ON snapshots (parent)",
        # numbers begin anywhere: a folder's name decides where on the disk its tree begins (`spread_children`), so that
        # two homes on one disk do not crowd each other
        """INSERT INTO sqlite_sequence (name, seq) SELECT 'snapshots', abs(random() % 30000)
            WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'snapshots')""",
    ),
)

OPTIONS = "index=off,redirect_dir=nofollow,metacopy=off"
PAGE_OPTIONS = 4095
SYNC_LIMIT = 64  # files and folders
STACK_LIMIT = 500  # OVL_MAX_STACK
_CLONE_FS = 0x200
_COMMIT = "UPDATE snapshots SET name = ?, kind = 'layer', diff_id = ?, size = ?, created = ?, boot = ? WHERE seq = ?"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Snapshot:
    """An active snapshot: where its own files are, and overlayfs' work folder beside them."""

    key: str
    parent: Digest | None
    upper: Path
    work: Path


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known of a snapshot. `size` is the bytes of a layer's files; `kind` is `layer` or `active`."""

    name: str
    kind: str
    parent: Digest | None
    diff_id: str
    size: int
    target: str
    created: float
    folder: Path


@dataclass(frozen=True)
class Usage:
    """Bytes on disk and number of inodes of one snapshot's own files."""

    size: int
    inodes: int


class OverlaySnapshotter:
    """The snapshots of one node; safe for any number of threads and processes at once."""

    driver = "overlay"

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

    @property
    def root(self) -> Path:
        return self._root

    # looking ---------------------------------------------------------------------------------------------------

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

    # changing --------------------------------------------------------------------------------------------------

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

        `volatile` lets overlayfs skip every sync: for uppers that are thrown away when anything goes wrong.
        """
        row = self._row(key)
        folder = self._folder(row["seq"])
        if idmap is not None:
            _give_to(folder / "fs", idmap.host_start)
        _make_work(folder / "work")
        stack = self._stack(row["parent"])
        options = f"{OPTIONS},volatile" if volatile else OPTIONS
        name = _base36(row["seq"])
        with self._mapped_layers(name, idmap) as layers:
            upper = (f"{self._layers}/{name}/fs", f"{self._layers}/{name}/work")
            self._overlay(stack, layers, target, options, upper=upper, read_only=read_only)
        self._db_set_target(key, str(target))

    def mount_view(self, chain: Digest | None, target: Path, *, idmap: IdMap | None = None) -> None:
        """Show a layer and all below it at `target`, read-only. The caller unmounts it (`unmount_view`)."""
        stack = self._stack(chain)
        with self._mapped_layers("view", idmap) as layers:
            self._overlay(stack, layers, target, OPTIONS, upper=None, read_only=True)

    def unmount_view(self, target: Path) -> None:
        """Undo `mount_view`; what is not mounted counts as done."""
        self._mounts.unmount(str(target))

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
                self._mounts.unmount(str(target))
        finally:
            target.rmdir()

    def unmount(self, key: str) -> None:
        """Undo `mount`; what is not mounted counts as done."""
        target = self._row(key)["target"]
        if target:
            self._mounts.unmount(target)
            self._db_set_target(key, "")

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
        return f"{what}@{os.getpid()}.{_start_time(os.getpid())}.{secrets.token_hex(6)}"

    def lock(self, chain: Digest, *, timeout_s: float = 3600) -> AbstractContextManager[None]:
        """Hold off everybody else who wants to make the layer `chain` (for the time of one layer, never two at once).

        Raises `Unavailable` after `timeout_s`.
        """
        return file_lock(self._locks / hex_of(chain)[:2], timeout_s=timeout_s)

    # house-keeping ---------------------------------------------------------------------------------------------

    def sweep(self) -> list[str]:
        """Remove folders that no row names and staging that no process uses; return their names."""
        removed = []
        for folder in self._staging.iterdir():
            if Path("/proc", folder.name.rpartition(".")[2]).exists():
                continue
            self._mounts.unmount(str(folder), detach=True)
            folder.rmdir()
            removed.append(f"staging/{folder.name}")
        for info in list(self.walk()):
            if info.kind == "active" and _is_orphan(info.name):
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
        known = {_base36(row["seq"]) for row in self._db.read().execute("SELECT seq FROM snapshots")}
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

    # rows and folders ------------------------------------------------------------------------------------------

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
        return self._layers / _base36(seq)

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
        name = _base36(seq)
        trash = self._trash / f"{name}.{time.monotonic_ns()}"
        try:
            (self._layers / name).rename(trash)
        except FileNotFoundError:
            return None
        return trash

    def _db_set_target(self, key: str, target: str) -> None:
        with self._db.transaction() as connection:
            connection.execute("UPDATE snapshots SET target = ? WHERE name = ?", (target, key))

    # mounting --------------------------------------------------------------------------------------------------

    @contextmanager
    def _mapped_layers(self, name: str, idmap: IdMap | None) -> Iterator[Path]:
        """Give the layers' folder, for the length of the block idmapped where asked for."""
        if idmap is None:
            yield self._layers
            return
        staging = self._staging / f"{name}.{threading.get_native_id()}.{os.getpid()}"
        staging.mkdir(mode=0o700, exist_ok=True)
        try:
            try:
                self._mounts.idmap(str(self._layers), str(staging), idmap.userns_fd)
            except OSError as error:
                raise Unsupported(
                    f"the file system of {self._layers} cannot be idmapped: {error.strerror}",
                    hint="put WHARFINGER_HOME on ext4, xfs or btrfs, or run with the host's user namespace",
                ) from error
            yield staging
        finally:
            self._mounts.unmount(str(staging), detach=True)
            staging.rmdir()

    def _overlay(
        self,
        stack: list[int],
        layers: Path,
        target: Path,
        options: str,
        *,
        upper: tuple[str, str] | None,
        read_only: bool,
    ) -> None:
        if len(stack) > STACK_LIMIT:
            raise Unsupported(
                f"the image has {len(stack)} layers, overlayfs takes {STACK_LIMIT}", hint="merge RUN steps"
            )
        flags = MS_NODEV | (MS_RDONLY if read_only else 0)
        names = [f"{_base36(seq)}/fs" for seq in stack]
        if upper is None and len(names) < 2:  # overlayfs wants two folders or an upper
            only = f"{layers}/{names[0]}" if names else str(self._empty)
            self._mounts.bind(only, str(target), read_only=True)
            return
        lowers = [f"{_escaped(str(layers))}/{name}" for name in names] or [_escaped(str(self._empty))]
        data = _data(lowers, upper, options)
        if len(data) <= PAGE_OPTIONS:
            self._try_mount(str(target), flags, data)
            return
        data = _data(names, upper, options)
        if len(data) > PAGE_OPTIONS:
            raise Unsupported(
                f"the image has too many layers to mount ({len(stack)})", hint="merge RUN steps"
            )
        _in_folder(layers, lambda: self._try_mount(str(target), flags, data))

    def _try_mount(self, target: str, flags: int, data: str) -> None:
        try:
            self._mounts.mount("overlay", target, "overlay", flags, data)
        except FileNotFoundError as error:
            raise Corrupt("the folder of a layer is gone", hint="run check and repair") from error


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


def _data(lowers: list[str], upper: tuple[str, str] | None, options: str) -> str:
    parts = [f"lowerdir={':'.join(lowers)}", options]
    if upper is not None:
        parts += [f"upperdir={_escaped(upper[0])}", f"workdir={_escaped(upper[1])}"]
    return ",".join(parts)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _in_folder(folder: Path, action: Callable[[], None]) -> None:
    """Run `action` with `folder` as the working directory of its own thread alone (unshare(2), CLONE_FS)."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.unshare(_CLONE_FS) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            os.chdir(folder)
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="mount")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _give_to(upper: Path, host_root: int) -> None:
    """Let the upper folder belong to the mapped root, unless it has a mapped owner already."""
    info = upper.stat()
    if info.st_uid < host_root:
        os.chown(upper, host_root + info.st_uid, host_root + info.st_gid)


def _make_work(work: Path) -> None:
    """Make the work folder anew: a volatile mount leaves a mark in it that forbids the next mount."""
    if (work / "work").exists():
        remove_tree(work)
    work.mkdir(mode=0o700, exist_ok=True)


def _start_time(pid: int) -> str:
    """Return when a process started, in the kernel's ticks (proc_pid_stat(5), field 22); empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_orphan(key: str) -> bool:
    """Tell whether `key` is a transient one of a process that is no more."""
    _, at, owner = key.rpartition("@")
    pid, _, rest = owner.partition(".")
    return bool(at) and pid.isdigit() and _start_time(int(pid)) != rest.partition(".")[0]


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def _is_base36(name: str) -> bool:
    return bool(name) and all(character in _DIGITS for character in name) and not name.startswith("0")

"""Volumes of one engine: folders that outlive containers, and the mounts that containers ask for.

    point = volumes.resolve(MountSpec("volume", "/data", source="pg"), container_id)   # made where missing, use recorded
    with volumes.opened_source(point) as fd: ...                                       # to mount /proc/self/fd/N
    volumes.copy_up(point.name, image_root_fd, point.target)                           # fills it the first time only
    volumes.release(container_id, remove_anonymous=True)                               # when the container is removed

A volume lies in `volumes/<name>/data` with the owners that it has inside containers (not mapped): it is mounted through
an idmapped mount. Sources are given out as descriptors, resolved without links (`engine.volumes.binds`).
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.containers.model import MountPoint, MountSpec
from engine.db import Database
from engine.errors import AlreadyExists, BadSpec, Denied, InUse, VolumeNotFound, WrongState
from engine.events import Event
from engine.layers.tar import Readable, Writable
from engine.linux.files import DIRECTORY, fsync_dir, openat2, opened, remove_tree, space_translated, syncfs
from engine.linux.locks import file_lock
from engine.linux.walk import walk
from engine.volumes.backup import BackupResult, back_up
from engine.volumes.binds import STRICT, BindPolicy
from engine.volumes.browse import Listing, list_folder, read_file
from engine.volumes.copyup import copy_tree, is_empty, open_image_directory
from engine.volumes.model import Volume, check_name
from engine.volumes.records import insert_volume, select_volume, select_volumes
from engine.volumes.restore import remove_leftovers, restore
from engine.volumes.spec import check_mount

List = list  # in the class below `list` is a verb


class VolumeManager:
    """Volumes and bind mounts of one engine."""

    def __init__(self, config: EngineConfig, db: Database) -> None:
        self._db = db
        self._root = config.data_root / "volumes"
        self._locks = config.run_root / "volume-locks"
        closed = [config.data_root, config.run_root]
        if config.data_root.name == "engine":
            closed.append(config.data_root.parent)
        self._binds = BindPolicy(config.allowed_bind_roots, closed)

    def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        labels: dict[str, str] | None = None,
        options: dict[str, str] | None = None,
    ) -> Volume:
        """Make a volume, or return the one of that name if it has the same options. No name makes an anonymous one."""
        anonymous = not name
        name = check_name(name or secrets.token_hex(32))
        if driver not in ("", "local"):
            raise BadSpec(f"no volume driver {driver[:64]!r} on this node", hint="the driver is local")
        self._check_options(options or {})
        with self.lock(name), self._db.transaction() as connection:
            with suppress(VolumeNotFound):
                found = select_volume(connection, name, self._root)
                if found.options != (options or {}):
                    raise AlreadyExists(
                        f"volume {name!r} exists already with other options", hint="choose another name"
                    )
                return found
            volume = Volume(
                name,
                "local",
                str(self._root / name / "data"),
                labels or {},
                options or {},
                time.time(),
                anonymous,
            )
            with space_translated(f"volume {name}"):
                (self._root / name / "data").mkdir(parents=True, mode=0o755, exist_ok=True)
            insert_volume(connection, volume)
            self._announce(connection, "create", volume)
        return volume

    def get(self, name: str) -> Volume:
        """Return a volume; raise `VolumeNotFound`."""
        return select_volume(self._db.read(), name, self._root)

    def list(self) -> List[Volume]:
        return select_volumes(self._db.read(), self._root)

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume and its files; raise `InUse` while a container has it, `VolumeNotFound` unless `force`."""
        with self.lock(name):
            try:
                self._forget(name)
            except VolumeNotFound:
                if not force:
                    raise
                return
            remove_tree(self._root / name)

    def prune(
        self, *, everything: bool = False, matches: Callable[[Volume], bool] = lambda volume: True
    ) -> List[tuple[str, int]]:
        """Remove anonymous volumes (`everything`: named ones too) that no container has; return names and sizes."""
        removed = []
        for volume in self.list():
            if volume.uses or not (volume.anonymous or everything) or not matches(volume):
                continue
            size = self.usage(volume.name)
            with suppress(InUse, VolumeNotFound):
                self.remove(volume.name)
                removed.append((volume.name, size))
        return removed

    def resolve(self, spec: MountSpec, container_id: str) -> MountPoint:
        """Return the mount that a container really gets, and record its use of the volume. Asked again: the same.

        A missing volume is made, with the labels of the spec; an empty name makes an anonymous one. Raises `BadSpec`,
        and `Denied` for a bind source that policy forbids.
        """
        check_mount(spec)
        if spec.type == "tmpfs":
            return MountPoint("tmpfs", spec.target, "", read_only=spec.read_only)
        if spec.type == "bind":
            with opened(self._binds.open(spec.source, create=spec.create_source)):
                return MountPoint("bind", spec.target, spec.source, read_only=spec.read_only)
        volume = self._volume_for(spec, container_id)
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO volume_uses VALUES (?, ?, ?, ?)",
                (volume.name, container_id, spec.target, int(spec.read_only)),
            )
            connection.execute(
                "UPDATE volumes SET last_used_at = ? WHERE name = ?", (time.time(), volume.name)
            )
        source = Path(volume.device or volume.path)
        if spec.subpath:
            with opened(self._open_volume(volume, spec.subpath)):
                source /= spec.subpath
        return MountPoint("volume", spec.target, str(source), volume.name, spec.read_only, volume.anonymous)

    @contextmanager
    def opened_source(self, point: MountPoint) -> Iterator[int]:
        """Give an `O_PATH` descriptor of what is to be mounted, resolved again without following links (RT-08)."""
        if point.type == "bind":
            fd = self._binds.open(point.source)
        else:
            volume = self.get(point.name)
            fd = self._open_volume(volume, os.path.relpath(point.source, volume.device or volume.path))
        with opened(fd):
            yield fd

    def copy_up(self, name: str, image_root_fd: int, path: str, *, idmap_start: int = 0) -> bool:
        """Fill a volume that was never filled, and is empty, from the image's directory `path`; tell whether it was.

        `idmap_start`: the host id of root where the image's owners are mapped. All or nothing: a fill that was cut is
        begun again.
        """
        with self.lock(name):
            volume = self.get(name)
            state = self._filled(name)
            data = Path(volume.path)
            if volume.device or state == "yes":
                return False
            if state == "begun":
                self._empty(data)
            if not is_empty(data):
                self._set_filled(name, "yes")
                return False
            source = open_image_directory(image_root_fd, path)
            if source is None:
                self._set_filled(name, "yes")
                return False
            with opened(source), space_translated(f"volume {name}"):
                self._set_filled(name, "begun")
                copy_tree(source, data, idmap_start=idmap_start)
                syncfs(data)
                self._set_filled(name, "yes")
            return True

    def release(self, container_id: str, *, remove_anonymous: bool = False) -> List[str]:
        """Forget a removed container's uses; return the anonymous volumes that went with it. Idempotent."""
        with self._db.transaction() as connection:
            rows = connection.execute(
                "SELECT DISTINCT volume FROM volume_uses WHERE container_id = ?", (container_id,)
            )
            names = [row["volume"] for row in rows]
            connection.execute("DELETE FROM volume_uses WHERE container_id = ?", (container_id,))
        removed = []
        for name in names:
            with suppress(InUse, VolumeNotFound):
                if remove_anonymous and self.get(name).anonymous:
                    self.remove(name)
                    removed.append(name)
        return removed

    def used(self, container_id: str) -> None:
        """Note that a container with volumes was started or has ended: their "last used" moves."""
        with self._db.transaction() as connection:
            connection.execute(
                """UPDATE volumes SET last_used_at = ?
                   WHERE name IN (SELECT volume FROM volume_uses WHERE container_id = ?)""",
                (time.time(), container_id),
            )

    def check_bind(self, source: str) -> None:
        """Raise `Denied` for a host path that containers may not have."""
        self._binds.check(source)

    def usage(self, name: str) -> int:
        """Return the bytes that a volume takes on disk; walks all its files."""
        return disk_usage(Path(self.get(name).path))

    def browse(self, name: str, path: str = "/") -> Listing:
        """Return what lies in a folder of a volume."""
        with opened(self._open_volume(self.get(name), "", DIRECTORY)) as root:
            return list_folder(root, path)

    def read(self, name: str, path: str, out: Writable) -> int:
        """Write one file of a volume to `out`; return how many bytes."""
        with opened(self._open_volume(self.get(name), "", DIRECTORY)) as root:
            return read_file(root, path, out)

    def backup(
        self, name: str, out: Writable, *, compression: str = "gzip", check: Callable[[], None] | None = None
    ) -> BackupResult:
        """Write a proven backup to `out`, whether the volume is in use or not; see `engine.volumes.backup`."""
        with (
            opened(self._open_volume(self.get(name), "", DIRECTORY)) as root,
            space_translated(f"the backup of {name}"),
        ):
            result = back_up(root, name, out, compression=compression, check=check)
        self._note(name, "backup", files=result.files, size_bytes=result.size_bytes, digest=result.digest)
        return result

    def backup_to(
        self, name: str, path: Path, *, compression: str = "gzip", check: Callable[[], None] | None = None
    ) -> BackupResult:
        """Write a proven backup to the file `path`, whole and synced or not at all."""
        part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
        with space_translated(f"the backup {path.name}"):
            descriptor = os.open(
                part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            try:
                with open(descriptor, "wb", buffering=0) as out:
                    result = self.backup(name, out, compression=compression, check=check)
                    os.fsync(descriptor)
                part.rename(path)
                fsync_dir(path.parent)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return result

    def restore(
        self,
        name: str,
        source: Readable,
        *,
        create: bool = False,
        files: Sequence[str] = (),
        runs: Callable[[str], bool] = lambda container_id: False,
        check: Callable[[], None] | None = None,
    ) -> Volume:
        """Fill a volume from an archive, all or nothing; `files` restores only those paths into what is there.

        `runs` tells whether a container runs: one that does would keep seeing the old files, so `InUse` is raised. With
        `create` a volume that is not there is made (and is gone again when the restore fails).
        """
        made = create and not self._exists(name)
        if made:
            self.create(name)
        try:
            with self.lock(name):
                volume = self.get(name)
                if busy := [use.container_id for use in volume.uses if runs(use.container_id)]:
                    raise InUse(
                        f"volume {name!r} is in use by container {busy[0][:12]}",
                        hint="stop it, then restore again",
                    )
                if volume.device:
                    raise WrongState(f"volume {name!r} is a folder of the node, not the engine's to replace")
                remove_leftovers(self._root / name)
                result = restore(Path(volume.path), source, files=files, check=check)
                self._set_filled(name, "yes")
        except BaseException:
            if made:
                self.remove(name, force=True)
            raise
        self._note(
            name, "restore", files=result.files, content_bytes=result.content_bytes, proven=result.proven
        )
        return self.get(name)

    def sweep(self) -> List[str]:
        """Remove what killed work left behind: half restores, folders without a record. Return what was removed."""
        known = {volume.name for volume in self.list()}
        swept: List[str] = []
        if not self._root.is_dir():
            return swept
        for folder in sorted(self._root.iterdir()):
            with self.lock(folder.name):
                if folder.name in known:
                    swept += [f"volume {folder.name}: {left}" for left in remove_leftovers(folder)]
                elif not self._exists(folder.name):
                    remove_tree(folder)
                    swept.append(f"volume {folder.name}")
        return swept

    def check(self) -> List[str]:
        """Return in words what does not match between records and disk."""
        found = [
            f"the files of volume {volume.name} are missing"
            for volume in self.list()
            if not volume.device and not Path(volume.path).is_dir()
        ]
        known = {volume.name for volume in self.list()}
        if self._root.is_dir():
            found += [
                f"folder without a volume: {path.name}"
                for path in self._root.iterdir()
                if path.name not in known
            ]
        return found

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold off other work on one volume (fill, restore, remove)."""
        self._locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file_lock(self._locks / check_name(name)):
            yield

    def _forget(self, name: str) -> None:
        with self._db.transaction() as connection:
            volume = select_volume(connection, name, self._root)
            if volume.uses:
                users = ", ".join(sorted({use.container_id[:12] for use in volume.uses})[:5])
                raise InUse(
                    f"volume {name!r} is used by container {users}", hint="remove these containers first"
                )
            connection.execute("DELETE FROM volumes WHERE name = ?", (name,))
            self._announce(connection, "destroy", volume)

    def _volume_for(self, spec: MountSpec, container_id: str) -> Volume:
        if not spec.source:
            row = self._db.read().execute(
                """SELECT volume FROM volume_uses JOIN volumes ON name = volume
                   WHERE container_id = ? AND target = ? AND anonymous""",
                (container_id, spec.target),
            ).fetchone()  # fmt: skip
            if row is not None:
                return self.get(row["volume"])
            return self.create(labels=dict(spec.labels))
        with suppress(VolumeNotFound):
            return self.get(check_name(spec.source))
        return self.create(spec.source, labels=dict(spec.labels))

    def _exists(self, name: str) -> bool:
        return self._db.read().execute("SELECT 1 FROM volumes WHERE name = ?", (name,)).fetchone() is not None

    def _note(self, name: str, action: str, **attributes: Any) -> None:
        with self._db.transaction() as connection:
            self._announce(connection, action, select_volume(connection, name, self._root), **attributes)

    def _open_volume(self, volume: Volume, subpath: str, flags: int = os.O_PATH | os.O_DIRECTORY) -> int:
        if volume.device:
            with opened(self._binds.open(volume.device)) as place:
                root = os.open(f"/proc/self/fd/{place}", flags | os.O_CLOEXEC)
        else:
            root = os.open(volume.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        if subpath in ("", "."):
            return root
        with opened(root):
            if subpath.startswith("/") or ".." in subpath.split("/"):
                raise BadSpec(f"subpath must lie inside the volume: {subpath[:200]!r}")
            try:
                return openat2(root, subpath, os.O_PATH, resolve=STRICT)
            except FileNotFoundError:
                raise BadSpec(
                    f"volume {volume.name!r} has no path {subpath[:200]!r}",
                    hint="make it in the volume first",
                ) from None
            except OSError as error:
                raise Denied(
                    f"path {subpath[:200]!r} of volume {volume.name!r} leads through a symbolic link"
                ) from error

    def _check_options(self, options: dict[str, str]) -> None:
        """Allow the one useful form of options: a volume that is a bind mount, under the policy of bind mounts."""
        if not options:
            return
        unknown = set(options) - {"type", "o", "device"}
        if (
            unknown
            or options.get("type", "none") not in ("none", "")
            or "bind" not in options.get("o", "").split(",")
        ):
            raise BadSpec(
                f"volume options {sorted(options)} are not supported",
                hint="only type=none, o=bind, device=/path is",
            )
        with opened(self._binds.open(options.get("device", ""))):
            return

    def _filled(self, name: str) -> str:
        row = self._db.read().execute("SELECT filled FROM volumes WHERE name = ?", (name,)).fetchone()
        return str(row["filled"])

    def _set_filled(self, name: str, state: str) -> None:
        with self._db.transaction() as connection:
            connection.execute("UPDATE volumes SET filled = ? WHERE name = ?", (state, name))

    def _empty(self, data: Path) -> None:
        with opened(os.open(data, DIRECTORY)) as fd:
            for name in os.listdir(fd):
                remove_tree(name, dir_fd=fd)

    def _announce(
        self, connection: sqlite3.Connection, action: str, volume: Volume, **attributes: Any
    ) -> None:
        values = {
            "name": volume.name,
            "driver": volume.driver,
            "record": dataclasses.asdict(volume),
            **attributes,
        }
        self._db.append_event(connection, Event("volume", action, volume.name, values))


def disk_usage(folder: Path) -> int:
    """Return the bytes that the files of a folder take on disk, each file once however many names it has."""
    total = 0
    seen: set[tuple[int, int]] = set()
    with opened(os.open(folder, DIRECTORY)) as root:
        for part in walk(root):
            for _, info in part.entries:
                identity = (info.st_dev, info.st_ino)
                if identity not in seen:
                    total += info.st_blocks * 512
                if info.st_nlink > 1:
                    seen.add(identity)
    return total

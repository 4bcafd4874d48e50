"""Files of a container from outside: copy in and out as tar, look, list, changes, export. Path rules are Docker's.

Every path is resolved by descriptors with the container's root as root directory, so links and whoever swaps them meanwhile lead
nowhere else. A running container is seen through its first process, with its volumes; one that does not run is mounted for the
time, under its lock. Archives are unpacked before any root is entered, and nothing of a container is ever executed.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from engine.containers.launch import Launcher
from engine.containers.model import Container
from engine.containers.parts import Parts
from engine.errors import BadSpec, Denied, EngineError, NotFound, Unavailable, WrongState
from engine.layers.compression import UnpackedReader, open_any
from engine.layers.confined import extract, extract_entries
from engine.layers.diff import READ_CHUNK, Change, changes, pack_tree
from engine.layers.limits import UPLOAD
from engine.layers.policy import NO_REPLACE_POLICY, UPLOAD_POLICY, Policy
from engine.layers.tar import Kind, TarEntry, TarReader, TarWriter
from engine.linux import xattrs
from engine.linux.files import NOFOLLOW, child_path, open_in_root, opened
from engine.linux.identity import as_owner
from engine.linux.idshift import NO_SHIFT, IdShift, to_container
from engine.linux.mount import unmount_below
from engine.linux.userns import RANGE_SIZE, make_userns, open_idmap
from engine.runtime import stubs
from engine.runtime.users import resolve_user, user_names

_KERNEL = ("proc", "sys", "dev")
LIST_LIMIT = 10_000


@dataclass(frozen=True)
class PathStat:
    """A file or folder inside; `mode` as in `stat(2)`, `link_target` is what a link finally leads to, inside."""

    name: str
    size: int
    mode: int
    mtime: float
    link_target: str = ""
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class View:
    """A container's root: its descriptor, and the first host id of its range."""

    root_fd: int
    id_start: int

    @property
    def shift(self) -> IdShift:
        return to_container(self.id_start) if self.id_start else NO_SHIFT


class Archive:
    """The files of containers."""

    def __init__(self, parts: Parts, launcher: Launcher) -> None:
        self._parts = parts
        self._launcher = launcher

    def stat(self, ref: str, path: str) -> PathStat:
        """Describe what is at `path`; the last part is not followed unless the path ends with `/` or `/.`."""
        with self._view(ref) as (_, view), _located(view, path) as (parent, name):
            info = _lstat(parent, name, path)
            target = ""
            if stat.S_ISLNK(info.st_mode):
                target = _link_target(view, parent, name)
            return _path_stat(
                view, name if name != "." else posixpath.basename(_normal(path)) or "/", info, target
            )

    def list_files(self, ref: str, path: str) -> list[PathStat]:
        """Return what lies in a folder, by name, at most ten thousand entries."""
        with self._view(ref) as (_, view), opened(_directory(view, path)) as folder:
            names = sorted(os.listdir(folder))[:LIST_LIMIT]
            found = []
            for name in names:
                try:
                    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    target = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(info.st_mode) else ""
                except FileNotFoundError:
                    continue
                found.append(_path_stat(view, name, info, target))
            return found

    def get(self, ref: str, path: str, out: BinaryIO) -> PathStat:
        """Write what is at `path` as a tar whose first entry has the last part's name; return its description."""
        with self._view(ref) as (container, view), _located(view, path) as (parent, name):
            info = _lstat(parent, name, path)
            _write_tree(view, parent, name, posixpath.basename(path.rstrip("/")) or "/", info, out)
            target = _link_target(view, parent, name) if stat.S_ISLNK(info.st_mode) else ""
            described = _path_stat(view, name, info, target)
        self._parts.store.announce(container, "archive-path", path=path[:1024])
        return described

    def put(
        self,
        ref: str,
        path: str,
        source: BinaryIO,
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        """Unpack a tar, packed or not, into the folder `path`, which must be there.

        `no_overwrite_dir_non_dir`: a folder never takes the place of a file nor the other way round. `copy_uid_gid`: all
        belongs to the container's own user. Raises `BadArchive` naming the entry, `Denied` on a read-only place.
        """
        unpacked = open_any(source, UPLOAD)
        policy = NO_REPLACE_POLICY if no_overwrite_dir_non_dir else UPLOAD_POLICY
        with self._view(ref) as (container, view), opened(_directory(view, path)) as folder:
            if (
                container.spec.read_only
                and not container.status.is_alive()
                and not _in_volume(container, path)
            ):
                raise Denied(f"the root of container {container.name!r} is read-only")
            try:
                self._unpack(container, view, unpacked, folder, policy, copy_uid_gid)
            except OSError as error:
                if error.errno == errno.EROFS:
                    raise Denied(f"{path} in container {container.name!r} is read-only") from error
                raise
        self._parts.store.announce(container, "extract-to-dir", path=path[:1024])

    def _unpack(
        self,
        container: Container,
        view: View,
        source: UnpackedReader,
        folder: int,
        policy: Policy,
        to_user: bool,
    ) -> None:
        worker = (view.id_start, view.id_start)  # root of the machine may have no id there
        if not to_user:
            extract(source, folder, UPLOAD, policy, idmap_start=view.id_start, owner=worker)
            return
        ids = resolve_user(view.root_fd, container.config["User"])
        owner = (view.id_start + ids.uid, view.id_start + ids.gid)
        reader = _Owned(TarReader(source, UPLOAD, require_end=True), owner)
        policy = dataclasses.replace(policy, xattrs=False)
        extract_entries(reader, folder, UPLOAD, policy, owner=worker)

    def changes(self, ref: str) -> list[Change]:
        """Return what differs from the image: added, changed and deleted paths, without the runtime's mount points."""
        container = self._parts.store.get(ref)
        snapshot = self._parts.snapshots.snapshot(container.id)
        found = changes(snapshot.upper, self._parts.snapshots.lowers(snapshot.parent))
        made = {f"/{place}" for place in self.stubs(container)}
        if not made:
            return found
        left = [change for change in found if change.path not in made]
        emptied = {posixpath.dirname(place) for place in made}
        return [
            change for change in left
            if not (change.kind == "C" and change.path in emptied and not _has_below(left, change.path))
        ]  # fmt: skip

    def user_names(self, container: Container) -> dict[int, str]:
        """Return the names of a running container's users by their numbers inside; empty when it cannot be read."""
        with suppress(EngineError, OSError), self._running(container) as view:
            return user_names(view.root_fd)
        return {}

    def stubs(self, container: Container) -> set[str]:
        """Return the mount points in a container's own layer that only the runtime put there."""
        snapshot = self._parts.snapshots.snapshot(container.id)
        with opened(os.open(snapshot.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as upper:
            return stubs.unused(upper, self._parts.store.private(container.id).stubs)

    def export(self, ref: str, out: BinaryIO) -> None:
        """Write the whole root as one tar, without volumes and what else is mounted inside."""
        container = self._parts.store.get(ref)
        rootfs = self._parts.roots.rootfs(container.id)
        if container.status.is_alive():
            pack_tree(rootfs, out, idmap_start=container.subuid)
        else:
            with self._parts.locked(ref) as container, self._mounted(container, volumes=False) as view:
                pack_tree(view.root_fd, out, idmap_start=view.id_start)
        self._parts.store.announce(container, "export")

    @contextmanager
    def _view(self, ref: str) -> Iterator[tuple[Container, View]]:
        container = self._parts.store.get(ref)
        if container.status.is_alive():
            with self._running(container) as view:
                yield container, view
            return
        with self._parts.locked(ref) as container:
            if container.status.is_alive():
                with self._running(container) as view:
                    yield container, view
            else:
                with self._mounted(container, volumes=True) as view:
                    yield container, view

    @contextmanager
    def _running(self, container: Container) -> Iterator[View]:
        """See a container as its first process does."""
        init = self._parts.store.private(container.id).init
        try:
            root = os.open(f"/proc/{container.pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise Unavailable(f"container {container.name!r} has just ended", hint="try again") from error
        with opened(root):
            if (
                init is None or init.pid != container.pid or not init.alive
            ):  # or the number is another process's now
                raise Unavailable(f"container {container.name!r} has just ended", hint="try again")
            yield View(root, container.subuid)

    @contextmanager
    def _mounted(self, container: Container, *, volumes: bool) -> Iterator[View]:
        """Mount the root of a container that does not run. The caller holds its lock."""
        if not container.status.can_remove() and not container.status.can_start():
            raise WrongState(f"container {container.name!r} is {container.status}")
        parts, pin = self._parts, self._parts.bundle(container.id).userns
        with ExitStack() as undo:
            undo.callback(self._launcher.dismantle, container)
            idmap = None
            if container.subuid:
                make_userns(container.subuid, RANGE_SIZE, pin, mounts=parts.mounts)
                idmap = undo.enter_context(open_idmap(container.subuid, pin))
            rootfs = parts.roots.make(container.id, container.subuid)
            parts.snapshots.mount(container.id, rootfs, idmap=idmap)
            root = undo.enter_context(opened(os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
            if volumes and container.mounts:
                undo.callback(_unmount_inside, parts, rootfs)
                self._mount_volumes(container, root, -1 if idmap is None else idmap.userns_fd, undo)
            yield View(root, container.subuid)

    def _mount_volumes(self, container: Container, root: int, userns_fd: int, undo: ExitStack) -> None:
        """Put the volumes in their places; each place is named by a descriptor, so no link can move it."""
        points = [point for point in container.mounts if point.type != "tmpfs"]
        missing = stubs.absent(root, [point.target for point in points])
        undo.callback(lambda: stubs.remove(root, missing))
        for point in sorted(points, key=lambda point: point.target.count("/")):
            with self._parts.volumes.opened_source(point) as source_fd:
                source = f"/proc/self/fd/{source_fd}"
                is_folder = stat.S_ISDIR(os.fstat(source_fd).st_mode)
                start = container.subuid
                with opened(
                    as_owner(start, start, partial(_place, root, point.target, is_folder=is_folder))
                ) as place:
                    target = f"/proc/self/fd/{place}"
                    if userns_fd < 0:
                        self._parts.mounts.bind(source, target, read_only=point.read_only)
                    else:
                        self._parts.mounts.idmap(source, target, userns_fd, read_only=point.read_only)


class _Owned:
    """Entries of an archive, all with one owner."""

    def __init__(self, reader: TarReader, owner: tuple[int, int]) -> None:
        self._reader, self._owner = reader, owner

    def __iter__(self) -> Iterator[TarEntry]:
        for entry in self._reader:
            yield entry._replace(uid=self._owner[0], gid=self._owner[1], xattrs={})

    def chunks(self) -> Iterator[memoryview]:
        return self._reader.chunks()


def _unmount_inside(parts: Parts, rootfs: Path) -> None:
    for entry in reversed(
        [item.target for item in parts.mounts.entries() if item.target.startswith(f"{rootfs}/")]
    ):
        unmount_below(parts.mounts, Path(entry))


def _normal(path: str) -> str:
    if "\0" in path or len(path) > 4096:
        raise BadSpec("not a path")
    return posixpath.normpath("/" + path.lstrip("/"))


def _refuse_kernel(view: View, descriptor: int, path: str) -> None:
    """Refuse what the kernel makes up: reading there can hang or change the machine, and none of it is the container's."""
    parts = _normal(path).split("/")
    if parts[1] in _KERNEL and parts[1:3] != ["dev", "shm"]:
        raise Denied(f"{path[:100]} lies in a file system of the kernel")
    device = os.fstat(descriptor).st_dev
    for name in ("proc", "sys"):
        try:
            inside = os.stat(name, dir_fd=view.root_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if inside.st_dev == device and inside.st_dev != os.fstat(view.root_fd).st_dev:
            raise Denied(f"{path[:100]} leads into a file system of the kernel")


@contextmanager
def _located(view: View, path: str) -> Iterator[tuple[int, str]]:
    """Yield the folder that holds the last part of `path`, and that part: `.` when the path itself is meant as a folder."""
    clean = _normal(path)
    follows = path.endswith(("/", "/.")) or clean == "/"
    parent = clean if follows else posixpath.dirname(clean)
    with opened(_open(view, parent, path)) as folder:
        _refuse_kernel(view, folder, clean)
        yield folder, "." if follows else posixpath.basename(clean)


def _directory(view: View, path: str) -> int:
    folder = _open(view, _normal(path), path)
    try:
        _refuse_kernel(view, folder, path)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _open(view: View, path: str, asked: str) -> int:
    try:
        return open_in_root(view.root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError as error:
        raise NotFound(f"no {asked[:200]!r} in the container") from error
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise BadSpec(f"{asked[:200]!r} in the container is not a folder") from error
        raise


def _lstat(parent: int, name: str, path: str) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError as error:
        raise NotFound(f"no {path[:200]!r} in the container") from error


def _link_target(view: View, parent: int, name: str) -> str:
    """Return where a link leads inside; for one that leads nowhere what is written in it."""
    text = os.readlink(name, dir_fd=parent)
    base = _inside(view, parent)
    try:
        with opened(open_in_root(view.root_fd, posixpath.join(base, text), os.O_PATH)) as place:
            return _inside(view, place)
    except OSError:
        return posixpath.normpath(posixpath.join(base, text))


def _inside(view: View, descriptor: int) -> str:
    real = os.readlink(f"/proc/self/fd/{descriptor}")
    base = os.readlink(f"/proc/self/fd/{view.root_fd}").rstrip("/")
    return real.removeprefix(base) or "/"


def _path_stat(view: View, name: str, info: os.stat_result, target: str) -> PathStat:
    shift = view.shift
    return PathStat(
        name,
        info.st_size,
        info.st_mode,
        info.st_mtime,
        target,
        shift.apply(info.st_uid),
        shift.apply(info.st_gid),
    )


def _write_tree(view: View, parent: int, name: str, shown: str, info: os.stat_result, out: BinaryIO) -> None:
    """Write one file, link or folder with all below it, under the name that was asked for."""
    if stat.S_ISDIR(info.st_mode):
        prefix = "" if shown in (".", "/") else shown
        start = "" if name == "." else name
        pack_tree(parent, out, start=start, prefix=prefix, idmap_start=view.id_start, with_root=True)
        return
    writer, shift = TarWriter(out), view.shift
    entry = TarEntry(
        shown, mode=stat.S_IMODE(info.st_mode), uid=shift.apply(info.st_uid), gid=shift.apply(info.st_gid),
        mtime_ns=info.st_mtime_ns,
    )  # fmt: skip
    if stat.S_ISLNK(info.st_mode):
        writer.add(entry._replace(kind=Kind.SYMLINK, linkname=os.readlink(name, dir_fd=parent)))
    elif stat.S_ISREG(info.st_mode):
        _write_file(writer, entry, parent, name, shift)
    else:
        raise BadSpec(f"{shown[:100]!r} is neither a file nor a folder nor a link")
    writer.close()


def _write_file(writer: TarWriter, entry: TarEntry, parent: int, name: str, shift: IdShift) -> None:
    with opened(os.open(name, os.O_RDONLY | os.O_NONBLOCK | NOFOLLOW, dir_fd=parent)) as file:
        size = os.fstat(file).st_size
        writer.add(entry._replace(size=size, xattrs=xattrs.read(child_path(parent, name), shift)))
        while size:
            data = os.read(file, min(size, READ_CHUNK)) or bytes(min(size, READ_CHUNK))  # it shrank: zeros
            writer.write(data)
            size -= len(data)


def _place(root: int, target: str, *, is_folder: bool) -> int:
    """Open a mount's place, making what is missing of it."""
    try:
        return open_in_root(root, target, os.O_PATH)
    except FileNotFoundError:
        parent = root
        folder, name = posixpath.split(target)
        if folder != "/":
            parent = _place(root, folder, is_folder=True)
        try:
            if is_folder:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                os.close(
                    os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent)
                )
        finally:
            if parent != root:
                os.close(parent)
        return open_in_root(root, target, os.O_PATH)


def _in_volume(container: Container, path: str) -> bool:
    clean = _normal(path)
    return any(
        not point.read_only and (clean == point.target or clean.startswith(point.target + "/"))
        for point in container.mounts
    )


def _has_below(found: list[Change], folder: str) -> bool:
    return any(change.path.startswith(folder + "/") for change in found)

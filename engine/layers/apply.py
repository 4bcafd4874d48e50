"""Unpacking archives: into layers (`apply_layer`) and into folders of people's files (`extract`).

This is the work itself, done in the process that calls it. Everybody else calls `engine.layers.confined`, which has the
same verbs and lets a process without rights do the work (D1); this module never looks outside of its root.

Every operation is relative to a directory descriptor, and a directory is only ever reached by openat2(2) with the
target as root, so nothing that an archive contains, and nothing that a container does to the folder meanwhile, makes
us touch a file outside (D1, AR-01 to AR-07). What an archive may not ask for is refused with `BadArchive`, which names
the entry. The caller removes a half-made target.

Gotchas
- Modes, owners and times of directories are set at the very end: writing into a directory changes its time.
- chown(2) takes setuid bits and capabilities away, so owner, then mode, then attributes.
- A hard link's header says nothing that we obey: its target's metadata stays (CVE-2021-32760).
- Device nodes in layers are left out: containers live in user namespaces, where no node of a layer works anyway.

Sources: OCI image specification, layer.md (whiteouts); kernel documentation, overlayfs.rst ("whiteouts and opaque
directories").
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from engine.errors import BadArchive
from engine.layers.limits import LAYER, UPLOAD, Limits
from engine.layers.names import OPAQUE, RESERVED, WHITEOUT, clean_name, shown
from engine.layers.policy import (
    LAYER_POLICY,
    UPLOAD_POLICY,
    ApplyResult,
    EntryReader,
    Policy,
    Whiteouts,
)
from engine.layers.tar import Kind, Readable, TarEntry, TarReader
from engine.linux import xattrs
from engine.linux.files import (
    DIRECTORY,
    NOFOLLOW,
    open_in_root,
    opened,
    opened_directory,
    process_umask,
    raise_translated,
    remove_tree,
)
from engine.linux.idshift import NO_SHIFT, IdShift, to_host

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW
_HELD_PARENTS = 64
_LINKS_LIMIT = 40
_MAX_ID = 2**32 - 2
OVERLAY_OPAQUE = "trusted.overlay.opaque"


def apply_layer(
    stream: Readable,
    target: Path | int,
    *,
    limits: Limits = LAYER,
    whiteouts: Whiteouts = Whiteouts.OVERLAY,
    idmap_start: int = 0,
    lowers: Sequence[Path] = (),
    check: Callable[[], None] | None = None,
) -> ApplyResult:
    """Unpack the layer `stream` (a tar, not packed) into the fresh folder `target`.

    `lowers` are the layers below, topmost first: a directory that the archive uses but does not contain gets the mode
    and owner that it has there. `check` is called now and then and may raise to stop (a `CancelToken.check`).
    """
    policy = replace(LAYER_POLICY, whiteouts=whiteouts)
    return _unpack(stream, target, limits, policy, idmap_start, lowers, check)


def extract(
    stream: Readable,
    target: Path | int,
    limits: Limits = UPLOAD,
    policy: Policy = UPLOAD_POLICY,
    *,
    idmap_start: int = 0,
    check: Callable[[], None] | None = None,
) -> ApplyResult:
    """Unpack an archive of people's files into the folder `target`, which may hold files already and be in use."""
    return _unpack(stream, target, limits, policy, idmap_start, (), check)


def _unpack(
    stream: Readable,
    target: Path | int,
    limits: Limits,
    policy: Policy,
    idmap_start: int,
    lowers: Sequence[Path],
    check: Callable[[], None] | None,
) -> ApplyResult:
    reader = TarReader(stream, limits, require_end=policy.require_end)
    with opened_directory(target) as root:
        return unpack_entries(
            reader, root, limits, policy, idmap_start=idmap_start, outside=Folders(root, lowers), check=check
        )


def extract_entries(
    reader: EntryReader,
    target: Path | int,
    limits: Limits = UPLOAD,
    policy: Policy = UPLOAD_POLICY,
    *,
    check: Callable[[], None] | None = None,
) -> ApplyResult:
    """As `extract`, for entries that already come one by one; bounds on bytes and entries are the reader's to keep."""
    with opened_directory(target) as root:
        return unpack_entries(reader, root, limits, policy, outside=Folders(root, ()), check=check)


class Outside(Protocol):
    """What unpacking a layer needs to know or to have done outside of its own rights."""

    def lower_directory(self, path: str) -> DirectoryInfo | None:
        """Return what the topmost layer below that has the directory `path` says about it."""

    def lower_names(self) -> list[str]:
        """Return the names in the roots of the layers below, each once, sorted."""

    def mark_opaque(self, path: str) -> None:
        """Set overlayfs' mark on the directory `path` of the layer: what is below it is hidden."""


class DirectoryInfo(NamedTuple):
    """Mode, owner and time of a directory."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int


class Folders:
    """`Outside` for who may reach it: `root` is the layer's directory, `lowers` are the folders below, topmost first."""

    def __init__(self, root: int, lowers: Sequence[Path]) -> None:
        self._root = root
        self._lowers = lowers

    def lower_directory(self, path: str) -> DirectoryInfo | None:
        return next((found for lower in self._lowers if (found := _directory_info(lower, path))), None)

    def lower_names(self) -> list[str]:
        return sorted({name for lower in self._lowers for name in os.listdir(lower)})

    def mark_opaque(self, path: str) -> None:
        with opened(open_in_root(self._root, path, DIRECTORY)) as fd:
            os.setxattr(fd, OVERLAY_OPAQUE, b"y")


def unpack_entries(
    reader: EntryReader,
    root: int,
    limits: Limits,
    policy: Policy,
    *,
    outside: Outside,
    idmap_start: int = 0,
    umask: int | None = None,
    check: Callable[[], None] | None = None,
) -> ApplyResult:
    """Unpack all entries into the directory `root`; `umask` is this process's, if it is known."""
    size = count = 0
    shift = to_host(idmap_start) if idmap_start else NO_SHIFT
    extractor = _Extractor(root, limits, policy, shift, outside, umask, check or _nothing)
    with extractor.parents:
        for entry in reader:
            count += 1
            size += entry.size
            if check is not None and not count % 64:
                check()
            extractor.add(entry, reader)
        extractor.finish()
    return ApplyResult(size, count)


def _nothing() -> None: ...


class _Parents:
    """Descriptors of the directories used last. `forget` after anything that may change where a path leads."""

    def __init__(self, root: int, make: Callable[[str], int]) -> None:
        self._root = root
        self._make = make
        self._held: dict[str, int] = {}

    def get(self, path: str) -> int:
        """Return the descriptor of the directory `path`, made where missing; it stays ours."""
        if not path:
            return self._root
        fd = self._held.get(path)
        if fd is None:
            if len(self._held) >= _HELD_PARENTS:
                self.forget()
            fd = self._held[path] = self._make(path)
        return fd

    def forget(self) -> None:
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def __enter__(self) -> _Parents:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()


class _Extractor:
    """The state of one archive being unpacked into the directory `root`."""

    def __init__(
        self,
        root: int,
        limits: Limits,
        policy: Policy,
        shift: IdShift,
        outside: Outside,
        umask: int | None,
        check: Callable[[], None],
    ) -> None:
        self._root = root
        self._limits = limits
        self._policy = policy
        self._shift = shift
        self._outside = outside
        self._check = check
        self._plain_mode = 0o777 & ~(process_umask() if umask is None else umask) if policy.fresh else 0
        self._directories: dict[str, TarEntry] = {}
        self._own: set[str] = set()  # what the archive brought, with its parents; only for `Whiteouts.REMOVE`
        self.parents = _Parents(root, self._make_parent)

    def add(self, entry: TarEntry, reader: EntryReader) -> None:
        """Unpack one entry; errors of the file system about a name become `BadArchive`."""
        try:
            self._add(entry, reader)
        except UnicodeEncodeError as error:
            raise BadArchive("a name that cannot be written", entry=entry.name) from error
        except OverflowError as error:
            raise BadArchive("a time or number out of range", entry=entry.name) from error
        except OSError as error:
            if error.errno in (
                errno.ENAMETOOLONG,
                errno.ELOOP,
                errno.ENOTDIR,
                errno.EISDIR,
                errno.EINVAL,
                errno.ENOENT,
                errno.EEXIST,
            ):
                raise BadArchive(
                    f"{shown(entry.name)} cannot be unpacked: {error.strerror}", entry=entry.name
                ) from error
            raise_translated(error, shown(entry.name))

    def finish(self) -> None:
        """Set what had to wait: owners, modes, attributes and times of directories, deepest first."""
        for number, (path, entry) in enumerate(sorted(self._directories.items(), reverse=True), 1):
            if not number % 64:
                self._check()
            try:
                fd = self._open_directory(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later entry took its place, or a container moved it
            with opened(fd):
                self._set_metadata(fd, entry)

    def _add(self, entry: TarEntry, reader: EntryReader) -> None:
        path = clean_name(entry.name, max_depth=self._limits.max_depth)
        if not path:
            self._add_root(entry)
            return
        folder, _, name = path.rpartition("/")
        if name.startswith(WHITEOUT) and self._policy.whiteouts is not Whiteouts.PLAIN:
            self._white_out(entry, folder, name)
            return
        self._add_kind(entry, path, folder, name, reader)
        if self._policy.whiteouts is Whiteouts.REMOVE:
            self._note_own(path)

    def _add_kind(self, entry: TarEntry, path: str, folder: str, name: str, reader: EntryReader) -> None:
        kind = entry.kind
        if kind is Kind.FILE:
            self._file(entry, folder, name, reader)
        elif kind is Kind.DIRECTORY:
            self._directory(entry, path, folder, name)
        elif kind is Kind.SYMLINK:
            self._symlink(entry, folder, name)
        elif kind is Kind.HARDLINK:
            self._hardlink(entry, folder, name)
        elif kind is Kind.FIFO and self._policy.fifos:
            self._fifo(entry, folder, name)
        elif kind is Kind.FIFO or self._policy.devices == "refuse":
            raise BadArchive(
                f"{shown(entry.name)} is a {entry.kind} node, which may not be uploaded", entry=entry.name
            )

    def _add_root(self, entry: TarEntry) -> None:
        if entry.kind is not Kind.DIRECTORY:
            raise BadArchive(f"a {entry.kind} with the name of the root", entry=entry.name)
        if self._policy.fresh:
            self._directories[""] = entry

    # files -----------------------------------------------------------------------------------------------------

    def _file(self, entry: TarEntry, folder: str, name: str, reader: EntryReader) -> None:
        mode = entry.mode & 0o777
        parent = self.parents.get(folder)
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=parent)
        except FileExistsError:
            self._make_room(folder, name, entry)
            fd = os.open(name, _CREATE, mode, dir_fd=self.parents.get(folder))
        try:
            for chunk in reader.chunks():
                written = os.write(fd, chunk)
                while written < len(chunk):
                    written += os.write(fd, chunk[written:])
            if (
                not entry.uid
                and not entry.gid
                and not self._shift
                and self._policy.fresh
                and entry.mode == entry.mode & self._plain_mode
                and not entry.xattrs
            ):
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            else:
                self._set_metadata(fd, entry)
        finally:
            os.close(fd)

    def _set_metadata(self, fd: int, entry: TarEntry) -> None:
        if self._policy.owners:
            os.fchown(fd, self._owner(entry.uid, entry), self._owner(entry.gid, entry))
        os.fchmod(fd, entry.mode)
        if entry.xattrs and self._policy.xattrs:
            self._set_xattrs(fd, entry)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _set_xattrs(self, fd: int, entry: TarEntry) -> None:
        for name, raw in entry.xattrs.items():
            if not xattrs.may_travel(name):
                continue
            value = xattrs.mapped(name, raw, self._shift)
            if value is None:
                raise BadArchive(f"a malformed attribute {name} on {shown(entry.name)}", entry=entry.name)
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno == errno.ENOTSUP and name.startswith("user."):
                    continue  # this file system has none; nothing of the image depends on it being there
                if error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE) and len(value) > 2048:
                    raise BadArchive(
                        f"the attribute {name} of {shown(entry.name)} is too long", entry=entry.name
                    ) from error
                raise

    def _owner(self, identity: int, entry: TarEntry) -> int:
        if identity > _MAX_ID:
            raise BadArchive(f"an owner out of range on {shown(entry.name)}", entry=entry.name)
        return self._shift.apply(identity)

    # directories -----------------------------------------------------------------------------------------------

    def _directory(self, entry: TarEntry, path: str, folder: str, name: str) -> None:
        parent = self.parents.get(folder)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                was_whiteout = _is_whiteout(info)
                self._make_room(folder, name, entry)
                os.mkdir(name, 0o700, dir_fd=self.parents.get(folder))
                if was_whiteout:
                    self._make_opaque(path)
        self._directories[path] = entry

    def _open_directory(self, path: str) -> int:
        if not path:
            return os.dup(self._root)
        folder, _, name = path.rpartition("/")
        return os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=self.parents.get(folder))

    def _make_parent(self, path: str) -> int:
        """Open the directory `path`, making what is missing of it; links are followed inside the root."""
        try:
            return open_in_root(self._root, path, DIRECTORY)
        except FileNotFoundError:
            return self._make_missing(path, 0)

    def _make_missing(self, path: str, links: int) -> int:
        if links > _LINKS_LIMIT:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        done = ""
        for name in path.split("/"):
            folder, done = done, f"{done}/{name}" if done else name
            try:
                os.close(open_in_root(self._root, done, DIRECTORY))
            except FileNotFoundError:
                with opened(open_in_root(self._root, folder or ".", DIRECTORY)) as parent:
                    self._make_one(parent, folder, name, links)
        return open_in_root(self._root, path, DIRECTORY)

    def _make_one(self, parent: int, folder: str, name: str, links: int) -> None:
        """Make the directory `name`, or what the dead link of that name leads to."""
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            target = os.readlink(name, dir_fd=parent)
            joined = target if target.startswith("/") else f"{folder}/{target}"
            parts = _normal(joined)
            if parts:
                os.close(self._make_missing("/".join(parts), links + 1))
        else:
            self._like_below(parent, name, f"{folder}/{name}" if folder else name)

    def _like_below(self, parent: int, name: str, path: str) -> None:
        """Give an implied directory the mode, owner and time that it has in the layers below (at the end)."""
        info = self._outside.lower_directory(path)
        if info is not None:
            implied = TarEntry(path, Kind.DIRECTORY, 0, info.mode, info.uid, info.gid, info.mtime_ns)
            self._directories.setdefault(path, implied)
            return
        with opened(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)) as fd:
            os.fchown(fd, self._shift.apply(0), self._shift.apply(0))
            os.fchmod(fd, 0o755)

    # links and fifos -------------------------------------------------------------------------------------------

    def _symlink(self, entry: TarEntry, folder: str, name: str) -> None:
        if not entry.linkname:
            raise BadArchive(f"{shown(entry.name)} is a link to nothing", entry=entry.name)
        parent = self.parents.get(folder)
        try:
            os.symlink(entry.linkname, name, dir_fd=parent)
        except FileExistsError:
            self._make_room(folder, name, entry)
            parent = self.parents.get(folder)
            os.symlink(entry.linkname, name, dir_fd=parent)
        uid, gid = self._owner(entry.uid, entry), self._owner(entry.gid, entry)
        if (uid or gid or not self._policy.fresh) and self._policy.owners:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _hardlink(self, entry: TarEntry, folder: str, name: str) -> None:
        target = clean_name(entry.linkname, entry=entry.name, max_depth=self._limits.max_depth)
        target_folder, _, target_name = target.rpartition("/")
        if not target_name:
            raise BadArchive(f"{shown(entry.name)} is a hard link to the root", entry=entry.name)
        try:
            with opened(open_in_root(self._root, target_folder or ".", DIRECTORY)) as source:
                self._link(entry, source, target_name, folder, name)
        except FileNotFoundError as error:
            raise BadArchive(
                f"{shown(entry.name)} is a hard link to {shown(entry.linkname)}, which is not in the archive before it",
                entry=entry.name,
            ) from error

    def _link(self, entry: TarEntry, source: int, source_name: str, folder: str, name: str) -> None:
        info = os.stat(source_name, dir_fd=source, follow_symlinks=False)
        if not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode) or stat.S_ISFIFO(info.st_mode)):
            raise BadArchive(
                f"{shown(entry.name)} is a hard link to something that is no file", entry=entry.name
            )
        parent = self.parents.get(folder)
        try:
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (info.st_dev, info.st_ino):
                return
            self._make_room(folder, name, entry)
            parent = self.parents.get(folder)
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _fifo(self, entry: TarEntry, folder: str, name: str) -> None:
        parent = self.parents.get(folder)
        try:
            os.mkfifo(name, 0o600, dir_fd=parent)
        except FileExistsError:
            self._make_room(folder, name, entry)
            parent = self.parents.get(folder)
            os.mkfifo(name, 0o600, dir_fd=parent)
        with opened(os.open(name, os.O_RDONLY | os.O_NONBLOCK | NOFOLLOW, dir_fd=parent)) as fd:
            if stat.S_ISFIFO(
                os.fstat(fd).st_mode
            ):  # else somebody in the container was quicker: not ours to change
                self._set_metadata(fd, entry._replace(xattrs={}))

    # what is in the way, and whiteouts -------------------------------------------------------------------------

    def _make_room(self, folder: str, name: str, entry: TarEntry) -> None:
        """Remove what stands where `entry` shall be (never the root itself, never what a link leads to)."""
        parent = self.parents.get(folder)
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        is_directory = stat.S_ISDIR(info.st_mode)
        if not self._policy.replace and is_directory != (entry.kind is Kind.DIRECTORY):
            old, new = ("a directory", "something else") if is_directory else ("no directory", "one")
            raise BadArchive(
                f"{shown(entry.name)} is {old}, the archive has {new} of that name", entry=entry.name
            )
        if is_directory:
            prefix = f"{folder}/{name}" if folder else name
            self._drop_below(prefix)
        remove_tree(name, dir_fd=parent)
        self.parents.forget()

    def _drop_below(self, path: str) -> None:
        for known in [item for item in self._directories if item == path or item.startswith(path + "/")]:
            del self._directories[known]

    def _white_out(self, entry: TarEntry, folder: str, name: str) -> None:
        if name == OPAQUE:
            self._make_opaque(folder)
            return
        if name.startswith(RESERVED):
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in ("", ".", ".."):
            raise BadArchive(f"{shown(entry.name)} would remove a directory itself", entry=entry.name)
        parent = self.parents.get(folder)
        if self._policy.whiteouts is Whiteouts.REMOVE:
            path = f"{folder}/{hidden}" if folder else hidden
            if path in self._own:
                self._empty_but_own(path)
            else:
                remove_tree(hidden, dir_fd=parent)
                self.parents.forget()
            return
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            # the same layer has the name: its own file hides the lower one, its own directory must be opaque to do so
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                self._make_opaque(f"{folder}/{hidden}" if folder else hidden)

    def _make_opaque(self, path: str) -> None:
        """Hide what lower layers have in the directory `path`."""
        if self._policy.whiteouts is Whiteouts.OVERLAY:
            if path:
                self.parents.get(path)  # made where it is missing
                self._outside.mark_opaque(path)
            else:
                self._hide_lower_root()
            return
        self._empty_but_own(path)

    def _hide_lower_root(self) -> None:
        """White out every name of the lower roots: overlayfs has no opaque root."""
        for name in self._outside.lower_names():
            try:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=self._root)
            except FileExistsError:
                if stat.S_ISDIR(os.stat(name, dir_fd=self._root, follow_symlinks=False).st_mode):
                    self._make_opaque(name)

    def _empty_but_own(self, path: str) -> None:
        """Remove what lower layers left in a directory of a plain copy, keeping what this archive brought."""
        try:
            with opened(self._open_directory(path)) as fd:
                names = os.listdir(fd)
                for name in names:
                    if (f"{path}/{name}" if path else name) not in self._own:
                        remove_tree(name, dir_fd=fd)
        except (FileNotFoundError, NotADirectoryError):
            return
        self.parents.forget()
        for child in [f"{path}/{name}" if path else name for name in names]:
            if child in self._own:
                self._empty_but_own(child)

    def _note_own(self, path: str) -> None:
        while path and path not in self._own:
            self._own.add(path)
            path = path.rpartition("/")[0]


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _directory_info(lower: Path, path: str) -> DirectoryInfo | None:
    with opened(os.open(lower, DIRECTORY)) as root:
        try:
            with opened(open_in_root(root, path, DIRECTORY | os.O_NOFOLLOW)) as fd:
                info = os.fstat(fd)
        except OSError:
            return None
    return DirectoryInfo(stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns)


def _normal(path: str) -> list[str]:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return parts

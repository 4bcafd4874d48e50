"""From a folder back to a tar: the layer in an overlay upper (`diff_layer`), any tree (`pack_tree`), and the list of
what an upper changes (`changes`).

Entries come in a fixed order (by directory, names sorted) with nothing in them but what is in the files, so the same
upper gives the same bytes. Overlayfs' whiteouts (character device 0:0) and opaque directories become `.wh.` entries
(OCI image specification, layer.md). Hard links inside the folder stay hard links. Sockets and devices are left out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.layers.names import OPAQUE, WHITEOUT
from engine.layers.tar import Kind, TarEntry, TarWriter, Writable
from engine.linux import xattrs
from engine.linux.files import DIRECTORY, NOFOLLOW, child_path, open_in_root, opened, opened_directory
from engine.linux.idshift import NO_SHIFT, IdShift, to_container
from engine.linux.walk import Folder, walk

OVERLAY_OPAQUE = "trusted.overlay.opaque"
READ_CHUNK = 256 * 1024
_SMALL = 64 * 1024


@dataclass(frozen=True)
class DiffResult:
    """`size`: bytes of all files; `entries`: how many entries were written."""

    size: int
    entries: int


class Change(NamedTuple):
    """`kind` is `A` (added), `C` (changed) or `D` (deleted); `path` is absolute inside the container."""

    kind: str
    path: str


def diff_layer(
    upper: Path | int,
    out: Writable,
    *,
    idmap_start: int = 0,
    exclude: Collection[str] = (),
    check: Callable[[], None] | None = None,
) -> DiffResult:
    """Write the overlay upper `upper` to `out` as an OCI layer, owners as seen from inside; `out` stays open.

    `exclude` are paths (relative, without a slash at the end) that get no entry of their own.
    """
    packer = _Packer(out, to_container(idmap_start) if idmap_start else NO_SHIFT, overlay=True, check=check)
    packer.exclude = exclude
    return packer.pack(upper)


def pack_tree(
    root: Path | int,
    out: Writable,
    *,
    start: str = "",
    prefix: str = "",
    idmap_start: int = 0,
    with_root: bool = False,
    check: Callable[[], None] | None = None,
) -> DiffResult:
    """Write everything below the directory `start` in `root` to `out`, as it is (an export, a backup, a copy out).

    Names are relative to `start`, with `prefix` before them; `with_root` writes an entry for `start` itself first.
    """
    packer = _Packer(out, to_container(idmap_start) if idmap_start else NO_SHIFT, overlay=False, check=check)
    return packer.pack(root, start=start, prefix=prefix, with_root=with_root)


class _Packer:
    """One archive being written."""

    def __init__(
        self, out: Writable, shift: IdShift, *, overlay: bool, check: Callable[[], None] | None
    ) -> None:
        self._writer = TarWriter(out)
        self._shift = shift
        self._overlay = overlay
        self._check = check
        self._links: dict[tuple[int, int], str] = {}
        self._size = 0
        self._entries = 0
        self.exclude: Collection[str] = ()

    def pack(
        self, root: Path | int, *, start: str = "", prefix: str = "", with_root: bool = False
    ) -> DiffResult:
        with opened_directory(root) as fd:
            for folder in walk(fd, start):
                if self._check is not None:
                    self._check()
                relative = folder.path[len(start) :].lstrip("/") if start else folder.path
                base = "/".join(part for part in (prefix.strip("/"), relative) if part)
                if folder.path == start and (with_root or prefix):
                    self._add_folder_itself(folder.fd, base)
                self._add_folder(folder, base)
        self._writer.close()
        return DiffResult(self._size, self._entries)

    def _add_folder_itself(self, fd: int, name: str) -> None:
        info = os.fstat(fd)
        self._write(self._entry(name or ".", Kind.DIRECTORY, info, xattrs.read(fd, self._shift)))

    def _add_folder(self, folder: Folder, base: str) -> None:
        if self._overlay and folder.path and is_opaque(folder.fd):
            self._write(TarEntry(f"{base}/{OPAQUE}", mtime_ns=0, mode=0))
        for name, info in folder.entries:
            self._add(folder.fd, name, f"{base}/{name}" if base else name, info)

    def _add(self, parent: int, name: str, path: str, info: os.stat_result) -> None:
        if path in self.exclude:
            return
        mode = info.st_mode
        if stat.S_ISREG(mode):
            self._add_file(parent, name, path, info)
        elif stat.S_ISDIR(mode):
            attributes = xattrs.read(child_path(parent, name), self._shift)
            self._write(self._entry(path, Kind.DIRECTORY, info, attributes))
        elif stat.S_ISLNK(mode):
            if not self._is_link_to_earlier(path, info):
                target = os.readlink(name, dir_fd=parent)
                self._write(self._entry(path, Kind.SYMLINK, info)._replace(linkname=target))
        elif stat.S_ISFIFO(mode):
            if not self._is_link_to_earlier(path, info):
                self._write(self._entry(path, Kind.FIFO, info))
        elif self._overlay and stat.S_ISCHR(mode) and info.st_rdev == 0:
            folder, _, last = path.rpartition("/")
            hidden = f"{folder}/{WHITEOUT}{last}" if folder else WHITEOUT + last
            self._write(TarEntry(hidden, mtime_ns=0, mode=0))

    def _add_file(self, parent: int, name: str, path: str, info: os.stat_result) -> None:
        if self._is_link_to_earlier(path, info):
            return
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | NOFOLLOW, dir_fd=parent)
        except (FileNotFoundError, OSError) as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return  # it went away or became a link while we looked
            raise
        try:
            attributes = xattrs.read(fd, self._shift)
            self._write(self._entry(path, Kind.FILE, info, attributes, info.st_size))
            self._copy(fd, info.st_size)
            self._size += info.st_size
        finally:
            os.close(fd)

    def _copy(self, fd: int, size: int) -> None:
        """Write exactly `size` bytes: what a file grew meanwhile is left out, what it lost is filled with zeros."""
        left = size
        while left:
            data = os.read(fd, min(left, READ_CHUNK))
            if not data:
                data = bytes(min(left, READ_CHUNK))
            self._writer.write(data)
            left -= len(data)

    def _is_link_to_earlier(self, path: str, info: os.stat_result) -> bool:
        """Write a hard link if this file was written under another name; tell whether it was."""
        if info.st_nlink < 2:
            return False
        first = self._links.setdefault((info.st_dev, info.st_ino), path)
        if first == path:
            return False
        self._write(self._entry(path, Kind.HARDLINK, info)._replace(linkname=first))
        return True

    def _entry(
        self,
        path: str,
        kind: Kind,
        info: os.stat_result,
        attributes: dict[str, bytes] | None = None,
        size: int = 0,
    ) -> TarEntry:
        return TarEntry(
            path,
            kind,
            size,
            stat.S_IMODE(info.st_mode),
            self._shift.apply(info.st_uid),
            self._shift.apply(info.st_gid),
            info.st_mtime_ns,
            xattrs=attributes or {},
        )

    def _write(self, entry: TarEntry) -> None:
        self._entries += 1
        self._writer.add(entry)


def changes(upper: Path, lowers: Sequence[Path]) -> list[Change]:
    """Return what `upper` changes over `lowers` (topmost first), sorted by path, as `docker diff` shows it."""
    found: list[Change] = []
    below = Lowers(lowers)
    with opened_directory(upper) as root, below:
        for folder in walk(root):
            opaque = bool(folder.path) and is_opaque(folder.fd)
            if opaque:
                found.extend(Change("D", f"/{path}") for path in below.hidden_in(folder))
            for name, info in folder.entries:
                path = folder.child(name)
                if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                    if below.find(path) is not None:
                        found.append(Change("D", f"/{path}"))
                    continue
                old = below.find(path)
                if old is None or below.is_hidden(path):
                    found.append(Change("A", f"/{path}"))
                elif not stat.S_ISDIR(info.st_mode) or _differs(info, old) or _has_entries(folder.fd, name):
                    found.append(Change("C", f"/{path}"))
            below.note(folder.path, opaque=opaque)
    return sorted(found, key=lambda change: change.path)


class Lowers:
    """The merged view of a stack of layer folders, topmost first, looked at one path at a time."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._fds: list[int] = []
        self._opaque: list[str] = []

    def __enter__(self) -> Lowers:
        self._fds = [os.open(folder, DIRECTORY) for folder in self._folders]
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)

    def note(self, path: str, *, opaque: bool) -> None:
        """Remember an opaque directory of the layer above: nothing below it is to be seen."""
        if opaque:
            self._opaque.append(path + "/")

    def is_hidden(self, path: str) -> bool:
        return any(path.startswith(prefix) for prefix in self._opaque)

    def find(self, path: str) -> os.stat_result | None:
        """Return what the merged lowers have at `path`."""
        for fd in self._fds:
            info, ends = _look(fd, path)
            if info is not None:
                return info
            if ends:
                return None
        return None

    def covers(self, path: str, *, is_directory: bool) -> bool:
        """Tell whether these layers, lying above a file at `path`, hide it (a directory is merged with theirs)."""
        for fd in self._fds:
            info, ends = _look(fd, path)
            if ends and not (is_directory and info is not None and stat.S_ISDIR(info.st_mode)):
                return True
        return False

    def hidden_in(self, folder: Folder) -> Iterator[str]:
        """Give the paths of lower files in a directory that became opaque and that are not there again."""
        own = {name for name, _ in folder.entries}
        names: set[str] = set()
        for fd in self._fds:
            try:
                with opened(open_in_root(fd, folder.path, DIRECTORY | os.O_NOFOLLOW)) as below:
                    names.update(os.listdir(below))
            except OSError:
                continue
        for name in sorted(names - own):
            if self.find(folder.child(name)) is not None:
                yield folder.child(name)


def _look(root: int, path: str) -> tuple[os.stat_result | None, bool]:
    """Return what one layer has at `path`, and whether it hides what the layers below it have there."""
    parts = path.split("/")
    fd = os.dup(root)
    opaque = False
    try:
        for index, name in enumerate(parts):
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return None, opaque
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                return None, True
            if index == len(parts) - 1:
                return info, True
            if not stat.S_ISDIR(info.st_mode):
                return None, True
            child = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = child
            opaque = opaque or is_opaque(fd)
        return None, opaque
    finally:
        os.close(fd)


def _differs(new: os.stat_result, old: os.stat_result) -> bool:
    return stat.S_IFMT(new.st_mode) != stat.S_IFMT(old.st_mode) or stat.S_IMODE(new.st_mode) != stat.S_IMODE(
        old.st_mode
    )


def _has_entries(parent: int, name: str) -> bool:
    try:
        with opened(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)) as fd, os.scandir(fd) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OVERLAY_OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise

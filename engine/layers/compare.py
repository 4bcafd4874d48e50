"""Telling whether a layer's folder still is what its archive says."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from engine.layers.diff import is_opaque
from engine.layers.limits import LAYER, Limits
from engine.layers.names import OPAQUE, RESERVED, WHITEOUT, clean_name
from engine.layers.tar import Kind, Readable, TarEntry, TarReader
from engine.linux import xattrs
from engine.linux.files import DIRECTORY, NOFOLLOW, open_in_root, opened, opened_directory
from engine.linux.idshift import NO_SHIFT
from engine.linux.walk import walk


class Difference(NamedTuple):
    """`what` is `missing`, `added` or `changed`; `path` is relative to the layer; `detail` says what changed."""

    what: str
    path: str
    detail: str = ""


def compare_layer(
    stream: Readable, folder: Path, *, limits: Limits = LAYER, check: Callable[[], None] | None = None
) -> list[Difference]:
    """Compare the layer archive `stream` (a tar, not packed) with the folder it was unpacked to; reads all of both."""
    with opened_directory(folder) as root:
        comparer = _Comparer(root)
        for entry in (reader := TarReader(stream, limits)):
            if check is not None:
                check()
            comparer.take(entry, reader)
        return sorted([*comparer.found(), *comparer.added()], key=lambda item: item.path)


class _Comparer:
    def __init__(self, root: int) -> None:
        self._root = root
        self._differences: dict[str, Difference | None] = {}  # the last entry of a name counts
        self._known: set[tuple[int, int]] = set()
        self._parents: set[str] = set()
        self._hidden: set[str] = set()

    def take(self, entry: TarEntry, reader: TarReader) -> None:
        path = clean_name(entry.name, max_depth=4096)
        folder, _, name = path.rpartition("/")
        self._note_parents(folder)
        if name == OPAQUE:
            self._note(f"{folder}/", self._opaque(folder))
        elif name.startswith(RESERVED) or entry.kind in (Kind.CHAR, Kind.BLOCK):
            return
        elif name.startswith(WHITEOUT):
            hidden = f"{folder}/{name[len(WHITEOUT) :]}".lstrip("/")
            self._hidden.add(hidden)
            if self._differences.get(hidden, "unseen") == "unseen":
                self._note(hidden, self._whiteout(hidden))
        else:
            self._note(path, self._entry(path, folder, name, entry, reader))

    def found(self) -> Iterator[Difference]:
        return (difference for difference in self._differences.values() if difference is not None)

    def added(self) -> Iterator[Difference]:
        """Give what is in the folder but not in the archive."""
        for part in walk(self._root):
            for name, info in part.entries:
                path = part.child(name)
                is_known = (info.st_dev, info.st_ino) in self._known or path in self._differences
                if not is_known and path not in self._parents and path not in self._hidden:
                    yield Difference("added", path)

    def _note(self, path: str, difference: Difference | None) -> None:
        self._differences[path] = difference

    def _note_parents(self, folder: str) -> None:
        while folder and folder not in self._parents:
            self._parents.add(folder)
            folder = folder.rpartition("/")[0]

    def _entry(
        self, path: str, folder: str, name: str, entry: TarEntry, reader: TarReader
    ) -> Difference | None:
        try:
            with opened(open_in_root(self._root, folder or ".", DIRECTORY)) as parent:
                return self._compare(parent, path, name or ".", entry, reader)
        except (FileNotFoundError, NotADirectoryError):
            return Difference("missing", path)

    def _compare(
        self, parent: int, path: str, name: str, entry: TarEntry, reader: TarReader
    ) -> Difference | None:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        self._known.add((info.st_dev, info.st_ino))
        if entry.kind is Kind.HARDLINK:
            return self._compare_link(path, info, entry)
        detail = _metadata(entry, info)
        if detail:
            return Difference("changed", path, detail)
        if entry.kind is Kind.SYMLINK:
            same = os.readlink(name, dir_fd=parent) == entry.linkname
            return None if same else Difference("changed", path, "leads elsewhere")
        if entry.kind is Kind.FILE:
            return _content(parent, path, name, entry, reader)
        return None

    def _compare_link(self, path: str, info: os.stat_result, entry: TarEntry) -> Difference | None:
        target = clean_name(entry.linkname, max_depth=4096)
        folder, _, name = target.rpartition("/")
        with opened(open_in_root(self._root, folder or ".", DIRECTORY)) as parent:
            other = os.stat(name, dir_fd=parent, follow_symlinks=False)
        same = (info.st_dev, info.st_ino) == (other.st_dev, other.st_ino)
        return None if same else Difference("changed", path, f"no longer the same file as {target}")

    def _whiteout(self, path: str) -> Difference | None:
        folder, _, name = path.rpartition("/")
        try:
            with opened(open_in_root(self._root, folder or ".", DIRECTORY)) as parent:
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return Difference("missing", path, "the mark that removes it")
        is_mark = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
        return (
            None
            if is_mark or stat.S_ISDIR(info.st_mode)
            else Difference("changed", path, "no longer removed")
        )

    def _opaque(self, folder: str) -> Difference | None:
        if not folder:
            return None  # written out as single marks, see `engine.layers.apply`
        try:
            with opened(open_in_root(self._root, folder, DIRECTORY)) as fd:
                return None if is_opaque(fd) else Difference("changed", folder, "no longer opaque")
        except FileNotFoundError:
            return Difference("missing", folder)


def _metadata(entry: TarEntry, info: os.stat_result) -> str:
    kinds = {
        Kind.FILE: stat.S_ISREG,
        Kind.DIRECTORY: stat.S_ISDIR,
        Kind.SYMLINK: stat.S_ISLNK,
        Kind.FIFO: stat.S_ISFIFO,
    }
    if not kinds[entry.kind](info.st_mode):
        return "another kind of file"
    if (info.st_uid, info.st_gid) != (entry.uid, entry.gid):
        return "owner"
    if entry.kind is not Kind.SYMLINK and stat.S_IMODE(info.st_mode) != entry.mode:
        return "mode"
    if entry.kind is Kind.FILE and info.st_size != entry.size:
        return "size"
    if info.st_mtime_ns != entry.mtime_ns:
        return "time"
    return ""


def _content(parent: int, path: str, name: str, entry: TarEntry, reader: TarReader) -> Difference | None:
    with opened(os.open(name, os.O_RDONLY | NOFOLLOW, dir_fd=parent)) as fd:
        for chunk in reader.chunks():
            if os.read(fd, len(chunk)) != chunk:
                return Difference("changed", path, "content")
        kept = {key: value for key, raw in entry.xattrs.items() if (value := _kept(key, raw)) is not None}
        if xattrs.read(fd, NO_SHIFT) != kept:
            return Difference("changed", path, "attributes")
    return None


def _kept(name: str, raw: bytes) -> bytes | None:
    return xattrs.mapped(name, raw, NO_SHIFT) if xattrs.may_travel(name) else None

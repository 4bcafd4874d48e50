"""Putting files where COPY and ADD say, into the upper folder of a new layer.

Two phases. While the overlay is mounted, folders are found or made through it: links of the image are followed inside the image, and the
kernel copies up what the new layer changes. Files are only noted then. After the unmount they are written into the upper folder itself, which
is faster and lets a file of an upload become part of the layer by a hard link, without its bytes being copied again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine.build.modes import ModeChange
from engine.build.trees import Fact, Tree
from engine.errors import InvalidInput
from engine.linux.files import (
    DIRECTORY,
    NOFOLLOW,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
    opened,
    space_translated,
    write_all,
)

_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW
_LINKS = 40
_CHUNK = 1024 * 1024

Check = Callable[[], None]


@dataclass(frozen=True)
class Ownership:
    """Who owns what is placed (None: as in its tree) and how its mode changes."""

    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None

    def mode_of(self, fact: Fact) -> int:
        return self.mode.apply(fact.mode, is_folder=fact.kind == "d") if self.mode else fact.mode

    def owner_of(self, fact: Fact) -> tuple[int, int]:
        return self.owner or (fact.uid, fact.gid)

    @property
    def new_folder_owner(self) -> tuple[int, int]:
        return self.owner or (0, 0)


@dataclass
class _Pending:
    """Files that go into one folder: name, fact and the tree it comes from."""

    files: list[tuple[str, Fact, Tree]] = field(default_factory=list)


class Placement:
    """One COPY or ADD into one layer. `merged` is an open directory of the mounted overlay, used only before `write`."""

    def __init__(self, merged: int, ownership: Ownership, check: Check) -> None:
        self._merged = merged
        self._ownership = ownership
        self._check = check
        self._real: dict[str, str] = {"": ""}  # folder as asked for → its path without links
        self._made: set[str] = set()
        self._touched: set[str] = set()
        self._folders: dict[str, Fact] = {}
        self._pending: dict[str, _Pending] = {}
        self._adopted: list[tuple[Tree, str, str, str]] = []  # tree, place in it, real folder, name
        self._links_left = 0

    # while the overlay is mounted ------------------------------------------------------------------------------

    def is_folder(self, path: str) -> bool:
        """Tell whether a path of the image leads to a folder."""
        try:
            fd = open_in_root(self._merged, path or ".", os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno == errno.ELOOP:
                return False
            raise
        os.close(fd)
        return True

    def folder(self, path: str) -> str:
        """Return the real path of a folder of the image, made with its parents where missing."""
        path = posixpath.normpath("/" + path).strip("/")
        if path not in self._real:
            parent, name = posixpath.split(path)
            real = self.folder(parent)
            self._links_left = _LINKS
            self._real[path] = self._enter(real, name)
        return self._real[path]

    def open_folder(self, path: str) -> int:
        """Open a folder of the image for an archive to be unpacked into it."""
        return openat2(self._merged, self.folder(path) or ".", DIRECTORY, resolve=_INSIDE)

    def add(self, tree: Tree, fact: Fact, destination: str) -> None:
        """Place one file or folder at `destination` (a path in the image). Folders must come before what is in them."""
        if fact.kind == "d":
            real = self.folder(destination)
            if fact.path or real in self._made:
                self._touch(real)
                self._folders[real] = fact
            return
        parent, name = posixpath.split(destination.rstrip("/"))
        real = self.folder(parent)
        self._check_free(real, name)
        self._touch(real)
        self._pending.setdefault(real, _Pending()).files.append((name, fact, tree))

    def adopt(self, tree: Tree, fact: Fact, destination: str) -> bool:
        """Take a folder of the tree over as it is, with all that is in it, if the image has nothing at `destination`.

        Only for a tree that nobody needs afterwards and that lies on the disk of the layers. What is in the folder must
        not be added any more.
        """
        parent, name = posixpath.split(destination)
        real = self.folder(parent)
        if real not in self._made:
            with opened(openat2(self._merged, real or ".", DIRECTORY, resolve=_INSIDE)) as folder:
                with suppress(FileNotFoundError):
                    os.stat(name, dir_fd=folder, follow_symlinks=False)
                    return False
        self._touch(real)
        self._adopted.append((tree, fact.place, real, name))
        return True

    def _check_free(self, real: str, name: str) -> None:
        if real in self._made or not name:
            return
        with opened(openat2(self._merged, real or ".", DIRECTORY, resolve=_INSIDE)) as folder:
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise InvalidInput(f"cannot replace the folder /{_join(real, name)} with a file")

    def _touch(self, real: str) -> None:
        """Have the kernel copy up a folder of the image, so that the upper has it with its owner and mode."""
        if real in self._made or real in self._touched or not real:
            return
        with opened(openat2(self._merged, real, DIRECTORY, resolve=_INSIDE)) as folder:
            info = os.fstat(folder)
            os.utime(folder, ns=(info.st_atime_ns, info.st_mtime_ns))
        self._touched.add(real)

    def _enter(self, folder: str, name: str) -> str:
        """Return where the name leads to from a real folder, making what is missing."""
        target = self._step(folder, name)
        if target is None:
            return _join(folder, name)
        self._links_left -= 1
        if self._links_left < 0:
            raise InvalidInput(f"too many symbolic links at /{_join(folder, name)}")
        current = "" if target.startswith("/") else folder
        for part in target.split("/"):
            if part == "..":
                current = posixpath.dirname(current)
            elif part not in ("", "."):
                current = self._enter(current, part)
        return current

    def _step(self, folder: str, name: str) -> str | None:
        """Enter or make the folder `name`; return where to go instead when it is a link."""
        with opened(openat2(self._merged, folder or ".", DIRECTORY, resolve=_INSIDE)) as parent:
            try:
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                self._touch(folder)
                with space_translated(f"/{_join(folder, name)}"):
                    os.mkdir(name, 0o755, dir_fd=parent)
                os.chmod(name, 0o755, dir_fd=parent)
                os.chown(name, *self._ownership.new_folder_owner, dir_fd=parent, follow_symlinks=False)
                self._made.add(_join(folder, name))
                return None
            if stat.S_ISLNK(info.st_mode):
                return os.readlink(name, dir_fd=parent)
        if not stat.S_ISDIR(info.st_mode):
            raise InvalidInput(f"cannot copy to non-directory: /{_join(folder, name)}")
        return None

    # after the unmount -----------------------------------------------------------------------------------------

    def write(self, upper: Path) -> None:
        """Write the noted files into the upper folder, then the metadata of folders."""
        with opened(os.open(upper, DIRECTORY)) as root, space_translated("a layer"):
            for tree, place, real, name in self._adopted:
                with (
                    opened(os.open(tree.root, DIRECTORY)) as source,
                    opened(openat2(root, real or ".", DIRECTORY, resolve=_INSIDE)) as folder,
                ):
                    os.rename(place, name, src_dir_fd=source, dst_dir_fd=folder)
            for real, pending in self._pending.items():
                self._check()
                with opened(openat2(root, real or ".", DIRECTORY, resolve=_INSIDE)) as folder:
                    _Writer(folder, real, self._ownership, self._check).write(pending.files)
            for real, fact in sorted(self._folders.items(), reverse=True):
                with opened(openat2(root, real or ".", DIRECTORY, resolve=_INSIDE)) as folder:
                    _set_metadata(folder, fact, self._ownership)


class _Writer:
    """Writes files into one folder. Trees that follow one another keep their root open."""

    def __init__(self, folder: int, path: str, ownership: Ownership, check: Check) -> None:
        self._folder = folder
        self._path = path
        self._ownership = ownership
        self._check = check
        self._linked: dict[tuple[int, int], str] = {}

    def write(self, files: list[tuple[str, Fact, Tree]]) -> None:
        start = 0
        while start < len(files):
            tree = files[start][2]
            end = start
            with opened(os.open(tree.root, DIRECTORY)) as root:
                while end < len(files) and files[end][2] is tree:
                    name, fact, _ = files[end]
                    self._file(name, fact, tree, root)
                    end += 1
                    if not end % 64:
                        self._check()
            start = end

    def _file(self, name: str, fact: Fact, tree: Tree, root: int) -> None:
        try:
            self._make(name, fact, tree, root)
        except FileExistsError:
            os.unlink(name, dir_fd=self._folder)  # an earlier source of this instruction had the name
            self._make(name, fact, tree, root)

    def _make(self, name: str, fact: Fact, tree: Tree, root: int) -> None:
        if fact.kind == "l":
            os.symlink(fact.link, name, dir_fd=self._folder)
        elif fact.kind == "p":
            os.mkfifo(name, 0o600, dir_fd=self._folder)
            os.chmod(name, self._ownership.mode_of(fact), dir_fd=self._folder)
        elif self._may_link(fact, tree) and self._link(name, fact, root):
            return
        elif fact.inode != (0, 0) and fact.inode in self._linked:
            os.link(self._linked[fact.inode], name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            return
        else:
            self._copy(name, fact, tree, root)
            return
        os.chown(name, *self._ownership.owner_of(fact), dir_fd=self._folder, follow_symlinks=False)
        os.utime(name, ns=(fact.mtime_ns, fact.mtime_ns), dir_fd=self._folder, follow_symlinks=False)

    def _may_link(self, fact: Fact, tree: Tree) -> bool:
        return (
            tree.linkable
            and self._ownership.owner_of(fact) == (0, 0)
            and self._ownership.mode_of(fact) == fact.mode
        )

    def _link(self, name: str, fact: Fact, root: int) -> bool:
        try:
            os.link(fact.place, name, src_dir_fd=root, dst_dir_fd=self._folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EMLINK, errno.EPERM):
                return False
            raise
        return True

    def _copy(self, name: str, fact: Fact, tree: Tree, root: int) -> None:
        source = open_in_root(root, fact.place, os.O_RDONLY | os.O_NONBLOCK | NOFOLLOW)
        with opened(source):
            if not stat.S_ISREG(os.fstat(source).st_mode):
                raise _changed(fact)
            with opened(os.open(name, _CREATE, 0o600, dir_fd=self._folder)) as target:
                if tree.fixed:
                    self._copy_fixed(source, target, fact)
                else:
                    self._copy_checked(source, target, fact)
                _set_metadata(target, fact, self._ownership)
        if fact.inode != (0, 0):
            self._linked[fact.inode] = name

    def _copy_fixed(self, source: int, target: int, fact: Fact) -> None:
        left = fact.size
        while left:
            copied = os.sendfile(target, source, None, min(left, 64 * _CHUNK))
            if not copied:
                raise _changed(fact)
            left -= copied
            self._check()

    def _copy_checked(self, source: int, target: int, fact: Fact) -> None:
        """Copy what somebody may be changing: it must be what the cache key was made of."""
        total = hashlib.sha256()
        while data := os.read(source, _CHUNK):
            total.update(data)
            write_all(target, data)
            self._check()
        if total.digest() != fact.digest:
            raise _changed(fact)


def _set_metadata(fd: int, fact: Fact, ownership: Ownership) -> None:
    os.fchown(fd, *ownership.owner_of(fact))
    os.fchmod(fd, ownership.mode_of(fact))
    for name, value in fact.attributes:
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(fact.mtime_ns, fact.mtime_ns))


def _changed(fact: Fact) -> InvalidInput:
    return InvalidInput(
        f"{fact.place} changed while it was copied", hint="build again when nobody writes to it"
    )


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name

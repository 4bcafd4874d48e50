"""Trees of files that COPY, ADD and bind mounts take from: the context, a stage, an image.

A tree is a folder and rules about it: what `.dockerignore` leaves out, hashes already known from unpacking, whether its
owners count. Every path is resolved with the folder as root, so a link can lead to another place of the tree but never out of it.

What is copied is described by `Fact`s: kind, mode, owner, link target, attributes and the hash of the bytes, but no times. The facts make
the cache key, and a changed one names the file that made a step run again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from engine.build.dockerignore import Glob, IgnoreMatcher
from engine.digest import Digest
from engine.errors import InvalidInput
from engine.linux import xattrs
from engine.linux.files import DIRECTORY, NOFOLLOW, child_path, open_in_root, opened
from engine.linux.idshift import NO_SHIFT

MAX_DEPTH = 256
MAX_FILES = 2_000_000
_LINKS = 40
_CHUNK = 1024 * 1024
_WILD = frozenset("*?[")

Attributes = tuple[tuple[str, bytes], ...]


class Known(NamedTuple):
    """What unpacking already found out about a file."""

    size: int
    digest: bytes
    attributes: Attributes = ()


class Fact(NamedTuple):
    """One file to be copied: `path` relative to where it goes, `place` its path in the tree. `kind`: `f`, `d`, `l` or `p`."""

    path: str
    place: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    digest: bytes = b""
    link: str = ""
    attributes: Attributes = ()
    inode: tuple[int, int] = (0, 0)  # set for files with more than one name

    def meaning(self) -> bytes:
        """Return what counts about the file, as bytes to be hashed."""
        size = self.size if self.kind == "f" else 0
        head = (
            f"{self.kind}\0{self.path}\0{self.mode:o}\0{self.uid}\0{self.gid}\0{size}\0{self.link}\0".encode(
                "utf-8", "surrogateescape"
            )
        )
        extra = b"".join(name.encode() + b"\0" + value + b"\0" for name, value in self.attributes)
        return head + self.digest + extra + b"\n"


@dataclass
class Tree:
    """A folder to copy from; `keeps_owners` is false for a context, where all is root's."""

    root: Path
    title: str
    ignore: IgnoreMatcher | None = None
    known: dict[str, Known] = field(default_factory=dict)
    keeps_owners: bool = True
    fixed: bool = False  # nobody changes its files
    linkable: bool = False  # neither do we, and they lie on the disk of the layers
    chain: Digest | None = None  # the stack of layers that it shows

    def ignores(self, path: str) -> bool:
        return self.ignore is not None and bool(path) and self.ignore.ignores(path)

    def resolve(self, path: str) -> str | None:
        """Return the real path of `path` inside the tree, links followed; None if nothing is there or it is left out."""
        parts = [part for part in path.split("/") if part and part != "."]
        real: list[str] = []
        links = 0
        with opened(os.open(self.root, DIRECTORY)) as root:
            while parts:
                name = parts.pop(0)
                if name == "..":
                    real = real[:-1]
                    continue
                place = "/".join((*real, name))
                try:
                    with opened(open_in_root(root, place, os.O_PATH | NOFOLLOW)) as fd:
                        info = os.fstat(fd)
                        target = os.readlink("", dir_fd=fd) if stat.S_ISLNK(info.st_mode) else ""
                except (FileNotFoundError, NotADirectoryError):
                    return None
                if not target:
                    real.append(name)
                    continue
                links += 1
                if links > _LINKS:
                    return None
                real = [] if target.startswith("/") else real
                parts = [part for part in target.split("/") if part and part != "."] + parts
        found = "/".join(real)
        return None if self.ignores(found) and not self.holds_exception(found) else found

    def holds_exception(self, path: str) -> bool:
        """Tell whether something below an ignored folder may be taken all the same."""
        return self.ignore is not None and not self.ignore.ignores_all_below(path)

    def stat(self, path: str) -> os.stat_result:
        with opened(os.open(self.root, DIRECTORY)) as root, opened(self._at(root, path)) as fd:
            return os.fstat(fd)

    def open(self, path: str) -> int:
        """Open a regular file for reading."""
        with opened(os.open(self.root, DIRECTORY)) as root:
            fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | NOFOLLOW)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidInput(f"{path!r} is not a regular file")
        return fd

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that a pattern with wildcards names, sorted; a component only matches names of its folder."""
        found = [""]
        for part in pattern.split("/"):
            if part in ("", "."):
                continue
            if part == "..":
                found = [posixpath.dirname(path) for path in found]
            elif not has_wildcards(part):
                found = [f"{path}/{part}" if path else part for path in found]
            else:
                found = [child for path in found for child in self._matching(path, part)]
            if len(found) > MAX_FILES:
                raise InvalidInput(f"the pattern {pattern[:100]!r} matches too many files")
        return sorted(path for path in found if self.is_there(path))

    def _matching(self, path: str, part: str) -> Iterator[str]:
        real = self.resolve(path)
        if real is None:
            return
        glob = Glob.parse(part)
        with opened(os.open(self.root, DIRECTORY)) as root:
            try:
                fd = open_in_root(root, real or ".", DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                return
            with opened(fd):
                names = os.listdir(fd)
        for name in sorted(names):
            child = f"{path}/{name}" if path else name
            if glob.matches(name) and (not self.ignores(child) or self.holds_exception(child)):
                yield child

    def is_there(self, path: str) -> bool:
        with opened(os.open(self.root, DIRECTORY)) as root:
            try:
                os.close(open_in_root(root, path or ".", os.O_PATH | NOFOLLOW))
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def _at(self, root: int, path: str) -> int:
        return open_in_root(root, path or ".", os.O_PATH | NOFOLLOW)

    def facts(
        self,
        start: str,
        target: str,
        *,
        excluded: IgnoreMatcher | None = None,
        with_root: bool = True,
        check: Callable[[], None] | None = None,
    ) -> Iterator[Fact]:
        """Give the facts of the file or folder `start` (a resolved path), parents first; it goes to `target`.

        `excluded` decides about paths below `start` (for a file: about its name).
        """
        with opened(os.open(self.root, DIRECTORY)) as root:
            with opened(self._at(root, start)) as fd:
                info = os.fstat(fd)
            parent, name = posixpath.split(start)
            if not stat.S_ISDIR(info.st_mode):
                if excluded is None or not excluded.ignores(name):
                    with opened(open_in_root(root, parent or ".", DIRECTORY)) as folder:
                        yield from self._fact(folder, name, start, target, info)
                return
            if with_root:
                with opened(open_in_root(root, start or ".", DIRECTORY)) as folder:
                    yield self._folder(folder, start, target, info)
            yield from self._below(root, start, target, excluded, check)

    def _below(
        self,
        root: int,
        start: str,
        target: str,
        excluded: IgnoreMatcher | None,
        check: Callable[[], None] | None,
    ) -> Iterator[Fact]:
        pending = [("", 0)]
        while pending:
            below, depth = pending.pop()
            if depth > MAX_DEPTH:
                raise InvalidInput(f"{self.title}: folders are more than {MAX_DEPTH} deep at {below[:100]!r}")
            if check is not None:
                check()
            folder = _joined(start, below)
            with opened(open_in_root(root, folder or ".", DIRECTORY | os.O_NOFOLLOW)) as fd:
                deeper = []
                for name, info in _entries(fd):
                    inner = _joined(below, name)
                    place = _joined(start, inner)
                    is_folder = stat.S_ISDIR(info.st_mode)
                    left_out = self.ignores(place) or (excluded is not None and excluded.ignores(inner))
                    if left_out and not (is_folder and self._may_hold(place, inner, excluded)):
                        continue
                    if is_folder:
                        deeper.append((inner, depth + 1))
                        if not left_out:
                            with opened(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)) as child:
                                yield self._folder(child, place, _joined(target, inner), info)
                    else:
                        yield from self._fact(fd, name, place, _joined(target, inner), info)
                pending.extend(reversed(deeper))

    def _may_hold(self, place: str, inner: str, excluded: IgnoreMatcher | None) -> bool:
        """Tell whether a folder that is left out must be entered, because an exception may live in it."""
        by_ignore = not self.ignores(place) or self.holds_exception(place)
        by_exclude = excluded is None or not excluded.ignores_all_below(inner)
        return by_ignore and by_exclude

    def folder_fact(self, place: str, target: str) -> Fact:
        """Return the fact of the folder `place` alone, without what is in it."""
        with opened(os.open(self.root, DIRECTORY)) as root:
            with opened(open_in_root(root, place or ".", DIRECTORY | os.O_NOFOLLOW)) as folder:
                return self._folder(folder, place, target, os.fstat(folder))

    def _folder(self, fd: int, place: str, target: str, info: os.stat_result) -> Fact:
        uid, gid = self._owner(info)
        attributes: Attributes = tuple(sorted(xattrs.read(fd, NO_SHIFT).items()))
        mode = stat.S_IMODE(info.st_mode)
        if not place and not self.keeps_owners:
            mode, attributes = (
                0o755,
                (),
            )  # how somebody's working folder is protected says nothing about the image
        return Fact(target, place, "d", mode, uid, gid, 0, info.st_mtime_ns, attributes=attributes)

    def _fact(self, folder: int, name: str, place: str, target: str, info: os.stat_result) -> Iterator[Fact]:
        uid, gid = self._owner(info)
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISREG(info.st_mode):
            known = self.known.get(place)
            if known is None or known.size != info.st_size:
                known = Known(info.st_size, _digest(folder, name), _attributes(folder, name))
            inode = (info.st_dev, info.st_ino) if info.st_nlink > 1 else (0, 0)
            size, digest, attributes = known
            yield Fact(
                target, place, "f", mode, uid, gid, size, info.st_mtime_ns, digest, "", attributes, inode
            )
        elif stat.S_ISLNK(info.st_mode):
            link = os.readlink(name, dir_fd=folder)
            yield Fact(target, place, "l", 0o777, uid, gid, 0, info.st_mtime_ns, link=link)
        elif stat.S_ISFIFO(info.st_mode):
            yield Fact(target, place, "p", mode, uid, gid, 0, info.st_mtime_ns)

    def _owner(self, info: os.stat_result) -> tuple[int, int]:
        return (info.st_uid, info.st_gid) if self.keeps_owners else (0, 0)


def has_wildcards(text: str) -> bool:
    """Tell whether a path is a pattern; an escaped wildcard is none."""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            next(characters, "")
        elif character in _WILD:
            return True
    return False


class Facts:
    """The facts of everything that one instruction copies, source by source, hashed once."""

    def __init__(self, sources: list[list[Fact]]) -> None:
        self._leaves = [
            [
                (fact, hashlib.sha256(fact.meaning()).digest())
                for fact in sorted(facts, key=lambda fact: fact.path)
            ]
            for facts in sources
        ]

    def fingerprint(self) -> str:
        """Return the hash of what is to be copied, whatever order its files were found in."""
        total = hashlib.sha256()
        for facts in self._leaves:
            total.update(b"source\n")
            for _, leaf in facts:
                total.update(leaf)
        return total.hexdigest()

    def short_hashes(self) -> dict[str, str]:
        """Return a short hash of every file by its place in its tree: enough to name what changed later."""
        return {fact.place or ".": leaf[:8].hex() for facts in self._leaves for fact, leaf in facts}


def _joined(left: str, right: str) -> str:
    return f"{left}/{right}" if left and right else left or right


def _entries(fd: int) -> list[tuple[str, os.stat_result]]:
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    return sorted(found, key=lambda item: os.fsencode(item[0]))


def _attributes(folder: int, name: str) -> Attributes:
    return tuple(sorted(xattrs.read(child_path(folder, name), NO_SHIFT).items()))


def _digest(folder: int, name: str) -> bytes:
    """Hash a file; what became something else since it was listed raises `InvalidInput`."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            raise InvalidInput(f"{name!r} changed while it was read") from error
        raise
    with opened(fd):
        total = hashlib.sha256()
        while data := os.read(fd, _CHUNK):
            total.update(data)
    return total.digest()

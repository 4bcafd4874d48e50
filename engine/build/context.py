"""The build context: an upload (tar, packed or not, or zip) unpacked into a staging folder, or a folder used where it is.

`.dockerignore` is applied while the upload is read: what it leaves out is never written. It may come late in the archive; then
what should not have been written is removed again. The hash of every file is made on the way, so nothing is read twice.
The Dockerfile and the ignore file themselves are always found, ignored or not.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from engine.build.dockerignore import IgnoreMatcher, parse_ignore_file
from engine.build.parser import MAX_BYTES
from engine.build.trees import Attributes, Known, Tree
from engine.build.zipreader import ZipReader, is_zip
from engine.errors import BadArchive, DockerfileError, InvalidInput
from engine.layers.compression import open_any
from engine.layers.confined import extract_entries
from engine.layers.limits import UPLOAD, Limits
from engine.layers.names import clean_name
from engine.layers.policy import UPLOAD_POLICY
from engine.layers.tar import Kind, TarEntry, TarReader
from engine.linux import xattrs
from engine.linux.files import DIRECTORY, open_in_root, opened, remove_tree

IGNORE_FILE = ".dockerignore"
_IGNORE_BYTES = 1024 * 1024
_POLICY = replace(UPLOAD_POLICY, fresh=True)

Check = Callable[[], None]


@dataclass
class BuildContext:
    """A context ready to copy from. `dockerfile` is the text found in it, `ignore` the rules; sizes are of files, in bytes.

    `heavy` are the folders at the top of an upload that took the most, for advice.
    """

    tree: Tree
    dockerfile: bytes | None = None
    ignore: IgnoreMatcher | None = None
    size_bytes: int = 0
    ignored_bytes: int = 0
    heavy: list[tuple[str, int]] = field(default_factory=list)


def checked_dockerfile_path(path: str) -> str:
    """Return the Dockerfile's path inside the context; refuse one that leads out of it (BU-01)."""
    cleaned = posixpath.normpath(path)
    if path.startswith("/") or cleaned.startswith("..") or "\0" in path:
        raise DockerfileError(
            f"the Dockerfile {path[:100]!r} is outside the build context",
            file=path,
            hint="give a path inside the context",
        )
    return cleaned


def folder_context(folder: Path, dockerfile_path: str) -> BuildContext:
    """Use a folder of this machine as the context, where it is."""
    path = checked_dockerfile_path(dockerfile_path)
    with opened(os.open(folder, DIRECTORY)) as root:
        patterns = _read_small(root, path + IGNORE_FILE, _IGNORE_BYTES)
        if patterns is None:
            patterns = _read_small(root, IGNORE_FILE, _IGNORE_BYTES)
        dockerfile = _read_small(root, path, MAX_BYTES)
    matcher = IgnoreMatcher(parse_ignore_file(patterns)) if patterns is not None else None
    tree = Tree(folder, "the build context", matcher, keeps_owners=False)
    return BuildContext(tree, dockerfile, matcher)


def empty_context(folder: Path) -> BuildContext:
    """Return a context without files; `folder` is an empty one."""
    return BuildContext(Tree(folder, "the build context", keeps_owners=False))


def unpack_context(
    archive: Path, staging: Path, dockerfile_path: str, *, check: Check, limits: Limits = UPLOAD
) -> BuildContext:
    """Unpack an upload into the new folder `staging`; raise `BadArchive` naming the entry, leaving nothing there."""
    path = checked_dockerfile_path(dockerfile_path)
    known_patterns: bytes | None = None
    forced: set[str] = set()
    while True:
        staging.mkdir(mode=0o700)
        with ExitStack() as undo:
            undo.callback(remove_tree, staging)
            reader = _ContextReader(path, known_patterns, forced)
            try:
                with archive.open("rb") as file:
                    reader.source = _entries(file, limits)
                    extract_entries(reader, staging, limits, _POLICY, check=check)
            except _Again as again:
                known_patterns, forced = again.patterns, forced | again.forced
                continue
            reader.clean(staging)
            undo.pop_all()
            return reader.context(staging)


class EntrySource(Protocol):
    """What gives entries and their content."""

    def __iter__(self) -> Iterator[TarEntry]: ...
    def chunks(self) -> Iterator[memoryview]: ...


def _entries(file: BinaryIO, limits: Limits) -> EntrySource:
    if is_zip(file):
        return ZipReader(file, limits)
    return TarReader(open_any(file, limits), limits, require_end=True)


class _Again(Exception):
    """The archive must be read again, with what is known now."""

    def __init__(self, patterns: bytes | None, forced: set[str]) -> None:
        self.patterns = patterns
        self.forced = forced


class _ContextReader:
    """Gives on the entries that belong to the context, hashing them; collects what is to be known about it."""

    def __init__(self, dockerfile_path: str, patterns: bytes | None, forced: set[str]) -> None:
        self.source: EntrySource
        self._ranks = {
            dockerfile_path + IGNORE_FILE: 0,
            IGNORE_FILE: 1,
        }  # the Dockerfile's own ignore file wins
        self._specials = {dockerfile_path: MAX_BYTES, **dict.fromkeys(self._ranks, _IGNORE_BYTES)}
        self._dockerfile_path = dockerfile_path
        self._patterns = patterns
        self._rank = 2 if patterns is None else 0
        self._matcher = None if patterns is None else IgnoreMatcher(parse_ignore_file(patterns))
        self._forced = forced
        self._found: dict[str, bytes] = {}
        self._skipped: set[str] = set()
        self._written: dict[str, Kind] = {}
        self._links: set[str] = set()
        self._known: dict[str, Known] = {}
        self._reliable = True  # no entry went through a link, so a path in the archive is the path on disk
        self._path, self._entry = "", TarEntry("")
        self._size = self._ignored = 0
        self._heavy: Counter[str] = Counter()

    def __iter__(self) -> Iterator[TarEntry]:
        for entry in self.source:
            self._use_patterns()
            self._path, self._entry = path, entry = clean_name(entry.name), entry
            special = path in self._specials and entry.kind is Kind.FILE
            if special and entry.size > self._specials[path]:
                raise BadArchive(f"{path} is larger than {self._specials[path] >> 20} MiB", entry=path)
            if path and not special and path not in self._forced and self._ignores(path):
                self._skipped.add(path)
                self._ignored += entry.size
                continue
            self._note(path, entry)
            yield entry._replace(uid=0, gid=0) if entry.uid or entry.gid else entry
        self._use_patterns()

    def chunks(self) -> Iterator[memoryview]:
        path, entry = self._path, self._entry
        total = hashlib.sha256()
        content: list[bytes] | None = [] if path in self._specials else None
        for chunk in self.source.chunks():
            total.update(chunk)
            if content is not None:
                content.append(bytes(chunk))
            yield chunk
        if content is not None:
            self._found[path] = b"".join(content)
        self._known[path] = Known(entry.size, total.digest(), _attributes(entry) if entry.xattrs else ())

    def clean(self, staging: Path) -> None:
        """Remove what was written before its pattern was known, or only because a link needed it."""
        if self._matcher is None:
            return
        ignored = [path for path in self._written if path and self._matcher.ignores(path)]
        with opened(os.open(staging, DIRECTORY)) as root:
            for path in sorted(ignored, reverse=True):
                self._remove(root, path)

    def _remove(self, root: int, path: str) -> None:
        folder, name = posixpath.split(path)
        with suppress(FileNotFoundError, NotADirectoryError):
            with opened(open_in_root(root, folder or ".", DIRECTORY)) as fd:
                if self._written[path] is Kind.DIRECTORY:
                    with suppress(OSError):
                        os.rmdir(name, dir_fd=fd)  # stays when an exception lives in it
                else:
                    os.unlink(name, dir_fd=fd)
                    known = self._known.pop(path, None)
                    self._ignored += known.size if known else 0
                    self._size -= known.size if known else 0
            if folder and folder not in self._written:
                self._written[folder] = Kind.DIRECTORY  # made only for what is now gone
                self._remove(root, folder)

    def context(self, staging: Path) -> BuildContext:
        """Return the context that now lies in `staging`."""
        known = self._known if self._reliable else {}
        tree = Tree(staging, "the build context", known=known, keeps_owners=False, fixed=True, linkable=True)
        return BuildContext(
            tree,
            self._found.get(self._dockerfile_path),
            self._matcher,
            self._size,
            self._ignored,
            self._heavy.most_common(5),
        )

    def _ignores(self, path: str) -> bool:
        return self._matcher is not None and self._matcher.ignores(path)

    def _use_patterns(self) -> None:
        """Begin to ignore when an ignore file has been read; begin anew when the other one had been used so far."""
        rank = self._ranks.get(self._path, 2)
        if rank >= self._rank or self._path not in self._found:
            return
        patterns = self._found[self._path]
        if self._skipped:
            raise _Again(patterns, self._forced)
        self._rank, self._patterns = rank, patterns
        self._matcher = IgnoreMatcher(parse_ignore_file(patterns))

    def _note(self, path: str, entry: TarEntry) -> None:
        self._size += entry.size
        self._heavy[path.partition("/")[0]] += entry.size
        before = self._written.get(path)
        if self._links and self._passes_link(path):
            self._reliable = False
        if before is not None and (before is not entry.kind) and Kind.DIRECTORY in (before, entry.kind):
            self._reliable = False
        if entry.kind is Kind.SYMLINK:
            self._links.add(path)
        if entry.kind is Kind.HARDLINK:
            self._note_hardlink(path, clean_name(entry.linkname, entry=entry.name))
        else:
            self._known.pop(path, None)
        self._written[path] = entry.kind

    def _note_hardlink(self, path: str, target: str) -> None:
        if target in self._skipped:
            raise _Again(self._patterns, self._forced | {target})
        if self._links and (target in self._links or self._passes_link(target)):
            self._reliable = False
        if target in self._known:
            self._known[path] = self._known[target]

    def _passes_link(self, path: str) -> bool:
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in self._links:
                return True
        return False


def _attributes(entry: TarEntry) -> Attributes:
    return tuple(sorted((name, value) for name, value in entry.xattrs.items() if xattrs.may_travel(name)))


def _read_small(root: int, path: str, limit: int) -> bytes | None:
    """Read a regular file of the context; None if there is none. Links are followed inside the context only."""
    try:
        place = open_in_root(root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    with opened(place):
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise InvalidInput(f"{path} in the build context is not a regular file")
        with open(f"/proc/self/fd/{place}", "rb") as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidInput(f"{path} in the build context is larger than {limit >> 20} MiB")
    return data

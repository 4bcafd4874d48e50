"""Restoring a volume from an archive: everything in a folder beside the volume first, then one exchange of names.

Whatever goes wrong before the exchange leaves the old content as it was. The archive may be a backup of ours, whose
manifest is then checked file by file, or any other tar; device nodes are refused, names stay inside (`engine.layers`).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import posixpath
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.errors import BadArchive, BadSpec, NotFound
from engine.layers.compression import open_any
from engine.layers.confined import extract_entries
from engine.layers.limits import Limits
from engine.layers.names import clean_name
from engine.layers.policy import Policy
from engine.layers.tar import Kind, Readable, TarEntry, TarReader
from engine.linux.files import DIRECTORY, fsync_dir, openat2, opened, remove_tree, space_translated, syncfs
from engine.volumes.binds import STRICT
from engine.volumes.limits import VOLUME
from engine.volumes.manifest import LIMIT, NAME, Manifest, differences, parse_manifest

RESTORE_POLICY = Policy(devices="refuse", fifos=True, require_end=True, fresh=True)

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_SYS_RENAMEAT2 = {
    "x86_64": 316,
    "aarch64": 276,
    "riscv64": 276,
    "armv7l": 382,
    "ppc64le": 357,
    "s390x": 347,
    "i686": 353,
}
_FREE_SHARE = 0.95
_JOURNAL = ".journal"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class RestoreResult:
    """What a restore brought. `proven` says that the archive had a manifest and every file was as it says."""

    files: int
    content_bytes: int
    proven: bool


def restore(
    data: Path, source: Readable, *, files: Sequence[str] = (), check: Callable[[], None] | None = None
) -> RestoreResult:
    """Replace the folder `data` by what the archive `source` holds, or (`files`) only those paths in it.

    All or nothing. Raises `BadArchive` naming the entry, `NoSpace`, `NotFound` for a path that the archive lacks.
    """
    wanted = _outermost([_clean(path) for path in files])
    staging = data.with_name(f"restore-{secrets.token_hex(6)}")
    with ExitStack() as undo, space_translated("the restored volume"):
        staging.mkdir(mode=0o755)
        undo.callback(remove_tree, staging)
        reader = _CheckedReader(TarReader(open_any(source, VOLUME), _limits(data), require_end=True), wanted)
        extract_entries(reader, staging, VOLUME, RESTORE_POLICY, check=check)
        result = reader.result()
        if missing := [path for path in wanted if not os.path.lexists(staging / path)]:
            raise NotFound(f"the backup has no {missing[0]!r}")
        syncfs(staging)
        if wanted:
            _place(staging, data, wanted)
        else:
            exchange(staging, data)  # `staging` now is the old content, and goes
        fsync_dir(data.parent)
    return result


def verify(source: Readable, *, check: Callable[[], None] | None = None) -> Manifest:
    """Read a whole backup and compare it with its manifest; raise `BadArchive` where it differs or has none."""
    reader = _CheckedReader(TarReader(open_any(source, VOLUME), VOLUME, require_end=True), [])
    for number, entry in enumerate(reader):
        if check is not None and not number % 64:
            check()
        if entry.kind is Kind.FILE:
            for _ in reader.chunks():
                pass
    reader.result()
    if reader.manifest is None:
        raise BadArchive(
            "an archive without a list of its files", hint="it may be whole, but nothing proves it"
        )
    return reader.manifest


def remove_leftovers(folder: Path) -> list[str]:
    """Undo a restore that was killed, and remove what it left beside the volume's data."""
    _finish_cut_placing(folder)
    left = sorted(path.name for path in folder.glob("restore-*"))
    for name in left:
        remove_tree(folder / name)
    return left


def exchange(one: Path, other: Path) -> None:
    """Let two names change places in one step (renameat2(2), RENAME_EXCHANGE)."""
    number = _SYS_RENAMEAT2[os.uname().machine]
    result = _libc.syscall(
        number, _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(other))


@dataclass
class _CheckedReader:
    """The entries of an archive as they go to disk: hashed on the way, the manifest kept out, unwanted ones left out."""

    tar: TarReader
    wanted: list[str]
    manifest: Manifest | None = None
    _found: dict[str, tuple[int, str]] = field(default_factory=dict)
    _path: str = ""
    _size: int = 0
    _bytes: int = 0

    def __iter__(self) -> Iterator[TarEntry]:
        for entry in self.tar:
            self._path, self._size = _relative(entry.name), entry.size
            if self._path == NAME and entry.kind is Kind.FILE:
                self._read_manifest(entry)
                continue
            if self.manifest is not None:
                raise BadArchive("an entry after the list of files", entry=entry.name)
            if not self._is_wanted(self._path):
                if entry.kind is Kind.FILE:
                    self._read_over()
                continue
            if entry.kind is Kind.HARDLINK and self.wanted and not self._is_wanted(_relative(entry.linkname)):
                raise BadArchive(
                    f"{entry.name} is another name of {entry.linkname}",
                    entry=entry.name,
                    hint="restore that file too",
                )
            yield entry

    def chunks(self) -> Iterator[memoryview]:
        digest = hashlib.sha256()
        for chunk in self.tar.chunks():
            digest.update(chunk)
            self._bytes += len(chunk)
            yield chunk
        self._found[self._path] = (self._size, digest.hexdigest())

    def result(self) -> RestoreResult:
        """Compare with the manifest, if there was one; raise `BadArchive` for the first difference."""
        if self.manifest is not None and (wrong := differences(self.manifest, self._found)):
            raise BadArchive(f"the backup is damaged: {wrong[0]}", entry=wrong[0].split(" ")[0])
        return RestoreResult(len(self._found), self._bytes, self.manifest is not None)

    def _read_over(self) -> None:
        for _ in self.chunks():
            pass

    def _is_wanted(self, path: str) -> bool:
        return not self.wanted or any(path == item or path.startswith(item + "/") for item in self.wanted)

    def _read_manifest(self, entry: TarEntry) -> None:
        if entry.size > LIMIT:
            raise BadArchive("a list of files that is too long", entry=entry.name)
        self.manifest = parse_manifest(b"".join(bytes(chunk) for chunk in self.tar.chunks()))


def _limits(data: Path) -> Limits:
    """Bound a restore by what the disk can take: a bomb is stopped before it fills the node."""
    state = os.statvfs(data.parent)
    return replace(VOLUME, max_bytes=int(state.f_bavail * state.f_frsize * _FREE_SHARE))


def _place(staging: Path, data: Path, wanted: Sequence[str]) -> None:
    """Move the restored paths into the volume, all or none: a journal beside them says which, should we be killed."""
    journal = staging.with_name(f"{staging.name}{_JOURNAL}")
    placed = {path: os.lstat(staging / path).st_ino for path in wanted}
    with opened(os.open(data, DIRECTORY)) as root:
        try:
            with journal.open("x") as file:
                json.dump(placed, file)
                file.flush()
                os.fsync(file.fileno())
            fsync_dir(journal.parent)
            try:
                for path in wanted:
                    _place_one(root, staging / path, path)
                syncfs(data)
            except BaseException:
                _take_back(root, staging, placed)
                raise
        finally:
            journal.unlink(missing_ok=True)


def _place_one(root: int, new: Path, path: str) -> None:
    """Put one path where it belongs; what is there already comes into its place, in one step."""
    folder, name = posixpath.split(path)
    with opened(_open_folder(root, folder, new.parent)) as parent:
        here = Path(f"/proc/self/fd/{parent}/{name}")
        if os.path.lexists(here):
            exchange(new, here)
        else:
            new.rename(here)


def _take_back(root: int, staging: Path, placed: Mapping[str, int]) -> None:
    """Undo `_place` as far as it came: what carries the inode number of a restored path was placed."""
    for path, inode in reversed(list(placed.items())):
        folder, name = posixpath.split(path)
        try:
            parent = openat2(root, folder or ".", DIRECTORY, resolve=STRICT)
        except OSError:
            continue  # its folder is not there, so it is not either
        with opened(parent):
            here = Path(f"/proc/self/fd/{parent}/{name}")
            if not os.path.lexists(here) or os.lstat(here).st_ino != inode:
                continue
            if os.path.lexists(staging / path):
                exchange(staging / path, here)
            else:
                here.rename(staging / path)


def _finish_cut_placing(folder: Path) -> None:
    """Give a volume back what it had before a restore of some files that was killed in the middle."""
    for journal in folder.glob(f"restore-*{_JOURNAL}"):
        try:
            placed = json.loads(journal.read_text())
        except ValueError:
            placed = {}  # killed while it was written: nothing was placed yet
        staging = journal.with_name(journal.name.removesuffix(_JOURNAL))
        if staging.is_dir():
            with opened(os.open(folder / "data", DIRECTORY)) as root:
                _take_back(root, staging, placed)
                syncfs(staging)
        journal.unlink()


def _open_folder(root: int, folder: str, like: Path) -> int:
    """Open a folder of the volume without following links; missing ones are made as they are in the backup."""
    current = os.dup(root)
    parts = folder.split("/") if folder else []
    for depth, part in enumerate(parts):
        with opened(current) as parent:
            try:
                current = os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            except FileNotFoundError:
                model = os.lstat(_ancestor(like, len(parts) - depth - 1))
                os.mkdir(part, model.st_mode & 0o7777, dir_fd=parent)
                os.chown(part, model.st_uid, model.st_gid, dir_fd=parent, follow_symlinks=False)
                current = os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            except OSError as error:
                raise BadSpec(f"{folder!r} is not a folder of the volume") from error
    return current


def _ancestor(path: Path, levels: int) -> Path:
    for _ in range(levels):
        path = path.parent
    return path


def _outermost(paths: Sequence[str]) -> list[str]:
    """Leave out what is said twice, and what lies in a folder that is said too."""
    return [path for path in dict.fromkeys(paths) if not any(path.startswith(f"{other}/") for other in paths)]


def _clean(path: str) -> str:
    cleaned = _relative(path)
    if not cleaned:
        raise BadSpec("name the files to restore, or none for all")
    return cleaned


def _relative(name: str) -> str:
    return clean_name(name)

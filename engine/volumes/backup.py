"""Backups of a volume: one pass over its files, packed while they are read, read back while they are written.

Three things happen at once, each in a thread of its own, since all three run outside Python's lock:

    read files, hash, make tar   →   pack (gzip or zstd), write   →   read back, hash, unpack, compare

The proof reads what was written (from the file where there is one) with the code that a restore will use, and compares
every file's checksum with that of the bytes read from the volume. So a backup that was reported is one that can be read.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from isal import isal_zlib

from engine.errors import BadSpec
from engine.layers.compression import PACK_BLOCK, Compression, compressor
from engine.layers.tar import BLOCK, Kind, TarEntry, Writable
from engine.layers.tar_writer import header
from engine.linux import xattrs
from engine.linux.files import NOFOLLOW, child_path, opened
from engine.linux.idshift import NO_SHIFT
from engine.linux.walk import Folder, walk
from engine.volumes.blocks import Blocks
from engine.volumes.manifest import NAME, Listed, Manifest
from engine.volumes.proof import Proof, source_of

_LOOK_BYTES = 16 * 1024 * 1024  # how often a long file lets itself be stopped
_KINDS = {"gzip": Compression.GZIP, "zstd": Compression.ZSTD}


@dataclass(frozen=True)
class BackupResult:
    """A proven backup: how many files, their bytes, the archive's bytes and sha256.

    `changed` names files that a container wrote to while they were read: each is whole, but of no one moment.
    """

    files: int
    content_bytes: int
    size_bytes: int
    digest: str
    changed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def back_up(
    root_fd: int,
    volume: str,
    out: Writable,
    *,
    compression: str = "gzip",
    check: Callable[[], None] | None = None,
) -> BackupResult:
    """Write the volume's files as tar.gz or tar.zst to `out`, with their manifest, and prove that it can be read.

    `check` is called now and then and may raise to stop. Raises `Corrupt` when what was written reads back differently;
    the caller removes what `out` got when anything is raised.
    """
    kind = _KINDS.get(compression)
    if kind is None:
        raise BadSpec(f"no compression {compression[:20]!r}", hint="backups are gzip or zstd")
    proof = Proof(source_of(out))
    sink = _Sink(out, proof.feed)
    packer = compressor(sink, kind)
    blocks = Blocks(packer.write)
    proof.start()
    try:
        manifest, checksums = _VolumeReader(root_fd, volume, blocks, check).pack()
        blocks.finish()
        packer.close()
    except BaseException:
        proof.stop()
        blocks.stop()
        raise
    digest = proof.finish(checksums)
    return BackupResult(
        sum(entry.kind == Kind.FILE for entry in manifest.entries),
        sum(entry.size for entry in manifest.entries),
        sink.size,
        digest,
        [entry.path for entry in manifest.entries if entry.changed],
        manifest.skipped,
    )


class _Sink:
    """Where packed bytes go: to the archive, then to the proof."""

    def __init__(self, out: Writable, note: Callable[[bytes], None]) -> None:
        self._out = out
        self._note = note
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        chunk = bytes(data)
        self._out.write(chunk)
        if (flush := getattr(self._out, "flush", None)) is not None:
            flush()  # the proof reads it from the file
        self.size += len(chunk)
        self._note(chunk)


class _VolumeReader:
    """Walks the volume once and makes the archive."""

    def __init__(self, root_fd: int, volume: str, out: Blocks, check: Callable[[], None] | None) -> None:
        self._root = root_fd
        self._out = out
        self._check = check
        self._links: dict[tuple[int, int], str] = {}
        self._checksums: list[tuple[str, int, int]] = []
        self._manifest = Manifest(volume, time.time())

    def pack(self) -> tuple[Manifest, list[tuple[str, int, int]]]:
        """Write everything; return the manifest and (path, size, crc32) of each file in order."""
        info = os.fstat(self._root)
        self._out.write(header(_entry(".", Kind.DIRECTORY, info, xattrs.read(self._root, NO_SHIFT))))
        for folder in walk(self._root):
            if self._check is not None:
                self._check()
            for name, found in folder.entries:
                self._add(folder, name, found)
        data = self._manifest.to_bytes()
        self._out.write(header(TarEntry(NAME, size=len(data), mode=0o600)))
        self._out.write(data)
        self._out.write(bytes(-len(data) % BLOCK + 2 * BLOCK))  # and the end marker
        self._checksums.append((NAME, len(data), isal_zlib.crc32(data)))
        return self._manifest, self._checksums

    def _add(self, folder: Folder, name: str, info: os.stat_result) -> None:
        path, mode = folder.child(name), info.st_mode
        if path == NAME:
            return  # the list of an earlier backup, unpacked by hand
        if stat.S_ISDIR(mode):
            self._put(_entry(path, Kind.DIRECTORY, info, xattrs.read(child_path(folder.fd, name), NO_SHIFT)))
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISFIFO(mode):
            known = self._is_link_to_earlier(path, info)
            if not known and self._add_content(folder, name, path, info) and info.st_nlink > 1:
                self._links[info.st_dev, info.st_ino] = path
        else:
            self._manifest.skipped.append(path)

    def _add_content(self, folder: Folder, name: str, path: str, info: os.stat_result) -> bool:
        """Write what a name stands for; tell whether it was still there."""
        if stat.S_ISREG(info.st_mode):
            return self._add_file(folder.fd, name, path)
        if stat.S_ISFIFO(info.st_mode):
            self._put(_entry(path, Kind.FIFO, info))
            return True
        try:
            target = os.readlink(name, dir_fd=folder.fd)
        except OSError:
            return False  # became something else while we looked
        self._put(_entry(path, Kind.SYMLINK, info)._replace(linkname=target))
        return True

    def _add_file(self, parent: int, name: str, path: str) -> bool:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | NOFOLLOW, dir_fd=parent)
        except OSError:
            return False  # went away or became a link while we looked
        with opened(fd):
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                return False
            entry = _entry(path, Kind.FILE, before, xattrs.read(fd, NO_SHIFT))
            self._out.write(header(entry._replace(size=before.st_size)))
            digest, checksum, whole = self._copy(fd, before.st_size)
            after = os.fstat(fd)
        changed = not whole or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size)
        self._manifest.entries.append(Listed(path, Kind.FILE.value, before.st_size, digest, changed))
        self._checksums.append((path, before.st_size, checksum))
        return True

    def _copy(self, fd: int, size: int) -> tuple[str, int, bool]:
        """Write exactly `size` bytes, zeros for what the file lost meanwhile; return digest, crc32, whether it was whole."""
        digest, checksum, left, whole = hashlib.sha256(), 0, size, True
        while left:
            data: bytes | memoryview = self._out.read_from(fd, left)
            if not data:
                data, whole = bytes(min(left, PACK_BLOCK)), False
                self._out.write(data)
            digest.update(data)
            checksum = isal_zlib.crc32(data, checksum)
            if self._check is not None and (left - len(data)) // _LOOK_BYTES < left // _LOOK_BYTES:
                self._check()
            left -= len(data)
        self._out.write(bytes(-size % BLOCK))
        return digest.hexdigest(), checksum, whole

    def _is_link_to_earlier(self, path: str, info: os.stat_result) -> bool:
        first = self._links.get((info.st_dev, info.st_ino)) if info.st_nlink > 1 else None
        if first is None:
            return False
        self._put(_entry(path, Kind.HARDLINK, info)._replace(linkname=first))
        return True

    def _put(self, entry: TarEntry) -> None:
        self._manifest.entries.append(Listed(entry.name, entry.kind.value))
        self._out.write(header(entry))


def _entry(
    path: str, kind: Kind, info: os.stat_result, attributes: dict[str, bytes] | None = None
) -> TarEntry:
    return TarEntry(
        path,
        kind,
        0,
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        xattrs=attributes or {},
    )

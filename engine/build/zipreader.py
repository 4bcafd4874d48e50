"""Zip archives as uploads, read entry by entry in the order of their directory, each checked before it is believed.

The list of files is loaded by the standard library after `zipdirectory` has found it to be the only one; what a hostile archive could
still do is refused here: entries that overlap (CVE-2024-0450), something before the first of them, names with a backslash or a drive
letter, encrypted entries, sizes beyond the limits, LZMA (it takes as much memory as the archive likes). Of two entries with one name
the last wins, as with a tar. Links made by Info-ZIP (Unix mode in the external attributes) become links. Times have no
zone in a zip; they are taken as UTC.
"""

from __future__ import annotations

import calendar
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from engine.build.zipdirectory import check_end
from engine.errors import BadArchive
from engine.layers.limits import Limits, too_big
from engine.layers.tar import Kind, TarEntry

_CHUNK = 256 * 1024
_LINK_BYTES = 4096
_LOCAL_HEADER = 30
_DRIVE = re.compile(r"[A-Za-z]:")
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


def is_zip(file: BinaryIO) -> bool:
    """Tell a zip by its first bytes; the file is rewound."""
    head = file.read(4)
    file.seek(0)
    return head in (b"PK\x03\x04", b"PK\x05\x06")


class ZipReader:
    """The entries of a zip, in the form in which tar entries come."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        """Raise `BadArchive` for what is no zip, or none to be trusted."""
        check_end(file, limits)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise BadArchive(f"not a readable zip archive: {error}") from error
        self._current: zipfile.ZipInfo | None = None
        _check_directory(self._zip.infolist(), self._zip.start_dir, limits)

    def __iter__(self) -> Iterator[TarEntry]:
        for info in self._zip.infolist():
            self._current = info
            yield self._entry(info)

    def chunks(self) -> Iterator[memoryview]:
        """Give the content of the entry that came last; a wrong checksum raises `BadArchive` at its end."""
        info = self._current
        assert info is not None
        left = info.file_size
        try:
            with self._zip.open(info) as member:
                while data := member.read(_CHUNK):
                    left -= len(data)
                    if left < 0:
                        raise BadArchive("an entry longer than announced", entry=info.filename)
                    yield memoryview(data)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            OSError,
        ) as error:
            raise BadArchive(f"damaged zip entry: {error}", entry=info.filename) from error
        if left:
            raise BadArchive("an entry shorter than announced", entry=info.filename)

    def _entry(self, info: zipfile.ZipInfo) -> TarEntry:
        mode = info.external_attr >> 16
        when = calendar.timegm((*info.date_time, 0, 0, 0)) * 10**9
        if info.is_dir():
            return TarEntry(info.filename, Kind.DIRECTORY, 0, stat.S_IMODE(mode) or 0o755, mtime_ns=when)
        if stat.S_ISLNK(mode):
            if info.file_size > _LINK_BYTES:
                raise BadArchive("a link longer than any path", entry=info.filename)
            target = b"".join(bytes(chunk) for chunk in self.chunks())
            link = target.decode("utf-8", "surrogateescape")
            return TarEntry(info.filename, Kind.SYMLINK, mtime_ns=when, linkname=link)
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise BadArchive("an entry that is neither file, folder nor link", entry=info.filename)
        return TarEntry(info.filename, Kind.FILE, info.file_size, stat.S_IMODE(mode) or 0o644, mtime_ns=when)


def _check_directory(infos: list[zipfile.ZipInfo], end: int, limits: Limits) -> None:
    if len(infos) > limits.max_entries:
        raise too_big(f"{len(infos)} entries", limits.max_entries)
    total = packed = 0
    for info in infos:
        _check_entry(info)
        total += info.file_size
        packed += info.compress_size
    if total > limits.max_bytes:
        raise too_big(f"{total} bytes", limits.max_bytes)
    if total > limits.ratio_floor and total > limits.max_ratio * max(packed, 1):
        raise too_big(f"grown {total // max(packed, 1)} times in unpacking", limits.max_ratio)
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < position:
            raise BadArchive("entries of the zip overlap", entry=info.filename)
        position = info.header_offset + _LOCAL_HEADER + info.compress_size
    if infos and min(info.header_offset for info in infos) != 0:
        raise BadArchive("there is data before the first entry of the zip")
    if position > end:
        raise BadArchive("an entry of the zip reaches into its directory")


def _check_entry(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    if "\\" in name or "\0" in name or _DRIVE.match(name):
        raise BadArchive(
            f"the name {name[:100]!r} has a backslash, a drive letter or a zero byte", entry=name
        )
    if info.flag_bits & _ENCRYPTED:
        raise BadArchive("an encrypted entry", entry=name, hint="make the zip without a password")
    if info.compress_type not in _METHODS:
        raise BadArchive(
            f"an entry packed by the method {info.compress_type}, which is not supported",
            entry=name,
            hint="pack it with deflate, as zip does",
        )

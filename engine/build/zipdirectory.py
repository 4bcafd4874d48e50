"""The end of a zip archive, read strictly before anybody believes it: one reading, or none (AR-11).

Where the list of files stands is said at the end of the archive, and for large ones in two more records. Readers differ in
which of them they believe (CVE-2025-8291), where they look for the end, and whether something may stand before, between or
behind the parts. Here all must agree and nothing may be left over; the files in the list are counted before it is loaded.

Source: PKWARE APPNOTE 6.3.10, sections 4.3.6 to 4.3.16.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

from engine.errors import BadArchive
from engine.layers.limits import Limits, too_big

_END = struct.Struct(
    "<4s4H2LH"
)  # signature, disks, entries here and in all, size and offset of the list, comment
_LOCATOR = struct.Struct("<4sLQL")  # signature, disk, offset of the large end record, disks
_LARGE_END = struct.Struct(
    "<4sQ2H2L4Q"
)  # signature, size, versions, disks, entries, size and offset of the list
_FILE = struct.Struct("<4s6H3L5H2L")  # signature ... lengths of name, extra field and comment at 10 to 12
_COMMENT_LIMIT = 65535
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_LIST_LIMIT = 256 * 1024 * 1024


class _List(NamedTuple):
    """Where the list of files stands; `end` is where what follows it begins."""

    entries: int
    size: int
    offset: int
    end: int


def check_end(file: BinaryIO, limits: Limits) -> None:
    """Raise `BadArchive` unless the archive has one list of files, right where it should be; the file is rewound."""
    found = _read_end(file)
    if found.offset + found.size != found.end:
        raise BadArchive("the list of files in the zip is not where the archive says")
    if found.size > _LIST_LIMIT:
        raise too_big(f"a list of files of {found.size} bytes", _LIST_LIMIT)
    _count(file, found, limits)
    file.seek(0)


def _read_end(file: BinaryIO) -> _List:
    length = file.seek(0, os.SEEK_END)
    start = max(0, length - _END.size - _COMMENT_LIMIT)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise BadArchive("not a readable zip archive: its end is missing")
    _, disk, list_disk, here, entries, size, offset, comment = _END.unpack_from(tail, place)
    if place + _END.size + comment != len(tail):
        raise BadArchive("there is data after the end of the zip")
    if disk or list_disk or here != entries:
        raise BadArchive("a zip of several parts", hint="make one archive of them")
    small = _List(entries, size, offset, start + place)
    large = _read_large_end(file, start + place)
    if large is None:
        return small
    for short, full, value in (
        (small.entries, _FULL_16, large.entries),
        (small.size, _FULL_32, large.size),
        (small.offset, _FULL_32, large.offset),
    ):
        if short not in (full, value):
            raise BadArchive("the two ends of the zip contradict each other")
    return large


def _read_large_end(file: BinaryIO, end: int) -> _List | None:
    """Read the ZIP64 records before the end at `end`; None where there are none."""
    if end < _LOCATOR.size + _LARGE_END.size:
        return None
    file.seek(end - _LOCATOR.size)
    signature, disk, offset, disks = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    place = end - _LOCATOR.size - _LARGE_END.size
    if disk or disks > 1 or offset != place:
        raise BadArchive("the large end record of the zip is not where its locator says")
    file.seek(place)
    fields = _LARGE_END.unpack(file.read(_LARGE_END.size))
    signature, size, _, _, disk, list_disk, here, entries, list_size, list_offset = fields
    if signature != b"PK\x06\x06" or size != _LARGE_END.size - 12 or disk or list_disk or here != entries:
        raise BadArchive("the large end record of the zip is malformed")
    return _List(entries, list_size, list_offset, place)


def _count(file: BinaryIO, found: _List, limits: Limits) -> None:
    """Walk the list: it must hold as many files as announced, end where announced, and not be a bomb."""
    if found.entries > limits.max_entries:
        raise too_big(f"{found.entries} entries", limits.max_entries)
    file.seek(found.offset)
    left = found.size
    for _ in range(found.entries):
        if left < _FILE.size:
            break
        fields = _FILE.unpack(file.read(_FILE.size))
        rest = sum(fields[10:13])
        left -= _FILE.size + rest
        if fields[0] != b"PK\x01\x02" or left < 0:
            raise BadArchive("the list of files in the zip is malformed")
        file.seek(rest, os.SEEK_CUR)
    else:
        if not left:
            return
    raise BadArchive("the list of files in the zip has another length than announced")

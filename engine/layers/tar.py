"""Tar archives, read and written by our own hand.

Python's `tarfile` is lenient where two readers may then see two different archives; this reader has one meaning for
every archive or refuses it with `BadArchive` naming the entry. Read are V7, ustar, GNU (long names, base-256 numbers)
and pax archives; sparse files, multi-volume archives and contradictory headers are refused.

Sources: POSIX.1-2017 pax (ustar and pax interchange formats); GNU tar manual, "Basic Tar Format"; OCI image
specification, layer.md. Extended attributes travel in pax records `SCHILY.xattr.NAME`, as all container tools do it.

Names are text as `os.fsdecode` makes it: bytes that are no UTF-8 survive as surrogate escapes.

    reader = TarReader(stream, limits)
    for entry in reader:
        for chunk in reader.chunks():      # what is not read is skipped
            ...
"""

from __future__ import annotations

import os
import re
import struct
import time
import zlib
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple, Protocol

from engine.errors import BadArchive
from engine.layers.limits import LAYER, Limits, too_big

BLOCK = 512
CHUNK = 256 * 1024
NAME_LIMIT = 4096  # PATH_MAX
EXTENDED_LIMIT = 1024 * 1024  # bytes of one pax or long-name header
_EXTENDED_IN_ROW = 4
_END = bytes(2 * BLOCK)
_ZERO = bytes(BLOCK)
_NS = 1_000_000_000
_XATTR = "SCHILY.xattr."

# name mode uid gid size mtime chksum typeflag linkname magic+version uname gname devmajor devminor prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_DECIMAL = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]*))?\Z")


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHAR = "char"
    BLOCK = "block"
    FIFO = "fifo"


class TarEntry(NamedTuple):
    """One entry as written: nothing is cleaned, see `engine.layers.names`. Only files have a `size` but zero."""

    name: str
    kind: Kind = Kind.FILE
    size: int = 0
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    linkname: str = ""
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = {}  # shared and never changed


class Readable(Protocol):
    """The one method that a source of bytes must have."""

    def read(self, size: int = ..., /) -> bytes: ...


class Writable(Protocol):
    """The one method that a sink of bytes must have; it takes all it is given."""

    def write(self, data: bytes | memoryview, /) -> object: ...


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"5": Kind.DIRECTORY,
    b"2": Kind.SYMLINK,
    b"1": Kind.HARDLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"6": Kind.FIFO,
}
_FLAGS = {kind: flag for flag, kind in _KINDS.items() if flag not in (b"\0", b"7")}


class TarReader:
    """Iterates over the entries of a tar stream; forward only, memory flat.

    With `require_end` an archive without its end marker counts as cut off; without, the end of the stream between two
    entries is an end (some tools write no marker, and a layer's digest says whether it is whole).
    """

    def __init__(self, stream: Readable, limits: Limits = LAYER, *, require_end: bool = False) -> None:
        self._stream = stream
        self._limits = limits
        self._require_end = require_end
        self._buffer = b""
        self._position = 0
        self._left = 0  # content bytes of the current entry not yet given out
        self._padding = 0
        self._current = ""
        self._deadline = time.monotonic() + limits.deadline_s
        self.entries = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[TarEntry]:
        while (entry := self.next()) is not None:
            yield entry

    def next(self) -> TarEntry | None:
        """Return the next entry, None at the end of the archive (everything up to the stream's end is then read)."""
        if self._left or self._padding:
            self._skip_content()
        entry = self._next_entry()
        if entry is None:
            return None
        self._current = entry.name
        self._left = entry.size
        self._padding = -entry.size % BLOCK
        self._count(entry)
        return entry

    def chunks(self) -> Iterator[memoryview]:
        """Give the content of the current entry; a chunk is valid until the next one is asked for."""
        while self._left:
            if self._position >= len(self._buffer):
                self._refill()
            view = memoryview(self._buffer)[self._position : self._position + self._left]
            self._position += len(view)
            self._left -= len(view)
            yield view

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes of the current entry's content (all of it for -1), empty at its end."""
        if size < 0:
            return b"".join(bytes(chunk) for chunk in self.chunks())
        if not self._left or not size:
            return b""
        if self._position >= len(self._buffer):
            self._refill()
        data = self._buffer[self._position : self._position + min(size, self._left)]
        self._position += len(data)
        self._left -= len(data)
        return data

    def _next_entry(self) -> TarEntry | None:
        extended = _Extended()
        for _ in range(_EXTENDED_IN_ROW + 1):
            block = self._block()
            if block is None:
                if extended:
                    raise BadArchive("the archive ends after an extended header", entry=self._current)
                return None
            flag = block[156:157]
            if flag in b"xgLKV" and flag:
                self._read_extended(block, flag, extended)
                continue
            return _entry(block, extended)
        raise BadArchive("too many extended headers before one entry", entry=self._current)

    def _read_extended(self, block: bytes, flag: bytes, extended: _Extended) -> None:
        _check_sum(block, self._current)
        size = _number(block[124:136], "size", self._current)
        if size > EXTENDED_LIMIT:
            raise BadArchive(f"an extended header of {size} bytes", entry=self._current)
        data = self._exactly(size + -size % BLOCK)[:size]
        if flag == b"V":
            return
        if flag in b"LK":
            extended.add_long(flag, data, self._current)
        else:
            extended.add_pax(data, self._current, is_global=flag == b"g")

    def _block(self) -> bytes | None:
        """Return the next header block, or None at the end of the archive."""
        position = self._position
        if len(self._buffer) - position >= BLOCK:
            self._position = position + BLOCK
            block = self._buffer[position : position + BLOCK]
        else:
            found = self._available(BLOCK)
            if not found:
                if self._require_end:
                    raise BadArchive("the archive is cut off: its end marker is missing", entry=self._current)
                return None
            block = self._exactly(BLOCK)
        if block == _ZERO:
            self._read_end()
            return None
        return block

    def _read_end(self) -> None:
        """Read the second zero block and the rest; anything but zeros there is another archive in hiding."""
        if not self._available(BLOCK) and not self._require_end:
            return
        if self._exactly(BLOCK) != _ZERO:
            raise BadArchive("a lone zero block inside the archive", entry=self._current)
        while True:
            rest = self._buffer[self._position :]
            if rest.count(0) != len(rest):
                raise BadArchive("there is data after the end of the archive", entry=self._current)
            self._buffer, self._position = self._stream.read(CHUNK), 0
            if not self._buffer:
                return
            self._check_time()

    def _skip_content(self) -> None:
        for _ in self.chunks():
            pass
        padding, self._padding = self._padding, 0
        if len(self._buffer) - self._position >= padding:
            self._position += padding
        elif self._require_end:
            self._exactly(padding)
        else:
            # umoci leaves out the padding after the last entry, as Go's reader allows
            there = self._available(padding)  # moves the position
            self._position += min(padding, there)

    def _available(self, size: int) -> int:
        """Make up to `size` bytes ready in the buffer; return how many there are."""
        while len(self._buffer) - self._position < size:
            more = self._stream.read(CHUNK)
            if not more:
                break
            self._buffer = self._buffer[self._position :] + more
            self._position = 0
        return len(self._buffer) - self._position

    def _exactly(self, size: int) -> bytes:
        if self._available(size) < size:
            raise BadArchive("the archive is cut off", entry=self._current)
        data = self._buffer[self._position : self._position + size]
        self._position += size
        return data

    def _refill(self) -> None:
        self._check_time()
        self._buffer, self._position = self._stream.read(CHUNK), 0
        if not self._buffer:
            raise BadArchive("the archive is cut off", entry=self._current)

    def _count(self, entry: TarEntry) -> None:
        self.entries += 1
        self.bytes += entry.size
        if self.entries > self._limits.max_entries:
            raise too_big(f"{self.entries} entries", self._limits.max_entries, entry.name)
        if self.bytes > self._limits.max_bytes:
            raise too_big(f"{self.bytes} bytes", self._limits.max_bytes, entry.name)
        if not self.entries % 256:
            self._check_time()

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise too_big(f"taken more than {self._limits.deadline_s:.0f} s", "time", self._current)


class _Extended:
    """What extended headers say about the entry that follows them."""

    def __init__(self) -> None:
        self.pax: dict[str, bytes] = {}
        self.long_name: bytes | None = None
        self.long_link: bytes | None = None
        self._has_pax = False

    def __bool__(self) -> bool:
        return self._has_pax or self.long_name is not None or self.long_link is not None

    def add_long(self, flag: bytes, data: bytes, entry: str) -> None:
        value = data.partition(b"\0")[0]
        if flag == b"L" and self.long_name is None:
            self.long_name = value
        elif flag == b"K" and self.long_link is None:
            self.long_link = value
        else:
            raise BadArchive("two long names for one entry", entry=entry)

    def add_pax(self, data: bytes, entry: str, *, is_global: bool) -> None:
        records = _pax_records(data, entry)
        if is_global:
            # Go's and most container tools ignore global records, GNU tar does not: only harmless ones have one meaning
            if any(
                key in ("path", "linkpath", "size", "uid", "gid") or key.startswith("GNU.") for key in records
            ):
                raise BadArchive("a global header that renames or resizes entries", entry=entry)
            return
        if self._has_pax:
            raise BadArchive("two extended headers for one entry", entry=entry)
        self._has_pax = True
        self.pax = records


def _entry(block: bytes, extended: _Extended) -> TarEntry:
    (raw_name, mode, uid, gid, size, mtime, _, flag, link, magic, _, _, major, minor, prefix) = (
        _HEADER.unpack(block)
    )
    name = raw_name.partition(b"\0")[0]
    if prefix[0] and magic.startswith(b"ustar\0"):
        name = prefix.partition(b"\0")[0] + b"/" + name
    shown = os.fsdecode(name)
    _check_sum(block, shown)
    kind = _KINDS.get(flag)
    if kind is None:
        raise BadArchive(f"an entry of unknown type {flag!r}", entry=shown)
    if extended.long_name is not None:
        name = extended.long_name
    linkname = link.partition(b"\0")[0] if extended.long_link is None else extended.long_link
    values = TarEntry(
        os.fsdecode(name),
        kind,
        _number(size, "size", shown),
        _number(mode, "mode", shown) & 0o7777,
        _number(uid, "uid", shown),
        _number(gid, "gid", shown),
        _signed(mtime, "mtime", shown) * _NS,
        os.fsdecode(linkname),
    )
    if kind in (Kind.CHAR, Kind.BLOCK):
        values = values._replace(major=_number(major, "major", shown), minor=_number(minor, "minor", shown))
    if extended.pax:
        values = _with_pax(values, extended)
    return _consistent(values, flag)


def _consistent(entry: TarEntry, flag: bytes) -> TarEntry:
    """Settle what a size means on an entry without content, and the old way to write a directory."""
    if len(entry.name) > NAME_LIMIT or len(entry.linkname) > NAME_LIMIT:
        raise BadArchive(f"a name longer than {NAME_LIMIT} bytes", entry=entry.name[:200])
    if "\0" in entry.name or "\0" in entry.linkname:
        raise BadArchive("a name with a zero byte", entry=entry.name)
    if entry.kind is Kind.FILE and entry.name.endswith("/"):
        if flag != b"\0" or entry.size:
            raise BadArchive("a file whose name ends like a directory's", entry=entry.name)
        return entry._replace(kind=Kind.DIRECTORY)
    if entry.kind is not Kind.FILE and entry.size:
        if entry.kind is Kind.HARDLINK:
            return entry._replace(
                size=0
            )  # GNU tar and Go: a link's size is that of its target, no content follows
        raise BadArchive(f"a {entry.kind} with content", entry=entry.name)
    return entry


def _with_pax(entry: TarEntry, extended: _Extended) -> TarEntry:
    pax = extended.pax
    changes: dict[str, object] = {}
    xattrs: dict[str, bytes] = {}
    for key, value in pax.items():
        if key.startswith(_XATTR):
            xattrs[key[len(_XATTR) :]] = value
        elif key.startswith("GNU.sparse."):
            raise BadArchive(
                "a sparse file, which is not supported", entry=entry.name, hint="make the archive without -S"
            )
        elif not value:
            continue  # an empty value takes a record back
        elif key == "path":
            changes["name"] = os.fsdecode(value)
        elif key == "linkpath":
            changes["linkname"] = os.fsdecode(value)
        elif key in ("size", "uid", "gid"):
            changes[key] = _decimal(value, key, entry.name)
        elif key == "mtime":
            changes["mtime_ns"] = _pax_time(value, entry.name)
    if ("name" in changes and extended.long_name is not None) or (
        "linkname" in changes and extended.long_link is not None
    ):
        raise BadArchive("two long names for one entry", entry=entry.name)
    if entry.kind is Kind.HARDLINK and changes.get("size"):
        raise BadArchive("a hard link with content", entry=entry.name)
    return entry._replace(xattrs=xattrs, **changes)  # type: ignore[arg-type]


def _pax_records(data: bytes, entry: str) -> dict[str, bytes]:
    """Return the records `LENGTH KEY=VALUE\\n` of a pax header; the length counts the whole record."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 12)
        digits = data[position:space]
        if space < 0 or not digits.isdigit():
            raise BadArchive("a malformed extended header", entry=entry)
        end = position + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
            raise BadArchive("a malformed extended header", entry=entry)
        name = os.fsdecode(key)
        if name in records:
            raise BadArchive(f"the record {name[:60]!r} twice in one extended header", entry=entry)
        records[name] = value
        position = end
    return records


def _pax_time(value: bytes, entry: str) -> int:
    match = _DECIMAL.match(value.decode("ascii", "replace"))
    if match is None:
        raise BadArchive("a malformed time", entry=entry)
    sign, seconds, fraction = match.groups()
    nanoseconds = int(seconds) * _NS + int(((fraction or "") + "000000000")[:9])
    return -nanoseconds if sign else nanoseconds


def _decimal(value: bytes, what: str, entry: str) -> int:
    if not value.isdigit() or len(value) > 19 or int(value) >= 2**63:
        raise BadArchive(f"a malformed {what}", entry=entry)
    return int(value)


def _number(field: bytes, what: str, entry: str) -> int:
    """Return a numeric header field: octal digits, or base-256 where the first bit says so."""
    if field[0] & 0x80:
        return _base256(field, what, entry, signed=False)
    digits = field.strip(b" \0")
    if not digits:
        return 0
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise BadArchive(f"a malformed {what}", entry=entry)


def _signed(field: bytes, what: str, entry: str) -> int:
    return _base256(field, what, entry, signed=True) if field[0] & 0x80 else _number(field, what, entry)


def _base256(field: bytes, what: str, entry: str, *, signed: bool) -> int:
    if field[0] & 0x40:  # two's complement: the sign bit after the marker
        value = int.from_bytes(field, "big", signed=True)
    else:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    if not (-(2**62) if signed else 0) <= value < 2**63 or (signed and value >= 2**62):
        raise BadArchive(f"a {what} out of range", entry=entry)
    return value


def _check_sum(block: bytes, entry: str) -> None:
    """Check the header's sum. Bytes are summed as unsigned; very old tars that summed them signed are refused."""
    field = block[148:156]
    stored = _number(field, "checksum", entry)
    # Adler-32's low half is 1 + the sum modulo 65521: exact as long as fewer than 257 bytes are not zero
    if block.count(0) > 256:
        total = (zlib.adler32(block) & 0xFFFF) - 1
    else:
        total = sum(block)
    if total - sum(field) + 256 != stored:
        raise BadArchive(
            "the header's checksum is wrong: this is not a tar archive, or it is damaged", entry=entry
        )


class TarWriter:
    """Writes a tar stream: ustar where it suffices, pax records where not; the same entries give the same bytes.

    `add` writes an entry's header; the content of a file follows with `write`, exactly `size` bytes in all. `close`
    writes the end marker, not more (no blocking to 10 KiB), and leaves the sink open.
    """

    def __init__(self, out: Writable) -> None:
        self._out = out
        self._left = 0
        self._padding = 0

    def add(self, entry: TarEntry) -> None:
        """Write the header of `entry`; the one before must be complete."""
        self._finish_entry()
        self._out.write(header(entry))
        if entry.kind is Kind.FILE:
            self._left = entry.size
            self._padding = -entry.size % BLOCK

    def write(self, data: bytes | memoryview) -> None:
        """Write content of the current file; more than its size raises `BadArchive`."""
        self._left -= len(data)
        if self._left < 0:
            raise BadArchive("a file grew while it was archived")
        self._out.write(data)

    def add_bytes(self, entry: TarEntry, data: bytes) -> None:
        """Write a file with all its content; its size is that of `data`."""
        self.add(entry._replace(size=len(data)))
        self.write(data)

    def close(self) -> None:
        """Write the end marker."""
        self._finish_entry()
        self._out.write(_END)

    def _finish_entry(self) -> None:
        if self._left:
            raise BadArchive("a file shrank while it was archived")
        if self._padding:
            self._out.write(_ZERO[: self._padding])
            self._padding = 0


def header(entry: TarEntry) -> bytes:
    """Return the header blocks of an entry: a ustar header, before it a pax header where ustar cannot say it."""
    name, link = os.fsencode(entry.name), os.fsencode(entry.linkname)
    if entry.kind is Kind.DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    seconds, fraction = divmod(entry.mtime_ns, _NS)
    prefix, short = _split(name)
    if (
        short is not None
        and len(link) <= 100
        and not fraction
        and not entry.xattrs
        and entry.uid < 0o10000000
        and entry.gid < 0o10000000
        and entry.size < 0o100000000000
        and 0 <= seconds < 0o100000000000
        and name.isascii()
        and link.isascii()
    ):
        return _ustar(short, prefix, link, entry, entry.size, entry.uid, entry.gid, seconds)
    records = _records(entry, name, link, seconds, fraction, short is None)
    body = b"".join(records)
    extended = _ustar(b"PaxHeaders/entry", b"", b"", TarEntry("", mode=0o644), len(body), 0, 0, 0, b"x")
    return (
        extended
        + body
        + bytes(-len(body) % BLOCK)
        + _ustar(
            short if short is not None else name[:100],
            prefix if short is not None else b"",
            link[:100],
            entry,
            entry.size if entry.size < 0o100000000000 else 0,
            entry.uid if entry.uid < 0o10000000 else 0,
            entry.gid if entry.gid < 0o10000000 else 0,
            min(max(seconds, 0), 0o77777777777),
        )
    )


def _records(
    entry: TarEntry, name: bytes, link: bytes, seconds: int, fraction: int, name_is_long: bool
) -> list[bytes]:
    found: dict[bytes, bytes] = {}
    if name_is_long or not name.isascii():
        found[b"path"] = name
    if len(link) > 100 or not link.isascii():
        found[b"linkpath"] = link
    if entry.size >= 0o100000000000:
        found[b"size"] = str(entry.size).encode()
    for key, value in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if value >= 0o10000000:
            found[key] = str(value).encode()
    if fraction or not 0 <= seconds < 0o100000000000:
        found[b"mtime"] = _time_text(entry.mtime_ns)
    for attribute, content in entry.xattrs.items():
        found[os.fsencode(_XATTR + attribute)] = content
    return [_record(key, found[key]) for key in sorted(found)]


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    if len(str(total)) != len(str(length)):
        total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def _time_text(mtime_ns: int) -> bytes:
    sign, value = ("-", -mtime_ns) if mtime_ns < 0 else ("", mtime_ns)
    text = f"{sign}{value // _NS}.{value % _NS:09d}".rstrip("0").rstrip(".")
    return text.encode()


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """Return (prefix, name) for a ustar header; the name is None when it does not fit."""
    if len(name) <= 100:
        return b"", name
    if len(name) > 256:
        return b"", None
    cut = name.rfind(b"/", 0, 156)
    while cut > 0 and len(name) - cut - 1 == 0:
        cut = name.rfind(b"/", 0, cut)
    if cut <= 0 or len(name) - cut - 1 > 100:
        return b"", None
    return name[:cut], name[cut + 1 :]


def _ustar(
    name: bytes,
    prefix: bytes,
    link: bytes,
    entry: TarEntry,
    size: int,
    uid: int,
    gid: int,
    mtime: int,
    flag: bytes = b"",
) -> bytes:
    device = entry.kind in (Kind.CHAR, Kind.BLOCK)
    block = _HEADER.pack(
        name,
        b"%07o\0" % (entry.mode & 0o7777),
        b"%07o\0" % uid,
        b"%07o\0" % gid,
        b"%011o\0" % (size if flag or entry.kind is Kind.FILE else 0),
        b"%011o\0" % mtime,
        b"        ",
        flag or _FLAGS[entry.kind],
        link,
        b"ustar\x0000",
        b"",
        b"",
        b"%07o\0" % (entry.major if device else 0),
        b"%07o\0" % (entry.minor if device else 0),
        prefix,
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]

"""Writing tar archives: ustar where it suffices, pax records where not."""

from __future__ import annotations

import os

from engine.errors import BadArchive
from engine.layers.tar_format import BLOCK, FLAGS, NS, XATTR, Kind, TarEntry, Writable, sum_of

_END = bytes(2 * BLOCK)
_ZERO = bytes(BLOCK)
_NUMBERS = (
    b"%07o\0%07o\0%07o\0%011o\0%011o\0        "  # mode, uid, gid, size, mtime, and blanks for the checksum
)
_MAGIC = b"ustar\x0000" + bytes(64)  # with empty names of owner and group
_NO_DEVICE = b"0000000\0" * 2


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
    seconds, fraction = divmod(entry.mtime_ns, NS)
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
        found[os.fsencode(XATTR + attribute)] = content
    return [_record(key, found[key]) for key in sorted(found)]


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    if len(str(total)) != len(str(length)):
        total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def _time_text(mtime_ns: int) -> bytes:
    sign, value = ("-", -mtime_ns) if mtime_ns < 0 else ("", mtime_ns)
    text = f"{sign}{value // NS}.{value % NS:09d}".rstrip("0").rstrip(".")
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
    numbers = _NUMBERS % (
        entry.mode & 0o7777,
        uid,
        gid,
        size if flag or entry.kind is Kind.FILE else 0,
        mtime,
    )
    if entry.kind in (Kind.CHAR, Kind.BLOCK):
        device = b"%07o\0%07o\0" % (entry.major, entry.minor)
    else:
        device = _NO_DEVICE
    block = b"".join(
        (
            name.ljust(100, b"\0"),
            numbers,
            flag or FLAGS[entry.kind],
            link.ljust(100, b"\0"),
            _MAGIC,
            device,
            prefix.ljust(167, b"\0"),
        )
    )
    return b"%b%06o\0 %b" % (block[:148], sum_of(block), block[156:])

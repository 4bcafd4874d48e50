"""Tar archives written block by block, hostile ones too (H3): every field can be set to what no honest tool writes."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR = b"ustar\x0000"
GNU = b"ustar  \x00"

FILE, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"


def octal(value: int, width: int) -> bytes:
    """Return a number as a header field has it: octal digits and a zero byte."""
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    """Return a number in GNU's base-256 form; negative ones in two's complement."""
    if value < 0:
        return (value % (1 << (8 * width))).to_bytes(width, "big")
    return bytes([0x80]) + value.to_bytes(width - 1, "big")


def block(
    name: str | bytes = "file",
    kind: bytes = FILE,
    *,
    size: int | bytes = 0,
    mode: int = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 1_600_000_000,
    link: str | bytes = b"",
    magic: bytes = USTAR,
    prefix: bytes = b"",
    major: int = 0,
    minor: int = 0,
    checksum: bytes | None = None,
) -> bytes:
    """Return one header block. Numbers may be given as the raw bytes of their field."""
    fields = [
        _text(name)[:100].ljust(100, b"\0"),
        octal(mode, 8),
        _field(uid, 8),
        _field(gid, 8),
        _field(size, 12),
        _field(mtime, 12),
        b"        ",
        kind,
        _text(link)[:100].ljust(100, b"\0"),
        magic.ljust(8, b"\0"),
        bytes(32),
        bytes(32),
        octal(major, 8),
        octal(minor, 8),
        prefix.ljust(155, b"\0"),
        bytes(12),
    ]
    raw = b"".join(fields)
    assert len(raw) == BLOCK
    total = checksum if checksum is not None else b"%06o\0 " % sum(raw)
    return raw[:148] + total.ljust(8, b"\0")[:8] + raw[156:]


def padded(data: bytes) -> bytes:
    """Return `data` filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def pax(records: Mapping[str, str | bytes] | bytes, kind: bytes = b"x") -> bytes:
    """Return an extended header; `records` may be the raw bytes of its body."""
    body = (
        records
        if isinstance(records, bytes)
        else b"".join(record(key, value) for key, value in records.items())
    )
    return block("PaxHeaders/entry", kind, size=len(body)) + padded(body)


def record(key: str, value: str | bytes) -> bytes:
    """Return one record of an extended header: its own length, the key, the value."""
    body = b" " + _text(key) + b"=" + _text(value) + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return str(length).encode() + body


def long_name(name: str | bytes, kind: bytes = b"L") -> bytes:
    """Return GNU's header for a long name (`L`) or a long link (`K`)."""
    data = _text(name) + b"\0"
    return block("././@LongLink", kind, size=len(data), magic=GNU) + padded(data)


def member(name: str | bytes, kind: bytes = FILE, data: bytes = b"", **fields: object) -> bytes:
    """Return a whole entry: header and content. `xattrs` become an extended header before it."""
    attributes = fields.pop("xattrs", None)
    head = b""
    if isinstance(attributes, dict):
        head = pax({f"SCHILY.xattr.{key}": value for key, value in attributes.items()})
    if len(_text(name)) > 100:
        head += long_name(name)
    fields.setdefault("size", len(data))
    return head + block(name, kind, **fields) + padded(data)  # type: ignore[arg-type]


def folder(name: str, **fields: object) -> bytes:
    fields.setdefault("mode", 0o755)
    return member(name.rstrip("/") + "/", DIRECTORY, **fields)


def symlink(name: str, target: str, **fields: object) -> bytes:
    fields.setdefault("mode", 0o777)
    return member(name, SYMLINK, link=target, **fields)


def hardlink(name: str, target: str, **fields: object) -> bytes:
    return member(name, HARDLINK, link=target, **fields)


def archive(*members: bytes, end: bytes = END) -> bytes:
    """Return an archive of these members."""
    return b"".join(members) + end


def zipped(data: bytes) -> bytes:
    """Return `data` as gzip, always the same bytes."""
    return gzip.compress(data, 6, mtime=0)


def _text(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _field(value: int | bytes, width: int) -> bytes:
    raw = value if isinstance(value, bytes) else octal(value, width)
    return raw.ljust(width, b"\0")[:width]

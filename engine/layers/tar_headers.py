"""Reading the header blocks of tar archives: every header has one meaning or is refused with `BadArchive` (AR-09)."""

from __future__ import annotations

import os
import re

from engine.errors import BadArchive
from engine.layers.tar_format import HEADER, KINDS, NS, XATTR, Kind, TarEntry, sum_of

NAME_LIMIT = 4096  # PATH_MAX
_DECIMAL = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]*))?\Z")


class Extended:
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


def parse_entry(block: bytes, extended: Extended) -> TarEntry:
    """Return the entry that a header block and the extended headers before it describe; raises `BadArchive`."""
    (raw_name, mode, uid, gid, size, mtime, _, flag, link, magic, _, _, major, minor, prefix) = HEADER.unpack(
        block
    )
    name = raw_name.partition(b"\0")[0]
    if prefix[0] and magic.startswith(b"ustar\0"):
        name = prefix.partition(b"\0")[0] + b"/" + name
    shown = os.fsdecode(name)
    check_sum(block, shown)
    kind = KINDS.get(flag)
    if kind is None:
        raise BadArchive(f"an entry of unknown type {flag!r}", entry=shown)
    if extended.long_name is not None:
        name = extended.long_name
    linkname = link.partition(b"\0")[0] if extended.long_link is None else extended.long_link
    values = TarEntry(
        os.fsdecode(name),
        kind,
        number(size, "size", shown),
        number(mode, "mode", shown) & 0o7777,
        number(uid, "uid", shown),
        number(gid, "gid", shown),
        _signed(mtime, "mtime", shown) * NS,
        os.fsdecode(linkname),
    )
    if kind in (Kind.CHAR, Kind.BLOCK):
        values = values._replace(major=number(major, "major", shown), minor=number(minor, "minor", shown))
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


def _with_pax(entry: TarEntry, extended: Extended) -> TarEntry:
    pax = extended.pax
    changes: dict[str, object] = {}
    xattrs: dict[str, bytes] = {}
    for key, value in pax.items():
        if key.startswith(XATTR):
            xattrs[key[len(XATTR) :]] = value
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
    nanoseconds = int(seconds) * NS + int(((fraction or "") + "000000000")[:9])
    return -nanoseconds if sign else nanoseconds


def _decimal(value: bytes, what: str, entry: str) -> int:
    if not value.isdigit() or len(value) > 19 or int(value) >= 2**63:
        raise BadArchive(f"a malformed {what}", entry=entry)
    return int(value)


def number(field: bytes, what: str, entry: str) -> int:
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
    return _base256(field, what, entry, signed=True) if field[0] & 0x80 else number(field, what, entry)


def _base256(field: bytes, what: str, entry: str, *, signed: bool) -> int:
    if field[0] & 0x40:  # two's complement: the sign bit after the marker
        value = int.from_bytes(field, "big", signed=True)
    else:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    if not (-(2**62) if signed else 0) <= value < 2**63 or (signed and value >= 2**62):
        raise BadArchive(f"a {what} out of range", entry=entry)
    return value


def check_sum(block: bytes, entry: str) -> None:
    """Check the header's sum. Bytes are summed as unsigned; very old tars that summed them signed are refused."""
    field = block[148:156]
    stored = number(field, "checksum", entry)
    total = sum_of(block)
    if total - sum(field) + 256 != stored:
        raise BadArchive(
            "the header's checksum is wrong: this is not a tar archive, or it is damaged", entry=entry
        )

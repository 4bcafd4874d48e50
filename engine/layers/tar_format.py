"""What a tar entry is, and the shape of its header block (POSIX.1-2017, ustar interchange format)."""

from __future__ import annotations

import struct
import zlib
from enum import StrEnum
from typing import NamedTuple, Protocol

BLOCK = 512
NS = 1_000_000_000
XATTR = "SCHILY.xattr."

# name mode uid gid size mtime chksum typeflag linkname magic+version uname gname devmajor devminor prefix
HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")


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


KINDS = {
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
FLAGS = {kind: flag for flag, kind in KINDS.items() if flag not in (b"\0", b"7")}


def sum_of(block: bytes) -> int:
    """Return the sum of a block's bytes.

    Adler-32's low half is 1 + the sum modulo 65521: exact as long as fewer than 257 bytes are not zero.
    """
    return (zlib.adler32(block) & 0xFFFF) - 1 if block.count(0) > 256 else sum(block)

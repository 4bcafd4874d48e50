"""Compressed streams: told by their first bytes, never by their name or their media type alone.

gzip runs through ISA-L (five to eight times zlib's speed), zstd through libzstd; bzip2 and xz through the standard
library. Nothing is ever looked up in a file system: no helper program, no plug-in. What we write is deterministic:
the same bytes, kind and level give the same blob (gzip header without name or time).

A decompressor stops with `BadArchive` at the limits on ratio and window, on junk after the end, and on a cut stream.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from enum import StrEnum
from typing import IO, Protocol, cast

import zstandard
from isal import igzip_lib, isal_zlib

from engine.errors import BadArchive
from engine.layers.limits import LAYER, Limits, too_big
from engine.layers.tar import Readable, Writable
from engine.oci import media_types

READ_CHUNK = 256 * 1024
OUT_CHUNK = 1024 * 1024
PACK_BLOCK = 512 * 1024
_FIRST_SLICE = 4 * 1024
_GZIP_WINDOW = 31  # gzip framing, window of 32 KiB


class Compression(StrEnum):
    """How a stream is packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    BZIP2 = "bzip2"
    XZ = "xz"


_MAGICS = (
    (b"\x1f\x8b", Compression.GZIP),
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD),
    (b"BZh", Compression.BZIP2),
    (b"\xfd7zXZ\x00", Compression.XZ),
)
_MEDIA_TYPES = {
    Compression.NONE: media_types.OCI_LAYER,
    Compression.GZIP: media_types.OCI_LAYER_GZIP,
    Compression.ZSTD: media_types.OCI_LAYER_ZSTD,
}


# isal's and zstandard's stubs do not say that these are classes of exceptions
_DAMAGE: tuple[type[Exception], ...] = (
    cast(type[Exception], igzip_lib.error),
    cast(type[Exception], zstandard.ZstdError),
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
)


def detect(head: bytes) -> Compression:
    """Return how a stream that begins with `head` (at least 6 bytes where there are as many) is packed."""
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    return Compression.NONE


def layer_media_type(kind: Compression) -> str:
    """Return the OCI media type of a layer packed as `kind`."""
    return _MEDIA_TYPES[kind]


def open_any(stream: Readable, limits: Limits = LAYER) -> UnpackedReader:
    """Return a reader of the unpacked bytes of `stream`, whatever it is packed with."""
    return UnpackedReader(stream, limits)


class UnpackedReader(io.RawIOBase):
    """The unpacked bytes of a stream. Members that follow one another count as one stream, as gzip(1) has it."""

    def __init__(self, stream: Readable, limits: Limits = LAYER) -> None:
        self._source = _Source(stream)
        self._limits = limits
        self.compression = detect(self._source.peek(6))
        self._unpacker = _unpacker(self.compression, self._source, limits)
        self.unpacked = 0
        self._ready = b""
        self._position = 0

    @property
    def packed(self) -> int:
        """Bytes of the packed stream read so far."""
        return self._source.count

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, at least one unless the stream is at its end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(OUT_CHUNK), b""))
        if self._position >= len(self._ready):
            self._ready, self._position = self._more(), 0
        if not self._position and len(self._ready) <= size:
            data, self._ready = self._ready, b""
            return data
        data = self._ready[self._position : self._position + size]
        self._position += len(data)
        return data

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _more(self) -> bytes:
        try:
            data = self._unpacker.more()
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the source, not of a decompressor
            raise BadArchive(f"the {self.compression} data is damaged: {error}") from error
        self.unpacked += len(data)
        if self.unpacked > self._limits.ratio_floor and self.unpacked > self.packed * self._limits.max_ratio:
            raise too_big(
                f"grown {self.unpacked // max(self.packed, 1)} times in unpacking", self._limits.max_ratio
            )
        return data


class _Source:
    """The packed bytes, with a look ahead and a way to give back what was taken too much."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._buffer = b""
        self._position = 0
        self.count = 0

    def peek(self, size: int) -> bytes:
        while len(self._buffer) - self._position < size:
            more = self._stream.read(READ_CHUNK)
            if not more:
                break
            self._buffer = self._buffer[self._position :] + more
            self._position = 0
            self.count += len(more)
        return self._buffer[self._position : self._position + size]

    def take(self, size: int) -> bytes:
        """Return up to `size` bytes, empty at the end."""
        if self._position >= len(self._buffer):
            self._buffer, self._position = self._stream.read(READ_CHUNK), 0
            self.count += len(self._buffer)
        if not self._position and len(self._buffer) <= size:
            data, self._buffer = self._buffer, b""
            return data
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data

    def give_back(self, data: bytes) -> None:
        """Take back `data`, the end of what `take` returned last."""
        if self._buffer:
            self._position -= len(data)
        else:
            self._buffer, self._position = data, 0


class _Unpacker(Protocol):
    def more(self) -> bytes:
        """Return the next unpacked bytes, empty at the end."""


class _Plain:
    def __init__(self, source: _Source) -> None:
        self._source = source

    def more(self) -> bytes:
        return self._source.take(READ_CHUNK)


class _Decompressor(Protocol):
    """One member, as the decompressor objects of the standard library and of isal have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Members:
    """gzip, bzip2 and xz: members one after another, each with its own decompressor."""

    def __init__(self, kind: Compression, source: _Source, limits: Limits) -> None:
        self._kind = kind
        self._source = source
        self._memory = limits.max_window
        self._member = self._new_member()
        self._slice = READ_CHUNK

    def more(self) -> bytes:
        while True:
            if self._member.eof and not self._next_member():
                return b""
            taken = b""
            if self._member.needs_input:
                taken = self._source.take(self._slice)
                self._slice = min(self._slice * 2, READ_CHUNK)
                if not taken:
                    raise BadArchive(f"the {self._kind} data is cut off")
            data = self._member.decompress(taken, OUT_CHUNK)
            if self._member.eof:
                self._source.give_back(self._member.unused_data)
            if data:
                return data

    def _next_member(self) -> bool:
        """Begin the next member. Small slices at first: a million tiny members shall not copy a chunk each."""
        self._skip_padding()
        head = self._source.peek(6)
        if not head:
            return False
        if detect(head) is not self._kind:
            raise BadArchive(f"there is data after the end of the {self._kind} stream")
        self._member = self._new_member()
        self._slice = _FIRST_SLICE
        return True

    def _skip_padding(self) -> None:
        """Skip zeros after a member: xz pads with them, and tapes did so after gzip."""
        while self._source.peek(1) == b"\0":
            chunk = self._source.take(READ_CHUNK)
            rest = chunk.lstrip(b"\0")
            if rest:
                self._source.give_back(rest)

    def _new_member(self) -> _Decompressor:
        if self._kind is Compression.GZIP:
            return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        if self._kind is Compression.BZIP2:
            return bz2.BZ2Decompressor()
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=self._memory)


class _Zstd:
    """zstd frames. libzstd does not say whether the stream ended inside a frame, so the frames are walked beside it."""

    def __init__(self, source: _Source, limits: Limits) -> None:
        self._walked = _WalkedFrames(source)
        decompressor = zstandard.ZstdDecompressor(max_window_size=limits.max_window)
        self._reader = decompressor.stream_reader(
            cast(IO[bytes], self._walked), read_size=READ_CHUNK, read_across_frames=True
        )

    def more(self) -> bytes:
        data = self._reader.read(OUT_CHUNK)
        if not data and not self._walked.is_complete():
            raise BadArchive("the zstd data is cut off")
        return data


class _WalkedFrames(io.RawIOBase):
    """A source that follows the frames in the bytes it passes on (RFC 8878, sections 3.1.1 and 3.1.2)."""

    def __init__(self, source: _Source) -> None:
        super().__init__()
        self._source = source
        self._wanted = 4  # bytes of the next header
        self._skip = 0
        self._header = b""
        self._in_frame = False
        self._checksum = False

    def read(self, size: int = READ_CHUNK, /) -> bytes:
        data = self._source.take(size)
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
                continue
            step = min(self._wanted - len(self._header), len(data) - position)
            self._header += data[position : position + step]
            position += step
            if len(self._header) == self._wanted:
                self._advance()
        return data

    def is_complete(self) -> bool:
        return not self._in_frame and not self._header and not self._skip

    def _advance(self) -> None:
        header = self._header
        if self._in_frame:
            self._header, self._wanted = b"", 3
            self._block(int.from_bytes(header, "little"))
        elif len(header) == 4 and header[1:] == b"\x2a\x4d\x18" and header[0] & 0xF0 == 0x50:
            self._wanted = 8  # a skippable frame: its length follows
        elif len(header) == 8:
            self._header, self._wanted, self._skip = b"", 4, int.from_bytes(header[4:], "little")
        elif header[:4] != b"\x28\xb5\x2f\xfd":
            raise BadArchive("there is data after the end of the zstd stream")
        elif len(header) == 4:
            self._wanted = 5
        else:
            self._header, self._wanted = b"", 3
            self._frame(header[4])

    def _frame(self, descriptor: int) -> None:
        """Skip the rest of a frame header; `descriptor` is its first byte."""
        single = bool(descriptor & 0x20)
        size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        self._skip = size + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
        self._checksum = bool(descriptor & 4)
        self._in_frame = True

    def _block(self, header: int) -> None:
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        self._skip = 1 if kind == 1 else size
        if last:
            self._in_frame = False
            self._wanted = 4
            self._skip += 4 if self._checksum else 0


def _unpacker(kind: Compression, source: _Source, limits: Limits) -> _Unpacker:
    if kind is Compression.NONE:
        return _Plain(source)
    if kind is Compression.ZSTD:
        return _Zstd(source, limits)
    return _Members(kind, source, limits)


class Compressor:
    """Writes packed bytes to `out`. `close` ends the stream and leaves `out` open.

    What a packer makes depends on how its input is cut up, so it gets blocks of one size, however `write` was called.
    """

    def __init__(self, out: Writable, kind: Compression, level: int) -> None:
        self._out = out
        self._packer = _packer(kind, level)
        self._parts: list[bytes] = []
        self._waiting = 0

    def write(self, data: bytes | memoryview) -> int:
        if self._packer is None:
            self._out.write(data)
            return len(data)
        rest = memoryview(data)
        while self._waiting + len(rest) >= PACK_BLOCK:
            missing = PACK_BLOCK - self._waiting
            self._pack(rest[:missing])
            rest = rest[missing:]
        if len(rest):
            self._parts.append(bytes(rest))
            self._waiting += len(rest)
        return len(data)

    def close(self) -> None:
        if self._packer is not None:
            self._pack(b"")
            self._out.write(self._packer.flush())

    def _pack(self, last: bytes | memoryview) -> None:
        """Pack what waits and `last` as one block."""
        assert self._packer is not None
        block = b"".join((*self._parts, last)) if self._parts else last
        self._parts, self._waiting = [], 0
        if packed := self._packer.compress(block):
            self._out.write(packed)


class _Packer(Protocol):
    def compress(self, data: bytes | memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressor(out: Writable, kind: Compression = Compression.GZIP, level: int = 0) -> Compressor:
    """Return a writer that packs into `out`; level 0 means the usual one of its kind."""
    return Compressor(out, kind, level)


def _packer(kind: Compression, level: int) -> _Packer | None:
    if kind is Compression.GZIP:
        return isal_zlib.compressobj(level or 2, isal_zlib.DEFLATED, _GZIP_WINDOW)
    if kind is Compression.ZSTD:
        return zstandard.ZstdCompressor(level=level or 3).compressobj()
    if kind is Compression.BZIP2:
        return bz2.BZ2Compressor(level or 9)
    if kind is Compression.XZ:
        return lzma.LZMACompressor(lzma.FORMAT_XZ, preset=level or None)
    return None

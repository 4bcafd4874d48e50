"""Compressed streams are told by their bytes, bounded in what they may become, and written the same way every time."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import subprocess
import time
import tracemalloc
import zlib

import pytest
import zstandard

from engine.errors import BadArchive
from engine.layers.compression import Compression, compressor, detect, open_any
from engine.layers.limits import Limits

LIMITS = Limits(max_bytes=1 << 40, max_entries=1, max_ratio=100, ratio_floor=8 * 1024 * 1024)
TEXT = b"".join(b"line %d of a text that packs well\n" % index for index in range(50_000))
PACK = {
    Compression.GZIP: lambda data: gzip.compress(data, 6),
    Compression.ZSTD: lambda data: zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data),
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
    Compression.NONE: lambda data: data,
}
KINDS = list(PACK)
PACKED_KINDS = [kind for kind in KINDS if kind is not Compression.NONE]


def unpack(data: bytes, limits: Limits = LIMITS) -> bytes:
    return open_any(io.BytesIO(data), limits).read()


@pytest.mark.parametrize("kind", KINDS)
def test_reads_every_kind(kind: Compression) -> None:
    packed = PACK[kind](TEXT)
    assert detect(packed) is kind
    assert unpack(packed) == TEXT


@pytest.mark.parametrize("kind", KINDS)
def test_reads_in_small_steps_and_small_pieces(kind: Compression) -> None:
    class Drip:
        def __init__(self, data: bytes) -> None:
            self.inner = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(min(size, 7))

    reader = open_any(Drip(PACK[kind](TEXT[:20_000])), LIMITS)
    assert b"".join(iter(lambda: reader.read(11), b"")) == TEXT[:20_000]


@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_members_after_one_another_are_one_stream(kind: Compression) -> None:
    assert unpack(PACK[kind](b"one") + PACK[kind](b"two")) == b"onetwo"


@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_every_cut_is_noticed(kind: Compression) -> None:
    """AR-12."""
    packed = PACK[kind](TEXT[:3000])
    for length in range(max(len(packed) - 200, 8), len(packed)):
        with pytest.raises(BadArchive):
            unpack(packed[:length])


@pytest.mark.parametrize("kind", PACKED_KINDS)
@pytest.mark.parametrize("junk", [b"junk", b"x" * 10_000, b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"])
def test_junk_after_the_end_is_refused(kind: Compression, junk: bytes) -> None:
    """AR-12."""
    with pytest.raises(BadArchive):
        unpack(PACK[kind](b"data") + junk)


@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_flipped_bytes_are_noticed(kind: Compression) -> None:
    """AR-12: in the middle and in the checksum."""
    packed = PACK[kind](random.Random(1).randbytes(5000))
    for position in (len(packed) // 2, len(packed) - 6):
        damaged = bytearray(packed)
        damaged[position] ^= 0x55
        try:
            data = unpack(bytes(damaged))
        except BadArchive:
            continue
        assert data != unpack(packed), "damage must not pass as the same data"


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.XZ])
def test_zeros_after_the_end_are_padding(kind: Compression) -> None:
    assert unpack(PACK[kind](b"data") + bytes(512)) == b"data"


@pytest.mark.parametrize("data", [b"", b"\x1f", b"B", b"x" * 5])
def test_short_streams_are_plain(data: bytes) -> None:
    assert unpack(data) == data


# bombs (AR-10)


def zeros(kind: Compression, size: int) -> bytes:
    packer = {
        Compression.GZIP: zlib.compressobj(9, zlib.DEFLATED, 31),
        Compression.BZIP2: bz2.BZ2Compressor(9),
        Compression.XZ: lzma.LZMACompressor(),
        Compression.ZSTD: zstandard.ZstdCompressor(level=3).compressobj(),
    }[kind]
    block = bytes(1024 * 1024)
    return b"".join([*(packer.compress(block) for _ in range(size // len(block))), packer.flush()])


@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_a_bomb_stops_early_and_small(kind: Compression) -> None:
    """AR-10: 64 MiB of zeros stand for 10 GiB; the reader must stop at its floor, not at the end, with little memory."""
    packed = zeros(kind, 64 * 1024 * 1024)
    reader = open_any(io.BytesIO(packed), LIMITS)
    tracemalloc.start()
    try:
        with pytest.raises(BadArchive, match="unpacking"):
            while reader.read(1024 * 1024):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.unpacked < 16 * 1024 * 1024
    assert peak < 16 * 1024 * 1024


def test_a_zstd_window_of_two_gib_is_refused() -> None:
    """AR-10: the frame asks the reader for 2 GiB before its first byte."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0b00000000, (31 - 10) << 3])
    block = (1 | 1 << 1 | 5 << 3).to_bytes(3, "little") + b"x"
    with pytest.raises(BadArchive):
        unpack(header + block)


def test_xz_that_wants_more_memory_than_allowed_is_refused() -> None:
    """AR-10."""
    packed = lzma.compress(b"data", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}])
    with pytest.raises(BadArchive):
        unpack(packed)


def test_a_hundred_thousand_empty_members_are_quick() -> None:
    """AR-10: multi-member gzip."""
    begun = time.monotonic()
    assert unpack(gzip.compress(b"", mtime=0) * 100_000) == b""
    assert time.monotonic() - begun < 5


# what is written


def pack(kind: Compression, pieces: list[bytes]) -> bytes:
    out = io.BytesIO()
    packer = compressor(out, kind)
    for piece in pieces:
        packer.write(piece)
    packer.close()
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(kind: Compression) -> None:
    assert unpack(pack(kind, [TEXT])) == TEXT
    assert unpack(pack(kind, [])) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_do_not_depend_on_how_they_came(kind: Compression) -> None:
    data = TEXT * 2
    thirds = [data[start : start + 99_991] for start in range(0, len(data), 99_991)]
    assert pack(kind, thirds) == pack(kind, [data])


def test_gzip_has_no_name_and_no_time() -> None:
    assert pack(Compression.GZIP, [b"x"])[3:8] == bytes(5)


@pytest.mark.parametrize(
    ("kind", "program"), [(Compression.GZIP, "gzip"), (Compression.XZ, "xz"), (Compression.BZIP2, "bzip2")]
)
def test_other_programs_read_what_is_written(kind: Compression, program: str) -> None:
    result = subprocess.run([program, "-dc"], input=pack(kind, [TEXT]), capture_output=True, check=True)
    assert result.stdout == TEXT

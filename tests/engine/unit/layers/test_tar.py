"""The tar reader has one meaning for every archive or refuses it; the writer is read alike by everybody."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadArchive
from engine.layers.limits import LAYER, Limits
from engine.layers.tar import Kind, TarEntry, TarReader, TarWriter
from tests.support import tars


def read(data: bytes, **options: bool) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(io.BytesIO(data), **options)
    return [(entry, reader.read()) for entry in reader]


def names(data: bytes, **options: bool) -> list[str]:
    return [entry.name for entry, _ in read(data, **options)]


# what is read


def test_reads_files_folders_links_and_content() -> None:
    data = tars.archive(
        tars.folder("d", mode=0o750, uid=3, gid=4),
        tars.member("d/f", data=b"hello", mode=0o4755, mtime=7),
        tars.symlink("d/s", "f"),
        tars.hardlink("d/h", "d/f"),
        tars.member("fifo", tars.FIFO),
        tars.member("null", tars.CHAR, major=1, minor=3),
    )
    (folder, _), (file, content), (link, _), (hard, _), (fifo, _), (device, _) = read(data)
    assert (folder.kind, folder.mode, folder.uid, folder.gid) == (Kind.DIRECTORY, 0o750, 3, 4)
    assert (file.mode, file.mtime_ns, file.size, content) == (0o4755, 7_000_000_000, 5, b"hello")
    assert (link.kind, link.linkname) == (Kind.SYMLINK, "f")
    assert (hard.kind, hard.linkname) == (Kind.HARDLINK, "d/f")
    assert fifo.kind is Kind.FIFO
    assert (device.kind, device.major, device.minor) == (Kind.CHAR, 1, 3)


def test_content_that_is_not_read_is_skipped() -> None:
    data = tars.archive(tars.member("a", data=bytes(700_000)), tars.member("b", data=b"x"))
    assert [entry.name for entry in TarReader(io.BytesIO(data))] == ["a", "b"]


def test_reads_a_stream_that_gives_a_byte_at_a_time() -> None:
    class Drip(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.inner = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(1)

    data = tars.archive(tars.member("a", data=b"abc"), tars.member("b"))
    reader = TarReader(Drip(data))
    assert [(entry.name, reader.read()) for entry in reader] == [("a", b"abc"), ("b", b"")]


def test_reads_ustar_prefix_and_gnu_long_names() -> None:
    long = "d/" * 60 + "file"
    data = tars.archive(
        tars.block("file", prefix=b"some/where"),
        tars.long_name(long) + tars.block("short"),
        tars.long_name("t" * 300, b"K") + tars.block("l", tars.SYMLINK, link="t"),
    )
    entries = [entry for entry, _ in read(data)]
    assert entries[0].name == "some/where/file"
    assert entries[1].name == long
    assert entries[2].linkname == "t" * 300


def test_the_prefix_field_of_gnu_archives_is_no_prefix() -> None:
    data = tars.archive(tars.block("file", magic=tars.GNU, prefix=b"14052223371"))
    assert names(data) == ["file"]


def test_reads_pax_records() -> None:
    records = {
        "path": "päth/ファイル",
        "uid": "70000000",
        "gid": "1",
        "size": "3",
        "mtime": "1600000000.123456789",
        "SCHILY.xattr.user.a": b"\x00\xff=\n",
        "comment": "whatever",
    }
    data = tars.archive(
        tars.pax(records) + tars.block("x", size=3) + tars.padded(b"abc"), tars.member("after")
    )
    (entry, content), (after, _) = read(data)
    assert (entry.name, entry.uid, entry.gid, content) == ("päth/ファイル", 70_000_000, 1, b"abc")
    assert entry.mtime_ns == 1_600_000_000_123_456_789
    assert entry.xattrs == {"user.a": b"\x00\xff=\n"}
    assert after.name == "after"
    assert not after.xattrs


def test_names_that_are_no_utf8_survive() -> None:
    data = tars.archive(tars.block(b"caf\xe9"))
    assert os.fsencode(names(data)[0]) == b"caf\xe9"


def test_an_old_directory_is_a_file_whose_name_ends_with_a_slash() -> None:
    data = tars.archive(tars.block("old/", b"\0", magic=b""))
    assert read(data)[0][0].kind is Kind.DIRECTORY


def test_a_global_header_with_a_comment_is_ignored() -> None:
    assert names(tars.archive(tars.pax({"comment": "0123"}, b"g"), tars.member("a"))) == ["a"]


def test_a_layer_may_end_without_an_end_mark_an_upload_may_not() -> None:
    data = tars.member("a", data=b"x")
    assert names(data) == ["a"]
    with pytest.raises(BadArchive, match="cut off"):
        names(data, require_end=True)


def test_a_negative_time_is_kept() -> None:
    data = tars.archive(
        tars.block("a", mtime=tars.base256(-5, 12)), tars.pax({"mtime": "-1.5"}) + tars.block("b")
    )
    assert [entry.mtime_ns for entry, _ in read(data)] == [-5_000_000_000, -1_500_000_000]


# what is refused (AR-09)

REFUSED = {
    "a negative base-256 size": tars.block("x", size=tars.base256(-512, 12)),
    "a base-256 size of 8 EiB": tars.block("x", size=tars.base256(2**63, 12)),
    "a size with a sign": tars.block("x", size=b"-0000000512"),
    "a size with an underscore": tars.block("x", size=b"0000000_512"),
    "a size with a radix": tars.block("x", size=b"0o000000512"),
    "a size with a digit too large": tars.block("x", size=b"00000000008"),
    "a size with a zero byte inside": tars.block("x", size=b"0000\0000512"),
    "a negative owner": tars.block("x", uid=tars.base256(-1, 8)),
    "a negative pax size": tars.pax({"size": "-1"}) + tars.block("x"),
    "a pax size with a plus": tars.pax({"size": "+1"}) + tars.block("x", size=1) + tars.padded(b"x"),
    "a pax size beyond 63 bits": tars.pax({"size": str(2**63)}) + tars.block("x"),
    "a pax header in a pax header": tars.pax({"path": "a"}) + tars.pax({"path": "b"}) + tars.block("x"),
    "two long names": tars.long_name("a") + tars.long_name("b") + tars.block("x"),
    "a long name and a pax path": tars.long_name("a") + tars.pax({"path": "b"}) + tars.block("x"),
    "the same record twice": tars.pax(tars.record("path", "a") + tars.record("path", "b")) + tars.block("x"),
    "a record longer than its header": tars.pax(b"99 path=a\n") + tars.block("x"),
    "a record of length zero": tars.pax(b"0 path=a\n") + tars.block("x"),
    "a record without an end": tars.pax(b"9 path=ab") + tars.block("x"),
    "a record without a length": tars.pax(b"path=a\n") + tars.block("x"),
    "a global path": tars.pax({"path": "/etc/passwd"}, b"g") + tars.block("x"),
    "a global size": tars.pax({"size": "4096"}, b"g") + tars.block("x"),
    "a sparse file (pax)": tars.pax({"GNU.sparse.size": str(2**63 - 1), "GNU.sparse.map": "0,1"})
    + tars.block("x"),
    "a sparse file (GNU)": tars.block("x", b"S"),
    "a continued volume": tars.block("x", b"M"),
    "an unknown type": tars.block("x", b"Z"),
    "a wrong checksum": tars.block("x", checksum=b"000001\0 "),
    "a folder with content": tars.block("d/", tars.DIRECTORY, size=512) + bytes(512),
    "a link with content": tars.block("l", tars.SYMLINK, link="t", size=512) + bytes(512),
    "a hard link that pax gives content": tars.pax({"size": "512"})
    + tars.block("h", tars.HARDLINK, link="t")
    + bytes(512),
    "a file named like a folder": tars.member("d/", data=b"x"),
    "a name of 5,000 bytes": tars.long_name("n" * 5000) + tars.block("x"),
    "a name with a zero byte": tars.pax({"path": b"a\0b"}) + tars.block("x"),
    "an extended header of 2 MiB": tars.block("p", b"x", size=2 * 1024 * 1024) + bytes(2 * 1024 * 1024),
    "a malformed time": tars.pax({"mtime": "1e9"}) + tars.block("x"),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(data: bytes) -> None:
    """AR-09."""
    with pytest.raises(BadArchive):
        read(tars.archive(data))


def test_the_pax_size_counts_and_not_the_ustar_size() -> None:
    """AR-09: a reader that believes the ustar size would see `inner` as an entry."""
    inner = tars.member("inner", data=b"smuggled")
    data = tars.archive(tars.pax({"size": str(len(inner))}) + tars.block("outer", size=0) + inner)
    assert names(data) == ["outer"]


def test_many_extended_headers_end_quickly() -> None:
    """AR-09."""
    data = tars.pax({"comment": "x"}, b"g") * 100_000
    begun = time.monotonic()
    with pytest.raises(BadArchive, match="too many"):
        read(data)
    assert time.monotonic() - begun < 2


def test_a_volume_label_is_skipped() -> None:
    assert names(tars.archive(tars.block("label", b"V", magic=tars.GNU), tars.block("a"))) == ["a"]


@pytest.mark.parametrize(
    "data",
    [
        tars.member("a") + bytes(512) + tars.member("b") + tars.END,
        tars.archive(tars.member("a")) + tars.archive(tars.member("b")),
        tars.archive(tars.member("a")) + b"junk",
    ],
    ids=["lone zero block", "second archive", "trailing data"],
)
def test_refuses_what_hides_behind_the_end(data: bytes) -> None:
    """AR-12."""
    with pytest.raises(BadArchive):
        names(data)


def test_padding_of_zeros_after_the_end_is_fine() -> None:
    assert names(tars.archive(tars.member("a")) + bytes(10 * 1024)) == ["a"]


def test_every_cut_is_noticed() -> None:
    """AR-12: at every 512-byte step and one byte beside it."""
    data = tars.archive(
        tars.folder("d"), tars.member("d/f", data=bytes(3000)), tars.pax({"path": "p"}) + tars.block("x")
    )
    for cut in range(0, len(data) - 1024, 512):
        for length in (cut, cut + 1, cut + 511):
            with pytest.raises(BadArchive):
                read(data[:length], require_end=True)


def test_stops_at_the_limits_on_entries_and_bytes() -> None:
    """AR-10."""
    many = tars.archive(*[tars.member(f"f{index}") for index in range(20)])
    with pytest.raises(BadArchive, match="entries"):
        list(TarReader(io.BytesIO(many), Limits(max_bytes=10**9, max_entries=10)))
    with pytest.raises(BadArchive, match="bytes") as caught:
        list(TarReader(io.BytesIO(tars.block("big", size=10**6)), Limits(max_bytes=1000, max_entries=10)))
    assert caught.value.entry == "big"


def test_stops_at_the_deadline() -> None:
    """AR-10."""
    data = tars.archive(tars.member("a", data=bytes(2 * 1024 * 1024)))
    with pytest.raises(BadArchive, match="time"):
        list(TarReader(io.BytesIO(data), Limits(max_bytes=10**9, max_entries=10, deadline_s=-1)))


# against other readers

MUTATION = st.tuples(st.integers(0, 4095), st.integers(0, 255))
SEED = tars.archive(
    tars.folder("d"),
    tars.pax({"path": "d/pax", "mtime": "5.5"}) + tars.block("x", size=4) + tars.padded(b"data"),
    tars.long_name("d/long") + tars.block("y", magic=tars.GNU),
    tars.symlink("d/s", "pax"),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MUTATION, min_size=1, max_size=6))
def test_no_damaged_archive_does_more_than_raise(mutations: list[tuple[int, int]]) -> None:
    """AR-09: whatever the bytes, either entries that are whole or `BadArchive` with its sentence."""
    data = bytearray(SEED)
    for position, value in mutations:
        data[position % len(data)] = value
    reader = TarReader(io.BytesIO(bytes(data)))
    try:
        for entry in reader:
            content = reader.read()
            assert len(content) == entry.size
            assert entry.kind is Kind.FILE or not entry.size
            assert "\0" not in entry.name + entry.linkname
            assert len(entry.name) <= 4096
    except BadArchive as error:
        refusal = error.message
    else:
        refusal = ""
        assert reader.bytes <= len(data)
    assert refusal == refusal.strip()
    assert reader.entries <= len(data) // 512


@settings(max_examples=60, deadline=None)
@given(st.lists(MUTATION, min_size=1, max_size=3), st.booleans())
def test_sees_the_entries_that_gnu_tar_sees_or_refuses(mutations: list[tuple[int, int]], resum: bool) -> None:
    """AR-09: differential, with checksums made right again so that the mutations get through."""
    data = bytearray(SEED)
    for position, value in mutations:
        data[position % len(data)] = value
    if resum:
        for start in (0, 512, 1536, 2560, 3584):
            head = data[start : start + 512]
            head[148:156] = b"        "
            data[start + 148 : start + 156] = b"%06o\0 " % sum(head)
    try:
        ours = [entry.name.rstrip("/") for entry, _ in read(bytes(data))]
    except BadArchive:
        return
    result = subprocess.run(
        ["tar", "--quoting-style=literal", "--null", "-tf", "-"],
        input=bytes(data),
        capture_output=True,
        check=False,
    )
    theirs = [name.rstrip("/") for name in os.fsdecode(result.stdout).split("\n")[:-1]]
    if result.returncode == 0 and not result.stderr:
        assert ours == theirs


# the writer

SAMPLES = [
    TarEntry("d", Kind.DIRECTORY, mode=0o1777, mtime_ns=1_600_000_000_000_000_000),
    TarEntry("d/file", size=5, mode=0o4755, uid=1000, gid=50, mtime_ns=1_600_000_000_123_456_789),
    TarEntry("n" * 120 + "/" + "m" * 90, size=5),
    TarEntry("/".join(["deep"] * 80), size=5),
    TarEntry("ünï/ファイル", size=5),
    TarEntry(os.fsdecode(b"caf\xe9"), size=5),
    TarEntry("link", Kind.SYMLINK, linkname="t" * 200, mode=0o777),
    TarEntry("hard", Kind.HARDLINK, linkname="d/file"),
    TarEntry("fifo", Kind.FIFO),
    TarEntry("dev", Kind.CHAR, major=1, minor=3),
    TarEntry("xattr", size=5, xattrs={"user.a": b"\0\n=", "security.capability": bytes(20)}),
    TarEntry("big-owner", size=5, uid=4_000_000_000, gid=3_000_000_000),
    TarEntry("before", size=5, mtime_ns=-1_500_000_000),
    TarEntry("D" * 99, Kind.DIRECTORY, mode=0o755),
]


def written() -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out)
    for entry in SAMPLES:
        writer.add(entry)
        if entry.size:
            writer.write(b"12345")
    writer.close()
    return out.getvalue()


def test_what_is_written_is_read_the_same() -> None:
    found = [entry._replace(name=entry.name.rstrip("/")) for entry, _ in read(written(), require_end=True)]
    assert found == SAMPLES


def test_writing_is_deterministic() -> None:
    assert written() == written()


def test_python_reads_what_is_written() -> None:
    with tarfile.open(fileobj=io.BytesIO(written())) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == [entry.name for entry in SAMPLES]
    assert [member.uid for member in members] == [entry.uid for entry in SAMPLES]
    assert members[10].pax_headers["SCHILY.xattr.user.a"] == "\0\n="


def test_gnu_tar_reads_what_is_written() -> None:
    result = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", "-"], input=written(), capture_output=True, check=True
    )
    assert [name.rstrip("/") for name in os.fsdecode(result.stdout).split("\n")[:-1]] == [
        entry.name for entry in SAMPLES
    ]
    assert not result.stderr


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7"])
def test_reads_what_gnu_tar_writes(tmp_path: Path, form: str) -> None:
    long = form in ("gnu", "pax")
    folder = tmp_path / ("long" * 30 if long else "short")
    folder.mkdir()
    (folder / ("name" * 40 if long else "name")).write_bytes(b"x" * 1000)
    (folder / "link").symlink_to("t" * (150 if long else 20))
    argv = ["tar", f"--format={form}", "-C", str(tmp_path), "-cf", "-", folder.name]
    data = subprocess.run(argv, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(item.name, item.size, item.linkname) for item in archive.getmembers()]
    assert [(entry.name.rstrip("/"), entry.size, entry.linkname) for entry, _ in read(data)] == expected


def test_refuses_content_that_does_not_fit_its_size() -> None:
    writer = TarWriter(io.BytesIO())
    writer.add(TarEntry("a", size=3))
    with pytest.raises(BadArchive, match="shrank"):
        writer.close()
    writer = TarWriter(io.BytesIO())
    writer.add(TarEntry("a", size=3))
    with pytest.raises(BadArchive, match="grew"):
        writer.write(b"four")


def test_memory_stays_flat_for_a_large_entry() -> None:
    """A gigabyte passes through without being held."""

    class Zeros:
        left = 1024**3

        def read(self, size: int = -1) -> bytes:
            taken = min(size, self.left)
            self.left -= taken
            return bytes(taken)

    class Joined:
        def __init__(self) -> None:
            self.parts = [
                io.BytesIO(tars.block("big", size=tars.base256(1024**3, 12))),
                Zeros(),
                io.BytesIO(tars.END),
            ]

        def read(self, size: int = -1) -> bytes:
            while self.parts:
                if data := self.parts[0].read(size):
                    return data
                self.parts.pop(0)
            return b""

    reader = TarReader(Joined(), LAYER)
    longest = 0
    for _ in reader:
        longest = max((len(chunk) for chunk in reader.chunks()), default=0)
    assert reader.bytes == 1024**3
    assert longest <= 1024 * 1024

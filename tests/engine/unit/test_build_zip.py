"""Zip archives as contexts: one reading or none (AR-10, AR-11, AR-12). Everything goes through `unpack_context`, as uploads do."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.build.context import BuildContext, unpack_context
from engine.errors import BadArchive
from engine.layers.limits import UPLOAD, Limits
from tests.support.sentinel import sentinel  # noqa: F401

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("sentinel")]

LINK = stat.S_IFLNK | 0o777
FILE = stat.S_IFREG | 0o644


def make(*entries: tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = method
            archive.writestr(info, content)
    return buffer.getvalue()


def large(data: bytes, *, offset: int = 0, size: int = 0, entries: int | None = None) -> bytes:
    """Add the records of a large zip; `offset` and `size` are added to what they should say."""
    place = data.rindex(b"PK\x05\x06")
    count, length, start = struct.unpack("<H2L", data[place + 10 : place + 20])
    count = count if entries is None else entries
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length + size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, place + offset, 1)
    return data[:place] + record + locator + data[place:]


def with_end(data: bytes, **changes: int) -> bytes:
    """Change fields of the end record."""
    names = ("disk", "list_disk", "here", "entries", "size", "offset", "comment")
    place = data.rindex(b"PK\x05\x06")
    values = dict(zip(names, struct.unpack("<4H2LH", data[place + 4 : place + 22]), strict=True))
    return data[: place + 4] + struct.pack("<4H2LH", *{**values, **changes}.values()) + data[place + 22 :]


def upload(tmp_path: Path, data: bytes, limits: Limits = UPLOAD) -> BuildContext:
    archive = tmp_path / "upload"
    archive.write_bytes(data)
    return unpack_context(archive, tmp_path / "staging", "Dockerfile", check=lambda: None, limits=limits)


GOOD = make(("Dockerfile", b"FROM scratch\n", FILE), ("a/b", b"x" * 5000, FILE))


@pytest.mark.parametrize(
    "data",
    [GOOD, large(GOOD), make(("a/b", b"x" * 5000, FILE), comment=b"a comment"), with_end(large(GOOD), offset=0xFFFFFFFF)],
    ids=["plain", "large", "comment", "large with full fields"],
)  # fmt: skip
def test_honest_ones_are_unpacked(tmp_path: Path, data: bytes) -> None:
    assert (upload(tmp_path, data).tree.root / "a/b").read_bytes() == b"x" * 5000


def test_an_empty_one_is_an_empty_context(tmp_path: Path) -> None:
    assert list(upload(tmp_path, make()).tree.root.iterdir()) == []


def test_python_and_info_zip_make_what_is_read(tmp_path: Path) -> None:
    """A stream without a way back has its sizes behind the content."""

    class Stream(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, chunk: object, /) -> int:
            self.data += bytes(chunk)  # type: ignore[call-overload]
            return len(bytes(chunk))  # type: ignore[call-overload]

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        archive.writestr("one", b"1" * 1000)
        archive.writestr("two", b"2" * 1000)
    assert (upload(tmp_path, stream.data).tree.root / "two").read_bytes() == b"2" * 1000


def test_of_two_entries_with_one_name_the_last_wins(tmp_path: Path) -> None:
    """AR-11: as with a tar; and what is known about the file is that of the last."""
    with pytest.warns(UserWarning, match="Duplicate"):
        data = make(("f", b"first", FILE), ("f", b"the last", FILE))
    context = upload(tmp_path, data)
    assert (context.tree.root / "f").read_bytes() == b"the last"
    assert [fact.size for fact in context.tree.facts("", "") if fact.path == "f"] == [8]


def test_a_name_that_is_first_a_link_and_then_a_file_is_not_written_through(
    tmp_path: Path,
    sentinel: Path,  # noqa: F811
) -> None:
    """AR-11, AR-02."""
    with pytest.warns(UserWarning, match="Duplicate"):
        data = make(("f", os.fsencode(sentinel / "etc/passwd"), LINK), ("f", b"mine", FILE))
    assert (upload(tmp_path, data).tree.root / "f").read_bytes() == b"mine"


@pytest.mark.parametrize("way", ["{0}", "../sentinel", "../../../../../../../../../..{0}"])
def test_a_link_out_by_its_attributes_ends_inside(
    tmp_path: Path,
    sentinel: Path,  # noqa: F811
    way: str,
) -> None:
    """AR-11: Info-ZIP's links, and a file below one."""
    data = make(("d", way.format(sentinel).encode(), LINK), ("d/etc/planted", b"x", FILE))
    root = upload(tmp_path, data).tree.root
    assert len(list(root.rglob("planted"))) == 1


REFUSED: dict[str, Callable[[], bytes]] = {
    "backslash": lambda: make(("..\\x", b"1", FILE)),
    "backslash inside": lambda: make(("a\\..\\..\\x", b"1", FILE)),
    "drive": lambda: make(("C:x", b"1", FILE)),
    "drive and slash": lambda: make(("c:/x", b"1", FILE)),
    "climbs": lambda: make(("../x", b"1", FILE)),
    "climbs inside": lambda: make(("a/../../x", b"1", FILE)),
    "zero byte": lambda: make(("abcd", b"1", FILE)).replace(b"abcd", b"a\0cd"),
    "fifo": lambda: make(("pipe", b"", stat.S_IFIFO | 0o644)),
    "device": lambda: make(("sda", b"", stat.S_IFBLK | 0o644)),
    "endless link": lambda: make(("l", b"x" * 5000, LINK)),
    "lzma": lambda: make(("f", b"x" * 100, FILE), method=zipfile.ZIP_LZMA),
    "another name in the entry": lambda: GOOD.replace(b"a/b", b"a/c", 1),
    "large end elsewhere": lambda: large(GOOD, offset=-1),
    "large end far away": lambda: large(GOOD, offset=2**40),
    "large end contradicts": lambda: large(GOOD, size=1),
    "large end with other entries": lambda: large(GOOD, entries=1),
    "full fields without a large end": lambda: with_end(GOOD, offset=0xFFFFFFFF),
    "two disks": lambda: with_end(GOOD, disk=1),
    "fewer entries here": lambda: with_end(GOOD, here=1),
    "fewer entries": lambda: with_end(GOOD, here=1, entries=1),
    "more entries": lambda: with_end(GOOD, here=3, entries=3),
    "data before": lambda: shifted(GOOD),
    "data before, unsaid": lambda: b"PK\x03\x04" + GOOD,
    "data after": lambda: GOOD + b"x",
    "another end after": lambda: GOOD + make(),
    "comment too short": lambda: with_end(make(("f", b"x", FILE), comment=b"12345"), comment=3),
    "size of the list": lambda: with_end(GOOD, size=10),
}


def shifted(data: bytes) -> bytes:
    """Put bytes before the first entry and let every offset know of them."""
    place, gap = data.rindex(b"PK\x05\x06"), b"PK\x03\x04" + bytes(96)
    start = struct.unpack("<L", data[place + 16 : place + 20])[0]
    moved = bytearray(data)
    position = start
    while (position := moved.find(b"PK\x01\x02", position)) >= 0:
        offset = struct.unpack_from("<L", moved, position + 42)[0]
        struct.pack_into("<L", moved, position + 42, offset + len(gap))
        position += 46
    return gap + with_end(bytes(moved), offset=start + len(gap))


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_nothing_left(tmp_path: Path, case: str) -> None:
    """AR-11, AR-12."""
    with pytest.raises(BadArchive) as caught:
        upload(tmp_path, REFUSED[case]())
    assert str(tmp_path) not in caught.value.message
    assert not (tmp_path / "staging").exists()


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """AR-12."""
    data = make(*[(f"f{index}", os.urandom(300), FILE) for index in range(8)])
    for length in range(64, len(data), 173):
        with pytest.raises(BadArchive):
            upload(tmp_path, data[:length])
        assert not (tmp_path / "staging").exists()


def test_entries_that_share_their_content_are_refused(tmp_path: Path) -> None:
    """AR-10: CVE-2024-0450, one packed run behind many names."""
    data = bytearray(GOOD)
    second = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, second + 42, 0)
    with pytest.raises(BadArchive, match="overlap"):
        upload(tmp_path, bytes(data))


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (replace(UPLOAD, max_entries=1), "entries"),
        (replace(UPLOAD, max_bytes=1000), "bytes"),
        (replace(UPLOAD, max_ratio=2, ratio_floor=100), "times"),
        (replace(UPLOAD, deadline_s=0.0), "time"),
    ],
)
def test_bombs_stop_at_limits(tmp_path: Path, limits: Limits, word: str) -> None:
    """AR-10: the list is judged before anything is written."""
    with pytest.raises(BadArchive, match=word) as caught:
        upload(tmp_path, GOOD, limits)
    assert caught.value.hint
    assert not (tmp_path / "staging").exists()


def test_content_longer_than_announced_is_refused(tmp_path: Path) -> None:
    """AR-10: the size in the list is a lie."""
    data = bytearray(GOOD)
    second = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, second + 24, 100)
    with pytest.raises(BadArchive):
        upload(tmp_path, bytes(data))
    assert not (tmp_path / "staging").exists()


def test_a_long_list_of_files_is_not_even_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AR-10: the count is said at the end and made by walking; the library that loads the list is not called."""

    def load(*_: object) -> None:
        pytest.fail("the list was loaded")

    monkeypatch.setattr(zipfile, "ZipFile", load)
    with pytest.raises(BadArchive, match="entries"):
        upload(tmp_path, GOOD, replace(UPLOAD, max_entries=1))

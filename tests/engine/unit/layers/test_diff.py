"""An overlay upper becomes the layer that made it; changes are told as `docker diff` tells them."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from engine.content.store import ContentStore
from engine.layers.apply import apply_layer
from engine.layers.compare import compare_layer
from engine.layers.compression import Compression, open_any
from engine.layers.diff import Change, changes, diff_layer, pack_tree
from engine.layers.pack import pack_layer
from engine.layers.tar import Kind, TarEntry, TarReader
from engine.linux.owners import shift_owners
from tests.support import tars

pytestmark = pytest.mark.root

START = 0x10000000
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def entries(data: bytes) -> dict[str, TarEntry]:
    return {entry.name.rstrip("/"): entry for entry in TarReader(io.BytesIO(data), require_end=True)}


def diff(folder: Path, idmap_start: int = 0) -> bytes:
    out = io.BytesIO()
    diff_layer(folder, out, idmap_start=idmap_start)
    return out.getvalue()


def make_upper(root: Path) -> Path:
    upper = root / "upper"
    data = tars.archive(
        tars.folder("d", mode=0o2750, uid=1, gid=2, mtime=10),
        tars.member("d/f", data=b"hello", mode=0o4755, uid=3, gid=4, mtime=20, xattrs={"user.a": b"1"}),
        tars.hardlink("d/h", "d/f"),
        tars.symlink("d/s", "f", uid=5, mtime=30),
        tars.member("p", tars.FIFO, mode=0o600, mtime=40),
        tars.member("d/.wh.gone"),
        tars.folder("o", mtime=50),
        tars.member("o/.wh..wh..opq"),
        tars.member("capable", data=b"x" * 100_000, mtime=60, xattrs={"security.capability": CAPABILITY}),
    )
    upper.mkdir()
    apply_layer(io.BytesIO(data), upper)
    return upper


def test_an_upper_becomes_its_layer(tmp_path: Path) -> None:
    found = entries(diff(make_upper(tmp_path)))
    assert list(found) == ["capable", "d", "o", "p", "d/f", "d/.wh.gone", "d/h", "d/s", "o/.wh..wh..opq"]
    assert found["d"] == TarEntry("d/", Kind.DIRECTORY, 0, 0o2750, 1, 2, 10 * 10**9)
    assert found["d/f"].xattrs == {"user.a": b"1"}
    assert (found["d/f"].mode, found["d/f"].uid, found["d/f"].size) == (0o4755, 3, 5)
    assert (found["d/h"].kind, found["d/h"].linkname) == (Kind.HARDLINK, "d/f")
    assert (found["d/s"].linkname, found["d/s"].uid) == ("f", 5)
    assert found["capable"].xattrs == {"security.capability": CAPABILITY}


def test_the_layer_unpacks_to_the_same_upper(tmp_path: Path) -> None:
    data = diff(make_upper(tmp_path))
    again = tmp_path / "again"
    again.mkdir()
    apply_layer(io.BytesIO(data), again)
    assert diff(again) == data
    assert compare_layer(io.BytesIO(data), again) == []


def test_owners_and_capabilities_are_mapped_back(tmp_path: Path) -> None:
    plain = make_upper(tmp_path)
    mapped = tmp_path / "mapped"
    mapped.mkdir()
    apply_layer(io.BytesIO(diff(plain)), mapped, idmap_start=START)
    assert (mapped / "d/f").stat().st_uid == START + 3
    assert diff(mapped, START) == diff(plain)


def test_shift_owners_brings_an_upper_to_the_owners_inside(tmp_path: Path) -> None:
    plain = make_upper(tmp_path)
    mapped = tmp_path / "mapped"
    mapped.mkdir()
    apply_layer(io.BytesIO(diff(plain)), mapped, idmap_start=START)
    os.chown(mapped, START, START)
    assert shift_owners(mapped, START) > 0
    assert diff(mapped) == diff(plain)
    assert mapped.stat().st_uid == 0
    assert stat.S_IMODE((mapped / "d/f").stat().st_mode) == 0o4755
    assert len(os.getxattr(mapped / "capable", "security.capability")) == 20
    assert shift_owners(mapped, START) == 0


def test_ids_outside_of_the_range_stay(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    os.chown(tmp_path / "f", START + 70_000, 7)
    shift_owners(tmp_path, START)
    assert (tmp_path / "f").stat().st_uid == START + 70_000
    assert entries(diff(tmp_path, START))["f"].gid == 7


def test_sockets_and_devices_are_left_out(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(tmp_path / "sock", stat.S_IFSOCK)
    assert entries(diff(tmp_path)) == {}


def test_an_empty_upper_is_an_empty_archive(tmp_path: Path) -> None:
    assert diff(tmp_path) == bytes(1024)


def test_gnu_tar_reads_a_layer(tmp_path: Path) -> None:
    data = diff(make_upper(tmp_path))
    result = subprocess.run(["tar", "-tvf", "-"], input=data, capture_output=True, text=False, check=True)
    assert not result.stderr
    assert b"d/.wh.gone" in result.stdout


def test_pack_tree_writes_a_part_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/f").write_text("x")
    out = io.BytesIO()
    pack_tree(tmp_path, out, start="a/b", prefix="new", with_root=True)
    assert list(entries(out.getvalue())) == ["new", "new/c", "new/f"]


def test_a_file_that_shrinks_meanwhile_keeps_the_archive_whole(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 1000)

    class Shrinker(io.BytesIO):
        def write(self, data: bytes | memoryview) -> int:
            if b"f\0" in bytes(data[:100]):
                os.truncate(tmp_path / "f", 10)
            return super().write(data)

    out = Shrinker()
    diff_layer(tmp_path, out)
    ((entry, content),) = [(entry, b"x") for entry in TarReader(io.BytesIO(out.getvalue()), require_end=True)]
    assert (entry.size, content) == (1000, b"x")


# the blob of a layer


def test_pack_layer_gives_blob_and_diff_id_in_one_pass(tmp_path: Path) -> None:
    content = ContentStore(tmp_path / "content")
    upper = make_upper(tmp_path)
    packed = pack_layer(upper, content)
    descriptor = packed.blob.wait()
    with content.open_verified(descriptor.digest) as blob:
        data = open_any(blob).read()
    assert data == diff(upper)
    assert packed.diff_id == content.put(data).digest
    assert descriptor.media_type.endswith("tar+gzip")
    assert pack_layer(upper, content).blob.wait() == descriptor


@pytest.mark.parametrize("kind", [Compression.NONE, Compression.ZSTD])
def test_pack_layer_takes_other_kinds(tmp_path: Path, kind: Compression) -> None:
    content = ContentStore(tmp_path / "content")
    descriptor = pack_layer(make_upper(tmp_path), content, kind=kind).blob.wait()
    with content.open(descriptor.digest) as blob:
        assert open_any(blob).compression is kind


def test_a_large_layer_is_packed_behind_the_diff(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    for index in range(20):
        (upper / f"f{index}").write_bytes(os.urandom(1000) * 1000)
    content = ContentStore(tmp_path / "content")
    packed = pack_layer(upper, content)
    assert packed.size == 20_000_000
    with content.open_verified(packed.blob.wait().digest) as blob:
        assert content.put(open_any(blob)).digest == packed.diff_id


def test_a_failed_diff_leaves_no_blob(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "f").write_bytes(bytes(3_000_000))

    class Stopped(Exception):
        pass

    calls = iter(range(2))

    def stop() -> None:
        if next(calls, None) == 1:
            raise Stopped

    (upper / "d").mkdir()
    content = ContentStore(tmp_path / "content")
    with pytest.raises(Stopped):
        pack_layer(upper, content, check=stop)
    assert list(content.walk()) == []
    assert content.sweep() == []


# changes


def test_changes_are_told_as_added_changed_deleted(tmp_path: Path) -> None:
    bottom, middle, upper = (tmp_path / name for name in ("bottom", "middle", "upper"))
    for path in ("etc/passwd", "etc/old", "var/log/a", "var/log/b", "usr/x", "was/dir/f"):
        (bottom / path).parent.mkdir(parents=True, exist_ok=True)
        (bottom / path).write_text("x")
    middle.mkdir()
    apply_layer(io.BytesIO(tars.archive(tars.member("etc/.wh.old"), tars.member("etc/mid"))), middle)
    upper.mkdir()
    data = tars.archive(
        tars.member("etc/passwd", data=b"y"),
        tars.member("etc/.wh.mid"),
        tars.member("etc/.wh.old"),
        tars.member("etc/old2"),
        tars.folder("var/log"),
        tars.member("var/log/.wh..wh..opq"),
        tars.member("var/log/new"),
        tars.member("was", data=b"now a file"),
        tars.folder("fresh"),
    )
    apply_layer(io.BytesIO(data), upper)
    assert changes(upper, [middle, bottom]) == [
        Change("C", "/etc"),
        Change("D", "/etc/mid"),
        Change("A", "/etc/old2"),
        Change("C", "/etc/passwd"),
        Change("A", "/fresh"),
        Change("C", "/var"),
        Change("C", "/var/log"),
        Change("D", "/var/log/a"),
        Change("D", "/var/log/b"),
        Change("A", "/var/log/new"),
        Change("C", "/was"),
    ]


def test_a_copied_up_directory_without_changes_is_no_change(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "d/e").mkdir(parents=True)
    (upper / "d/e").mkdir(parents=True)
    assert changes(upper, [lower]) == [Change("C", "/d")]
    (upper / "d/e").rmdir()
    assert changes(upper, [lower]) == []


# comparing a layer with its folder


def test_compare_names_what_is_missing_changed_and_added(tmp_path: Path) -> None:
    """F-25."""
    upper = make_upper(tmp_path)
    data = diff(upper)
    (upper / "d/s").unlink()
    (upper / "d/new").write_text("x")
    (upper / "extra/inner").mkdir(parents=True)
    (upper / "d/gone").unlink()
    os.removexattr(upper / "o", "trusted.overlay.opaque")
    with (upper / "capable").open("r+b") as file:
        file.seek(50_000)
        file.write(b"Y")
    os.utime(upper / "capable", (60, 60))
    (upper / "p").chmod(0o666)
    found = {(item.what, item.path, item.detail) for item in compare_layer(io.BytesIO(data), upper)}
    assert ("missing", "d/s", "") in found
    assert ("added", "d/new", "") in found
    assert ("added", "extra", "") in found
    assert ("missing", "d/gone", "the mark that removes it") in found
    assert ("changed", "o", "no longer opaque") in found
    assert ("changed", "capable", "content") in found
    assert ("changed", "p", "mode") in found

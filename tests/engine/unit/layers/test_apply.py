"""Unpacking keeps what an archive says of its files, and turns whiteouts into overlayfs' own marks."""

from __future__ import annotations

import io
import os
import stat
import struct
from pathlib import Path

import pytest

from engine.errors import BadArchive
from engine.layers.apply import apply_layer, extract
from engine.layers.policy import NO_REPLACE_POLICY, ApplyResult, Whiteouts
from tests.support import tars

pytestmark = pytest.mark.root

OPAQUE = "trusted.overlay.opaque"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def layer(target: Path, *members: bytes, **options) -> ApplyResult:
    return apply_layer(io.BytesIO(tars.archive(*members)), target, **options)


def is_whiteout(path: Path) -> bool:
    info = path.lstat()
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def test_keeps_modes_owners_and_times(target: Path) -> None:
    result = layer(
        target,
        tars.folder("d", mode=0o2751, uid=3, gid=4, mtime=100),
        tars.member("d/f", data=b"hello", mode=0o4755, uid=5, gid=6, mtime=200),
        tars.member("d/plain", data=b"x", mode=0o644, mtime=300),
        tars.member("d/closed", mode=0o000),
        tars.symlink("d/s", "f", uid=7, gid=8, mtime=400),
    )
    folder, file, link = (target / "d").stat(), (target / "d/f").stat(), (target / "d/s").lstat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid, folder.st_mtime) == (
        0o2751,
        3,
        4,
        100,
    )
    assert (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid, file.st_mtime) == (0o4755, 5, 6, 200)
    assert (link.st_uid, link.st_gid, link.st_mtime) == (7, 8, 400)
    plain = (target / "d/plain").stat()
    assert (stat.S_IMODE(plain.st_mode), plain.st_gid, plain.st_mtime) == (0o644, 0, 300)
    assert stat.S_IMODE((target / "d/closed").stat().st_mode) == 0
    assert result == ApplyResult(size=6, entries=5)


def test_the_umask_of_the_process_does_not_matter(target: Path) -> None:
    before = os.umask(0o077)
    try:
        layer(
            target,
            tars.member("f", mode=0o666),
            tars.folder("d", mode=0o777),
            tars.member("d/x", tars.FIFO, mode=0o622),
        )
    finally:
        os.umask(before)
    assert stat.S_IMODE((target / "f").stat().st_mode) == 0o666
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o777
    assert stat.S_IMODE((target / "d/x").lstat().st_mode) == 0o622


def test_the_root_entry_sets_the_root_of_a_layer(target: Path) -> None:
    layer(target, tars.folder("./", mode=0o711, uid=9, mtime=5), tars.member("./f"))
    info = target.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_mtime) == (0o711, 9, 5)


def test_nanoseconds_are_kept(target: Path) -> None:
    layer(target, tars.pax({"mtime": "5.123456789"}) + tars.block("f"))
    assert (target / "f").stat().st_mtime_ns == 5_123_456_789


def test_hard_links_stay_one_file(target: Path) -> None:
    layer(
        target,
        tars.member("a", data=b"x", mode=0o600),
        tars.hardlink("b", "a", mode=0o777),
        tars.hardlink("c", "./b"),
    )
    assert {(target / name).stat().st_ino for name in "abc"} == {(target / "a").stat().st_ino}
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o600


def test_a_hard_link_onto_itself_changes_nothing(target: Path) -> None:
    layer(target, tars.member("a", data=b"x"), tars.hardlink("b", "a"), tars.hardlink("b", "a"))
    assert (target / "b").read_bytes() == b"x"


def test_the_last_entry_of_a_name_wins(target: Path) -> None:
    layer(
        target,
        tars.folder("x"),
        tars.member("x/inner"),
        tars.member("x", data=b"file"),
        tars.member("y"),
        tars.folder("y"),
        tars.member("z", data=b"first"),
        tars.member("z", data=b"second"),
    )
    assert (target / "x").read_bytes() == b"file"
    assert (target / "y").is_dir()
    assert (target / "z").read_bytes() == b"second"


def test_a_replaced_file_does_not_change_its_hard_links(target: Path) -> None:
    layer(target, tars.member("a", data=b"old"), tars.hardlink("b", "a"), tars.member("a", data=b"new"))
    assert (target / "b").read_bytes() == b"old"


def test_owners_and_capabilities_are_mapped(target: Path) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    start = 0x10000000
    layer(
        target,
        tars.folder("d", uid=0, gid=5),
        tars.member("d/f", data=b"x", uid=1000, mode=0o4755, xattrs={"security.capability": capability}),
        tars.symlink("s", "x"),
        tars.folder("implied/by"),
        idmap_start=start,
    )
    assert (target / "d").stat().st_gid == start + 5
    assert (target / "d/f").stat().st_uid == start + 1000
    assert stat.S_IMODE((target / "d/f").stat().st_mode) == 0o4755
    stored = os.getxattr(target / "d/f", "security.capability")
    assert stored[20:] == struct.pack("<I", start)
    assert (target / "s").lstat().st_uid == start
    assert (target / "implied").stat().st_uid == start


# parents that the archive does not contain


def test_implied_parents_look_as_below(tmp_path: Path, target: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "tmp/inner").mkdir(parents=True)
    os.chown(lower / "tmp", 5, 6)
    (lower / "tmp").chmod(0o1777)
    os.utime(lower / "tmp", (50, 50))
    layer(target, tars.member("tmp/inner/f"), tars.member("else/f"), lowers=[lower])
    info = (target / "tmp").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o1777, 5, 6, 50)
    assert stat.S_IMODE((target / "else").stat().st_mode) == 0o755


def test_an_entry_goes_before_what_is_below(tmp_path: Path, target: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "d").mkdir(parents=True)
    (lower / "d").chmod(0o700)
    layer(target, tars.member("d/f"), tars.folder("d", mode=0o711), lowers=[lower])
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o711


def test_files_in_setgid_directories_keep_their_group(tmp_path: Path, target: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "d").mkdir(parents=True)
    os.chown(lower / "d", 0, 50)
    (lower / "d").chmod(0o2775)
    layer(
        target, tars.member("d/f"), tars.folder("e", mode=0o2775, gid=50), tars.member("e/f"), lowers=[lower]
    )
    assert (target / "d/f").stat().st_gid == 0
    assert (target / "e/f").stat().st_gid == 0
    assert (target / "d").stat().st_mode & stat.S_ISGID


# whiteouts


def test_whiteouts_become_marks(target: Path) -> None:
    layer(target, tars.member("d/.wh.gone"), tars.member(".wh.top"), tars.member("d/.wh..wh.plnk"))
    assert is_whiteout(target / "d/gone")
    assert is_whiteout(target / "top")
    assert os.listdir(target / "d") == ["gone"]


def test_an_opaque_mark_hides_the_directory_below(target: Path) -> None:
    layer(target, tars.folder("d"), tars.member("d/.wh..wh..opq"), tars.member("d/new", data=b"x"))
    assert os.getxattr(target / "d", OPAQUE) == b"y"
    assert (target / "d/new").exists()


def test_a_name_of_the_same_layer_goes_before_its_whiteout(target: Path) -> None:
    layer(
        target,
        tars.member("f", data=b"new"),
        tars.member(".wh.f"),
        tars.member(".wh.g"),
        tars.member("g", data=b"new"),
    )
    assert (target / "f").read_bytes() == b"new"
    assert (target / "g").read_bytes() == b"new"


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_directory_of_the_same_layer_becomes_opaque(target: Path, whiteout_first: bool) -> None:
    parts = [tars.member(".wh.d"), tars.folder("d"), tars.member("d/new")]
    layer(target, *(parts if whiteout_first else [*parts[1:], parts[0]]))
    assert os.getxattr(target / "d", OPAQUE) == b"y"
    assert (target / "d/new").exists()


def test_an_opaque_root_hides_every_name_below(tmp_path: Path, target: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "etc").mkdir(parents=True)
    (lower / "file").touch()
    layer(target, tars.folder("etc"), tars.member(".wh..wh..opq"), tars.member("new"), lowers=[lower])
    assert is_whiteout(target / "file")
    assert os.getxattr(target / "etc", OPAQUE) == b"y"
    assert not is_whiteout(target / "new")


def test_whiteouts_remove_in_a_plain_copy(target: Path) -> None:
    for name in ("keep/a", "gone/b", "opaque/old", "opaque/own/old", "file"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("old")
    layer(
        target,
        tars.member(".wh.gone"),
        tars.member(".wh.file"),
        tars.member(".wh.never"),
        tars.folder("opaque"),
        tars.member("opaque/own/new", data=b"x"),
        tars.member("opaque/.wh..wh..opq"),
        whiteouts=Whiteouts.REMOVE,
    )
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert found == ["keep/a", "opaque/own/new"]


def test_uploads_take_whiteout_names_as_they_are(target: Path) -> None:
    extract(io.BytesIO(tars.archive(tars.member(".wh.x", data=b"1"), tars.member("d/.wh..wh..opq"))), target)
    assert (target / ".wh.x").read_bytes() == b"1"
    assert (target / "d/.wh..wh..opq").exists()


# folders that are somebody's


def test_an_upload_merges_into_what_is_there(target: Path) -> None:
    (target / "d").mkdir()
    (target / "d/old").write_text("old")
    extract(io.BytesIO(tars.archive(tars.folder("d"), tars.member("d/new", data=b"x"))), target)
    assert sorted(os.listdir(target / "d")) == ["new", "old"]


def test_an_upload_leaves_the_root_itself_alone(target: Path) -> None:
    target.chmod(0o750)
    extract(io.BytesIO(tars.archive(tars.folder("./", mode=0o777, uid=55), tars.member("./f"))), target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    assert target.stat().st_uid == 0


def test_no_replace_keeps_files_and_directories_apart(target: Path) -> None:
    (target / "d").mkdir()
    (target / "f").touch()
    for member in (tars.member("d", data=b"x"), tars.folder("f"), tars.symlink("d", "x")):
        with pytest.raises(BadArchive, match="of that name"):
            extract(io.BytesIO(tars.archive(member)), target, policy=NO_REPLACE_POLICY)
    extract(io.BytesIO(tars.archive(tars.member("f", data=b"new"))), target, policy=NO_REPLACE_POLICY)
    assert (target / "f").read_bytes() == b"new"


def test_unpacks_into_a_descriptor(target: Path) -> None:
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        extract(io.BytesIO(tars.archive(tars.member("a/b", data=b"x"))), fd)
        assert os.fstat(fd)
    finally:
        os.close(fd)
    assert (target / "a/b").exists()


def test_no_descriptor_is_left_open(target: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    members = [tars.member(f"d{index}/e/f") for index in range(200)]
    layer(target, *members)
    with pytest.raises(BadArchive):
        layer(target, *members[:70], tars.member("../x"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_times_of_directories_survive_their_content(target: Path) -> None:
    layer(
        target,
        tars.folder("a", mtime=10),
        tars.folder("a/b", mtime=20),
        tars.member("a/b/c"),
        tars.member("a/d"),
    )
    assert ((target / "a").stat().st_mtime, (target / "a/b").stat().st_mtime) == (10, 20)

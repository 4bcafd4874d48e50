"""Archives that want to reach outside: refused with the entry's name, or what they write lands inside.

Every test has a sentinel tree beside its target; nothing in it may change. The names of the link cases follow containerd's
`TestBreakouts` (pkg/archive/tar_test.go).
"""

from __future__ import annotations

import io
import os
import stat
import struct
import time
from pathlib import Path

import pytest

from engine.errors import BadArchive
from engine.layers.apply import apply_layer, extract
from engine.layers.limits import UPLOAD, Limits
from engine.layers.policy import Whiteouts
from tests.support import tars
from tests.support.sentinel import sentinel  # noqa: F401

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("sentinel")]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def layer(target: Path, *members: bytes, lowers: tuple[Path, ...] = ()) -> None:
    apply_layer(io.BytesIO(tars.archive(*members)), target, lowers=lowers)


def upload(target: Path, *members: bytes) -> None:
    extract(io.BytesIO(tars.archive(*members)), target)


def inside(target: Path) -> list[str]:
    return sorted(str(path.relative_to(target)) for path in target.rglob("*"))


DOORS = [layer, upload]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../../x", "/../x", "a/..", "./../x", "a/b/../../../x", "../../../../../tmp/x"]
)
def test_a_name_that_climbs_is_refused(target: Path, door, name: str) -> None:
    """AR-01."""
    with pytest.raises(BadArchive) as caught:
        door(target, tars.member(name, data=b"x"))
    assert caught.value.entry == name
    assert str(target) not in caught.value.message
    assert inside(target) == []


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "lands"),
    [
        ("/etc/x", "etc/x"),
        ("//etc//x", "etc/x"),
        ("./x", "x"),
        ("a/./b//c", "a/b/c"),
        ("line\nbreak", "line\nbreak"),
        ("...", "..."),
        ("..x", "..x"),
        (".hidden", ".hidden"),
        ("a\\..\\b", "a\\..\\b"),
    ],
)
def test_an_odd_name_lands_inside(target: Path, door, name: str, lands: str) -> None:
    """AR-01."""
    door(target, tars.member(name, data=b"x"))
    assert (target / lands).read_bytes() == b"x"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["", ".", "./", "/"])
def test_a_file_cannot_be_the_root(target: Path, door, name: str) -> None:
    """AR-01."""
    with pytest.raises(BadArchive):
        door(target, tars.block(name))


def test_a_name_longer_than_the_file_system_allows_is_refused(target: Path) -> None:
    """AR-01."""
    with pytest.raises(BadArchive) as caught:
        layer(target, tars.member("n" * 300))
    assert caught.value.entry == "n" * 300


# AR-02: writing through links


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("link", ["/", "../../..", "..", "../../../../../../..", "./../."])
def test_symlink_directory_then_file_below(target: Path, door, link: str) -> None:
    """AR-02: absolute and relative links out end at the root."""
    door(target, tars.symlink("d", link), tars.member("d/etc/planted", data=b"x"))
    assert (target / "etc/planted").read_bytes() == b"x"


@pytest.mark.parametrize("door", DOORS)
def test_relative_symlink_to_the_sentinel(target: Path, door) -> None:
    """AR-02."""
    door(target, tars.symlink("d", "../sentinel"), tars.member("d/etc/planted", data=b"x"))
    assert (target / "sentinel/etc/planted").read_bytes() == b"x"


@pytest.mark.parametrize("door", DOORS)
def test_symlink_that_climbs_from_what_is_not_there_is_refused(target: Path, door) -> None:
    """AR-02."""
    with pytest.raises(BadArchive):
        door(target, tars.symlink("d", "/etc/../.."), tars.member("d/planted", data=b"x"))
    assert inside(target) == ["d"]


@pytest.mark.parametrize("door", DOORS)
def test_absolute_symlink_to_the_sentinel(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-02: the link's own path is taken inside the root."""
    door(target, tars.symlink("d", str(sentinel)), tars.member("d/etc/passwd", data=b"x"))
    assert (target / str(sentinel).lstrip("/") / "etc/passwd").read_bytes() == b"x"


@pytest.mark.parametrize("door", DOORS)
def test_symlink_then_file_of_the_same_name(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-02: the link is replaced, never written through."""
    door(target, tars.symlink("f", str(sentinel / "etc/passwd")), tars.member("f", data=b"mine"))
    assert not (target / "f").is_symlink()
    assert (target / "f").read_bytes() == b"mine"


@pytest.mark.parametrize("door", DOORS)
def test_symlink_with_a_slash_at_its_end(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-02."""
    door(target, tars.symlink("d", f"{sentinel}/"), tars.member("d/x", data=b"x"))
    assert (target / str(sentinel).lstrip("/") / "x").exists()


@pytest.mark.parametrize("door", DOORS)
def test_dead_symlink_makes_its_target_inside(target: Path, door) -> None:
    """AR-02."""
    door(target, tars.symlink("d", "/no/where"), tars.member("d/x", data=b"x"))
    assert (target / "no/where/x").read_bytes() == b"x"


@pytest.mark.parametrize("door", DOORS)
def test_dead_relative_symlink_stays_inside(target: Path, door) -> None:
    """AR-02."""
    door(target, tars.symlink("a/b/d", "../../../../out/side"), tars.member("a/b/d/x", data=b"x"))
    assert (target / "out/side/x").read_bytes() == b"x"


@pytest.mark.parametrize("door", DOORS)
def test_chain_of_forty_symlinks(target: Path, door) -> None:
    """AR-02."""
    chain = [tars.symlink(f"l{index}", f"l{index + 1}") for index in range(39)]
    door(target, *chain, tars.symlink("l39", "/"), tars.member("l0/x", data=b"x"))
    assert (target / "x").exists()


@pytest.mark.parametrize("door", DOORS)
def test_symlinks_in_a_circle_are_refused(target: Path, door) -> None:
    """AR-02."""
    with pytest.raises(BadArchive):
        door(target, tars.symlink("a", "b"), tars.symlink("b", "a"), tars.member("a/x"))


@pytest.mark.parametrize("door", DOORS)
def test_symlink_of_symlinks_out(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-02: `one` leads inside, `two` climbs from there."""
    door(
        target,
        tars.folder("deep/er"),
        tars.symlink("one", "deep/er"),
        tars.symlink("deep/er/two", "../../../sentinel"),
        tars.member("one/two/etc/x", data=b"x"),
    )
    assert (target / "sentinel/etc/x").exists()


@pytest.mark.parametrize("door", DOORS)
def test_proc_magic_links_are_not_followed(target: Path, door) -> None:
    """AR-02."""
    door(target, tars.symlink("d", "/proc/self/root"), tars.member("d/tmp/magic", data=b"x"))
    assert (target / "proc/self/root/tmp/magic").exists()
    assert not Path("/tmp/magic").exists()


# AR-03: hard links


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("link", ["../sentinel/etc/passwd", "../../etc/passwd", "..", "d/../../x"])
def test_hardlink_that_climbs_is_refused(target: Path, door, link: str) -> None:
    """AR-03."""
    with pytest.raises(BadArchive) as caught:
        door(target, tars.hardlink("h", link))
    assert caught.value.entry == "h"


@pytest.mark.parametrize("door", DOORS)
def test_absolute_hardlink_means_inside(target: Path, door) -> None:
    """AR-03."""
    with pytest.raises(BadArchive, match="not in the archive"):
        door(target, tars.hardlink("h", "/etc/passwd"))
    door(target, tars.member("etc/passwd", data=b"x"), tars.hardlink("h", "/etc/passwd"))
    assert (target / "h").stat().st_nlink == 2


@pytest.mark.parametrize("door", DOORS)
def test_hardlink_through_a_symlinked_directory(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-03."""
    with pytest.raises(BadArchive):
        door(target, tars.symlink("d", str(sentinel)), tars.hardlink("h", "d/etc/passwd"))
    with pytest.raises(BadArchive):
        door(target, tars.symlink("d", "../sentinel"), tars.hardlink("h", "d/etc/passwd", mode=0o777))


@pytest.mark.parametrize("door", DOORS)
def test_hardlink_to_a_symlink_then_its_mode(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-03: CVE-2021-32760, mode and owner of a hard link are not applied."""
    door(
        target,
        tars.symlink("s", str(sentinel / "etc/shadow")),
        tars.hardlink("h", "s", mode=0o4777, uid=1000),
        tars.member("h2", tars.HARDLINK, link="s", mode=0o777),
    )
    assert (target / "h").is_symlink()


@pytest.mark.parametrize("door", DOORS)
def test_hardlink_to_a_symlink_then_a_file_over_it(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-03."""
    door(
        target,
        tars.symlink("s", str(sentinel / "etc/passwd")),
        tars.hardlink("h", "s"),
        tars.member("h", data=b"mine"),
    )
    assert (target / "h").read_bytes() == b"mine"
    assert (target / "s").is_symlink()


@pytest.mark.parametrize("door", DOORS)
def test_hardlink_to_a_directory_or_the_root_is_refused(target: Path, door) -> None:
    """AR-03."""
    for link in ("d", "/", "."):
        with pytest.raises(BadArchive):
            door(target, tars.folder("d"), tars.hardlink("h", link))


# AR-04: whiteouts


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."])
@pytest.mark.parametrize("mode", [Whiteouts.OVERLAY, Whiteouts.REMOVE])
def test_a_whiteout_of_a_directory_itself_is_refused(target: Path, name: str, mode: Whiteouts) -> None:
    """AR-04."""
    with pytest.raises(BadArchive) as caught:
        apply_layer(io.BytesIO(tars.archive(tars.folder("d"), tars.member(name))), target, whiteouts=mode)
    assert caught.value.entry == name
    assert target.is_dir()
    assert target.parent.is_dir()


@pytest.mark.parametrize("mode", [Whiteouts.OVERLAY, Whiteouts.REMOVE])
def test_a_whiteout_through_a_symlinked_directory(target: Path, sentinel: Path, mode: Whiteouts) -> None:  # noqa: F811
    """AR-04."""
    data = tars.archive(
        tars.symlink("d", str(sentinel)),
        tars.member("d/.wh.etc"),
        tars.symlink("up", "../sentinel"),
        tars.member("up/.wh.bin"),
        tars.member("up/etc/.wh..wh..opq"),
    )
    apply_layer(io.BytesIO(data), target, whiteouts=mode)
    assert (sentinel / "etc/passwd").exists()
    assert (sentinel / "bin/su").exists()


@pytest.mark.parametrize("mode", [Whiteouts.OVERLAY, Whiteouts.REMOVE])
def test_an_opaque_mark_at_the_root_stays_inside(target: Path, mode: Whiteouts) -> None:
    """AR-04."""
    (target / "old").write_text("x")
    apply_layer(io.BytesIO(tars.archive(tars.member(".wh..wh..opq"))), target, whiteouts=mode)
    assert target.is_dir()
    assert target.parent.is_dir()


def test_a_whiteout_with_a_dead_parent(target: Path) -> None:
    """AR-04."""
    layer(target, tars.symlink("d", "/gone"), tars.member("d/.wh.x"))
    assert stat.S_ISCHR((target / "gone/x").lstat().st_mode)


# AR-05: metadata does not follow links


@pytest.mark.parametrize("door", DOORS)
def test_directory_over_a_symlink_takes_its_place(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-05: CVE-2024-12718 class: mode, owner, times and attributes of the entry go to the new directory."""
    door(
        target,
        tars.symlink("d", str(sentinel)),
        tars.folder("d", mode=0o777, uid=1234, gid=1234, mtime=1, xattrs={"user.x": b"1"}),
    )
    assert not (target / "d").is_symlink()
    assert (target / "d").stat().st_uid == 1234


@pytest.mark.parametrize("door", DOORS)
def test_directory_that_becomes_a_symlink_later(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-05: directories get their modes at the end, when one may have been replaced."""
    door(target, tars.folder("d", mode=0o777, uid=99), tars.symlink("d", str(sentinel), uid=77))
    assert (target / "d").is_symlink()
    assert (target / "d").lstat().st_uid == 77


@pytest.mark.parametrize("door", DOORS)
def test_directory_below_a_directory_that_becomes_a_symlink(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-05."""
    door(target, tars.folder("d/etc", mode=0o777, uid=99), tars.symlink("d", "../sentinel"))
    assert (target / "d").is_symlink()


@pytest.mark.parametrize("door", DOORS)
def test_symlink_metadata_stays_with_the_link(target: Path, door, sentinel: Path) -> None:  # noqa: F811
    """AR-05."""
    door(target, tars.symlink("s", str(sentinel / "bin/su"), mode=0o777, uid=5, gid=6, mtime=7))
    info = (target / "s").lstat()
    assert (info.st_uid, info.st_gid, info.st_mtime) == (5, 6, 7)


# AR-06: device nodes


@pytest.mark.parametrize("kind", [tars.BLOCKDEV, tars.CHAR, tars.FIFO])
def test_uploads_refuse_nodes(target: Path, kind: bytes) -> None:
    """AR-06."""
    with pytest.raises(BadArchive, match="may not be uploaded"):
        upload(target, tars.member("node", kind, major=8, minor=0))
    assert inside(target) == []


def test_layers_do_not_make_device_nodes(target: Path) -> None:
    """AR-06: nor can a layer smuggle in overlayfs' own mark for a removed file."""
    layer(
        target,
        tars.member("sda", tars.BLOCKDEV, major=8, minor=0),
        tars.member("mem", tars.CHAR, major=1, minor=1),
        tars.member("whiteout", tars.CHAR, major=0, minor=0),
    )
    assert inside(target) == []


def test_a_fifo_never_blocks_the_engine(target: Path) -> None:
    """AR-06."""
    begun = time.monotonic()
    layer(
        target,
        tars.member("f", tars.FIFO, mode=0o600),
        tars.member("f", data=b"x"),
        tars.member("g", tars.FIFO),
    )
    layer(target, tars.member("g", data=b"y"))
    assert (target / "g").read_bytes() == b"y"
    assert time.monotonic() - begun < 2


# AR-07: overlayfs' attributes


def test_overlay_attributes_are_dropped_and_capabilities_kept(target: Path) -> None:
    """AR-07."""
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    forged = {
        "trusted.overlay.redirect": b"/etc",
        "trusted.overlay.opaque": b"y",
        "trusted.overlay.metacopy": b"",
        "trusted.overlay.origin": b"x",
        "user.overlay.opaque": b"y",
        "trusted.evil": b"x",
        "security.selinux": b"x",
        "security.capability": capability,
        "user.kept": b"1",
    }
    layer(
        target,
        tars.member("f", data=b"x", xattrs=forged),
        tars.folder("d", xattrs={key: value for key, value in forged.items() if "capability" not in key}),
    )
    assert sorted(os.listxattr(target / "f")) == ["security.capability", "user.kept"]
    assert os.getxattr(target / "f", "security.capability") == capability
    assert os.listxattr(target / "d") == ["user.kept"]


def test_a_malformed_capability_is_refused(target: Path) -> None:
    """AR-07."""
    with pytest.raises(BadArchive, match=r"security\.capability"):
        layer(target, tars.member("f", data=b"x", xattrs={"security.capability": b"short"}))


# AR-10: bombs


@pytest.mark.parametrize("door", DOORS)
def test_a_tree_4096_levels_deep_is_refused(target: Path, door) -> None:
    """AR-10."""
    with pytest.raises(BadArchive, match=r"levels|longer than"):
        door(target, tars.folder("/".join(["d"] * 4096)))
    with pytest.raises(BadArchive, match="levels"):
        door(target, tars.folder("/".join(["d"] * 300)))


def test_a_million_empty_files_stop_at_the_limit(target: Path) -> None:
    """AR-10: the limit is lowered so that the test is quick; it is the same code."""
    limits = Limits(max_bytes=10**6, max_entries=500)
    members = b"".join(tars.block(f"f{index}") for index in range(1000))
    with pytest.raises(BadArchive, match="entries"):
        extract(io.BytesIO(members), target, limits)
    assert UPLOAD.max_entries <= 1_000_000


def test_a_cancelled_extraction_stops(target: Path) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    members = b"".join(tars.block(f"f{index}") for index in range(1000))
    with pytest.raises(Stopped):
        extract(io.BytesIO(members + tars.END), target, check=stop)
    assert len(inside(target)) < 100


@pytest.mark.parametrize("door", DOORS)
def test_an_owner_out_of_range_is_refused(target: Path, door) -> None:
    with pytest.raises(BadArchive, match="owner"):
        door(target, tars.pax({"uid": str(2**32 - 1)}) + tars.block("f"))


def test_errors_do_not_name_paths_of_the_host(target: Path) -> None:
    """AR-01."""
    with pytest.raises(BadArchive) as caught:
        layer(target, tars.member("a"), tars.member("a/b", data=b"x"))
    assert str(target) not in str(caught.value)
    assert caught.value.entry == "a/b"

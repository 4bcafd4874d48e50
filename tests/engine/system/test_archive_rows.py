"""Hostile archives through every door: one row of the threat list a section, its id in every test's name.

| row | what | where besides |
| --- | --- | --- |
| AR-01 to AR-05 | names, links, hard links, whiteouts, metadata through links | `unit/layers/test_apply_hostile.py` |
| AR-06, AR-07 | nodes, overlayfs' attributes | as above |
| AR-08 | set-user-id programs and file capabilities | `test_containers_files.py` (the store is closed) |
| AR-09 | contradictory headers | `unit/layers/test_tar.py` (fuzz against GNU tar) |
| AR-10 | bombs | `unit/layers/test_compression.py`, `unit/test_build_zip.py` |
| AR-11 | zip | `unit/test_build_zip.py`, all of it |
| AR-12 | cut, damaged and trailing bytes | `unit/layers/test_compression.py` |
| AR-13 to AR-17 | races, and what the engine reads and runs | `test_extract_race.py`, `test_containers_files.py` |
| AR-18 | archives of images | `unit/images/test_archive.py`, `refused()` |

The doors are those of `tests.support.doors`. A sentinel tree stands outside of all of them, and nothing in it may change. That
each guard is needed is proven in `unit/layers/test_guards.py`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import signal
import stat
import struct
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import zstandard

from engine.containers.model import Container
from engine.errors import BadArchive, EngineError, Unavailable
from engine.images.unpack import Unpacker
from engine.layers.job import RunningJob
from engine.layers.limits import UPLOAD, Limits
from engine.layers.unpacker import MEMORY_BYTES
from tests.support import doors, tars
from tests.support.building import BuildNode, build_node
from tests.support.containers import Node, container_node
from tests.support.doors import Door
from tests.support.sentinel import sentinel  # noqa: F401
from tests.support.stores import open_stores
from tests.support.unpacking import altered_helper, job_processes

pytestmark = pytest.mark.root

OURS = ("staging", "/snapshots/", "/node/", "wf-test-", "wf-build-", "/proc/", "/run/")
NAMES = ("layer", "load", "import", "context", "add", "cp", "restore")
GOOD = tars.archive(tars.folder("d"), tars.member("d/good", data=b"good"))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


@pytest.fixture(scope="module")
def running(node: Node) -> Container:
    return node.run("sleep", "600")


@pytest.fixture(scope="module")
def builder() -> Iterator[BuildNode]:
    with build_node(with_base=False) as made:
        yield made


@pytest.fixture(params=NAMES)
def door(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """One door; whatever came through it, nothing half-made is left and an honest archive still passes."""
    name, get = request.param, request.getfixturevalue
    if name == "add":
        made = doors.add_door(get("builder"), monkeypatch.setattr)
    elif name == "cp":
        made = doors.copy_door(get("node"), get("running"), monkeypatch.setattr)
    elif name == "restore":
        made = doors.restore_door(get("node"), monkeypatch.setattr)
    elif name == "context":
        made = doors.context_door(tmp_path)
    else:
        stores = open_stores(tmp_path / "node")
        makers = {"layer": doors.layer_door, "load": doors.load_door, "import": doors.import_door}
        made = makers[name](stores)
    yield made
    assert made.leavings() == []
    assert job_processes() == []
    monkeypatch.undo()
    with made.put(GOOD, None) as root:
        assert (root / "d/good").read_bytes() == b"good"


@dataclass
class Outcome:
    """What became of an archive: refused with an error, or landed; `seen` is what the look at the folder returned."""

    error: EngineError | None
    seen: object = None


def strike(door: Door, data: bytes, look: Callable[[Path], object] = os.listdir) -> Outcome:
    """Put an archive in; an error is of the kind that people are shown, and names no place of the engine."""
    error = None
    try:
        with door.put(data, None) as root:
            return Outcome(None, look(root))
    except EngineError as caught:
        error = caught
    assert not any(word in error.message for word in OURS), error.message
    return Outcome(error)


def refused(door: Door, data: bytes) -> BadArchive:
    outcome = strike(door, data)
    assert isinstance(outcome.error, BadArchive), outcome
    return outcome.error


def landed(door: Door, data: bytes, look: Callable[[Path], object] = os.listdir) -> object:
    outcome = strike(door, data, look)
    assert outcome.error is None, outcome.error
    return outcome.seen


def up_to(place: Path) -> str:
    """Return a relative path that leads from anywhere to `place`."""
    return "../" * 40 + str(place).lstrip("/")


# AR-01 names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/../x", "../" * 30 + "tmp/x"])
def test_ar01_a_name_that_climbs_is_refused_by_name(door: Door, sentinel: Path, name: str) -> None:  # noqa: F811
    assert refused(door, tars.archive(tars.member(name, data=b"x"))).entry == name


@pytest.mark.parametrize("block", [tars.block(""), tars.block("."), tars.block("/")], ids=["empty", "dot", "slash"])  # fmt: skip
def test_ar01_a_file_is_not_the_root(door: Door, block: bytes) -> None:
    message = refused(door, tars.archive(tars.member("first"), block)).message
    assert "root" in message or "directory" in message


def test_ar01_a_zero_byte_in_a_name_is_refused(door: Door) -> None:
    data = tars.archive(tars.member("first"), tars.pax({"path": "a\0b"}) + tars.block("x"))
    assert "zero byte" in refused(door, data).message


def test_ar01_a_name_of_5000_bytes_is_refused(door: Door) -> None:
    data = tars.archive(tars.member("first"), tars.member("n" * 5000))
    assert refused(door, data).entry.startswith("nnn")


@pytest.mark.parametrize(("name", "lands"), [("/abs/x", "abs/x"), ("line\nbreak", "line\nbreak"), ("./a//b", "a/b")])  # fmt: skip
def test_ar01_other_odd_names_land_inside(
    door: Door,
    sentinel: Path,  # noqa: F811
    name: str,
    lands: str,
) -> None:
    assert landed(
        door, tars.archive(tars.member(name, data=b"x")), lambda root: (root / lands).read_bytes()
    ) == (b"x")


# AR-02 writing through links ---------------------------------------------------------------------------------------


def through(*members: bytes) -> bytes:
    return tars.archive(*members, tars.member("d/etc/planted", data=b"x"))


def links(place: Path) -> dict[str, bytes]:
    chain = [tars.symlink(f"l{index}", f"l{index + 1}") for index in range(39)]
    return {
        "root": through(tars.symlink("d", "/")),
        "absolute": through(tars.symlink("d", str(place))),
        "slash at its end": through(tars.symlink("d", f"{place}/")),
        "relative": through(tars.symlink("d", up_to(place))),
        "up": through(tars.symlink("d", "../../..")),
        "dead": through(tars.symlink("d", f"{place}/no/where")),
        "chain of forty": through(*chain, tars.symlink("l39", str(place)), tars.symlink("d", "l0")),
        "link in a link": through(
            tars.folder("a/b"), tars.symlink("a/b/c", up_to(place)), tars.symlink("d", "a/b/c")
        ),
        "the file itself": tars.archive(
            tars.symlink("f", str(place / "etc/passwd")), tars.member("f", data=b"mine")
        ),
    }


@pytest.mark.parametrize("kind", links(Path("/")))
def test_ar02_nothing_is_written_through_a_link(door: Door, sentinel: Path, kind: str) -> None:  # noqa: F811
    outcome = strike(door, links(sentinel)[kind])
    assert outcome.error is None or isinstance(outcome.error, BadArchive)
    assert kind in ("up", "link in a link", "relative", "dead", "chain of forty") or outcome.error is None


# AR-03 hard links --------------------------------------------------------------------------------------------------


def hard_links(place: Path) -> dict[str, bytes]:
    passwd = str(place / "etc/passwd")
    return {
        "absolute": tars.archive(tars.hardlink("h", passwd)),
        "climbing": tars.archive(tars.hardlink("h", up_to(place / "etc/passwd"))),
        "through a link": tars.archive(
            tars.symlink("d", str(place)), tars.hardlink("h", "d/etc/passwd", mode=0o777)
        ),
        "through a relative link": tars.archive(
            tars.symlink("d", up_to(place)), tars.hardlink("h", "d/etc/passwd")
        ),
        "the root": tars.archive(tars.hardlink("h", "/")),
    }


@pytest.mark.parametrize("kind", hard_links(Path("/")))
def test_ar03_a_hard_link_out_is_refused(door: Door, sentinel: Path, kind: str) -> None:  # noqa: F811
    assert refused(door, hard_links(sentinel)[kind]).entry == "h"
    assert (sentinel / "etc/passwd").stat().st_nlink == 1


def test_ar03_a_hard_link_to_a_link_changes_nothing_behind_it(door: Door, sentinel: Path) -> None:  # noqa: F811
    """CVE-2021-32760: mode and owner of the entry are not applied to what the link leads to."""
    data = tars.archive(
        tars.symlink("s", str(sentinel / "etc/shadow")), tars.hardlink("h", "s", mode=0o4777, uid=1000)
    )
    assert landed(door, data, lambda root: os.readlink(root / "h")) == str(sentinel / "etc/shadow")


# AR-04 whiteouts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh..", "d/.wh..."])
def test_ar04_a_whiteout_of_a_folder_itself_removes_nothing(door: Door, sentinel: Path, name: str) -> None:  # noqa: F811
    data = tars.archive(tars.folder("d"), tars.member("d/stays"), tars.member(name))
    if door.whiteouts:
        assert refused(door, data).entry == name
    else:
        assert landed(door, data, lambda root: os.path.lexists(root / name) and (root / "d/stays").exists())


def test_ar04_whiteouts_through_links_and_at_the_root_stay_inside(door: Door, sentinel: Path) -> None:  # noqa: F811
    data = tars.archive(
        tars.symlink("d", str(sentinel)), tars.member("d/.wh.etc"), tars.member("d/bin/.wh..wh..opq"),
        tars.symlink("dead", "/gone"), tars.member("dead/.wh.x"), tars.member(".wh..wh..opq"), tars.member("stays"),
    )  # fmt: skip
    assert landed(door, data, lambda root: (root / "stays").exists())


# AR-05 metadata ----------------------------------------------------------------------------------------------------


def test_ar05_metadata_of_a_folder_does_not_follow_a_link(door: Door, sentinel: Path) -> None:  # noqa: F811
    """CVE-2024-12718: a link, then a folder of its name with mode, owner, time and attributes; and the other way round."""
    given = {"mode": 0o777, "uid": 1234, "gid": 1234, "mtime": 1, "xattrs": {"user.x": b"1"}}
    data = tars.archive(
        tars.symlink("d", str(sentinel)), tars.folder("d", **given),
        tars.folder("e/etc", **given), tars.symlink("e", str(sentinel)),
        tars.symlink("s", str(sentinel / "bin/su"), mode=0o777, uid=5, gid=6, mtime=7),
    )  # fmt: skip

    def look(root: Path) -> tuple[bool, int, bool, bool]:
        return (
            (root / "d").is_symlink(),
            stat.S_IMODE((root / "d").lstat().st_mode),
            (root / "e").is_symlink(),
            (root / "s").is_symlink(),
        )

    assert landed(door, data, look) == (False, 0o777, True, True)


# AR-06 nodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "major", "minor"), [(tars.BLOCKDEV, 8, 0), (tars.CHAR, 1, 1), (tars.CHAR, 0, 0)])  # fmt: skip
def test_ar06_device_nodes_are_refused_or_left_out(door: Door, kind: bytes, major: int, minor: int) -> None:
    data = tars.archive(tars.member("node", kind, major=major, minor=minor), tars.member("file"))
    if door.nodes == "refuse":
        assert refused(door, data).entry == "node"
    else:
        assert "node" not in landed(door, data, os.listdir)  # type: ignore[operator]


def test_ar06_a_fifo_never_blocks(door: Door) -> None:
    begun = time.monotonic()
    data = tars.archive(
        tars.member("f", tars.FIFO), tars.member("f", data=b"x"), tars.member("g", tars.FIFO, mode=0o622)
    )
    if door.fifos:
        assert landed(door, data, lambda root: ((root / "f").read_bytes(), (root / "g").is_fifo())) == (
            b"x",
            True,
        )
    else:
        assert refused(door, data).entry == "f"
    assert time.monotonic() - begun < 10


# AR-07 overlayfs' attributes ----------------------------------------------------------------------------------------

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
FORGED = {
    "trusted.overlay.redirect": b"/etc", "trusted.overlay.opaque": b"y", "trusted.overlay.metacopy": b"",
    "user.overlay.opaque": b"y", "user.overlay.redirect": b"/etc", "trusted.evil": b"x", "security.selinux": b"x",
}  # fmt: skip


def test_ar07_forged_attributes_are_dropped_and_capabilities_kept(door: Door) -> None:
    data = tars.archive(
        tars.folder("d", xattrs=FORGED),
        tars.member("f", data=b"x", xattrs={**FORGED, "security.capability": CAPABILITY}),
    )

    def look(root: Path) -> tuple[set[str], set[str]]:
        return set(os.listxattr(root / "d")), set(os.listxattr(root / "f"))

    folder, file = landed(door, data, look)  # type: ignore[misc]
    assert not {name for name in folder | file if "overlay" in name or "evil" in name}
    assert "security.capability" in file


# AR-08 set-user-id -------------------------------------------------------------------------------------------------


def reachable(place: Path) -> int:
    """Try to look at, open and run a file as an account that the machine knows nothing of; return how much of it worked."""
    pid = os.fork()
    if pid == 0:
        worked = 0
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            for attempt in (os.stat, lambda path: os.close(os.open(path, os.O_RDONLY)), os.listxattr):
                try:
                    attempt(place)
                    worked += 1
                except PermissionError:
                    continue
            worked += os.access(place, os.X_OK)
        finally:
            os._exit(worked)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_ar08_set_user_id_programs_are_kept_and_out_of_reach(node: Node, running: Container) -> None:
    """CVE-2021-41091: the bits belong to the image; another account of the host reaches none of its files."""
    data = tars.archive(
        tars.folder("bin", mode=0o755),
        tars.member("bin/su", data=b"\x7fELF", mode=0o4755),
        tars.member("bin/ping", data=b"\x7fELF", mode=0o755, xattrs={"security.capability": CAPABILITY}),
    )
    stores_root = node.config.data_root
    image = node.images.resolve(node.add_image("setuid", data))
    chain = Unpacker(node.content, node.images.snapshots).unpack(image)
    layer = node.images.snapshots.lowers(chain)[0]
    assert stat.S_IMODE((layer / "bin/su").stat().st_mode) == 0o4755
    assert os.getxattr(layer / "bin/ping", "security.capability") == CAPABILITY
    assert layer.is_relative_to(stores_root)
    node.containers.archive.put(running.id, "/", io.BytesIO(data))
    rootfs = node.containers.parts.roots.rootfs(running.id)
    for place in (layer / "bin/su", layer / "bin/ping", rootfs / "bin/su", rootfs / "bin/ping"):
        assert place.exists(), place
        assert reachable(place) == 0, place


def test_ar08_an_open_folder_would_be_noticed() -> None:
    """What the row's test looks with does see files that are open to all."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "su").write_bytes(b"\x7fELF")
        (folder / "su").chmod(0o4755)
        assert reachable(folder / "su") == 4
    finally:
        shutil.rmtree(folder)


# AR-09 parser tricks -----------------------------------------------------------------------------------------------

TRICKS: dict[str, Callable[[], bytes]] = {
    "negative size": lambda: tars.archive(tars.block("f", size=tars.base256(-512, 12))),
    "huge base-256 size": lambda: tars.archive(tars.block("f", size=tars.base256(2**70, 12))),
    "size with a sign": lambda: tars.archive(tars.block("f", size=b"-0000000512\0")),
    "8 EiB": lambda: tars.archive(tars.block("f", size=tars.base256(2**63 - 1, 12))),
    "smuggled archive": lambda: tars.archive(
        tars.pax({"size": "1024"}) + tars.block("f", tars.HARDLINK, size=0, link="x"), tars.block("inner"), tars.block("inner2"),
    ),
    "negative pax size": lambda: tars.archive(tars.pax({"size": "-1"}) + tars.block("f")),
    "two pax headers": lambda: tars.archive(tars.pax({"path": "a"}) + tars.pax({"path": "b"}) + tars.block("f")),
    "five thousand pax headers": lambda: tars.archive(tars.pax({"comment": "x"}) * 5000 + tars.block("f")),
    "pax record longer than its header": lambda: tars.archive(tars.pax(b"999 path=x\n") + tars.block("f")),
    "pax header of a gibibyte": lambda: tars.archive(tars.block("h", b"x", size=1 << 30)),
    "sparse of 8 EiB": lambda: tars.archive(
        tars.pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**63 - 1)}) + tars.block("f")
    ),
    "old sparse": lambda: tars.archive(tars.block("f", b"S")),
    "checksum": lambda: tars.archive(tars.block("f", checksum=b"000000\0 ")),
    "global header that renames": lambda: tars.archive(tars.pax({"path": "x"}, b"g") + tars.block("f")),
    "folder with content": lambda: tars.archive(tars.block("d/", tars.DIRECTORY, size=512), bytes(512)),
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_ar09_contradictory_headers_are_refused(door: Door, trick: str) -> None:
    begun = time.monotonic()
    data = tars.archive(tars.member("first", data=b"x"), end=b"") + TRICKS[trick]()
    refused(door, data)
    assert time.monotonic() - begun < 10


def test_ar09_tricks_take_little_memory(tmp_path: Path) -> None:
    """The job gets 64 MiB more than it needs to live; none of the tricks needs them."""
    assert MEMORY_BYTES > 64 << 20
    living = 24 << 20
    with altered_helper(f"unpacker.MEMORY_BYTES = {living + (64 << 20)}"):
        door = doors.layer_door(open_stores(tmp_path / "node"))
        for trick, data in TRICKS.items():
            error = refused(door, tars.archive(tars.member("first"), end=b"") + data())
            assert "memory" not in error.message, trick


# AR-10 bombs -------------------------------------------------------------------------------------------------------

TIGHT = Limits(32 * 2**20, 500, max_ratio=50, ratio_floor=2**20, max_window=8 * 2**20)


def zeros(size: int) -> bytes:
    return tars.block("zeros", size=tars.octal(size, 12)) + bytes(size + -size % 512) + tars.END


def many_members() -> bytes:
    """10 GiB of zeros in 10 MB: one gzip member of 64 MiB, a hundred and sixty times."""
    size = 160 * 64 * 2**20
    head = gzip.compress(tars.block("zeros", size=tars.octal(size, 12)), 1)
    return head + gzip.compress(bytes(64 * 2**20), 6) * 160


def wide_window() -> bytes:
    """A zstd frame that asks for a window of 2 GiB."""
    return (
        b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + struct.pack("<I", (400 << 3) | 1)[:3] + bytes(400)
    )


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "ratio": ("times", lambda: gzip.compress(zeros(20 * 2**20))),
    "ratio of zstd": ("times", lambda: zstandard.compress(zeros(20 * 2**20))),
    "many members": ("times", many_members),
    "window": ("damaged", wide_window),
    "bytes": ("bytes", lambda: tars.block("f", size=tars.octal(10 * 2**30, 12)) + bytes(4096)),
    "entries": ("entries", lambda: tars.archive(*[tars.block(f"f{index}") for index in range(1000)])),
    "depth": ("levels|longer", lambda: tars.archive(tars.folder("/".join("d" * 4096)))),
    "depth of links": ("links|levels|cannot", lambda: tars.archive(tars.symlink("a", "a/b"), tars.member("a/x"))),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_ar10_bombs_stop_at_the_limits(door: Door, bomb: str) -> None:
    word, make = BOMBS[bomb]
    limits = replace(TIGHT, max_bytes=2**40) if bomb == "many members" else TIGHT
    if door.name == "add" and bomb in ("window", "bytes", "depth"):
        with door.put(make(), limits) as root:
            assert os.listdir(root) == [
                "a.tar"
            ]  # its first entry cannot be read: a file to copy, as Docker has it
        return
    with pytest.raises(BadArchive, match=word), door.put(make(), limits):
        pass


def test_ar10_time_is_bounded(door: Door) -> None:
    with pytest.raises(BadArchive, match="time"), door.put(GOOD, replace(TIGHT, deadline_s=0.0)):
        pass


def test_ar10_ten_gigabytes_stop_at_the_real_limits_and_others_go_on(tmp_path: Path) -> None:
    """Nothing is tightened here: what a person may upload, while another one uploads too."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    bad, good = doors.context_door(tmp_path / "bad"), doors.context_door(tmp_path / "good")
    caught: list[BadArchive] = []

    def blow() -> None:
        try:
            with bad.put(many_members(), None):
                pass
        except BadArchive as error:
            caught.append(error)

    thread = threading.Thread(target=blow)
    thread.start()
    with ExitStack() as stack:
        while thread.is_alive():
            root = stack.enter_context(good.put(GOOD, None))
            assert (root / "d/good").read_bytes() == b"good"
            stack.close()
    thread.join()
    assert "times" in caught[0].message
    assert caught[0].hint
    assert bad.leavings() == []
    assert UPLOAD.max_entries <= 1_000_000


@pytest.mark.parametrize("door", ["layer", "import"], indirect=True)
def test_ar10_a_job_that_is_killed_leaves_nothing(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does to who takes too much memory: one sentence, retryable, and nothing half-made."""
    real = RunningJob.content
    big = tars.archive(*[tars.member(f"f{index}", data=os.urandom(100_000)) for index in range(40)])

    def kill_on_the_way(self: RunningJob, data: bytes | memoryview) -> None:
        for pid in job_processes():
            os.kill(pid, signal.SIGKILL)
        real(self, data)

    monkeypatch.setattr(RunningJob, "content", kill_on_the_way)
    outcome = strike(door, big)
    assert isinstance(outcome.error, Unavailable)
    assert outcome.error.retryable
    assert "was killed" in outcome.error.message


# AR-11 zip: the whole of unit/test_build_zip.py; here what it shares with the others -------------------------------


def zipped(*entries: tuple[str, bytes, int]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..\\x", "C:\\x", "../" * 30 + "tmp/x"])
def test_ar11_zip_names_that_climb_are_refused_by_name(
    tmp_path: Path,
    sentinel: Path,  # noqa: F811
    name: str,
) -> None:
    door = doors.context_door(tmp_path)
    assert refused(door, zipped((name, b"x", 0o100644))).entry == name
    assert door.leavings() == []


@pytest.mark.parametrize("absolute", [True, False])
def test_ar11_zip_links_are_not_written_through(tmp_path: Path, sentinel: Path, absolute: bool) -> None:  # noqa: F811
    way = str(sentinel) if absolute else up_to(sentinel)
    data = zipped(("d", way.encode(), 0o120777), ("d/etc/planted", b"x", 0o100644))
    outcome = strike(doors.context_door(tmp_path), data)
    assert outcome.error is None or isinstance(outcome.error, BadArchive)


# AR-12 junk --------------------------------------------------------------------------------------------------------

WHOLE = tars.archive(
    *[tars.member(f"d/f{index}", data=bytes([65 + index]) * (300 + 300 * index)) for index in range(3)]
)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}


@pytest.mark.parametrize("door", NAMES[2:], indirect=True)
def test_ar12_every_cut_is_an_error(door: Door) -> None:
    """At every block; only with all of its end mark is an archive whole. What holds for layers is in the next test."""
    for length in range(512, len(WHOLE), 512):
        assert strike(door, WHOLE[:length]).error is not None, length
        assert door.leavings() == [], length


@pytest.mark.parametrize("door", ["layer", "load"], indirect=True)
def test_ar12_a_cut_layer_is_not_what_was_promised(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is that of the whole layer: no row is made for a part of it."""
    monkeypatch.setattr(doors, "_plain", lambda _: WHOLE)
    for length in range(0, len(WHOLE), 512):
        assert strike(door, WHOLE[:length]).error is not None, length
        assert door.leavings() == [], length
    monkeypatch.undo()


@pytest.mark.parametrize("packer", PACKERS)
def test_ar12_damaged_compression_is_an_error(door: Door, packer: str) -> None:
    packed = PACKERS[packer](WHOLE)
    middle = len(packed) // 2
    damages = [
        packed[:middle] + bytes(byte ^ 0x55 for byte in packed[middle : middle + 8]) + packed[middle + 8 :],
        packed[:-6],
        packed + b"junk behind it",
    ]
    for damage in damages:
        outcome = strike(door, damage)
        copied = door.name == "add" and outcome.seen == [
            "a.tar"
        ]  # not readable from its start: no archive to ADD
        assert outcome.error is not None or copied
        assert door.leavings() == []


def test_ar12_data_behind_the_end_is_an_error(door: Door) -> None:
    hidden = tars.archive(tars.member("hidden", data=b"x"))
    assert "after the end" in refused(door, WHOLE + hidden).message
    assert "zero block" in refused(door, WHOLE[:-512] + hidden).message

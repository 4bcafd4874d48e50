"""For every guard of the archive rows of rank 0: with it the row holds, without it the row's assertion fails (H14).

The guards are taken out of a copy of their module, and the work is done here, not in the confined process, which would hold
what a guard lets through (`test_confined.py` shows that). Targets and what is attacked lie side by side in the test's folder.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import signal
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest

from engine.build import zipdirectory, zipreader
from engine.errors import BadArchive, EngineError, Unavailable
from engine.layers import apply, compression, confined, job, names, tar, tar_headers
from engine.layers.limits import UPLOAD, Limits
from engine.layers.policy import Whiteouts
from engine.linux import files
from tests.support import tars
from tests.support.mutants import mutant
from tests.support.sentinel import fingerprint, make_sentinel
from tests.support.unpacking import Interrupted, the_job

pytestmark = pytest.mark.root

TIGHT = Limits(2**20, 50, max_depth=20, max_ratio=50, ratio_floor=2**18, max_window=2**20)
IN_ROOT = ("resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS", "resolve=0")


@dataclass
class Place:
    """Where an attack happens: `target` is unpacked into, `outside` may not change; `apply` is the module that unpacks."""

    target: Path
    outside: Path
    apply: ModuleType = apply

    def layer(self, *members: bytes, whiteouts: Whiteouts = Whiteouts.REMOVE) -> None:
        self.apply.apply_layer(io.BytesIO(tars.archive(*members)), self.target, whiteouts=whiteouts)

    def upload(self, *members: bytes, limits: Limits = UPLOAD) -> None:
        self.apply.extract(io.BytesIO(tars.archive(*members)), self.target, limits)


@dataclass(frozen=True)
class Guard:
    """`edits` take the guard out of `module`; `wired` are the names that then stand for it elsewhere. `holds` is the row."""

    module: ModuleType
    edits: tuple[tuple[str, str], ...]
    holds: Callable[[Place], bool]
    wired: tuple[tuple[ModuleType, str], ...] = ()


def untouched(attack: Callable[[Place], None]) -> Callable[[Place], bool]:
    """The row says that nothing outside changes, whether the archive is refused or not."""

    def holds(place: Place) -> bool:
        before = fingerprint(place.outside)
        with suppress(BadArchive, OSError):
            attack(place)
        return place.outside.exists() and fingerprint(place.outside) == before

    return holds


def refused(attack: Callable[[Place], None]) -> Callable[[Place], bool]:
    """The row says that the archive is refused."""

    def holds(place: Place) -> bool:
        try:
            attack(place)
        except BadArchive:
            return True
        return False

    return holds


def dropped(place: Place) -> bool:
    attributes = {
        "trusted.overlay.opaque": b"y",
        "trusted.overlay.redirect": b"/etc",
        "user.overlay.opaque": b"y",
    }
    place.layer(tars.folder("d", xattrs=attributes))
    return not [name for name in os.listxattr(place.target / "d") if "overlay" in name]


def unpacked(data: bytes, limits: Limits) -> Callable[[Place], None]:
    def attack(_: Place) -> None:
        compression.open_any(io.BytesIO(data), limits).read()

    return attack


def list_zip(data: bytes, limits: Limits = UPLOAD) -> None:
    """What is judged before any content is read."""
    zipreader.ZipReader(io.BytesIO(data), limits)


def zipped(count: int, size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(count):
            archive.writestr(f"f{number}", bytes(size))
    return buffer.getvalue()


def overlapping() -> bytes:
    """Two entries of the list that share one place."""
    data = bytearray(zipped(1, 1000))
    entry = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    listed = bytes(data[entry:end])
    struct.pack_into("<2H2L", data, end + 8, 2, 2, 2 * len(listed), entry)
    return bytes(data[:end]) + listed + bytes(data[end:])


ZEROS = tars.block("zeros", size=tars.octal(2**19, 12)) + bytes(2**19)
HEADERS = ((tar, "parse_entry"), (tar, "Extended"), (tar, "check_sum"), (tar, "number"))
READER = ((apply, "TarReader"),)

GUARDS: dict[str, Guard] = {
    "AR-01 names that climb": Guard(
        names,
        (('if ".." in parts:', "if False:"),),
        refused(lambda place: place.upload(tars.member("a/../../x", data=b"x"))),
        ((apply, "clean_name"),),
    ),
    "AR-01 zero bytes": Guard(
        tar_headers,
        (('if "\\0" in entry.name or "\\0" in entry.linkname:', "if False:"),),
        lambda place: _is_refused_as_archive(
            lambda: place.upload(tars.pax({"path": "a\0b"}) + tars.block("x"))
        ),
        HEADERS,
    ),
    "AR-02 the root of every path": Guard(
        files,
        (IN_ROOT,),
        untouched(
            lambda place: place.upload(tars.symlink("d", str(place.outside)), tars.member("d/etc/x", data=b"x"))
        ),
        ((apply, "open_in_root"),),
    ),
    "AR-02 files are made, never opened": Guard(
        apply,
        (("os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW", "os.O_WRONLY | os.O_CREAT | os.O_TRUNC"),),
        untouched(
            lambda place: place.upload(
                tars.symlink("f", str(place.outside / "etc/passwd")), tars.member("f", data=b"mine")
            )
        ),
    ),
    "AR-03 the root of a hard link's target": Guard(
        files,
        (IN_ROOT,),
        untouched(
            lambda place: place.upload(tars.symlink("d", str(place.outside)), tars.hardlink("h", "d/etc/passwd"))
        ),
        ((apply, "open_in_root"),),
    ),
    "AR-03 a link is linked, not what it leads to": Guard(
        apply,
        (
            (
                "os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)",
                "os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=True)",
            ),
        ),
        untouched(
            lambda place: place.upload(
                tars.symlink("s", str(place.outside / "etc/shadow")), tars.hardlink("h", "s")
            )
        ),
    ),
    "AR-04 a folder's own name and its parent's": Guard(
        apply,
        (('if hidden in ("", ".", ".."):', "if False:"),),
        untouched(lambda place: place.layer(tars.member(".wh..."))),
    ),
    "AR-04 the root of a whiteout": Guard(
        files,
        (IN_ROOT,),
        untouched(lambda place: place.layer(tars.symlink("d", str(place.outside)), tars.member("d/.wh.bin"))),
        ((apply, "open_in_root"),),
    ),
    "AR-05 a folder takes a link's place": Guard(
        apply,
        (
            ("info = os.stat(name, dir_fd=parent, follow_symlinks=False)\n            if not", "info = os.stat(name, dir_fd=parent)\n            if not"),
            ("DIRECTORY | os.O_NOFOLLOW, dir_fd=self.parents.get(folder)", "DIRECTORY, dir_fd=self.parents.get(folder)"),
        ),
        untouched(
            lambda place: place.upload(
                tars.symlink("d", str(place.outside)), tars.folder("d", mode=0o777, uid=7, mtime=1)
            )
        ),
    ),
    "AR-05 a link's owner is the link's": Guard(
        apply,
        (
            (
                "os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)",
                "os.chown(name, uid, gid, dir_fd=parent)",
            ),
        ),
        untouched(lambda place: place.upload(tars.symlink("s", str(place.outside / "bin/su"), uid=5, gid=6))),
    ),
    "AR-05 a link's time is the link's": Guard(
        apply,
        (("dir_fd=parent, follow_symlinks=False)\n\n    def _hardlink", "dir_fd=parent)\n\n    def _hardlink"),),
        untouched(lambda place: place.upload(tars.symlink("s", str(place.outside / "bin/su"), mtime=7))),
    ),
    "AR-06 nodes": Guard(
        apply,
        (('elif kind is Kind.FIFO or self._policy.devices == "refuse":', "elif False:"),),
        refused(lambda place: place.upload(tars.member("sda", tars.BLOCKDEV, major=8))),
    ),
    "AR-07 attributes that travel": Guard(
        apply, (("if not xattrs.may_travel(name):", "if False:"),), dropped
    ),
    "AR-09 checksum": Guard(
        tar_headers,
        (("if total - sum(field) + 256 != stored:", "if False:"),),
        refused(lambda place: place.upload(tars.block("f", checksum=b"000000\0 "))),
        HEADERS,
    ),
    "AR-09 one extended header": Guard(
        tar_headers,
        (("if self._has_pax:", "if False:"),),
        refused(
            lambda place: place.upload(tars.pax({"path": "a"}) + tars.pax({"path": "b"}) + tars.block("f"))
        ),
        HEADERS,
    ),
    "AR-09 one record of a name": Guard(
        tar_headers,
        (("if name in records:", "if False:"),),
        refused(
            lambda place: place.upload(
                tars.pax(tars.record("path", "a") + tars.record("path", "b")) + tars.block("f")
            )
        ),
        HEADERS,
    ),
    "AR-09 a hard link has no content": Guard(
        tar_headers,
        (('if entry.kind is Kind.HARDLINK and changes.get("size"):', "if False:"),),
        refused(
            lambda place: place.upload(
                tars.member("x"), tars.pax({"size": "512"}) + tars.block("h", tars.HARDLINK, link="x"), tars.block("in")
            )
        ),
        HEADERS,
    ),
    "AR-09 sparse files": Guard(
        tar_headers,
        (('elif key.startswith("GNU.sparse."):', "elif False:"),),
        refused(lambda place: place.upload(tars.pax({"GNU.sparse.realsize": str(2**63 - 1)}) + tars.block("f"))),
        HEADERS,
    ),
    "AR-09 global headers": Guard(
        tar_headers,
        (('key in ("path", "linkpath", "size", "uid", "gid") or key.startswith("GNU.")', "False"),),
        refused(lambda place: place.upload(tars.pax({"path": "x"}, b"g") + tars.block("f"))),
        HEADERS,
    ),
    "AR-09 headers in a row": Guard(
        tar,
        (("_EXTENDED_IN_ROW = 4", "_EXTENDED_IN_ROW = 10**6"),),
        refused(lambda place: place.upload(tars.pax({"comment": "x"}, b"g") * 100 + tars.block("f"))),
        READER,
    ),
    "AR-09 length of a header": Guard(
        tar,
        (("EXTENDED_LIMIT = 1024 * 1024", "EXTENDED_LIMIT = 2**40"),),
        refused(lambda place: place.upload(tars.pax({"comment": "x" * 2**21}) + tars.block("f"))),
        READER,
    ),
    "AR-10 entries": Guard(
        tar,
        (("if self.entries > self._limits.max_entries:", "if False:"),),
        refused(lambda place: place.upload(*[tars.block(f"f{index}") for index in range(60)], limits=TIGHT)),
        READER,
    ),
    "AR-10 bytes": Guard(
        tar,
        (("if self.bytes > self._limits.max_bytes:", "if False:"),),
        refused(lambda place: place.upload(ZEROS, ZEROS, ZEROS, limits=TIGHT)),
        READER,
    ),
    "AR-10 time": Guard(
        tar,
        (("if time.monotonic() > self._deadline:", "if False:"),),
        refused(lambda place: place.upload(ZEROS, limits=replace(TIGHT, deadline_s=-1.0))),
        READER,
    ),
    "AR-10 depth": Guard(
        names,
        (('if name.count("/") >= max_depth:', "if False:"),),
        refused(lambda place: place.upload(tars.folder("/".join("d" * 30)), limits=TIGHT)),
        ((apply, "clean_name"),),
    ),
    "AR-10 ratio": Guard(
        compression,
        (("if self.unpacked > self._limits.ratio_floor and", "if False and"),),
        refused(unpacked(gzip.compress(bytes(2**20)), TIGHT)),
        ((compression, "open_any"),),
    ),
    "AR-10 ratio of many members": Guard(
        compression,
        (("if self.unpacked > self._limits.ratio_floor and", "if False and"),),
        refused(unpacked(gzip.compress(bytes(2**16)) * 20, TIGHT)),
        ((compression, "open_any"),),
    ),
    "AR-10 window": Guard(
        compression,
        (("memlimit=self._memory", "memlimit=None"),),
        refused(unpacked(lzma.compress(b"x" * 1000, preset=6), TIGHT)),
        ((compression, "open_any"),),
    ),
    "AR-10 zip: overlap": Guard(
        zipreader,
        (("if info.header_offset < position:", "if False:"),),
        refused(lambda _: list_zip(overlapping())),
        ((zipreader, "ZipReader"),),
    ),
    "AR-10 zip: ratio": Guard(
        zipreader,
        (("if total > limits.ratio_floor and", "if False and"),),
        refused(lambda _: list_zip(zipped(2, 2**18), TIGHT)),
        ((zipreader, "ZipReader"),),
    ),
    "AR-10 zip: bytes": Guard(
        zipreader,
        (("if total > limits.max_bytes:", "if False:"),),
        refused(lambda _: list_zip(zipped(3, 2**19), replace(TIGHT, max_ratio=10**6))),
        ((zipreader, "ZipReader"),),
    ),
    "AR-10 zip: entries": Guard(
        zipdirectory,
        (("if found.entries > limits.max_entries:", "if False:"),),
        refused(lambda _: zipdirectory.check_end(io.BytesIO(zipped(60, 1)), TIGHT)),
        ((zipdirectory, "check_end"),),
    ),
}  # fmt: skip


def _is_refused_as_archive(attack: Callable[[], None]) -> bool:
    try:
        attack()
    except BadArchive:
        return True
    except ValueError:
        return False
    return False


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The jail is one folder deeper than the test's own, for what climbs one level."""
    target = tmp_path / "jail/target"
    target.mkdir(parents=True)
    return Place(target, make_sentinel(tmp_path / "jail/sentinel"))


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS.keys())
def test_with_its_guard_the_row_holds(place: Place, guard: Guard) -> None:
    assert guard.holds(place)


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS.keys())
def test_without_its_guard_the_row_fails(place: Place, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = mutant(guard.module, *guard.edits)
    for user, name in guard.wired:
        monkeypatch.setattr(user, name, getattr(changed, name))
    if guard.module is apply:
        place.apply = changed
    assert not guard.holds(place)


def test_without_its_deadline_a_stalled_job_is_not_ended_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AR-10: what then ends the job is the limit on its time in all, two seconds later."""
    data = tars.archive(*[tars.member(f"f{index}") for index in range(100)])

    def strike() -> EngineError:
        stalling = Interrupted(data, lambda: os.kill(the_job(), signal.SIGSTOP))
        with pytest.raises(EngineError) as caught:
            confined.extract(stalling, tmp_path, replace(UPLOAD, deadline_s=2.0))
        return caught.value

    monkeypatch.setattr(job, "STALL_S", 0.3)
    assert isinstance(strike(), Unavailable)
    changed = mutant(job, ("if now - self._moved > STALL_S:", "if False:"))
    monkeypatch.setattr(confined, "RunningJob", changed.RunningJob)
    assert isinstance(strike(), BadArchive)

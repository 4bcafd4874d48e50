"""One suite for both ways to show a stack: mounting it with overlayfs, and copying it."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.digest import chain_id
from engine.images.store import ImageStore
from engine.images.unpack import commit_layer
from engine.layers.diff import diff_layer
from engine.layers.tar import TarReader
from engine.linux.mount import LinuxMounts, unmount_below
from engine.snapshots import OverlaySnapshotter, PlainSnapshotter
from tests.support import tars
from tests.support.stores import START, Stores, mapped_ids, open_stores, unpack_layers

pytestmark = pytest.mark.root

BASE = tars.archive(
    tars.folder("./", mode=0o711),
    tars.folder("etc", mode=0o750, uid=3),
    tars.member("etc/a", data=b"one", mode=0o4755, uid=7, xattrs={"user.x": b"1"}),
    tars.hardlink("etc/hard", "etc/a"),
    tars.symlink("etc/link", "a"),
    tars.folder("opt/deep"),
    tars.member("opt/deep/f", data=b"deep"),
    tars.member("opt/other", data=b"other"),
    tars.member("gone", data=b"x"),
)
TOP = tars.archive(
    tars.member("etc/b", data=b"two"),
    tars.member(".wh.gone"),
    tars.folder("opt"),
    tars.member("opt/.wh..wh..opq"),
    tars.member("opt/new", data=b"new"),
)


@pytest.fixture(params=[OverlaySnapshotter, PlainSnapshotter])
def stores(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stores]:
    opened = open_stores(tmp_path / "home")
    snapshots = request.param(opened.root / "snapshots", opened.db, LinuxMounts())
    yield replace(opened, snapshots=snapshots, images=ImageStore(opened.db, opened.content, snapshots))
    assert unmount_below(LinuxMounts(), tmp_path) == [], "a mount was left"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def layer_names(folder: Path, idmap_start: int = 0) -> list[str]:
    out = io.BytesIO()
    diff_layer(folder, out, idmap_start=idmap_start)
    return sorted(entry.name.rstrip("/") for entry in TarReader(io.BytesIO(out.getvalue())))


def test_a_stack_is_shown_merged(stores: Stores, target: Path) -> None:
    chain = unpack_layers(stores, [BASE, TOP])
    stores.snapshots.prepare("c", chain)
    stores.snapshots.mount("c", target)
    assert names(target) == ["etc", "etc/a", "etc/b", "etc/hard", "etc/link", "opt", "opt/new"]
    info = (target / "etc/a").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_nlink, info.st_mtime) == (
        0o4755,
        7,
        2,
        1_600_000_000,
    )
    assert os.getxattr(target / "etc/a", "user.x") == b"1"
    assert stat.S_IMODE((target / "etc").stat().st_mode) == 0o750
    assert stat.S_IMODE(target.stat().st_mode) == 0o711
    stores.snapshots.unmount("c")
    stores.snapshots.remove("c")


def test_a_view_is_read_only_and_leaves_nothing(stores: Stores) -> None:
    chain = unpack_layers(stores, [BASE, TOP])
    with stores.snapshots.viewed(chain) as root:
        assert (root / "opt/new").read_bytes() == b"new"
        with pytest.raises(OSError, match="Read-only"):
            (root / "x").touch()
    assert os.listdir(stores.root / "snapshots/staging") == []


def change(root: Path) -> None:
    (root / "new/er").mkdir(parents=True)
    (root / "new/er/f").write_text("x")
    (root / "etc/a").chmod(0o600)
    (root / "etc/b").write_text("changed")
    (root / "etc/link").unlink()
    (root / "opt/new").unlink()
    (root / "opt").rmdir()
    (root / "opt").write_text("a file now")


CHANGED = sorted(["etc", "etc/a", "etc/b", "etc/.wh.link", "new", "new/er", "new/er/f", "opt"])


def test_changes_end_up_in_the_upper(stores: Stores, target: Path) -> None:
    snapshot = stores.snapshots.prepare("c", unpack_layers(stores, [BASE, TOP]))
    stores.snapshots.mount("c", target)
    change(target)
    stores.snapshots.unmount("c")
    found = [name for name in layer_names(snapshot.upper) if name != "etc/hard"]
    assert found == CHANGED
    assert (snapshot.upper / "etc/b").read_text() == "changed"


def test_changes_survive_a_second_mount(stores: Stores, target: Path) -> None:
    snapshot = stores.snapshots.prepare("c", unpack_layers(stores, [BASE, TOP]))
    (snapshot.upper / "beforehand").write_text("x")
    stores.snapshots.mount("c", target)
    assert (target / "beforehand").exists()
    (target / "etc/b").unlink()
    stores.snapshots.unmount("c")
    stores.snapshots.mount("c", target)
    assert not (target / "etc/b").exists()
    (target / "more").touch()
    stores.snapshots.unmount("c")
    assert layer_names(snapshot.upper) == ["beforehand", "etc", "etc/.wh.b", "more"]


def test_a_time_that_is_set_back_hides_no_change(stores: Stores, target: Path) -> None:
    snapshot = stores.snapshots.prepare("c", unpack_layers(stores, [BASE]))
    stores.snapshots.mount("c", target)
    (target / "gone").write_text("y")
    os.utime(target / "gone", (1_600_000_000, 1_600_000_000))
    stores.snapshots.unmount("c")
    assert (snapshot.upper / "gone").read_text() == "y"


def test_a_written_snapshot_becomes_a_layer(stores: Stores, target: Path, tmp_path: Path) -> None:
    chain = unpack_layers(stores, [BASE, TOP])
    with mapped_ids(tmp_path) as idmap:
        stores.snapshots.prepare("step", chain)
        stores.snapshots.mount("step", target, idmap=idmap, volatile=True)
        assert (target / "etc/a").stat().st_uid == START + 7
        (target / "made").write_text("x")
        os.chown(target / "made", START + 5, START)
        (target / "etc/b").unlink()
        stores.snapshots.unmount("step")
        layer = commit_layer(stores.content, stores.snapshots, "step", idmap_start=START)
    assert layer.chain == chain_id(chain, layer.diff_id)
    folder = stores.snapshots.lowers(layer.chain)[0]
    assert os.listdir(folder.parent) == ["fs"]
    assert layer_names(folder) == ["etc", "etc/.wh.b", "made"]
    assert (folder / "made").stat().st_uid == 5
    assert (folder / "etc").stat().st_uid == 3
    with stores.snapshots.viewed(layer.chain) as root:
        assert (root / "made").exists()
        assert not (root / "etc/b").exists()


def test_layers_of_one_are_layers_of_the_other(stores: Stores) -> None:
    chain = unpack_layers(stores, [BASE, TOP])
    for kind in (OverlaySnapshotter, PlainSnapshotter):
        other = kind(stores.root / "snapshots", stores.db, LinuxMounts())
        with other.viewed(chain) as root:
            assert names(root) == ["etc", "etc/a", "etc/b", "etc/hard", "etc/link", "opt", "opt/new"]


def test_sweep_removes_copies_of_dead_processes(stores: Stores) -> None:
    (stores.root / "snapshots/staging/copy.view.999999999/x").mkdir(parents=True)
    assert stores.snapshots.sweep() == ["staging/copy.view.999999999"]

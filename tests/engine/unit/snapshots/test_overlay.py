"""Snapshots: what is committed never changes and is found again, what is thrown away leaves nothing."""

from __future__ import annotations

import multiprocessing
import os
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.digest import Digest, chain_id, digest_bytes
from engine.errors import AlreadyExists, Corrupt, InUse, NotFound, Unsupported
from engine.images.unpack import commit_layer
from engine.linux.mount import LinuxMounts, RecordingMounts, unmount_below
from engine.snapshots.overlay import STACK_LIMIT
from tests.support import tars
from tests.support.stores import START, Stores, mapped_ids, open_stores, unpack_layers

pytestmark = pytest.mark.root

BASE = tars.archive(
    tars.folder("./", mode=0o755),
    tars.folder("etc"),
    tars.member("etc/a", data=b"one", mode=0o600),
    tars.member("gone"),
)
TOP = tars.archive(tars.member("etc/b", data=b"two", uid=5), tars.member(".wh.gone"))


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    yield open_stores(tmp_path / "home")
    assert unmount_below(LinuxMounts(), tmp_path) == [], "a mount was left"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def test_a_layer_is_found_by_its_chain(stores: Stores) -> None:
    chain = unpack_layers(stores, [BASE, TOP])
    assert chain == chain_id(digest_bytes(BASE), digest_bytes(TOP))
    assert stores.snapshots.exists(chain)
    top, bottom = stores.snapshots.lowers(chain)
    assert (top / "etc/b").read_bytes() == b"two"
    assert (bottom / "etc/a").read_bytes() == b"one"
    info = stores.snapshots.get(chain)
    assert (info.kind, info.parent, info.size) == ("layer", digest_bytes(BASE), 3)
    assert stores.snapshots.lowers(None) == []


def test_an_active_snapshot_shows_its_parent_and_keeps_its_changes_apart(
    stores: Stores, target: Path
) -> None:
    chain = unpack_layers(stores, [BASE, TOP])
    snapshot = stores.snapshots.prepare("c1", chain)
    stores.snapshots.mount("c1", target)
    try:
        assert sorted(os.listdir(target)) == ["etc"]
        (target / "etc/a").write_text("changed")
        assert (snapshot.upper / "etc/a").read_text() == "changed"
    finally:
        stores.snapshots.unmount("c1")
    assert (stores.snapshots.lowers(chain)[1] / "etc/a").read_bytes() == b"one"
    stores.snapshots.remove("c1")
    assert not snapshot.upper.exists()


def test_a_snapshot_without_parent_is_an_empty_root(stores: Stores, target: Path) -> None:
    stores.snapshots.prepare("c1", None)
    stores.snapshots.mount("c1", target)
    assert os.listdir(target) == []
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    stores.snapshots.unmount("c1")


def test_the_root_looks_as_its_parents_root(stores: Stores, target: Path) -> None:
    chain = unpack_layers(stores, [tars.archive(tars.folder("./", mode=0o711, uid=7, gid=8))])
    stores.snapshots.prepare("c1", chain)
    stores.snapshots.mount("c1", target)
    info = target.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o711, 7, 8)
    stores.snapshots.unmount("c1")


def test_ids_are_mapped_for_the_container_only(stores: Stores, target: Path, tmp_path: Path) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    layer = tars.archive(
        tars.member("cap", data=b"x", xattrs={"security.capability": capability}), tars.member("f", uid=5)
    )
    chain = unpack_layers(stores, [BASE, layer])
    with mapped_ids(tmp_path) as idmap:
        snapshot = stores.snapshots.prepare("c1", chain)
        stores.snapshots.mount("c1", target, idmap=idmap)
        assert target.stat().st_uid == START
        assert (target / "f").stat().st_uid == START + 5
        assert (target / "etc/a").stat().st_uid == START
        assert snapshot.upper.stat().st_uid == START
        assert (stores.snapshots.lowers(chain)[0] / "f").stat().st_uid == 5
        assert os.listdir(stores.root / "snapshots/staging") == []
        stores.snapshots.unmount("c1")
        stores.snapshots.mount("c1", target, idmap=idmap)
        assert target.stat().st_uid == START
        stores.snapshots.unmount("c1")


def test_a_written_snapshot_becomes_a_layer_with_the_owners_inside(
    stores: Stores, target: Path, tmp_path: Path
) -> None:
    chain = unpack_layers(stores, [BASE])
    with mapped_ids(tmp_path) as idmap:
        stores.snapshots.prepare("step", chain)
        stores.snapshots.mount("step", target, idmap=idmap, volatile=True)
        (target / "new").write_text("x")
        os.chown(target / "new", START + 9, START + 10)
        (target / "new").chmod(0o4755)
        (target / "gone").unlink()
        stores.snapshots.unmount("step")
        layer = commit_layer(stores.content, stores.snapshots, "step", idmap_start=START)
    assert layer.chain == chain_id(chain, layer.diff_id)
    folder = stores.snapshots.lowers(layer.chain)[0]
    info = (folder / "new").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (9, 10, 0o4755)
    assert sorted(os.listdir(folder)) == ["gone", "new"]
    assert stores.active() == set()
    assert not (folder.parent / "work").exists()
    assert stores.content.has(layer.blob.wait().digest)


def test_the_same_layer_made_twice_is_one(stores: Stores, target: Path) -> None:
    for key in ("a", "b"):
        stores.snapshots.prepare(key, None)
        chain = commit_layer(stores.content, stores.snapshots, key).chain
    assert stores.layers() == {chain}
    assert stores.active() == set()


def test_a_volatile_snapshot_can_be_mounted_again(stores: Stores, target: Path) -> None:
    stores.snapshots.prepare("c1", unpack_layers(stores, [BASE]))
    for number in range(2):
        stores.snapshots.mount("c1", target, volatile=True)
        assert (target / "x").exists() == bool(number)
        (target / "x").touch()
        stores.snapshots.unmount("c1")
        assert not os.path.ismount(target)


def test_a_read_only_mount_refuses_writes(stores: Stores, target: Path) -> None:
    stores.snapshots.prepare("c1", unpack_layers(stores, [BASE]))
    stores.snapshots.mount("c1", target, read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        (target / "x").touch()
    stores.snapshots.unmount("c1")


@pytest.mark.parametrize("layers", [[], [BASE], [BASE, TOP]])
def test_a_view_shows_the_stack_read_only(stores: Stores, layers: list[bytes]) -> None:
    chain = unpack_layers(stores, layers)
    with stores.snapshots.viewed(chain) as root:
        assert ("etc" in os.listdir(root)) == bool(layers)
        assert (root / "gone").exists() == (layers == [BASE])
        with pytest.raises(OSError, match="Read-only"):
            (root / "x").touch()
    assert os.listdir(stores.root / "snapshots/staging") == []


def test_devices_of_layers_do_not_work(stores: Stores, target: Path) -> None:
    """AR-06: a node that is in a layer all the same cannot be opened through the mount."""
    chain = unpack_layers(stores, [BASE, TOP])
    os.mknod(stores.snapshots.lowers(chain)[0] / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    stores.snapshots.prepare("c1", chain)
    stores.snapshots.mount("c1", target)
    with pytest.raises(PermissionError):
        (target / "null").read_bytes()
    stores.snapshots.unmount("c1")


def test_forged_redirects_are_not_followed(stores: Stores, target: Path) -> None:
    """AR-07: even if the attribute got into a layer, the mount does not obey it."""
    chain = unpack_layers(stores, [BASE, TOP, tars.archive(tars.folder("d"))])
    os.setxattr(stores.snapshots.lowers(chain)[0] / "d", "trusted.overlay.redirect", b"/etc")
    stores.snapshots.prepare("c1", chain)
    stores.snapshots.mount("c1", target)
    try:
        assert os.listdir(target / "d") == []
    except OSError:
        pass  # the kernel refuses the directory altogether
    finally:
        stores.snapshots.unmount("c1")


def test_a_renamed_directory_of_a_lower_layer_is_a_whole_copy(stores: Stores, target: Path) -> None:
    snapshot = stores.snapshots.prepare("c1", unpack_layers(stores, [BASE]))
    stores.snapshots.mount("c1", target)
    with pytest.raises(OSError, match="cross-device"):
        (target / "etc").rename(target / "moved")
    stores.snapshots.unmount("c1")
    assert os.listdir(snapshot.upper) == []


# states


def test_a_key_is_used_once(stores: Stores) -> None:
    stores.snapshots.prepare("c1", None)
    with pytest.raises(AlreadyExists):
        stores.snapshots.prepare("c1", None)


def test_a_missing_parent_is_not_found(stores: Stores, target: Path) -> None:
    with pytest.raises(NotFound):
        stores.snapshots.prepare("c1", Digest("sha256:" + "0" * 64))
    with pytest.raises(NotFound):
        stores.snapshots.mount("c1", target)
    with pytest.raises(NotFound):
        stores.snapshots.lowers(Digest("sha256:" + "0" * 64))
    assert os.listdir(stores.root / "snapshots/layers") == []


def test_what_something_stands_on_is_not_removed(stores: Stores) -> None:
    top = unpack_layers(stores, [BASE, TOP])
    base = digest_bytes(BASE)
    stores.snapshots.prepare("c1", top)
    for name in (base, top):
        with pytest.raises(InUse):
            stores.snapshots.remove(name)
    for name in ("c1", top, base, base):
        stores.snapshots.remove(name)
    assert os.listdir(stores.root / "snapshots/layers") == []
    assert os.listdir(stores.root / "snapshots/trash") == []


def test_a_mounted_snapshot_is_not_committed_but_can_be_removed(stores: Stores, target: Path) -> None:
    stores.snapshots.prepare("c1", None)
    stores.snapshots.mount("c1", target)
    with pytest.raises(InUse):
        stores.snapshots.commit("c1", Digest("sha256:" + "0" * 64), None, diff_id=Digest("x"), size=0)
    stores.snapshots.remove("c1")
    assert not os.path.ismount(target)


def test_unmount_may_be_repeated(stores: Stores, target: Path) -> None:
    stores.snapshots.prepare("c1", None)
    stores.snapshots.unmount("c1")
    stores.snapshots.mount("c1", target)
    assert os.path.ismount(target)
    for _ in range(2):
        stores.snapshots.unmount("c1")
        assert not os.path.ismount(target)
    assert stores.active() == {"c1"}


def test_a_lost_layer_folder_is_said_to_be_corrupt(stores: Stores, target: Path) -> None:
    """F-25."""
    chain = unpack_layers(stores, [BASE, TOP])
    stores.snapshots.prepare("c1", chain)
    stores.snapshots.lowers(chain)[1].rename(target / "stolen")
    with pytest.raises(Corrupt):
        stores.snapshots.mount("c1", target)
    assert not os.path.ismount(target)


def test_a_file_system_that_cannot_be_idmapped_is_said_so(tmp_path: Path, target: Path) -> None:
    class Refusing(RecordingMounts):
        def idmap(self, *args: object, **options: object) -> None:
            raise OSError(22, "Invalid argument")

    stores = open_stores(tmp_path / "other", mounts=Refusing())
    stores.snapshots.prepare("c1", unpack_layers(stores, [BASE]))
    with mapped_ids(tmp_path) as idmap, pytest.raises(Unsupported, match="idmapped") as caught:
        stores.snapshots.mount("c1", target, idmap=idmap)
    assert caught.value.hint


# durability


def test_layers_of_another_boot_that_were_not_synced_do_not_count(stores: Stores) -> None:
    """F-24: and neither do those that stand on them; containers are not forgotten."""
    base = unpack_layers(stores, [BASE])
    stores.snapshots.sync()
    top = unpack_layers(stores, [BASE, TOP])
    stores.snapshots.prepare("c1", top)
    with stores.db.transaction() as connection:
        connection.execute("UPDATE snapshots SET boot = 'another' WHERE boot <> ''")
    again = open_stores(stores.root)
    assert again.layers() == {base}
    assert again.active() == {"c1"}
    assert len(again.snapshots.sweep()) == 1
    assert unpack_layers(again, [BASE, TOP]) == top


def test_synced_layers_survive_another_boot(stores: Stores) -> None:
    """F-24."""
    top = unpack_layers(stores, [BASE, TOP])
    stores.snapshots.sync()
    assert stores.db.read().execute("SELECT count(*) FROM snapshots WHERE boot <> ''").fetchone()[0] == 0
    assert stores.snapshots.exists(top)


def _prepare_and_die(root: Path) -> None:
    stores = open_stores(root)
    stores.snapshots.prepare(stores.snapshots.transient_key("unpack"), None)
    os._exit(9)


def test_what_a_killed_process_prepared_is_swept(stores: Stores) -> None:
    """F-01."""
    alive = stores.snapshots.transient_key("unpack")
    stores.snapshots.prepare(alive, None)
    stores.snapshots.prepare("container", None)
    process = multiprocessing.get_context("fork").Process(target=_prepare_and_die, args=(stores.root,))
    process.start()
    process.join()
    assert len(stores.active()) == 3
    stores.snapshots.sweep()
    assert stores.active() == {alive, "container"}
    assert len(os.listdir(stores.root / "snapshots/layers")) == 2


def test_sweep_removes_folders_that_belong_to_nothing(stores: Stores) -> None:
    """F-25."""
    chain = unpack_layers(stores, [BASE])
    (stores.root / "snapshots/layers/zzz/fs").mkdir(parents=True)
    assert stores.snapshots.unknown_folders() == ["zzz"]
    assert stores.snapshots.sweep() == ["layers/zzz"]
    assert stores.snapshots.exists(chain)
    assert stores.snapshots.lowers(chain)[0].is_dir()


def test_usage_counts_hard_links_once(stores: Stores) -> None:
    data = tars.archive(tars.member("a", data=bytes(range(256)) * 400), tars.hardlink("b", "a"))
    usage = stores.snapshots.usage(unpack_layers(stores, [data]))
    assert 102_400 <= usage.size <= 110_000
    assert usage.inodes == 1


# many layers (DS-09)


def test_five_hundred_layers_are_mounted(stores: Stores, target: Path, tmp_path: Path) -> None:
    """DS-09."""
    layers = [tars.archive(tars.member(f"f{index}", data=b"x")) for index in range(STACK_LIMIT)]
    chain = unpack_layers(stores, layers)
    before = Path.cwd()
    with mapped_ids(tmp_path) as idmap:
        stores.snapshots.prepare("c1", chain)
        begun = time.monotonic()
        stores.snapshots.mount("c1", target, idmap=idmap)
        assert time.monotonic() - begun < 2
        assert len(os.listdir(target)) == STACK_LIMIT
        assert (target / "f0").stat().st_uid == START
        stores.snapshots.unmount("c1")
    assert Path.cwd() == before
    with stores.snapshots.viewed(chain) as root:
        assert len(os.listdir(root)) == STACK_LIMIT
    more = unpack_layers(stores, [*layers, tars.archive(tars.member("one more"))])
    stores.snapshots.prepare("c2", more)
    with pytest.raises(Unsupported, match="layers"):
        stores.snapshots.mount("c2", target)

"""Whatever happens to the files below the engine, `check` names it and `repair` puts right what can be put right (F-25).

Every damage is done to a healthy store; the quick check must find what is missing, the deep check what has changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.digest import Digest, digest_bytes
from engine.errors import NotFound
from engine.images.check import Finding, check
from engine.images.model import Image
from engine.images.repair import repair
from engine.images.unpack import commit_layer
from engine.oci import Descriptor, ImageConfig, Manifest
from engine.oci import media_types as mt
from engine.reference import parse_reference
from tests.support import tars
from tests.support.stores import Stores, add_image, open_stores

pytestmark = pytest.mark.root

BASE = tars.archive(
    tars.folder("etc"),
    tars.member("etc/a", data=b"one" * 1000, mode=0o4755, uid=7),
    tars.symlink("etc/link", "a"),
    tars.hardlink("etc/hard", "etc/a"),
    tars.member("gone", data=b"x"),
)
TOP = tars.archive(tars.member("etc/b", data=b"two"), tars.member(".wh.gone"))


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return open_stores(tmp_path / "home")


@pytest.fixture
def image(stores: Stores) -> Image:
    return add_image(stores, BASE, TOP, name="app")


def folder(stores: Stores, image: Image, index: int) -> Path:
    return stores.snapshots.lowers(image.chain)[::-1][index]


def blob_path(stores: Stores, digest: str) -> Path:
    path = stores.content.path(Digest(digest))
    path.chmod(0o644)
    return path


Damage = Callable[[Stores, Image], None]


def flip(path: Path) -> None:
    info = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


QUICK: dict[str, tuple[str, Damage]] = {
    "config missing": ("blob_missing", lambda s, i: s.content.remove(i.id)),
    "manifest missing": ("blob_missing", lambda s, i: s.content.remove(i.manifest.digest)),
    "layer blob missing": ("blob_missing", lambda s, i: s.content.remove(i.layers[0].descriptor.digest)),
    "layer blob cut": (
        "blob_damaged",
        lambda s, i: os.truncate(blob_path(s, i.layers[0].descriptor.digest), 10),
    ),
    "layer blob empty": (
        "blob_damaged",
        lambda s, i: os.truncate(blob_path(s, i.layers[1].descriptor.digest), 0),
    ),
    "layer folder missing": ("layer_missing", lambda s, i: shutil.rmtree(folder(s, i, 0))),
    "top layer folder missing": ("layer_missing", lambda s, i: shutil.rmtree(folder(s, i, 1).parent)),
    "layer row missing": ("layer_missing", lambda s, i: s.snapshots.remove(i.chain)),
    "unknown layer": ("layer_unknown", lambda s, i: (s.root / "snapshots/layers/zzz/fs").mkdir(parents=True)),
}
DEEP: dict[str, tuple[str, Damage]] = {
    "config changed": ("blob_damaged", lambda s, i: flip(blob_path(s, i.id))),
    "layer blob changed": ("blob_damaged", lambda s, i: flip(blob_path(s, i.layers[0].descriptor.digest))),
    "file missing": ("layer_changed", lambda s, i: (folder(s, i, 0) / "etc/link").unlink()),
    "file changed": ("layer_changed", lambda s, i: flip(folder(s, i, 0) / "etc/a")),
    "file empty after a power cut": ("layer_changed", lambda s, i: os.truncate(folder(s, i, 1) / "etc/b", 0)),
    "file added": ("layer_changed", lambda s, i: (folder(s, i, 0) / "etc/new").touch()),
    "directory added": ("layer_changed", lambda s, i: (folder(s, i, 1) / "new/er").mkdir(parents=True)),
    "mode changed": ("layer_changed", lambda s, i: (folder(s, i, 0) / "etc/a").chmod(0o777)),
    "owner changed": ("layer_changed", lambda s, i: os.chown(folder(s, i, 1) / "etc/b", 5, 5)),
    "time changed": ("layer_changed", lambda s, i: os.utime(folder(s, i, 1) / "etc/b", (1, 1))),
    "link leads elsewhere": ("layer_changed", lambda s, i: relink(folder(s, i, 0) / "etc/link")),
    "hard link broken": ("layer_changed", lambda s, i: unlink_and_copy(folder(s, i, 0) / "etc/hard")),
    "whiteout missing": ("layer_changed", lambda s, i: (folder(s, i, 1) / "gone").unlink()),
    "attribute added": ("layer_changed", lambda s, i: os.setxattr(folder(s, i, 0) / "etc/a", "user.x", b"1")),
    "record changed": ("record_damaged", lambda s, i: change_record(s, i)),
}


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")
    os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)


def unlink_and_copy(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.rename(path)


def change_record(stores: Stores, image: Image) -> None:
    with stores.db.transaction() as connection:
        connection.execute(
            "UPDATE images SET config = replace(config, 'amd64', 'arm64') WHERE id = ?", (image.id,)
        )


def kinds(findings: list[Finding]) -> set[str]:
    return {finding.kind for finding in findings}


def test_a_healthy_store_has_no_findings(stores: Stores, image: Image) -> None:
    stores.snapshots.prepare("container", image.chain)
    assert check(stores.images, deep=True) == []


@pytest.mark.parametrize("name", QUICK)
def test_the_quick_check_finds(stores: Stores, image: Image, name: str) -> None:
    """F-25."""
    kind, damage = QUICK[name]
    damage(stores, image)
    assert kind in kinds(check(stores.images))


@pytest.mark.parametrize("name", DEEP)
def test_the_deep_check_finds(stores: Stores, image: Image, name: str) -> None:
    """F-25."""
    kind, damage = DEEP[name]
    damage(stores, image)
    found = check(stores.images, deep=True)
    assert kinds(found) == {kind}
    assert all(image.id in finding.images for finding in found)
    assert found[0].detail


NEEDS_A_REGISTRY = {
    "manifest missing",
    "layer blob missing",
    "layer blob cut",
    "layer blob empty",
    "layer blob changed",
}


@pytest.mark.parametrize("name", [*QUICK, *DEEP])
def test_repair_puts_it_right(stores: Stores, image: Image, name: str) -> None:
    """F-25: from what is still good, and from the registry where nothing is."""
    originals = {digest: stores.content.read(digest) for digest in map(Digest, stores.blobs())}
    fetched: list[str] = []

    def fetch(of: Image, digest: Digest) -> None:
        fetched.append(digest)
        stores.content.put(originals[digest], digest)

    (QUICK | DEEP)[name][1](stores, image)
    found = repair(stores.images, fetch=fetch)
    assert found
    assert all(finding.repaired for finding in found)
    assert check(stores.images, deep=True) == []
    assert bool(fetched) == (name in NEEDS_A_REGISTRY)
    with stores.snapshots.viewed(image.chain) as root:
        assert (root / "etc/a").read_bytes() == b"one" * 1000
        assert not (root / "gone").exists()


def test_without_a_registry_what_is_lost_is_said_and_the_rest_repaired(stores: Stores, image: Image) -> None:
    """F-25."""
    stores.content.remove(image.manifest.digest)
    (folder(stores, image, 0) / "etc/new").touch()
    found = {finding.kind: finding.repaired for finding in repair(stores.images)}
    assert found == {"blob_missing": False, "layer_changed": True}
    assert kinds(check(stores.images, deep=True)) == {"blob_missing"}


def test_a_damaged_blob_goes_into_quarantine(stores: Stores, image: Image) -> None:
    """F-25."""
    digest = image.layers[0].descriptor.digest
    flip(blob_path(stores, digest))
    repair(stores.images)
    with pytest.raises(NotFound):
        stores.content.path(digest)
    assert len(os.listdir(stores.root / "content/quarantine")) == 1


def test_the_blob_of_a_layer_built_here_is_made_again_from_its_folder(stores: Stores) -> None:
    """F-25: what we pack comes out the same, byte for byte."""
    snapshot = stores.snapshots.prepare("step", None)
    for index in range(50):
        (snapshot.upper / f"f{index}").write_bytes(os.urandom(100) * 500)
    layer = commit_layer(stores.content, stores.snapshots, "step")
    descriptor = layer.blob.wait()
    config = ImageConfig("amd64", diff_ids=(layer.diff_id,)).to_bytes()
    manifest = Manifest(Descriptor(mt.OCI_CONFIG, digest_bytes(config), len(config)), (descriptor,))
    stores.images.add(manifest.to_bytes(), config, names=[parse_reference("built")])
    flip(blob_path(stores, descriptor.digest))
    (finding,) = repair(stores.images)
    assert finding.repaired
    assert check(stores.images, deep=True) == []


def test_a_container_whose_files_are_gone_is_named(stores: Stores, image: Image) -> None:
    """F-25."""
    snapshot = stores.snapshots.prepare("container", image.chain)
    shutil.rmtree(snapshot.upper.parent)
    (finding,) = check(stores.images)
    assert (finding.kind, finding.subject) == ("snapshot_missing", "container")


def test_a_damage_that_several_images_share_is_one_finding(stores: Stores, image: Image) -> None:
    other = add_image(stores, BASE, name="other")
    (folder(stores, image, 0) / "etc/a").chmod(0o777)
    (finding,) = check(stores.images, deep=True)
    assert set(finding.images) == {image.id, other.id}


def test_a_repaired_layer_still_carries_what_stands_on_it(stores: Stores, image: Image) -> None:
    """F-25: containers and layers above keep their parent."""
    stores.snapshots.prepare("container", image.chain)
    (folder(stores, image, 0) / "etc/a").chmod(0o777)
    repair(stores.images)
    assert stores.active() == {"container"}
    assert len(stores.snapshots.lowers(image.chain)) == 2
    assert len(stores.snapshots.sweep()) == 1
    stores.snapshots.remove("container")
    stores.images.remove("app", force=True)
    stores.images.collect(0)
    assert stores.layers() == set()

"""After a power cut what was acknowledged is whole, the rest is gone, and the same request again heals (F-24).

A child process works on a small ext4 whose journal never commits by itself; at its n-th step towards the disk (a sync, a
rename, a commit of the database) the plug is pulled. Then the disk is mounted again, as after a reboot.
"""

from __future__ import annotations

import io
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.content import store as content_store
from engine.db import Database
from engine.digest import digest_bytes
from engine.images.archive import import_root
from engine.images.check import check
from engine.images.unpack import commit_layer
from engine.linux import files
from engine.oci import Descriptor, ImageConfig, Manifest
from engine.oci import media_types as mt
from engine.reference import parse_reference
from engine.snapshots import folders
from tests.support import tars
from tests.support.loops import after_a_cut, ext4, pull_the_plug
from tests.support.stores import Stores, add_image, open_stores

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

POINTS = 15
NOISE = random.Random(7)
BASE = tars.archive(
    tars.folder("etc"), *[tars.member(f"etc/f{n}", data=NOISE.randbytes(20_000)) for n in range(20)]
)
TOP = tars.archive(tars.member("etc/top", data=NOISE.randbytes(300_000)), tars.symlink("link", "etc/top"))
ACKNOWLEDGED = 0
CUT = 9


def pull(stores: Stores) -> None:
    add_image(stores, BASE, TOP, name="pulled", action="pull")


def import_it(stores: Stores) -> None:
    import_root(stores.images, io.BytesIO(BASE), names=[parse_reference("pulled")])


def build(stores: Stores) -> None:
    """Make two layers on a base and an image of them, as a build does: nothing is synced before the image is added."""
    add_image(stores, BASE, name="base")
    parent = stores.images.resolve("base")
    diff_ids, blobs, chain = [parent.layers[0].diff_id], [parent.layers[0].descriptor], parent.chain
    for step in range(2):
        key = stores.snapshots.transient_key("step")
        snapshot = stores.snapshots.prepare(key, chain)
        for number in range(5):
            (snapshot.upper / f"s{step}-{number}").write_bytes(random.Random(number).randbytes(50_000))
            os.utime(snapshot.upper / f"s{step}-{number}", (1, 1))
        layer = commit_layer(stores.content, stores.snapshots, key)
        diff_ids.append(layer.diff_id)
        blobs.append(layer.blob.wait())
        chain = layer.chain
    config = ImageConfig("amd64", diff_ids=tuple(diff_ids)).to_bytes()
    manifest = Manifest(Descriptor(mt.OCI_CONFIG, digest_bytes(config), len(config)), tuple(blobs))
    stores.images.add(manifest.to_bytes(), config, names=[parse_reference("pulled")], action="build")


Scenario = Callable[[Stores], None]
SCENARIOS: list[Scenario] = [pull, import_it, build]


class Plug:
    """Counts the steps towards the disk and pulls the plug at one of them."""

    def __init__(self, disk: Path, at: int) -> None:
        self._disk = disk
        self._left = at

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            pull_the_plug(self._disk)
            os._exit(CUT)

    def around(self, function: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            self.step()
            result = function(*arguments, **options)
            self.step()
            return result

        return wrapped

    def install(self) -> None:
        """Put a counter around everything that makes something durable or visible."""
        os.fsync = self.around(os.fsync)  # type: ignore[assignment]
        Path.rename = self.around(Path.rename)  # type: ignore[method-assign, assignment]
        for module in (content_store, folders):
            module.syncfs = self.around(files.syncfs)  # type: ignore[assignment]
        Database.flush = self.around(Database.flush)  # type: ignore[method-assign, assignment]


def run_until_cut(disk: Path, scenario: Scenario, at: int, *, syncs: bool = True) -> int:
    """Run `scenario` in a child whose plug is pulled at step `at`; return `CUT` or `ACKNOWLEDGED`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if not syncs:
                os.fsync = lambda fd: None
                for module in (content_store, folders):
                    module.syncfs = lambda path: None
            plug = Plug(disk, at)
            plug.install()
            scenario(open_stores(disk / "home", boot="before"))
            pull_the_plug(disk)
            code = ACKNOWLEDGED
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def healthy(stores: Stores) -> bool:
    """Tell whether the image is here and whole; fail where something half-made is visible."""
    rubbish = "layer_unknown"  # a folder without a row: nobody sees it, the sweep takes it away
    assert [finding for finding in check(stores.images, deep=True) if finding.kind != rubbish] == []
    image = stores.images.find("pulled")
    if image is None:
        return False
    with stores.snapshots.viewed(image.chain) as root:
        assert (root / "etc/f0").stat().st_size == 20_000
        assert [path for path in root.rglob("*") if path.is_file() and path.stat().st_size == 0] == []
    return True


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_plug_is_pulled_at_every_step(tmp_path: Path, scenario: Scenario) -> None:
    """F-24."""
    cuts = 0
    for at in [*range(1, POINTS + 1), 10_000]:
        folder = tmp_path / str(at)
        folder.mkdir()
        with ext4(folder, 32, options="commit=1000") as disk:
            open_stores(disk / "home", boot="before").db.close()
            os.sync()
            outcome = run_until_cut(disk, scenario, at)
            assert outcome in (CUT, ACKNOWLEDGED)
            cuts += outcome == CUT
            with after_a_cut(disk) as after:
                survives(after, scenario, acknowledged=outcome == ACKNOWLEDGED)
        (folder / "disk.img").unlink()
    assert cuts >= 5


def survives(disk: Path, scenario: Scenario, *, acknowledged: bool) -> None:
    """Check a disk after a cut: whole or gone, nothing half-made, and the same again works."""
    stores = open_stores(disk / "home", boot="after")
    assert healthy(stores) or not acknowledged, "what was acknowledged is lost"
    stores.content.sweep()
    stores.snapshots.sweep()
    assert (stores.active(), stores.snapshots.unknown_folders()) == (set(), [])
    scenario(stores)
    assert healthy(stores)
    stores.db.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_our_syncs_the_same_cut_is_noticed(tmp_path: Path, scenario: Scenario) -> None:
    """F-24, H14: the harness is worth something, and the check sees what a power cut leaves behind."""
    with ext4(tmp_path, 32, options="commit=1000") as disk:
        open_stores(disk / "home", boot="before").db.close()
        os.sync()
        assert run_until_cut(disk, scenario, 10_000, syncs=False) == ACKNOWLEDGED
        with after_a_cut(disk) as after:
            stores = open_stores(after / "home", boot="after")
            try:
                lost = stores.images.find("pulled") is None or check(stores.images, deep=True) != []
            except sqlite3.DatabaseError:
                lost = True
            stores.db.close()
        assert lost

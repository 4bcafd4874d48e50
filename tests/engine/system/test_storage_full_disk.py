"""On a full disk everything that writes says so in one sentence and leaves nothing; removing still works (F-22)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import EngineError, NoSpace
from engine.images.archive import import_root, load, save
from engine.images.check import check
from engine.images.unpack import commit_layer
from engine.layers.confined import extract
from engine.reference import parse_reference
from tests.support import tars
from tests.support.loops import ext4, fill, fill_inodes
from tests.support.stores import Stores, add_image, open_stores, unpack_layers

pytestmark = pytest.mark.root

BASE = tars.archive(tars.folder("etc"), tars.member("etc/a", data=os.urandom(3_000_000)))
BIG = tars.archive(tars.member("big", data=os.urandom(20_000_000)))
MANY = tars.archive(*[tars.member(f"d{index // 100}/f{index}") for index in range(2000)])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with ext4(tmp_path, 64, inodes=4000) as root:
        yield root


@pytest.fixture
def stores(disk: Path, tmp_path: Path) -> Iterator[Stores]:
    """Storage on the small disk; leases are elsewhere, as on a node (a tmpfs)."""
    stores = open_stores(disk / "home", leases=tmp_path)
    add_image(stores, BASE, name="app")
    yield stores
    stores.db.close()


def put(stores: Stores) -> None:
    stores.content.put(io.BytesIO(os.urandom(20_000_000)))


def unpack(stores: Stores) -> None:
    unpack_layers(stores, [BIG])


def import_it(stores: Stores) -> None:
    import_root(stores.images, io.BytesIO(BIG), names=[parse_reference("imported")])


def load_it(stores: Stores) -> None:
    load(stores.images, io.BytesIO(tars.archive(tars.member("layer.tar", data=BIG))))


def commit(stores: Stores) -> None:
    snapshot = stores.snapshots.prepare("step", stores.images.resolve("app").chain)
    try:
        (snapshot.upper / "x").write_bytes(os.urandom(100))
        commit_layer(stores.content, stores.snapshots, "step").blob.wait()
    finally:
        stores.snapshots.remove("step")


def extract_it(stores: Stores) -> None:
    target = stores.root / "target"
    target.mkdir(exist_ok=True)
    extract(io.BytesIO(BIG), target)


WRITERS: list[Callable[[Stores], None]] = [put, unpack, import_it, load_it, extract_it]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_fills_up_on_the_way(
    stores: Stores, disk: Path, writer: Callable[[Stores], None]
) -> None:
    """F-22: layers, blobs, staging."""
    (disk / "filler").write_bytes(bytes(36_000_000))
    before = (stores.blobs(), stores.layers(), stores.active())
    with pytest.raises(NoSpace) as caught:
        writer(stores)
    assert caught.value.hint
    assert caught.value.retryable
    assert (stores.blobs(), stores.layers(), stores.active()) == before
    assert stores.content.sweep() == []
    (disk / "filler").unlink()
    assert check(stores.images, deep=True) == []
    if writer is not load_it:
        writer(stores)


@pytest.mark.parametrize("exhaust", [fill, fill_inodes])
@pytest.mark.parametrize("writer", [*WRITERS, commit])
def test_a_disk_that_is_full(
    stores: Stores, disk: Path, writer: Callable[[Stores], None], exhaust: Callable[[Path], Path]
) -> None:
    """F-22: 0 bytes and 0 inodes left."""
    exhaust(disk)
    before = (stores.blobs(), stores.layers(), stores.active())
    with pytest.raises((NoSpace, OSError)) as caught:
        writer(stores)
    assert isinstance(caught.value, NoSpace) or caught.value.errno == 28
    assert (stores.blobs(), stores.layers(), stores.active()) == before


@pytest.mark.parametrize("exhaust", [fill, fill_inodes])
def test_removing_and_pruning_work_on_a_full_disk(
    stores: Stores, disk: Path, exhaust: Callable[[Path], Path]
) -> None:
    """F-22: rm and prune at 100 %, and what is freed is free."""
    add_image(stores, MANY, name="other")
    stores.images.tag("app", "second")
    exhaust(disk)
    stores.images.remove("second")
    stores.images.remove("app")
    assert "app:latest" not in [name for image in stores.images.list() for name in image.familiar_names()]
    stores.images.prune("unused")
    assert stores.images.list() == []
    assert (stores.blobs(), stores.layers()) == (set(), set())
    assert os.statvfs(disk).f_bavail * 4096 > 2_000_000
    (stores.root / "content/reserve/bytes").stat()


def test_a_saved_archive_does_not_need_space(stores: Stores, disk: Path) -> None:
    """F-22: reading works."""
    fill(disk)
    out = io.BytesIO()
    try:
        save(stores.images, ["app"], out)
    except EngineError as error:
        pytest.fail(f"save needs space: {error}")
    assert len(out.getvalue()) > 3_000_000

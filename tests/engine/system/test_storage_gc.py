"""The collector never takes what a pull is about to use, however both are interleaved (F-07)."""

from __future__ import annotations

import io
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from engine.digest import chain_ids, digest_bytes
from engine.images.check import check
from engine.images.unpack import Unpacker
from engine.oci import Descriptor, ImageConfig, Manifest
from engine.oci import media_types as mt
from engine.reference import parse_reference
from tests.support import tars
from tests.support.stores import Stores, open_stores

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

ROUNDS = 200
BASE = tars.archive(tars.member("base", data=b"shared by all" * 100))
LAYERS = [tars.archive(tars.member(f"f{index}", data=bytes([index]) * 1000)) for index in range(4)]


def pull(stores: Stores, *layers: bytes, name: str) -> None:
    """Do what a pull does, in its order: name, look, store, unpack, add."""
    diff_ids = [digest_bytes(data) for data in layers]
    packed = [tars.zipped(data) for data in layers]
    config = ImageConfig("amd64", diff_ids=tuple(diff_ids)).to_bytes()
    descriptors = tuple(Descriptor(mt.OCI_LAYER_GZIP, digest_bytes(data), len(data)) for data in packed)
    manifest = Manifest(Descriptor(mt.OCI_CONFIG, digest_bytes(config), len(config)), descriptors).to_bytes()
    with stores.content.lease("pull") as lease:
        lease.add(*(item.digest for item in descriptors), *chain_ids(diff_ids))
        unpacker = Unpacker(stores.content, stores.snapshots)
        parent = None
        for data, blob, diff_id in zip(layers, packed, diff_ids, strict=True):
            if not stores.content.has(digest_bytes(blob)):
                stores.content.put(blob, sync=False)
            parent = unpacker.unpack_layer(io.BytesIO(data), parent=parent, diff_id=diff_id)
        stores.images.add(manifest, config, names=[parse_reference(name)], action="pull")


def _pull_rounds(root: Path, number: int, failed: object) -> None:
    stores = open_stores(root)
    try:
        for index in range(ROUNDS):
            pull(stores, BASE, LAYERS[number], LAYERS[index % 4], name=f"app:{number}")
            assert stores.images.resolve(f"app:{number}").layers
    except BaseException:
        failed.set()  # type: ignore[attr-defined]
        raise


def test_pulls_and_collections_of_images_that_share_layers(tmp_path: Path) -> None:
    """F-07: two processes pull 200 times each while a third removes and collects all the time."""
    stores = open_stores(tmp_path / "home")
    context = multiprocessing.get_context("fork")
    failed = context.Event()
    pullers = [
        context.Process(target=_pull_rounds, args=(stores.root, number, failed)) for number in range(2)
    ]
    for puller in pullers:
        puller.start()
    collections = 0
    while any(puller.is_alive() for puller in pullers):
        stores.images.prune("dangling")
        stores.images.collect(0)
        collections += 1
    for puller in pullers:
        puller.join()
    assert not failed.is_set()
    assert collections > 10
    assert check(stores.images, deep=True) == []
    for number in range(2):
        with stores.snapshots.viewed(stores.images.resolve(f"app:{number}").chain) as root:
            assert (root / "base").read_bytes() == b"shared by all" * 100
    for image in stores.images.list():
        stores.images.remove(image.id, force=True)
    stores.images.collect(0)
    assert (stores.blobs(), stores.layers(), stores.active()) == (set(), set(), set())
    assert os.listdir(stores.root / "content/leases") == []


def test_one_layer_wanted_by_many_is_unpacked_once(tmp_path: Path) -> None:
    stores = open_stores(tmp_path / "home")
    data = tars.archive(*[tars.member(f"f{index}") for index in range(200)])
    prepared: list[str] = []
    original = stores.snapshots.prepare

    def counting(key, parent):
        prepared.append(key)
        return original(key, parent)

    stores.snapshots.prepare = counting  # type: ignore[method-assign]
    unpacker = Unpacker(stores.content, stores.snapshots)
    threads = [
        threading.Thread(
            target=unpacker.unpack_layer,
            args=(io.BytesIO(data),),
            kwargs={"parent": None, "diff_id": digest_bytes(data)},
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(prepared) == 1
    assert stores.layers() == {digest_bytes(data)}

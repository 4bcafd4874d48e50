"""Garbage collection beside pulls: what a pull relies on is never taken away under it (F-07)."""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.errors import ImageNotFound
from engine.reference import parse_reference
from tests.support.fake_registry import FakeRegistry, layer
from tests.support.image_node import image_node

pytestmark = pytest.mark.root

ROUNDS = 200


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: two hundred syncs of a busy disk take minutes."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="wharfinger-test-") as folder:
        yield Path(folder)


def test_pulls_and_prunes_of_images_that_share_layers(home: Path) -> None:
    """F-07: two hundred pulls, while two others remove and collect all the time; each pulled image is whole."""
    shared = [layer({f"shared{n}": random.Random(n).randbytes(3000)}) for n in range(3)]
    stop = threading.Event()
    failures: list[BaseException] = []
    with FakeRegistry() as registry:
        names = []
        for number in range(4):
            top = layer({"top": str(number).encode()})
            registry.add_image(f"team/app{number}", "1", [*shared[: number + 1], top])
            names.append(f"{registry.domain}/team/app{number}:1")

        def prune() -> None:
            node = image_node(home / "node")
            try:
                while not stop.is_set():
                    for image in node.images.list():
                        with suppress(ImageNotFound):  # the other one was quicker
                            node.images.remove(image.id, force=True)
                    node.images.collect(0)
                    stop.wait(0.02)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=prune) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            node = image_node(home / "node")
            for number in range(ROUNDS):
                pulled = node.puller.pull(parse_reference(names[number % 4]))
                assert pulled.id
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        image = node.puller.pull(parse_reference(names[3]))
        assert all(node.content.verify(one.descriptor.digest) for one in image.layers)
        assert node.files(image.layers[-1].chain) == {"top": b"3"}
        assert node.active() == set()

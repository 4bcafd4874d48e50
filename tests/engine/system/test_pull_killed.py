"""kill -9 in the middle of a pull or a push, at every step that matters (F-01, F-06): a process of its own is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.reference import parse_reference
from tests.engine.system.test_push import add_image
from tests.support.fake_registry import FakeRegistry, layer, stall_after
from tests.support.image_node import image_node

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[3]

# the child replaces one function by "kill -9 myself", after `skip` calls that go well
CHILD = """
import importlib, json, os, signal, sys
from pathlib import Path
home, verb, reference, where, skip = json.loads(sys.argv[1])
from engine.reference import parse_reference
from tests.support.image_node import image_node
node = image_node(Path(home))
if where:
    owner, _, name = where.rpartition(".")
    target = importlib.import_module(owner.partition(":")[0])
    for part in filter(None, owner.partition(":")[2].split(".")):
        target = getattr(target, part)
    real = getattr(target, name)
    calls = [0]
    def killer(*arguments, **named):
        calls[0] += 1
        if calls[0] > skip:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    setattr(target, name, killer)
if verb == "pull":
    node.puller.pull(parse_reference(reference))
else:
    node.pusher.push(reference)
"""

POINTS = [
    ("before anything is asked", "engine.registry.client:RegistryClient.manifest", 0),
    ("when the config is opened", "engine.content.store:BlobWriter.__init__", 0),
    ("when a layer is opened", "engine.content.store:BlobWriter.__init__", 1),
    ("in the middle of a blob", "engine.content.store:BlobWriter.write", 6),
    ("before a blob gets its name", "engine.content.store:ContentStore.place", 1),
    ("after the first layer's blob", "engine.content.store:ContentStore.place", 2),
    ("before the first file is unpacked", "engine.snapshots.overlay:OverlaySnapshotter.prepare", 0),
    ("in the middle of unpacking", "engine.layers.job:RunningJob._write", 2),
    ("before the first layer's row", "engine.snapshots.overlay:OverlaySnapshotter.commit", 0),
    ("between two layers", "engine.snapshots.overlay:OverlaySnapshotter.commit", 1),
    ("before everything is synced", "engine.content.store:ContentStore.sync", 0),
    ("before the layers are synced", "engine.snapshots.overlay:OverlaySnapshotter.sync", 0),
    ("before the image's row", "engine.images.store:ImageStore._insert", 0),
    ("before the row is committed", "engine.images.names:Names.tell", 0),
]


def run(home: Path, verb: str, reference: str, where: str = "", skip: int = 0) -> int:
    arguments = json.dumps([str(home), verb, reference, where, skip])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", CHILD, arguments], env=environment, timeout=60, cwd=ROOT
    ).returncode


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize(("name", "where", "skip"), POINTS, ids=[point[0] for point in POINTS])
def test_a_killed_pull_shows_nothing_half_made_and_goes_on(
    tmp_path: Path, name: str, where: str, skip: int
) -> None:
    """F-01: never a visible partial; blobs that were finished are not fetched again."""
    home = tmp_path / "node"
    with FakeRegistry() as registry:
        files = {f"f{number}": noise(number, 20_000) for number in range(40)}
        made = registry.add_image("team/app", "1", [layer(files), layer({"top": b"top"})])
        reference = f"{registry.domain}/team/app:1"
        assert run(home, "pull", reference, where, skip) == -signal.SIGKILL
        node = image_node(home)
        assert node.images.list() == []
        assert all(node.content.verify(digest) for digest in node.blobs())  # type: ignore[arg-type]
        finished = node.blobs() & {*made.layer_digests, made.config_digest}
        registry.forget_requests()
        image = node.puller.pull(parse_reference(reference))
        assert not [digest for digest in finished if registry.count("GET", digest)]
        assert node.files(image.layers[0].chain) == files
        node.snapshots.sweep()
        node.content.sweep()
        assert node.active() == set()
        assert node.snapshots.unknown_folders() == []
        assert [path.name for path in node.content.ingest_path("").parent.iterdir()] == []


def test_a_pull_killed_in_half_a_blob_continues_it(tmp_path: Path) -> None:
    """F-01: the second process asks for the rest only."""
    home = tmp_path / "node"
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({"x": noise(1, 500_000)})])
        registry.on("GET", made.layer_digests[0], stall_after(300_000))
        reference = f"{registry.domain}/team/app:1"
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps([str(home), "pull", reference, "", 0])],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and partial_size(home) < 300_000:
            time.sleep(0.01)
        child.kill()
        child.wait()
        image_node(home).puller.pull(parse_reference(reference))
        ranges = [seen.headers.get("range") for seen in registry.seen("GET", made.layer_digests[0])]
        assert ranges == [None, "bytes=300000-"]


def partial_size(home: Path) -> int:
    return max((path.stat().st_size for path in home.glob("content/ingest/resume-*")), default=0)


def test_a_pull_that_waits_for_a_killed_one_takes_over(tmp_path: Path) -> None:
    """F-01: the lock of a blob goes with the process that held it."""
    home = tmp_path / "node"
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({"x": noise(1, 500_000)})])
        registry.on("GET", made.layer_digests[0], stall_after(300_000))
        reference = f"{registry.domain}/team/app:1"
        arguments = [sys.executable, "-c", CHILD, json.dumps([str(home), "pull", reference, "", 0])]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        first = subprocess.Popen(arguments, env=environment, cwd=ROOT)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and partial_size(home) < 300_000:
            time.sleep(0.01)
        second = subprocess.Popen(arguments, env=environment, cwd=ROOT)
        time.sleep(0.3)
        first.kill()
        first.wait()
        assert second.wait(20) == 0
        assert image_node(home).images.resolve(reference).id == made.config_digest


PUSH_POINTS = [
    ("before the first session", "engine.registry.uploads:Upload._post", 0),
    ("in the middle of a layer", "engine.registry.exchange._send_some", 0),
    ("before a layer's end", "engine.registry.uploads:Upload._close", 0),
    ("between layers", "engine.registry.uploads:Upload._close", 1),
    ("before the manifest", "engine.registry.client:RegistryClient.put_manifest", 0),
    ("after the manifest", "engine.images.store:ImageStore.add_repo_digest", 0),
]


@pytest.mark.parametrize(("name", "where", "skip"), PUSH_POINTS, ids=[point[0] for point in PUSH_POINTS])
def test_a_killed_push_breaks_no_tag(tmp_path: Path, name: str, where: str, skip: int) -> None:
    """F-06: the manifest is put at most once, and only when all of the image is there."""
    home = tmp_path / "node"
    with FakeRegistry() as registry:
        reference = f"{registry.domain}/team/app:1"
        node = image_node(home)
        layers = [layer({"a": noise(1, 2_000_000)}), layer({"b": noise(2, 2_000_000)})]
        add_image(node, reference, layers, suffix="+gzip" if name == "in the middle of a layer" else "")
        node.db.close()
        assert run(home, "push", reference, where, skip) == -signal.SIGKILL
        assert registry.count("PUT", "/manifests/") == (1 if name == "after the manifest" else 0)
        assert ("team/app" in registry.tags) == (name == "after the manifest")
        pushed = image_node(home).pusher.push(reference)
        assert registry.tags["team/app"] == {"1": pushed.digest}

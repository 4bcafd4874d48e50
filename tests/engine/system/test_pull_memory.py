"""Memory stays flat however large a layer is: what is in hand is a few chunks."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_registry import OCI_LAYER, Exchange, FakeRegistry
from tests.support.fake_registry import layer as small_layer

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[3]
SIZE = int(os.environ.get("WHARFINGER_TEST_LAYER_MIB", "512")) * 1024 * 1024
ALLOWED = 100 * 1024 * 1024

CHILD = """
import json, sys
from pathlib import Path
def peak():
    # not ru_maxrss, which begins with the parent's
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
home, verb, reference, other = json.loads(sys.argv[1])
from engine.reference import parse_reference
from tests.support.image_node import image_node
node = image_node(Path(home))
node.puller.pull(parse_reference(other))
node.pusher.push(other)
idle = peak()
if verb == "pull":
    node.puller.pull(parse_reference(reference))
else:
    node.pusher.push(reference, parse_reference(reference + "-again"))
print(peak() - idle)
"""


def parts() -> Iterator[bytes]:
    """Yield a tar of one large file, a block at a time."""
    header = small_layer({"large": b""})[:512]
    block = bytearray(header)
    block[124:136] = b"%011o\0" % SIZE
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    yield bytes(block)
    chunk = hashlib.sha256(b"x").digest() * 32768
    for _ in range(SIZE // len(chunk)):
        yield chunk
    yield bytes(1024)


def run(home: Path, verb: str, reference: str, other: str) -> int:
    arguments = json.dumps([str(home), verb, reference, other])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout))


def test_memory_is_flat_for_a_large_layer(tmp_path: Path) -> None:
    """At most 100 MB above idle, for a pull and for a push that packs the layer on its way."""
    digest, size = hashlib.sha256(), 0
    for part in parts():
        digest.update(part)
        size += len(part)
    name = f"sha256:{digest.hexdigest()}"

    def serve(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": str(size)})
        for part in parts():
            exchange.handler.wfile.write(part)

    def discard(exchange: Exchange) -> None:
        for part in iter(
            lambda: exchange.handler.rfile.read(int(exchange.handler.rfile.readline(), 16)), b""
        ):
            del part
            exchange.handler.rfile.readline()
        exchange.handler.rfile.readline()
        exchange.body_read = True
        exchange.reply(202, b"", {"Location": exchange.path})

    def large(manifest: dict[str, object]) -> None:
        manifest["layers"] = [{"mediaType": OCI_LAYER, "digest": name, "size": size}]

    with FakeRegistry() as registry:
        registry.add_image("small", "1", [small_layer({"x": b"x"})])
        registry.add_image(
            "large",
            "1",
            [b""],
            change=large,
            change_config=lambda config: config["rootfs"].update(diff_ids=[name]),
        )
        registry.on("GET", name, serve)
        registry.on("PATCH", "/uploads/", discard)
        registry.on("PUT", "/uploads/", lambda exchange: exchange.reply(201))
        small, reference = f"{registry.domain}/small:1", f"{registry.domain}/large:1"
        assert run(tmp_path / "node", "pull", reference, small) < ALLOWED
        assert run(tmp_path / "node", "push", reference, small) < ALLOWED

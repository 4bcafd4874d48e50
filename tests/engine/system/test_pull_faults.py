"""Pulling from a registry that lies, cuts, stalls or fails (rows F-26, RG-01 to RG-06)."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError, ImageNotFound, Unsupported
from engine.images.model import Image
from engine.reference import parse_reference
from engine.registry import BadContent, Credentials, Interrupted, NotARegistry, RetryPolicy, Untrusted
from engine.registry.client import MANIFEST_LIMIT
from tests.support.fake_registry import (
    OCI_LAYER,
    Exchange,
    FakeImage,
    FakeRegistry,
    chunked,
    cut_after,
    digest_of,
    drip,
    hang_up,
    layer,
    reply,
    stall_after,
)
from tests.support.image_node import ImageNode, image_node

pytestmark = pytest.mark.root

SIZE = 400_000
CONTENT = random.Random(7).randbytes(SIZE)


@pytest.fixture
def node(tmp_path: Path) -> ImageNode:
    return image_node(tmp_path / "node")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(auth="bearer") as registry:
        yield registry


def add(registry: FakeRegistry, **more: Any) -> FakeImage:
    return registry.add_image("team/app", "1", [layer({"x": CONTENT})], **more)


def pull(node: ImageNode, registry: FakeRegistry, text: str = "team/app:1") -> Image:
    account = Credentials(registry.username, registry.password)
    return node.puller.pull(parse_reference(f"{registry.domain}/{text}"), credentials=account)


def assert_nothing_visible(node: ImageNode, *blobs: str) -> None:
    """The invariants (a) and (b): no image, no layer, no half-made folder, and none of `blobs`."""
    assert node.images.list() == []
    assert node.layers() == set()
    assert node.active() == set()
    assert not node.blobs() & set(blobs)
    assert all(node.content.verify(digest) for digest in node.blobs())  # type: ignore[arg-type]


@dataclass(frozen=True)
class Fault:
    """What the registry does, and whether a pull survives it. `gets` is how often the layer is then asked for."""

    name: str
    act: Callable[[FakeRegistry, FakeImage], None]
    error: type[Exception] | None = None
    gets: int = 0
    says: str = ""
    within_s: float = 20.0


def on_layer(action: Callable[[Exchange], None], times: int = 1) -> Callable[[FakeRegistry, FakeImage], None]:
    return lambda registry, image: registry.on("GET", image.layer_digests[0], action, times=times)


def on_manifest(
    action: Callable[[Exchange], None], times: int = 1
) -> Callable[[FakeRegistry, FakeImage], None]:
    return lambda registry, image: registry.on("*", "/manifests/", action, times=times)


def forget_tokens(exchange: Exchange) -> None:
    exchange.registry.tokens.clear()
    exchange.serve()


def cut_then_forget_tokens(exchange: Exchange) -> None:
    exchange.registry.tokens.clear()
    cut_after(150_000)(exchange)


def ignore_range(exchange: Exchange) -> None:
    digest = exchange.path.rpartition("/")[2]
    exchange.reply(200, exchange.registry.blobs[digest])


def wrong_range(exchange: Exchange) -> None:
    data = exchange.registry.blobs[exchange.path.rpartition("/")[2]]
    exchange.reply(206, data[10:], {"Content-Range": f"bytes 10-{len(data) - 1}/{len(data)}"})


def redirect_to_itself(exchange: Exchange) -> None:
    exchange.reply(307, b"", {"Location": exchange.path})


def in_two_seconds() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)


def fail_thrice(registry: FakeRegistry, image: FakeImage) -> None:
    for status in (500, 502, 503):
        on_layer(reply(status))(registry, image)


def move_tag(registry: FakeRegistry, image: FakeImage) -> None:
    """Let the tag lead elsewhere between the question for its digest and the one for its manifest."""

    def action(exchange: Exchange) -> None:
        exchange.serve()
        registry.add_image("team/app", "1", [layer({"x": b"moved"})])

    registry.on("HEAD", "/manifests/1", action)


def cut_then(action: Callable[[Exchange], None]) -> Callable[[FakeRegistry, FakeImage], None]:
    """Cut the first answer, so that the second question has a Range; `action` answers that one."""

    def act(registry: FakeRegistry, image: FakeImage) -> None:
        registry.on("GET", image.layer_digests[0], action)
        registry.on("GET", image.layer_digests[0], cut_after(150_000))

    return act


FAULTS = [
    Fault("cut at the first byte", on_layer(cut_after(0)), gets=2),
    Fault("cut in the middle", on_layer(cut_after(200_000)), gets=2),
    Fault("cut before the last byte", on_layer(cut_after(SIZE - 1)), gets=2),
    Fault("cut again and again, each time a good piece further", on_layer(cut_after(70_000), 9), gets=6),
    Fault("cut again and again without a good piece", on_layer(cut_after(100), 99), Interrupted, 4, "broke"),
    Fault("reset in the middle", on_layer(cut_after(200_000, reset=True)), gets=2),
    Fault("hung up without an answer", on_layer(hang_up()), gets=2),
    Fault("reset without an answer", on_layer(hang_up(reset=True)), gets=2),
    Fault("stalled in the middle", on_layer(stall_after(200_000)), gets=2),
    Fault("stalled for ever", on_layer(stall_after(10), 99), Interrupted, 4, "silent"),
    Fault("one byte at a time", on_layer(drip(50)), gets=2),
    Fault("one byte at a time for ever", on_layer(drip(50), 99), Interrupted, 4, "slowly"),
    Fault(
        "500, 502, 503, then well",
        fail_thrice,
        gets=4,
    ),
    Fault("503 for ever", on_layer(reply(503), 99), EngineError, 4, "503"),
    Fault("429 with seconds", on_layer(reply(429, b"", {"Retry-After": "1"})), gets=2),
    Fault(
        "429 with a date",
        lambda r, i: on_layer(reply(429, b"", {"Retry-After": in_two_seconds()}))(r, i),
        gets=2,
    ),
    Fault(
        "429 that asks for an hour",
        on_layer(reply(429, b"", {"Retry-After": "3600"})),
        EngineError,
        1,
        "too often",
        3,
    ),
    Fault("416 on continuing", cut_then(reply(416)), gets=3),
    Fault("the range ignored", cut_then(ignore_range), gets=2),
    Fault("another range than asked for", cut_then(wrong_range), gets=3),
    Fault("a redirect loop", on_layer(redirect_to_itself, 99), Untrusted, 6, "loop"),
    Fault("the token gone before the blob", on_layer(forget_tokens), gets=2),
    Fault("the token gone in the middle of the blob", on_layer(cut_then_forget_tokens), gets=3),
    Fault("404 for the blob", on_layer(reply(404), 99), ImageNotFound, 1, "no blob"),
    Fault("the tag moves", move_tag, gets=0),
    Fault("the manifest fails twice", on_manifest(reply(502), 2), gets=1),
    Fault(
        "no HTTP at all",
        on_layer(lambda e: e.handler.wfile.write(b"SSH-2.0-x\r\n"), 99),
        NotARegistry,
        1,
        "HTTP",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_pull_survives_faults_or_says_why_not(
    node: ImageNode, registry: FakeRegistry, fault: Fault
) -> None:
    """F-26: resume by Range, backoff, minimal rate, Retry-After, clear final errors; and afterwards it works again."""
    made = add(registry)
    pull_once_for_a_token(registry)
    fault.act(registry, made)
    start = time.monotonic()
    if fault.error is None:
        image = pull(node, registry)
        assert node.files(image.layers[0].chain) in ({"x": CONTENT}, {"x": b"moved"})
    else:
        with pytest.raises(fault.error) as caught:
            pull(node, registry)
        assert fault.says in caught.value.message  # type: ignore[attr-defined]
        assert_nothing_visible(node, made.layer_digests[0])
    assert time.monotonic() - start < fault.within_s
    assert registry.count("GET", f"/blobs/{made.layer_digests[0]}") == fault.gets
    registry._rules.clear()
    pull(node, registry)
    assert node.active() == set()


def pull_once_for_a_token(registry: FakeRegistry) -> None:
    """Forget what setting up asked for."""
    registry.forget_requests()


def test_a_wait_that_the_registry_asks_for_is_kept(tmp_path: Path, registry: FakeRegistry) -> None:
    """F-26: Retry-After goes before our own, much shorter pause."""
    node = image_node(tmp_path / "node", retry=RetryPolicy(attempts=2, base_s=0.001))
    made = add(registry)
    on_layer(reply(503, b"", {"Retry-After": "1"}))(registry, made)
    start = time.monotonic()
    pull(node, registry)
    assert time.monotonic() - start >= 1


# -- RG-01: digests -----------------------------------------------------------------------------------


def test_wrong_bytes_once_are_fetched_again(node: ImageNode, registry: FakeRegistry) -> None:
    """RG-01: the second answer is right."""
    made = add(registry)
    data = registry.blobs[made.layer_digests[0]]
    on_layer(reply(200, data[:-1] + bytes([data[-1] ^ 1])))(registry, made)
    pull(node, registry)
    assert registry.count("GET", f"/blobs/{made.layer_digests[0]}") == 2


@pytest.mark.parametrize("what", ["layer", "layer of another archive", "config"])
def test_wrong_bytes_are_refused_after_one_more_try(
    node: ImageNode, registry: FakeRegistry, what: str
) -> None:
    """RG-01: a digest that lies; nothing is visible afterwards."""
    made = add(registry)
    digest = made.config_digest if what == "config" else made.layer_digests[0]
    size = len(registry.blobs[digest])
    wrong = bytes(size)
    if what == "layer of another archive":
        wrong = gzip.compress(layer({"evil": b"evil"}))
        wrong += bytes(size - len(wrong))
    registry.blobs[digest] = wrong
    with pytest.raises(BadContent):
        pull(node, registry)
    assert registry.count("GET", f"/blobs/{digest}") == 2
    assert_nothing_visible(node, digest)


def test_a_wrong_manifest_is_refused(node: ImageNode, registry: FakeRegistry) -> None:
    """RG-01: the manifest that came for a digest is another one."""
    made = add(registry)
    media_type, data = registry.manifests[f"team/app@{made.digest}"]
    registry.manifests[f"team/app@{made.digest}"] = (media_type, data + b" ")
    with pytest.raises(BadContent):
        pull(node, registry, f"team/app@{made.digest}")
    assert_nothing_visible(node)


def test_a_lying_digest_header_is_refused(node: ImageNode, registry: FakeRegistry) -> None:
    """RG-01: `Docker-Content-Digest` is not that of the manifest."""
    made = add(registry)
    media_type, data = registry.manifests[f"team/app@{made.digest}"]
    lie = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(b"something else")}
    registry.on("GET", "/manifests/", reply(200, data, lie), times=9)
    with pytest.raises(BadContent):
        pull(node, registry)
    assert_nothing_visible(node)


def test_a_lying_diff_id_is_refused(node: ImageNode, registry: FakeRegistry) -> None:
    """RG-01: the layer unpacks to something else than the config says."""
    made = add(registry, change_config=lambda config: config["rootfs"].update(diff_ids=[digest_of(b"other")]))
    with pytest.raises(BadContent):
        pull(node, registry)
    assert node.images.list() == []
    assert node.layers() == node.active() == set()
    assert registry.count("GET", f"/blobs/{made.layer_digests[0]}") == 1


# -- RG-02: sizes -------------------------------------------------------------------------------------


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(65536)


@pytest.mark.parametrize("lie", ["shorter", "longer", "endless", "chunked short", "false length", "encoded"])
def test_a_size_that_lies_is_cut(node: ImageNode, registry: FakeRegistry, lie: str) -> None:
    """RG-02: nothing beyond the announced size is stored."""
    made = add(registry)
    digest = made.layer_digests[0]
    data = registry.blobs[digest]
    actions = {
        "shorter": reply(200, data[:-1]),
        "longer": reply(200, data + b"x"),
        "endless": chunked(endless),
        "chunked short": chunked(lambda: [data[:1000]]),
        "false length": reply(200, data + bytes(70_000), length=len(data) + 70_000),
        "encoded": reply(200, data, {"Content-Encoding": "gzip"}),
    }
    on_layer(actions[lie], 99)(registry, made)
    with pytest.raises(BadContent):
        pull(node, registry)
    assert registry.count("GET", f"/blobs/{digest}") == 2
    assert_nothing_visible(node, digest)


def test_a_manifest_without_end_is_cut(node: ImageNode, registry: FakeRegistry) -> None:
    """RG-02, RG-04: 4 MiB is the most."""
    add(registry)
    sent = []

    def parts() -> Iterator[bytes]:
        for part in endless():
            sent.append(len(part))
            yield part

    registry.on("GET", "/manifests/", chunked(parts, {"Content-Type": "application/json"}), times=9)
    with pytest.raises(BadContent):
        pull(node, registry)
    assert sum(sent) < 20 * MANIFEST_LIMIT
    assert_nothing_visible(node)


@pytest.mark.parametrize("change", [-1, 1, 10_000])
def test_a_size_in_the_manifest_that_is_wrong_is_refused(
    node: ImageNode, registry: FakeRegistry, change: int
) -> None:
    """RG-02: the descriptor itself lies."""

    def lie(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["size"] += change

    made = add(registry, change=lie)
    with pytest.raises(BadContent):
        pull(node, registry)
    assert_nothing_visible(node, made.layer_digests[0])


# -- RG-03, RG-04: documents ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digest",
    [
        "sha1:" + "a" * 40,
        "sha256:../../x",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "",
        "x",
        "sha512:" + "a" * 128,
    ],
)
@pytest.mark.parametrize("place", ["layer", "config", "index", "diff id"])
def test_a_malformed_digest_is_refused_before_any_path(
    node: ImageNode, registry: FakeRegistry, digest: str, place: str
) -> None:
    """RG-03: digest syntax."""

    def spoil(manifest: dict[str, Any]) -> None:
        if place == "layer":
            manifest["layers"][0]["digest"] = digest
        elif place == "config":
            manifest["config"]["digest"] = digest

    def spoil_config(config: dict[str, Any]) -> None:
        if place == "diff id":
            config["rootfs"]["diff_ids"] = [digest]

    made = add(registry, change=spoil, change_config=spoil_config)
    if place == "index":
        entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 10}
        entry["platform"] = {"os": "linux", "architecture": "amd64"}  # type: ignore[assignment]
        registry.add_manifest(
            "team/app", "1", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(), INDEX
        )
    with pytest.raises(EngineError) as caught:
        pull(node, registry)
    assert not caught.value.retryable
    assert_nothing_visible(node, made.layer_digests[0])


INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def documents() -> dict[str, tuple[bytes, str]]:
    good = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": "sha256:" + "a" * 64,
        "size": 1,
    }
    part = {"mediaType": OCI_LAYER, "digest": "sha256:" + "b" * 64, "size": 1}
    base = {"schemaVersion": 2, "config": good, "layers": [part]}
    text = json.dumps(base)
    return {
        "layers and manifests both": (json.dumps({**base, "manifests": [part]}).encode(), MANIFEST),
        "manifests served as a manifest": (
            json.dumps({"schemaVersion": 2, "manifests": []}).encode(),
            MANIFEST,
        ),
        "a manifest served as an index": (text.encode(), INDEX),
        "media type against content type": (json.dumps({**base, "mediaType": INDEX}).encode(), MANIFEST),
        "twice the same key": (
            text.replace('"schemaVersion": 2', '"schemaVersion": 2, "layers": []').encode(),
            MANIFEST,
        ),
        "too deep": (b'{"schemaVersion": 2, "config": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", MANIFEST),
        "10,000 layers": (json.dumps({**base, "layers": [part] * 10_000}).encode(), MANIFEST),
        "schema 1": (
            b'{"schemaVersion": 1, "fsLayers": []}',
            "application/vnd.docker.distribution.manifest.v1+json",
        ),
        "no JSON": (b"\xff\xfe{", MANIFEST),
        "a list": (b"[]", MANIFEST),
        "not a number": (text.replace('"size": 1', '"size": NaN').encode(), MANIFEST),
        "a negative size": (text.replace('"size": 1', '"size": -1').encode(), MANIFEST),
        "a size as text": (text.replace('"size": 1', '"size": "1"').encode(), MANIFEST),
        "nothing": (b"", MANIFEST),
    }


@pytest.mark.parametrize("name", documents())
def test_an_ambiguous_or_malformed_manifest_is_refused(
    node: ImageNode, registry: FakeRegistry, name: str
) -> None:
    """RG-04: CVE-2021-41190 and its relatives."""
    data, media_type = documents()[name]
    registry.add_manifest("team/app", "1", data, media_type)
    start = time.monotonic()
    with pytest.raises((BadContent, Unsupported)):
        pull(node, registry)
    assert time.monotonic() - start < 2
    assert registry.count("GET", "/blobs/") == 0
    assert_nothing_visible(node)


def test_an_index_that_leads_in_a_circle_or_too_deep_is_refused(
    node: ImageNode, registry: FakeRegistry
) -> None:
    """RG-04: index cycle (a digest cannot really contain itself; the walk is bounded all the same)."""
    digest = add(registry).digest
    for _ in range(5):
        digest = registry.add_index("team/app", "1", [(digest, "linux/amd64")])
    with pytest.raises(BadContent):
        pull(node, registry)
    assert_nothing_visible(node)


def test_a_manifest_of_another_size_than_the_index_says_is_refused(
    node: ImageNode, registry: FakeRegistry
) -> None:
    made = add(registry)
    index = registry.add_index("team/app", "1", [(made.digest, "linux/amd64")])
    media_type, data = registry.manifests[f"team/app@{index}"]
    document = json.loads(data)
    document["manifests"][0]["size"] += 1
    registry.add_manifest("team/app", "1", json.dumps(document).encode(), media_type)
    with pytest.raises(BadContent):
        pull(node, registry)


@pytest.mark.parametrize("count", [0, 2])
def test_layers_and_diff_ids_must_be_as_many(node: ImageNode, registry: FakeRegistry, count: int) -> None:
    add(
        registry,
        change_config=lambda config: config["rootfs"].update(diff_ids=["sha256:" + "c" * 64] * count),
    )
    with pytest.raises(BadContent):
        pull(node, registry)
    assert_nothing_visible(node)


# -- RG-06: elsewhere -----------------------------------------------------------------------------------


def test_foreign_urls_of_a_layer_are_not_fetched(node: ImageNode, registry: FakeRegistry) -> None:
    """RG-06: CVE-2020-15157; the layer comes from the registry or not at all."""
    with FakeRegistry() as other:
        kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

        def lead_away(manifest: dict[str, Any]) -> None:
            manifest["layers"][0].update(urls=[f"{other.url}/layer"], mediaType=kind)

        made = add(registry, change=lead_away)
        on_layer(reply(404), 99)(registry, made)
        with pytest.raises(ImageNotFound):
            pull(node, registry)
        assert other.requests == []


def test_a_blob_on_another_host_comes_without_the_secret(node: ImageNode, registry: FakeRegistry) -> None:
    """RG-06: redirect to another host."""
    with FakeRegistry() as other:
        made = add(registry)
        other.linked["x"] = {made.layer_digests[0]}
        other.blobs.update(registry.blobs)
        location = f"{other.url}/v2/x/blobs/{made.layer_digests[0]}"
        on_layer(reply(307, b"", {"Location": location}), 99)(registry, made)
        on_layer(Exchange.serve)(registry, made)  # the first question is answered with 401
        registry.on("GET", made.layer_digests[0], reply(307, b"", {"Location": location}), times=99)
        image = pull(node, registry)
        assert node.files(image.layers[0].chain) == {"x": CONTENT}
        assert other.count("GET", "/blobs/") == 1
        assert other.authorizations() == set()


# -- what people type wrongly ----------------------------------------------------------------------------


def test_an_unknown_repository_and_an_unknown_tag_are_told_apart(node: ImageNode) -> None:
    with FakeRegistry() as registry:
        add(registry)
        with pytest.raises(ImageNotFound) as caught:
            pull(node, registry, "team/ap:1")
        assert "no repository" in caught.value.message
        with pytest.raises(ImageNotFound) as caught:
            pull(node, registry, "team/app:2")
        assert caught.value.message == f"{registry.domain} has no team/app:2"
        assert caught.value.hint


@pytest.mark.parametrize(
    "page", [reply(200, b"<html>", {"Content-Type": "text/html"}), reply(404, b"<html>not here")]
)
def test_a_web_server_is_no_registry(node: ImageNode, page: Callable[[Exchange], None]) -> None:
    with FakeRegistry() as registry:
        registry.on("*", "/", page, times=99)
        with pytest.raises(NotARegistry) as caught:
            pull(node, registry)
        assert caught.value.message == f"{registry.domain} is not a container registry"


def test_nobody_at_home(tmp_path: Path) -> None:
    """One more try, then a sentence: nobody waits long for a typing error."""
    node = image_node(tmp_path / "node", retry=RetryPolicy())
    with FakeRegistry() as registry:
        domain = registry.domain
    start = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        node.puller.pull(parse_reference(f"{domain}/team/app:1"))
    assert caught.value.message == f"cannot connect to {domain}: Connection refused"
    with pytest.raises(EngineError) as named:
        node.puller.pull(parse_reference("registry.invalid/team/app:1"))
    assert "no address" in named.value.message
    assert time.monotonic() - start < 5

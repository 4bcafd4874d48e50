"""Pushing: only what is missing, the manifest last, and nothing left at a registry when it goes wrong (F-06, RG-06)."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.digest import digest_bytes
from engine.errors import BadReference, Cancelled, Corrupt, EngineError, ImageNotFound
from engine.images.model import Image
from engine.layers.compression import Compression
from engine.progress import CancelToken, LayerProgress, Report
from engine.reference import parse_reference
from engine.registry import AccessRefused, Credentials, NotARegistry, RegistrySettings
from tests.support.certificates import ThrowawayCA
from tests.support.fake_registry import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Exchange,
    FakeRegistry,
    hang_up,
    layer,
    reply,
)
from tests.support.image_node import ImageNode, image_node

pytestmark = pytest.mark.root

BIG = 3_000_000


@pytest.fixture
def node(tmp_path: Path) -> ImageNode:
    return image_node(tmp_path / "node")


def noise(seed: int, size: int = BIG) -> bytes:
    return random.Random(seed).randbytes(size)


def add_image(node: ImageNode, name: str, layers: list[bytes], suffix: str = "") -> Image:
    """Put an image with unpacked (or as they are given) layers into the node's store."""
    blobs = [node.content.put(data) for data in layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [b.digest for b in blobs]},
    }
    config_data = json.dumps(config).encode()
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_bytes(config_data), "size": len(config_data)},
        "layers": [{"mediaType": OCI_LAYER + suffix, "digest": b.digest, "size": b.size} for b in blobs],
    }
    return node.images.add(json.dumps(manifest).encode(), config_data, names=[parse_reference(name)])


def statuses(reports: list[Report]) -> list[list[str]]:
    told: dict[str, list[str]] = {}
    for report in reports:
        if isinstance(report, LayerProgress) and report.status not in told.setdefault(report.id, [])[-1:]:
            told[report.id].append(report.status)
    return list(told.values())


def pulled(tmp_path: Path, registry: FakeRegistry, text: str = "team/app:1") -> dict[str, bytes]:
    """Pull with another node and return the files of the topmost layer."""
    other = image_node(tmp_path / "other")
    image = other.puller.pull(parse_reference(f"{registry.domain}/{text}"))
    return other.files(image.layers[-1].chain)


def test_a_pushed_image_can_be_pulled_and_is_known_by_its_digest(node: ImageNode, tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        name = f"{registry.domain}/team/app:1"
        add_image(node, name, [layer({"a": noise(1)}), layer({"b": b"2"})])
        pushed = node.pusher.push(name)
        assert pulled(tmp_path, registry) == {"b": b"2"}
        assert registry.tags["team/app"] == {"1": pushed.digest}
        assert node.images.resolve(name).repo_digests == (f"{registry.domain}/team/app@{pushed.digest}",)
        assert registry.uploads == {}


def test_the_manifest_goes_last(node: ImageNode) -> None:
    """F-06: no tag before all of it is there."""
    with FakeRegistry() as registry:
        name = f"{registry.domain}/team/app:1"
        add_image(node, name, [layer({"a": noise(1)}), layer({"b": noise(2)})])
        node.pusher.push(name)
        assert [seen.method for seen in registry.requests if "/manifests/" in seen.path][-1] == "PUT"
        assert registry.requests[-1].method == "PUT"
        assert "/manifests/1" in registry.requests[-1].path


def test_the_digest_is_the_same_at_every_push_and_nothing_is_packed_twice(node: ImageNode) -> None:
    with FakeRegistry() as first, FakeRegistry() as second:
        name = f"{first.domain}/team/app:1"
        add_image(node, name, [layer({"a": noise(1)})])
        pushed = node.pusher.push(name)
        node.images.collect(0)  # the packed blob is kept for as long as an image has the layer
        again = node.pusher.push(name, parse_reference(f"{second.domain}/x/y:2"))
        assert again.digest == pushed.digest
        assert second.count("PATCH", "/uploads/") == 1
        assert (
            "content-length" in second.seen("PATCH", "/uploads/")[0].headers
        )  # whole, not packed on the way


def test_a_push_with_nothing_to_do_asks_one_question(node: ImageNode) -> None:
    reports: list[Report] = []
    with FakeRegistry() as registry:
        name = f"{registry.domain}/team/app:1"
        add_image(node, name, [layer({"a": noise(1)})])
        node.pusher.push(name)
        registry.forget_requests()
        node.pusher.push(name, report=reports.append)
        assert [seen.method for seen in registry.requests] == ["HEAD"]
    assert statuses(reports) == [["exists"]]


def test_only_what_the_registry_lacks_is_sent(node: ImageNode) -> None:
    reports: list[Report] = []
    with FakeRegistry() as registry:
        base, top = layer({"a": noise(1)}), layer({"b": noise(2)})
        add_image(node, f"{registry.domain}/team/app:1", [base])
        node.pusher.push(f"{registry.domain}/team/app:1")
        add_image(node, f"{registry.domain}/team/app:2", [base, top])
        registry.forget_requests()
        node.pusher.push(f"{registry.domain}/team/app:2", report=reports.append)
        assert registry.count("POST", "/uploads/") == 2  # the new layer and the config
    assert statuses(reports) == [["waiting", "exists"], ["waiting", "uploading", "done"]]


def test_a_layer_of_another_repository_is_mounted(node: ImageNode) -> None:
    reports: list[Report] = []
    with FakeRegistry() as registry:
        add_image(node, f"{registry.domain}/team/app:1", [layer({"a": noise(1)})])
        node.pusher.push(f"{registry.domain}/team/app:1")
        registry.forget_requests()
        node.pusher.push(
            f"{registry.domain}/team/app:1",
            parse_reference(f"{registry.domain}/else/where:1"),
            report=reports.append,
        )
        assert registry.count("POST", "mount=sha256:.*from=team%2Fapp") == 1
        assert registry.count("PATCH", "/uploads/") == 0
    assert statuses(reports) == [["waiting", "mounted"]]


def test_zstd_on_request(node: ImageNode, tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        name = f"{registry.domain}/team/app:1"
        add_image(node, name, [layer({"a": noise(1)})])
        pushed = node.pusher.push(name, compression=Compression.ZSTD)
        _, data = registry.manifests[f"team/app@{pushed.digest}"]
        assert json.loads(data)["layers"][0]["mediaType"] == OCI_LAYER + "+zstd"
        assert pulled(tmp_path, registry) == {"a": noise(1)}


def test_layers_go_at_once(node: ImageNode) -> None:
    gate = threading.Event()
    with FakeRegistry() as registry:
        name = f"{registry.domain}/team/app:1"
        add_image(node, name, [layer({str(n): noise(n, 1000)}) for n in range(3)])
        registry.on("POST", "/uploads/", lambda exchange: (gate.wait(10), exchange.serve()), times=3)  # type: ignore[arg-type, return-value]
        pusher = threading.Thread(target=node.pusher.push, args=(name,))
        pusher.start()
        deadline = time.monotonic() + 5
        while registry.count("POST", "/uploads/") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert registry.count("POST", "/uploads/") == 3
        gate.set()
        pusher.join()


# -- faults ---------------------------------------------------------------------------------------------


def cut_upload(after: int) -> Callable[[Exchange], None]:
    """Keep the first `after` bytes of a PATCH as the session's, and break off."""

    def action(exchange: Exchange) -> None:
        session = exchange.path.rpartition("/")[2].partition("?")[0]
        stream = exchange.handler.rfile
        data = bytearray()
        if exchange.handler.headers.get("Transfer-Encoding") == "chunked":
            while len(data) < after:
                data += stream.read(int(stream.readline(), 16))
                stream.readline()
        else:
            data += stream.read(after)
        exchange.registry.uploads[session] += data[:after]
        exchange.hang_up(reset=True)

    return action


FAULTS: list[tuple[str, Callable[[FakeRegistry], None]]] = [
    ("cut in the middle of a layer", lambda r: r.on("PATCH", "/uploads/", cut_upload(2_000_000))),
    ("cut twice", lambda r: r.on("PATCH", "/uploads/", cut_upload(1_200_000), times=2)),
    ("hung up before a layer", lambda r: r.on("PATCH", "/uploads/", hang_up())),
    ("503 at the beginning", lambda r: r.on("POST", "/uploads/", reply(503))),
    ("429 at the beginning", lambda r: r.on("POST", "/uploads/", reply(429, b"", {"Retry-After": "1"}))),
    ("500 at the end of a layer", lambda r: r.on("PUT", "/uploads/", reply(500))),
    ("hung up at the end of a layer", lambda r: r.on("PUT", "/uploads/", hang_up())),
    ("502 for the manifest", lambda r: r.on("PUT", "/manifests/", reply(502))),
    ("the session is forgotten", lambda r: r.on("PATCH", "/uploads/", reply(404))),
    ("no PATCH", lambda r: r.on("PATCH", "/uploads/", reply(405), times=99)),
    ("pieces only", lambda r: r.on("PATCH", "/uploads/", refuse_large, times=99)),
    ("the token is gone in the middle", lambda r: r.on("PATCH", "/uploads/", forget_tokens)),
]


def refuse_large(exchange: Exchange) -> None:
    if int(exchange.handler.headers.get("Content-Length", "0")) > 17_000_000:
        exchange.reply(413)
        exchange.hang_up()
    else:
        exchange.serve()


def forget_tokens(exchange: Exchange) -> None:
    exchange.registry.tokens.clear()
    exchange.serve()


@pytest.mark.parametrize("packed", [True, False], ids=["packed before", "packed on the way"])
@pytest.mark.parametrize(("name", "act"), FAULTS, ids=[name for name, _ in FAULTS])
def test_a_push_survives_faults(
    node: ImageNode, tmp_path: Path, name: str, act: Callable[[FakeRegistry], None], packed: bool
) -> None:
    """F-06, F-26: resumed where the registry says, begun again where it forgot, in the form that it takes."""
    size = 20_000_000 if name == "pieces only" else BIG
    with FakeRegistry(auth="bearer") as registry, FakeRegistry() as elsewhere:
        account = Credentials(registry.username, registry.password)
        text = f"{registry.domain}/team/app:1"
        add_image(node, text, [layer({"a": noise(1, size)})])
        if packed:
            node.pusher.push(text, parse_reference(f"{elsewhere.domain}/x:1"))
        act(registry)
        pushed = node.pusher.push(text, credentials=account)
        assert registry.tags["team/app"] == {"1": pushed.digest}
        assert registry.uploads == {}
        registry._rules.clear()
        other = image_node(tmp_path / "other")
        image = other.puller.pull(parse_reference(text), credentials=account)
        assert other.files(image.layers[0].chain) == {"a": noise(1, size)}


def test_a_cut_upload_is_resumed_and_not_begun_again(node: ImageNode) -> None:
    """F-26: the second PATCH begins where the first was cut."""
    with FakeRegistry() as registry, FakeRegistry() as elsewhere:
        text = f"{registry.domain}/team/app:1"
        add_image(node, text, [layer({"a": noise(1)})])
        node.pusher.push(text, parse_reference(f"{elsewhere.domain}/x:1"))
        registry.on("PATCH", "/uploads/", cut_upload(2_000_000))
        node.pusher.push(text)
        ranges = [
            seen.headers["content-range"].partition("-")[0] for seen in registry.seen("PATCH", "/uploads/")
        ]
        assert ranges == ["0", "2000000"]


@pytest.mark.parametrize("path", ["PATCH", "PUT", "manifest"])
def test_a_push_that_fails_leaves_no_session_and_no_tag(node: ImageNode, path: str) -> None:
    """F-06: upload sessions are cancelled, the tag stays where it was."""
    with FakeRegistry() as registry:
        text = f"{registry.domain}/team/app:1"
        old = registry.add_image("team/app", "1", [layer({"old": b"old"})])
        add_image(node, text, [layer({"a": noise(1)}), layer({"b": noise(2)})])
        if path == "manifest":
            registry.on("PUT", "/manifests/", reply(500), times=99)
        else:
            registry.on(path, "/uploads/", reply(500), times=99)
        with pytest.raises(EngineError) as caught:
            node.pusher.push(text)
        assert "500" in caught.value.message
        assert registry.tags["team/app"] == {"1": old.digest}
        assert registry.uploads == {}
        registry._rules.clear()
        node.pusher.push(text)
        assert registry.tags["team/app"]["1"] != old.digest


def test_a_cancelled_push_ends_in_two_seconds_and_cancels_its_sessions(node: ImageNode) -> None:
    """F-36, F-06."""
    cancel = CancelToken()
    with FakeRegistry() as registry:
        text = f"{registry.domain}/team/app:1"
        add_image(node, text, [layer({"a": noise(1)}), layer({"b": noise(2)})])
        registry.on("PATCH", "/uploads/", lambda exchange: registry.stopping.wait(20) and None, times=9)  # type: ignore[func-returns-value]
        threading.Timer(0.4, cancel.cancel).start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            node.pusher.push(text, cancel=cancel)
        assert time.monotonic() - start < 2.4
        assert registry.count("DELETE", "/uploads/") == 2
        assert registry.uploads == {}
        assert "team/app" not in registry.tags
    assert not list((node.content.ingest_path("").parent).iterdir())


def test_an_upload_location_elsewhere_sees_no_secret(node: ImageNode) -> None:
    """RG-06: upload `Location` on another host."""
    with FakeRegistry() as other, FakeRegistry(auth="basic") as registry:
        account = Credentials(registry.username, registry.password)
        text = f"{registry.domain}/team/app:1"
        add_image(node, text, [layer({"a": noise(1)})])
        other.uploads["s"] = bytearray()
        location = f"{other.url}/v2/team/app/blobs/uploads/s"

        def lead_away(exchange: Exchange) -> None:
            if exchange.handler.headers.get("Authorization"):
                exchange.reply(202, b"", {"Location": location})
            else:
                exchange.serve()

        registry.on("POST", "/uploads/", lead_away, times=99)
        with pytest.raises(EngineError):
            node.pusher.push(text, credentials=account)
        assert other.requests
        assert other.authorizations() == set()


def test_an_upload_location_without_tls_is_not_used(node: ImageNode, tmp_path: Path) -> None:
    """RG-06: TLS downgrade by `Location`."""
    authority = ThrowawayCA(tmp_path)
    with FakeRegistry() as other, FakeRegistry(tls=authority.issue("127.0.0.1")) as registry:
        text = f"{registry.domain}/team/app:1"
        add_image(node, text, [layer({"a": noise(1)})])
        registry.on(
            "POST",
            "/uploads/",
            reply(202, b"", {"Location": f"{other.url}/v2/team/app/blobs/uploads/s"}),
            times=9,
        )
        with pytest.raises(EngineError):
            node.pusher.push(text, settings=RegistrySettings(registry.domain, ca_pem=authority.pem))
        assert other.requests == []


def test_a_blob_damaged_on_disk_is_named(node: ImageNode) -> None:
    with FakeRegistry() as registry:
        text = f"{registry.domain}/team/app:1"
        image = add_image(node, text, [layer({"a": noise(1)})], suffix="+gzip")
        path = node.content.path(image.layers[0].descriptor.digest)
        path.chmod(0o600)
        path.write_bytes(bytes(path.stat().st_size))
        with pytest.raises(Corrupt):
            node.pusher.push(text)
        assert "team/app" not in registry.tags


def test_without_the_right_to_push_the_sentence_says_so(node: ImageNode) -> None:
    denied = reply(
        403, b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}'
    )
    with FakeRegistry(auth="basic") as registry:
        text = f"{registry.domain}/team/app:1"
        add_image(node, text, [layer({"a": b"a"})])
        registry.on("POST", "/uploads/", denied, times=9)
        with pytest.raises(AccessRefused) as caught:
            node.pusher.push(text, credentials=Credentials(registry.username, registry.password))
        assert "does not allow this account" in caught.value.message


def test_what_cannot_be_pushed(node: ImageNode) -> None:
    add_image(node, "team/app:1", [layer({"a": b"a"})])
    with pytest.raises(ImageNotFound):
        node.pusher.push("team/other:1")
    with pytest.raises(BadReference):
        node.pusher.push("team/app:1", parse_reference("team/app@sha256:" + "a" * 64))


def test_a_push_to_what_is_no_registry_or_has_no_such_repository(node: ImageNode) -> None:
    with FakeRegistry() as registry:
        text = f"{registry.domain}/team/app:1"
        add_image(node, text, [layer({"a": b"a"})])
        unknown = reply(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"repository does not exist"}]}')
        registry.on("POST", "/uploads/", unknown, times=9)
        with pytest.raises(ImageNotFound) as caught:
            node.pusher.push(text)
        assert caught.value.message == f"{registry.domain} has no repository team/app to push to"
        registry.on("*", "/", reply(404, b"<html>"), times=99)
        with pytest.raises(NotARegistry):
            node.pusher.push(text)


def test_one_repository_is_not_shown_to_those_who_may_only_pull(node: ImageNode) -> None:
    """A repository that a push is about to make: the question for its tag needs the right to push."""
    with FakeRegistry(auth="bearer") as registry:
        text = f"{registry.domain}/team/app:1"
        add_image(node, text, [layer({"a": b"a"})], suffix="+gzip")
        node.pusher.push(text, credentials=Credentials(registry.username, registry.password))
        assert registry.count("GET", "^/token") == 1
        assert registry.count("GET", "scope=repository%3Ateam%2Fapp%3Apull%2Cpush") == 1

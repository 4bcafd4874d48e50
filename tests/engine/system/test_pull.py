"""Pulling from a registry that is honest, and what a pull shares, remembers and leaves behind."""

from __future__ import annotations

import gzip
import random
import socket
import threading
import time
from pathlib import Path

import pytest
import zstandard

from engine.errors import Cancelled, ImageNotFound, InvalidInput
from engine.images.platforms import parse_platform
from engine.progress import CancelToken, LayerProgress, Message, Report
from engine.reference import Reference, parse_reference
from engine.registry import Timeouts
from tests.support.fake_registry import FakeRegistry, drip, layer, stall_after, wait_for
from tests.support.image_node import ImageNode, image_node

pytestmark = pytest.mark.root

BIG = 600_000


@pytest.fixture
def node(tmp_path: Path) -> ImageNode:
    return image_node(tmp_path / "node")


def noise(seed: int, size: int = BIG) -> bytes:
    return random.Random(seed).randbytes(size)


def name(registry: FakeRegistry, text: str = "team/app:1") -> Reference:
    return parse_reference(f"{registry.domain}/{text}")


def statuses(reports: list[Report]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for report in reports:
        if isinstance(report, LayerProgress) and report.status not in told.setdefault(report.id, [])[-1:]:
            told[report.id].append(report.status)
    return told


def test_a_pulled_image_is_named_unpacked_and_known_by_its_digest(node: ImageNode) -> None:
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({"a": b"1", "b": b"2"}), layer({"a": b"3"})])
        image = node.puller.pull(name(registry))
    assert image.id == made.config_digest
    assert image.names == (f"{registry.domain}/team/app:1",)
    assert image.repo_digests == (f"{registry.domain}/team/app@{made.digest}",)
    assert node.files(image.layers[0].chain) == {"a": b"1", "b": b"2"}
    assert node.files(image.layers[1].chain) == {"a": b"3"}
    assert node.active() == set()


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("", bytes), ("+gzip", gzip.compress), ("+zstd", zstandard.ZstdCompressor().compress)],
    ids=["plain", "gzip", "zstd"],
)
def test_layers_of_every_kind(node: ImageNode, suffix: str, compress: object) -> None:
    with FakeRegistry() as registry:
        registry.add_image("team/app", "1", [layer({"x": noise(1)})], compress=compress, suffix=suffix)  # type: ignore[arg-type]
        image = node.puller.pull(name(registry))
    assert node.files(image.layers[0].chain) == {"x": noise(1)}


def test_an_index_gives_the_image_of_the_platform(node: ImageNode) -> None:
    with FakeRegistry() as registry:
        made = {
            platform: registry.add_image(
                "team/app",
                "",
                [layer({"platform": platform.encode()})],
                architecture=architecture,
                variant=variant,
            )
            for platform, architecture, variant in [
                ("linux/amd64", "amd64", ""),
                ("linux/arm64/v8", "arm64", "v8"),
                ("linux/arm/v6", "arm", "v6"),
                ("linux/arm/v5", "arm", "v5"),
            ]
        }
        index = registry.add_index(
            "team/app", "1", [(image.digest, platform) for platform, image in made.items()]
        )
        for asked, expected in [
            ("amd64", "linux/amd64"),
            ("linux/arm64", "linux/arm64/v8"),
            ("arm/v7", "linux/arm/v6"),
        ]:
            image = node.puller.pull(name(registry), platform=parse_platform(asked))
            assert image.id == made[expected].config_digest
            assert f"{registry.domain}/team/app@{index}" in image.repo_digests
        with pytest.raises(ImageNotFound) as caught:
            node.puller.pull(name(registry), platform=parse_platform("linux/s390x"))
        assert "linux/arm64/v8" in caught.value.hint


def test_a_platform_that_is_not_there_is_refused_or_noted(node: ImageNode) -> None:
    reports: list[Report] = []
    with FakeRegistry() as registry:
        registry.add_image("team/app", "1", [layer({"x": b"x"})], architecture="riscv64")
        with pytest.raises(ImageNotFound):
            node.puller.pull(name(registry), platform=parse_platform("linux/amd64"))
        node.puller.pull(name(registry), report=reports.append)
    assert any("riscv64" in report.text for report in reports if isinstance(report, Message))


def test_a_second_pull_asks_one_question(node: ImageNode) -> None:
    reports: list[Report] = []
    with FakeRegistry() as registry:
        registry.add_image("team/app", "1", [layer({"x": noise(1)})])
        first = node.puller.pull(name(registry))
        registry.forget_requests()
        assert node.puller.pull(name(registry), report=reports.append) == first
        assert [(seen.method, seen.path) for seen in registry.requests] == [
            ("HEAD", "/v2/team/app/manifests/1")
        ]
    assert [list(told) for told in statuses(reports).values()] == [["exists"]]


def test_a_pull_by_digest_that_is_here_asks_nothing(node: ImageNode) -> None:
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({"x": b"x"})])
        by_digest = name(registry, f"team/app@{made.digest}")
        image = node.puller.pull(by_digest)
        registry.forget_requests()
        assert node.puller.pull(by_digest).id == image.id
        assert registry.requests == []
    assert image.names == ()


def test_a_moved_tag_takes_the_name_along(node: ImageNode) -> None:
    with FakeRegistry() as registry:
        registry.add_image("team/app", "1", [layer({"x": b"old"})])
        old = node.puller.pull(name(registry))
        registry.add_image("team/app", "1", [layer({"x": b"new"})])
        new = node.puller.pull(name(registry))
    assert new.id != old.id
    assert node.images.get(old.id).names == ()
    assert node.images.resolve(str(name(registry))).id == new.id


def test_layers_that_are_here_are_not_fetched(node: ImageNode) -> None:
    reports: list[Report] = []
    base, top = layer({"base": noise(1)}), layer({"top": b"2"})
    with FakeRegistry() as registry:
        below = registry.add_image("team/base", "1", [base])
        node.puller.pull(name(registry, "team/base:1"))
        made = registry.add_image("team/app", "1", [base, top])
        node.puller.pull(name(registry), report=reports.append)
        assert registry.count("GET", below.layer_digests[0]) == 1
        assert registry.count("GET", made.layer_digests[1]) == 1
    assert statuses(reports)[below.layer_digests[0][7:19]][-1] == "exists"


def test_an_image_with_the_same_layer_twice_and_one_without_any(node: ImageNode) -> None:
    same = layer({"x": b"x"})
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [same, layer({"y": b"y"}), same])
        assert len(node.puller.pull(name(registry)).layers) == 3
        assert registry.count("GET", made.layer_digests[0]) == 1
        registry.add_image("team/empty", "1", [])
        assert node.puller.pull(name(registry, "team/empty:1")).chain is None


def test_progress_tells_every_state_and_exact_bytes(node: ImageNode) -> None:
    reports: list[Report] = []
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({f"f{n}": noise(n, 4000) for n in range(300)})])
        node.puller.pull(name(registry), report=reports.append)
        size = len(registry.blobs[made.layer_digests[0]])
    told = statuses(reports)[made.layer_digests[0][7:19]]
    assert told[0] == "waiting"
    assert [status for status in told if status in ("downloading", "verifying", "done")] == [
        "downloading",
        "verifying",
        "done",
    ]
    layers = [report for report in reports if isinstance(report, LayerProgress)]
    assert {report.total for report in layers} == {size}
    assert max(report.current for report in layers) == size
    assert isinstance(reports[-1], Message)
    assert reports[-1].text == f"Status: Downloaded newer image for {name(registry).familiar()}"


def test_a_pull_of_all_tags_brings_each(node: ImageNode) -> None:
    with FakeRegistry() as registry:
        for tag in ("1", "2", "3"):
            registry.add_image("team/app", tag, [layer({"tag": tag.encode()})])
        images = node.puller.pull_all(name(registry, "team/app"))
    assert [image.names for image in images] == [(f"{registry.domain}/team/app:{tag}",) for tag in "123"]


def test_several_layers_are_fetched_at_once(node: ImageNode) -> None:
    gate = threading.Event()
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({str(n): noise(n, 1000)}) for n in range(3)])
        for digest in made.layer_digests:
            registry.on("GET", digest, wait_for(gate))
        puller = threading.Thread(target=node.puller.pull, args=(name(registry),))
        puller.start()
        deadline = time.monotonic() + 5
        while registry.count("GET", "/blobs/") < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert registry.count("GET", "/blobs/") == 4  # the config and three layers
        gate.set()
        puller.join()


def test_two_pulls_share_one_download(tmp_path: Path) -> None:
    """Two workers are two openings of the same stores: the lock is in the file system."""
    gate = threading.Event()
    shared = layer({"x": noise(1)})
    with FakeRegistry() as registry:
        first = registry.add_image("team/app", "1", [shared])
        registry.add_image("team/other", "1", [shared, layer({"y": b"y"})])
        registry.on("GET", first.layer_digests[0], wait_for(gate))
        nodes = [image_node(tmp_path / "node") for _ in range(3)]
        texts = ["team/app:1", "team/other:1", "team/app:1"]
        images: list[str] = []

        def pull(node: ImageNode, text: str) -> None:
            images.append(node.puller.pull(name(registry, text)).id)

        threads = [threading.Thread(target=pull, args=pair) for pair in zip(nodes, texts, strict=True)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        gate.set()
        for thread in threads:
            thread.join()
        assert len(images) == 3
        assert registry.count("GET", first.layer_digests[0]) == 1
    assert nodes[0].active() == set()


@pytest.mark.parametrize("where", ["manifest", "first bytes", "one byte a second", "backoff"])
def test_a_cancel_ends_a_pull_in_two_seconds(node: ImageNode, where: str) -> None:
    """F-36: and nothing half-made is left."""
    cancel = CancelToken()
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({"x": noise(1)}), layer({"y": noise(2)})])
        if where == "manifest":
            registry.on("HEAD", "/manifests/", wait_for(registry.stopping))
        elif where == "first bytes":
            registry.on("GET", made.layer_digests[1], stall_after(1000))
        elif where == "one byte a second":
            registry.on("GET", made.layer_digests[0], drip(5))
        else:
            registry.on(
                "GET", made.layer_digests[0], lambda exchange: exchange.reply(429, b"", {"Retry-After": "30"})
            )
        threading.Timer(0.4, cancel.cancel).start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            node.puller.pull(name(registry), cancel=cancel)
        assert time.monotonic() - start < 2.4
    assert node.images.list() == []
    assert node.active() == set()
    with node.content.leases.collecting() as held:
        assert held == set()


def test_a_cancel_ends_a_tls_handshake_that_nobody_answers(tmp_path: Path) -> None:
    """F-36: a port that accepts connections and then says nothing."""
    cancel = CancelToken()
    node = image_node(tmp_path / "node", timeouts=Timeouts(connect_s=30, read_s=30))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Timer(0.3, cancel.cancel).start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            node.puller.pull(parse_reference(f"127.0.0.1:{silent.getsockname()[1]}/a:1"), cancel=cancel)
        assert time.monotonic() - start < 2.3


def test_a_cancel_ends_the_unpacking_of_a_large_layer(node: ImageNode) -> None:
    """F-36: many small files, all of them here already, so that only the unpacking is left."""
    cancel = CancelToken()
    files = {f"d{number % 100}/f{number}": b"x" for number in range(60_000)}
    with FakeRegistry() as registry:
        registry.add_image("team/app", "1", [layer(files)])

        def watch(report: Report) -> None:
            if isinstance(report, LayerProgress) and report.status == "extracting":
                threading.Timer(0.2, cancel.cancel).start()

        with pytest.raises(Cancelled):
            node.puller.pull(name(registry), cancel=cancel, report=watch)
    assert node.images.list() == []
    assert node.layers() == node.active() == set()


def test_a_cancel_ends_the_wait_for_anothers_download(node: ImageNode) -> None:
    """F-36: and the other pull is none the worse for it."""
    cancel, release = CancelToken(), threading.Event()
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({"x": noise(1)})])
        registry.on("GET", made.layer_digests[0], wait_for(release))
        done: list[str] = []
        first = threading.Thread(target=lambda: done.append(node.puller.pull(name(registry)).id))
        first.start()
        while registry.count("GET", made.layer_digests[0]) == 0:
            time.sleep(0.01)
        threading.Timer(0.3, cancel.cancel).start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            node.puller.pull(name(registry), cancel=cancel)
        assert time.monotonic() - start < 2.3
        release.set()
        first.join(10)
    assert done == [made.config_digest]


def test_a_failed_pull_keeps_what_it_verified_and_the_next_goes_on(node: ImageNode) -> None:
    """F-26: resume by Range, also between two pulls."""
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({"x": b"x"}), layer({"y": noise(2)})])
        cancel = CancelToken()
        registry.on("GET", made.layer_digests[1], stall_after(200_000))
        threading.Timer(0.4, cancel.cancel).start()
        with pytest.raises(Cancelled):
            node.puller.pull(name(registry), cancel=cancel)
        assert made.layer_digests[0] in node.blobs()
        registry.forget_requests()
        node.puller.pull(name(registry))
        assert registry.count("GET", made.layer_digests[0]) == 0
        assert [seen.headers.get("range") for seen in registry.seen("GET", made.layer_digests[1])] == [
            "bytes=200000-"
        ]


def test_a_blob_damaged_on_disk_is_fetched_again(node: ImageNode) -> None:
    """F-25: a pull heals what it finds broken."""
    with FakeRegistry() as registry:
        made = registry.add_image("team/app", "1", [layer({"x": noise(1)})])
        image = node.puller.pull(name(registry))
        node.images.remove(image.id, force=True)
        damaged = registry.blobs[made.layer_digests[0]]
        path = node.content.path(node.content.put(damaged).digest)
        path.chmod(0o600)
        path.write_bytes(damaged[:1000] + b"\0" * (len(damaged) - 1000))
        image = node.puller.pull(name(registry))
        assert node.files(image.layers[0].chain) == {"x": noise(1)}
        assert node.content.verify(image.layers[0].descriptor.digest)


def test_what_is_no_container_image_is_said_so(node: ImageNode) -> None:
    def chart(manifest: dict[str, object]) -> None:
        manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"  # type: ignore[index]

    with FakeRegistry() as registry:
        registry.add_image("team/chart", "1", [layer({"x": b"x"})], change=chart)
        with pytest.raises(Exception, match=r"no container image but 'application/vnd.cncf.helm") as caught:
            node.puller.pull(name(registry, "team/chart:1"))
    assert caught.value.code == "unsupported"  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["linux/amd64/v1/x", "", "../x", "linux/", "AMD 64"])
def test_a_malformed_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_platform(text)

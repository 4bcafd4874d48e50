"""Pushing an image with all its platforms: byte for byte, the index last, and one sentence for what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import ImageNotFound, InvalidInput
from engine.images.model import Image
from engine.images.platforms import parse_platform
from engine.layers.compression import Compression
from engine.progress import Message, Report
from engine.reference import parse_reference
from tests.support.fake_registry import OCI_INDEX, FakeRegistry, layer, reply
from tests.support.image_node import ImageNode, image_node

pytestmark = pytest.mark.root

PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7")


@pytest.fixture
def node(tmp_path: Path) -> ImageNode:
    return image_node(tmp_path / "node")


@pytest.fixture
def source() -> Iterator[FakeRegistry]:
    """A registry with `team/app:1` for three platforms; the layer of one is not packed."""
    with FakeRegistry() as registry:
        entries = []
        for platform in PLATFORMS:
            _, architecture, *variant = platform.split("/")
            packed = {"compress": bytes, "suffix": ""} if architecture == "arm64" else {}
            made = registry.add_image(
                "team/app", "", [layer({"p": platform.encode() * 1000})],
                architecture=architecture, variant=(variant or [""])[0], **packed,
            )  # fmt: skip
            entries.append((made.digest, platform))
        registry.add_index("team/app", "1", entries, annotations={"kept": "as it is"})
        yield registry


def pull(node: ImageNode, source: FakeRegistry, *platforms: str) -> Image:
    reference = parse_reference(f"{source.domain}/team/app:1")
    return [node.puller.pull(reference, platform=parse_platform(text)) for text in platforms][-1]


@pytest.mark.parametrize("order", [PLATFORMS, PLATFORMS[::-1]])
def test_the_index_and_all_its_images_arrive_byte_for_byte(
    node: ImageNode, source: FakeRegistry, order: tuple[str, ...]
) -> None:
    image = pull(node, source, *order)
    told: list[Report] = []
    with FakeRegistry() as target:
        reference = parse_reference(f"{target.domain}/other/app:2")
        pushed = node.pusher.push(image.id, reference, all_platforms=True, report=told.append)
        index = source.tags["team/app"]["1"]
        assert target.tags["other/app"] == {"2": index} == {"2": pushed.digest}
        for key, document in source.manifests.items():
            assert target.manifests[key.replace("team/app", "other/app")] == document
        assert set(target.blobs) == set(source.blobs)
        puts = target.seen("PUT", "/manifests/")
        assert len(puts) == 4
        assert puts[-1].path.endswith("/manifests/2")
        assert [m.text for m in told if isinstance(m, Message)] == [f"2: digest: {index} size: {pushed.size}"]
        for platform in PLATFORMS:  # and it can be pulled again, for each of them
            other = image_node(node.content.root.parent.parent / platform.replace("/", "-"))
            again = other.puller.pull(reference, platform=parse_platform(platform))
            assert again.config.platform == parse_platform(platform)


def test_what_is_missing_is_said_before_anything_is_sent(node: ImageNode, source: FakeRegistry) -> None:
    image = pull(node, source, "linux/amd64")
    with FakeRegistry() as target:
        reference = parse_reference(f"{target.domain}/other/app:2")
        with pytest.raises(ImageNotFound) as caught:
            node.pusher.push(image.id, reference, all_platforms=True)
        assert caught.value.message == (
            f"the index of {reference.familiar()} also needs linux/arm64, linux/arm/v7, which this node does not have"
        )
        assert "pull the image for each" in caught.value.hint
        assert target.blobs == target.manifests == target.uploads == {}


def test_what_the_registry_has_already_need_not_be_here(node: ImageNode, source: FakeRegistry) -> None:
    image = pull(node, source, "linux/amd64")
    reference = parse_reference(f"{source.domain}/team/app:stable")
    node.pusher.push(image.id, reference, all_platforms=True)
    assert source.tags["team/app"]["stable"] == source.tags["team/app"]["1"]
    assert source.count("POST", "/uploads/") == 0


def test_an_index_that_is_there_is_not_sent_again(node: ImageNode, source: FakeRegistry) -> None:
    image = pull(node, source, *PLATFORMS)
    source.requests.clear()
    node.pusher.push(image.names[0], all_platforms=True)
    assert [seen.method for seen in source.requests] == ["HEAD"]


def test_a_failing_image_leaves_no_tag(node: ImageNode, source: FakeRegistry) -> None:
    image = pull(node, source, *PLATFORMS)
    with FakeRegistry() as target:
        target.on("PUT", "/uploads/", reply(403, b"{}"), times=99)
        with pytest.raises(Exception, match=r"allow|login"):
            node.pusher.push(image.id, parse_reference(f"{target.domain}/a:1"), all_platforms=True)
        assert target.tags == {}
        assert target.uploads == {}


def test_an_image_that_came_alone_has_no_index(node: ImageNode) -> None:
    with FakeRegistry() as registry:
        registry.add_image("team/app", "1", [layer({"a": b"1"})])
        image = node.puller.pull(parse_reference(f"{registry.domain}/team/app:1"))
        with pytest.raises(InvalidInput, match="not pulled as one of several platforms"):
            node.pusher.push(image.id, parse_reference(f"{registry.domain}/b:1"), all_platforms=True)


def test_an_index_is_never_packed_otherwise(node: ImageNode, source: FakeRegistry) -> None:
    image = pull(node, source, "linux/amd64")
    with pytest.raises(InvalidInput, match="as it is"):
        node.pusher.push(image.names[0], all_platforms=True, compression=Compression.ZSTD)


def test_the_index_goes_with_the_last_image_that_it_names(node: ImageNode, source: FakeRegistry) -> None:
    image = pull(node, source, "linux/amd64")
    index = source.tags["team/app"]["1"]
    assert json.loads(node.content.read(index))["mediaType"] == OCI_INDEX  # type: ignore[arg-type]
    node.images.collect(0)
    assert node.content.has(index)  # type: ignore[arg-type]
    node.images.remove(image.id, force=True)
    node.images.collect(0)
    assert node.blobs() == set()

"""RG-10: a protected name stays with its image, whichever door somebody tries to move it through."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from engine.images.archive import import_root, load, save
from engine.images.protection import ProtectedName, fits
from engine.reference import parse_reference
from tests.support import tars
from tests.support.fake_registry import FakeRegistry, layer
from tests.support.image_node import image_node
from tests.support.stores import Stores, add_image, open_stores

pytestmark = pytest.mark.root

OLD = tars.archive(tars.member("old", data=b"old"))
NEW = tars.archive(tars.member("new", data=b"new"))
FULL = "docker.io/team/app:1"


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    stores = open_stores(tmp_path / "home")
    add_image(stores, OLD, name="team/app:1")
    stores.images.protection.replace([FULL], 1)
    return stores


def archive_with(folder: Path, name: str, *more: str) -> io.BytesIO:
    """Return an archive in which another image has `name`."""
    other = open_stores(folder / "other")
    for number, extra in enumerate(more):
        add_image(other, tars.archive(tars.member(f"x{number}", data=b"x")), name=extra)
    add_image(other, NEW, name=name)
    out = io.BytesIO()
    save(other.images, [*more, name], out)
    return io.BytesIO(out.getvalue())


def by_load(stores: Stores, folder: Path) -> None:
    load(stores.images, archive_with(folder, "team/app:1"))


def by_import(stores: Stores, folder: Path) -> None:
    import_root(stores.images, io.BytesIO(NEW), names=[parse_reference("team/app:1")])


def by_tag(stores: Stores, folder: Path) -> None:
    other = add_image(stores, NEW, name="other:1")
    stores.images.tag(other.id, "team/app:1")


def by_build(stores: Stores, folder: Path) -> None:
    add_image(stores, NEW, name="team/app:1", action="build")


def by_commit(stores: Stores, folder: Path) -> None:
    add_image(stores, NEW, name="team/app:1", action="commit")


def by_untag(stores: Stores, folder: Path) -> None:
    stores.images.untag("team/app:1")


def by_removal(stores: Stores, folder: Path) -> None:
    stores.images.remove("team/app:1")


def by_forced_removal_of_the_id(stores: Stores, folder: Path) -> None:
    stores.images.remove(stores.images.resolve("team/app:1").id, force=True)


def by_removal_beside_another_name(stores: Stores, folder: Path) -> None:
    stores.images.tag("team/app:1", "second:1")
    stores.images.remove("team/app:1")


DOORS = [
    by_load,
    by_import,
    by_tag,
    by_build,
    by_commit,
    by_untag,
    by_removal,
    by_forced_removal_of_the_id,
    by_removal_beside_another_name,
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_protected_name_stays_where_it_is(
    stores: Stores, tmp_path: Path, door: Callable[[Stores, Path], None]
) -> None:
    before = stores.images.resolve("team/app:1")
    with pytest.raises(ProtectedName, match="the name team/app:1 is protected and cannot be") as refused:
        door(stores, tmp_path)
    assert "administrator" in refused.value.hint
    assert stores.images.resolve("team/app:1").id == before.id


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_without_protection_the_same_doors_are_open(
    stores: Stores, tmp_path: Path, door: Callable[[Stores, Path], None]
) -> None:
    before = stores.images.resolve("team/app:1")
    stores.images.protection.replace([], 2)
    door(stores, tmp_path)
    found = stores.images.find("team/app:1")
    assert found is None or found.id != before.id


def test_a_pull_is_refused_before_any_layer_is_fetched(tmp_path: Path) -> None:
    node = image_node(tmp_path / "node")
    with FakeRegistry() as registry:
        reference = parse_reference(f"{registry.domain}/team/app:1")
        registry.add_image("team/app", "1", [layer({"a": b"1"})])
        first = node.puller.pull(reference)
        node.images.protection.replace([str(reference)], 1)
        assert node.puller.pull(reference).id == first.id  # nothing moves: up to date
        moved = registry.add_image("team/app", "1", [layer({"a": b"2"})])
        fetched = registry.count("GET", "/blobs/")
        with pytest.raises(ProtectedName, match="cannot be moved"):
            node.puller.pull(reference)
        assert registry.count("GET", "/blobs/") == fetched
        assert node.images.resolve(str(reference)).id == first.id
        by_digest = node.puller.pull(parse_reference(f"{registry.domain}/team/app@{moved.digest}"))
    assert by_digest.names == ()


def test_an_archive_with_one_protected_name_is_refused_whole(stores: Stores, tmp_path: Path) -> None:
    blobs, layers = stores.blobs(), stores.layers()
    with pytest.raises(ProtectedName):
        load(stores.images, archive_with(tmp_path, "team/app:1", "free:1", "free:2"))
    assert [image.familiar_names() for image in stores.images.list()] == [["team/app:1"]]
    assert stores.blobs() == blobs
    assert stores.layers() == layers


def test_a_prune_spares_images_with_a_protected_name(stores: Stores) -> None:
    add_image(stores, NEW, name="free:1")
    removed = stores.images.prune("unused").removed
    assert {"untagged": "free:1"} in removed
    assert [image.familiar_names() for image in stores.images.list()] == [["team/app:1"]]


def test_a_name_that_nobody_has_may_be_given_once(stores: Stores) -> None:
    stores.images.protection.replace(["docker.io/team/*:prod"], 2)
    first = add_image(stores, NEW, name="team/web:prod")
    assert add_image(stores, NEW, name="team/web:prod").id == first.id
    with pytest.raises(ProtectedName):
        add_image(stores, OLD, name="team/web:prod")


def test_an_older_list_does_not_replace_a_newer_one(stores: Stores) -> None:
    assert stores.images.protection.replace(["docker.io/team/*:*"], 7)
    assert not stores.images.protection.replace([], 6)
    assert not stores.images.protection.replace([], 7)
    assert stores.images.protection.patterns() == ["docker.io/team/*:*"]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        (FULL, FULL, True),
        (FULL, "docker.io/team/app:11", False),
        ("docker.io/team/app:*", "docker.io/team/app:latest", True),
        ("docker.io/team/app:*", "docker.io/team/app2:latest", False),
        ("docker.io/team/*:prod", "docker.io/team/app:prod", True),
        ("docker.io/team/*:prod", "docker.io/team/app/sub:prod", False),
        ("docker.io/team/*:prod", "docker.io/team/app:prod2", False),
        ("docker.io/team/a.p:1", "docker.io/team/axp:1", False),
        ("docker.io/*/app:1-*", "docker.io/library/app:1-slim", True),
    ],
)
def test_a_star_stands_for_one_part(pattern: str, name: str, expected: bool) -> None:
    assert fits(pattern, name) is expected


@pytest.mark.parametrize("pattern", ["", "a b", "a@sha256:1", "x" * 301, "a\n", "(a+)+"])
def test_what_is_no_pattern_is_refused(stores: Stores, pattern: str) -> None:
    with pytest.raises(InvalidInput):
        stores.images.protection.replace([pattern], 9)
    assert stores.images.protection.patterns() == [FULL]

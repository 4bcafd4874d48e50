"""Images: what they are called, what they are made of, who may remove them, and what stays on disk."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from engine.digest import Digest, digest_bytes
from engine.errors import BadDigest, BadReference, ImageNotFound, InUse, InvalidInput, NotFound
from engine.images.model import Image, created_at
from engine.images.unpack import commit_layer
from engine.oci import ContainerConfig, Descriptor, History, ImageConfig, Manifest
from engine.oci import media_types as mt
from engine.progress import CancelToken
from engine.reference import parse_reference
from tests.support import tars
from tests.support.stores import Stores, add_image, open_stores, unpack_layers

pytestmark = pytest.mark.root

BASE = tars.archive(
    tars.folder("etc"), tars.member("etc/a", data=b"one"), tars.member("big", data=bytes(10_000))
)
TOP = tars.archive(tars.member("etc/b", data=b"two"), tars.member(".wh.big"))
OTHER = tars.archive(tars.member("other", data=b"x" * 500))


@pytest.fixture
def users() -> dict[str, list[str]]:
    return {}


@pytest.fixture
def running() -> dict[str, list[str]]:
    return {}


@pytest.fixture
def stores(tmp_path: Path, users: dict[str, list[str]], running: dict[str, list[str]]) -> Stores:
    def users_of(image_id: str) -> list[str]:
        return users.get(image_id, []) + running.get(image_id, [])

    return open_stores(
        tmp_path / "home", users_of=users_of, running_users_of=lambda image_id: running.get(image_id, [])
    )


# adding and finding


def test_an_added_image_is_found_by_all_its_names(stores: Stores) -> None:
    image = add_image(stores, BASE, TOP, name="team/app:1")
    assert image.familiar_names() == ["team/app:1"]
    assert image.size == 10_006
    assert image.chain in stores.layers()
    for text in (
        "team/app:1",
        "docker.io/team/app:1",
        image.id,
        image.id[7:],
        image.id[7:19],
        "sha256:" + image.id[7:15],
        image.manifest.digest,
    ):
        assert stores.images.resolve(text).id == image.id
    assert [found.id for found in stores.images.list()] == [image.id]


def test_adding_the_same_image_twice_is_one_image_with_both_names(stores: Stores) -> None:
    first = add_image(stores, BASE, name="a")
    second = add_image(stores, BASE, name="b")
    assert first.id == second.id
    assert stores.images.get(first.id).familiar_names() == ["a:latest", "b:latest"]


def test_a_name_goes_before_the_beginning_of_an_id(stores: Stores) -> None:
    first = add_image(stores, BASE, name="x")
    second = add_image(stores, TOP)
    stores.images.tag(second.id, first.id[7:13])
    assert stores.images.resolve(first.id[7:13]).id == second.id


def test_what_is_not_here_is_not_found(stores: Stores) -> None:
    add_image(stores, BASE, name="app")
    for text in (
        "nothing",
        "app:2",
        "app@sha256:" + "0" * 64,
        "sha256:" + "0" * 64,
        "0" * 64,
        "fffffffffff",
        "sha256:ffff",
    ):
        with pytest.raises(ImageNotFound):
            stores.images.resolve(text)
        assert stores.images.find(text) is None
    with pytest.raises(ImageNotFound, match="no such image: other:3"):
        stores.images.resolve("other:3")


def test_a_beginning_that_fits_several_ids_is_refused(stores: Stores) -> None:
    ids = set()
    for index in range(40):
        ids.add(add_image(stores, BASE, created=f"2026-01-01T00:00:{index:02}Z").id)
    twice = next(a for a in "0123456789abcdef" if len([i for i in ids if i[7] == a]) > 1)
    with pytest.raises(InvalidInput, match="several"):
        stores.images.resolve(twice)


@pytest.mark.parametrize("text", ["UPPER", "a b", "", "-x", "a:b:c", "../etc", "sha256:"])
def test_what_is_no_reference_is_refused(stores: Stores, text: str) -> None:
    with pytest.raises((BadReference, ImageNotFound)):
        stores.images.resolve(text)


def test_an_image_is_found_by_its_digest_in_a_repository(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app")
    reference = parse_reference(f"registry.test/app@{image.manifest.digest}")
    stores.images.add_repo_digest(image.id, reference)
    found = stores.images.resolve(f"registry.test/app:any@{image.manifest.digest}")
    assert found.repo_digests == (f"registry.test/app@{image.manifest.digest}",)


def documents(*layers: Descriptor, diff_ids: tuple[Digest, ...]) -> tuple[bytes, bytes]:
    config = ImageConfig("amd64", diff_ids=diff_ids).to_bytes()
    manifest = Manifest(Descriptor(mt.OCI_CONFIG, digest_bytes(config), len(config)), layers)
    return manifest.to_bytes(), config


def test_documents_that_do_not_fit_together_are_refused(stores: Stores) -> None:
    layer = Descriptor(mt.OCI_LAYER, digest_bytes(BASE), len(BASE))
    manifest, config = documents(layer, diff_ids=(digest_bytes(BASE),))
    with pytest.raises(NotFound, match="missing"):
        stores.images.add(manifest, config)
    stores.content.put(BASE)
    with pytest.raises(BadDigest):
        stores.images.add(manifest, config + b" ")
    manifest, config = documents(layer, diff_ids=())
    with pytest.raises(InvalidInput, match="layers"):
        stores.images.add(manifest, config)
    assert stores.images.list() == []


def test_an_image_whose_blobs_are_gone_is_healed_by_adding_it_again(stores: Stores) -> None:
    """F-24: re-pull heals."""
    image = add_image(stores, BASE, name="app")
    stores.content.remove(image.layers[0].descriptor.digest)
    blob = stores.content.put(BASE)
    manifest, config = documents(
        Descriptor(mt.OCI_LAYER, blob.digest, blob.size), diff_ids=(digest_bytes(BASE),)
    )
    config = stores.images.config_bytes(image.id)
    manifest = Manifest(
        Descriptor(mt.OCI_CONFIG, image.id, len(config)), (Descriptor(mt.OCI_LAYER, blob.digest, blob.size),)
    ).to_bytes()
    again = stores.images.add(manifest, config)
    assert again.id == image.id
    assert again.layers[0].descriptor.digest == blob.digest
    assert again.familiar_names() == ["app:latest"]


# names


def test_a_tag_moves_and_its_old_image_stays(stores: Stores, users: dict[str, list[str]]) -> None:
    """An image that a container was made from is never lost by a new tag."""
    old, new = add_image(stores, BASE, name="app"), add_image(stores, TOP, name="new")
    users[old.id] = ["web"]
    stores.images.tag("new", "app")
    assert stores.images.resolve("app").id == new.id
    assert stores.images.get(old.id).is_dangling
    assert ("untag", "app:latest") in stores.told()
    assert ("tag", "app:latest") in stores.told()


def test_tagging_twice_tells_nothing_new(stores: Stores) -> None:
    add_image(stores, BASE, name="app")
    assert stores.images.tag("app", "app").familiar_names() == ["app:latest"]


def test_a_digest_cannot_be_a_tag(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app")
    with pytest.raises(BadReference):
        stores.images.tag("app", f"x@{image.manifest.digest}")


def test_untag_leaves_the_image(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app")
    assert stores.images.untag("app").is_dangling
    assert stores.images.get(image.id).size == image.size
    with pytest.raises(BadReference):
        stores.images.untag(image.id)


def test_every_change_carries_the_record(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app", action="build")
    stores.images.tag("app", "other")
    stores.images.remove("app")
    stores.images.remove("other")
    events = [event for event in stores.events() if event.type == "image"]
    assert [event.action for event in events] == ["build", "tag", "tag", "untag", "untag", "delete"]
    assert {event.subject for event in events} == {image.id}
    assert [event.attributes["record"]["names"] for event in events if event.action == "tag"][-1] == [
        "docker.io/library/app:latest",
        "docker.io/library/other:latest",
    ]
    assert events[-1].attributes["record"] is None


# removing


def test_removing_the_last_name_removes_the_image_and_its_bytes(stores: Stores) -> None:
    image = add_image(stores, BASE, TOP, name="app")
    lines = stores.images.remove("app")
    assert lines[0] == {"untagged": "app:latest"}
    assert {"deleted": image.id} in lines
    assert {"deleted": image.layers[0].diff_id} in lines
    assert (stores.blobs(), stores.layers(), stores.images.list()) == (set(), set(), [])


def test_removing_one_of_two_names_only_untags(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app")
    stores.images.tag("app", "other")
    assert stores.images.remove("app") == [{"untagged": "app:latest"}]
    assert stores.images.resolve("other").id == image.id


def test_removing_keeps_layers_of_other_images(stores: Stores) -> None:
    first = add_image(stores, BASE, TOP, name="first")
    second = add_image(stores, BASE, OTHER, name="second")
    stores.images.remove("first")
    assert stores.layers() == {layer.chain for layer in second.layers}
    assert first.layers[1].descriptor.digest not in stores.blobs()
    assert second.layers[0].descriptor.digest in stores.blobs()


def test_removing_by_id_with_names_in_two_repositories_needs_force(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app:1")
    stores.images.tag(image.id, "app:2")
    stores.images.tag(image.id, "other")
    with pytest.raises(InUse, match="several repositories"):
        stores.images.remove(image.id)
    lines = stores.images.remove(image.id, force=True)
    assert [line["untagged"] for line in lines if "untagged" in line] == ["app:1", "app:2", "other:latest"]


def test_removing_by_id_takes_all_names_of_one_repository(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app:1")
    stores.images.tag(image.id, "app:2")
    stores.images.remove(image.id[7:19])
    assert stores.images.list() == []


def test_an_image_in_use_stays_and_says_by_whom(stores: Stores, users: dict[str, list[str]]) -> None:
    image = add_image(stores, BASE, name="app")
    users[image.id] = ["web"]
    for text in ("app", image.id):
        with pytest.raises(InUse, match="container web") as caught:
            stores.images.remove(text)
        assert caught.value.context["users"] == ["web"]
    stores.images.remove("app", force=True)
    assert stores.images.list() == []


def test_a_running_container_keeps_its_image_even_from_force(
    stores: Stores, running: dict[str, list[str]]
) -> None:
    image = add_image(stores, BASE, name="app")
    running[image.id] = ["web"]
    with pytest.raises(InUse, match="running container web"):
        stores.images.remove(image.id, force=True)
    assert stores.images.remove("app", force=True) == [{"untagged": "app:latest"}]
    assert stores.images.get(image.id).is_dangling


def test_removing_a_forced_image_keeps_the_layers_of_its_container(
    stores: Stores, users: dict[str, list[str]]
) -> None:
    """F-07: a container stands on its layers, whatever happens to the image."""
    image = add_image(stores, BASE, TOP, name="app")
    users[image.id] = ["web"]
    stores.snapshots.prepare("web", image.chain)
    stores.images.remove("app", force=True)
    assert stores.layers() == {layer.chain for layer in image.layers}
    stores.snapshots.remove("web")
    stores.images.collect(0)
    assert stores.layers() == set()


def test_the_digests_of_a_repository_go_with_its_last_tag(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app:1")
    stores.images.tag(image.id, "keep")
    stores.images.add_repo_digest(image.id, parse_reference(f"app@{image.manifest.digest}"))
    lines = stores.images.remove("app:1")
    assert lines == [{"untagged": "app:1"}, {"untagged": f"app@{image.manifest.digest}"}]


# prune and collect


def test_prune_removes_dangling_images_only(stores: Stores, users: dict[str, list[str]]) -> None:
    named, dangling, used = (
        add_image(stores, BASE, name="app"),
        add_image(stores, TOP),
        add_image(stores, OTHER),
    )
    users[used.id] = ["web"]
    result = stores.images.prune()
    assert {"deleted": dangling.id} in result.removed
    assert result.reclaimed > 0
    assert {image.id for image in stores.images.list()} == {named.id, used.id}


def test_prune_of_the_unused_spares_what_is_used_young_or_spared(
    stores: Stores, users: dict[str, list[str]]
) -> None:
    used = add_image(stores, BASE, name="used", created="2020-01-01T00:00:00Z")
    young = add_image(stores, TOP, name="young", created="2999-01-01T00:00:00Z")
    spared = add_image(stores, OTHER, name="spared", created="2020-01-01T00:00:00Z")
    add_image(stores, BASE, TOP, name="old", created="2020-01-01T00:00:00Z")
    users[used.id] = ["web"]
    stores.images.prune("unused", older_than_s=3600, match=lambda image: image.id != spared.id)
    assert {image.id for image in stores.images.list()} == {used.id, young.id, spared.id}


def test_an_unknown_kind_of_prune_is_refused(stores: Stores) -> None:
    with pytest.raises(InvalidInput):
        stores.images.prune("everything")


def test_collect_frees_what_nothing_needs_and_keeps_roots_leases_and_the_young(stores: Stores) -> None:
    """F-07."""
    image = add_image(stores, BASE, name="app")
    garbage, rooted, leased = (stores.content.put(data).digest for data in (b"garbage", b"rooted", b"leased"))
    unpack_layers(stores, [OTHER, TOP])
    cached = unpack_layers(stores, [TOP])
    stores.images.roots.append(lambda: [rooted, cached])
    assert stores.images.collect() == 0
    with stores.content.lease("pull") as lease:
        lease.add(leased)
        stores.images.collect(0)
    assert stores.blobs() == {
        image.id,
        image.manifest.digest,
        image.layers[0].descriptor.digest,
        rooted,
        leased,
    }
    assert stores.layers() == {image.chain, cached}
    assert garbage not in stores.blobs()


# looking inside


def test_history_gives_every_instruction_its_layer_and_size(stores: Stores) -> None:
    image = add_image(stores, BASE, TOP, name="app")
    top, bottom = stores.images.history("app")
    assert (bottom.created_by, bottom.size, bottom.layer) == ("step 0", 10_003, 0)
    assert (top.created_by, top.size, top.layer) == ("step 1", 3, 1)
    assert [info.created_by for info in stores.images.layers(image.id)] == ["step 0", "step 1"]


def test_history_with_empty_and_missing_entries(stores: Stores) -> None:
    blob = stores.content.put(OTHER)
    config = ImageConfig(
        "amd64",
        diff_ids=(digest_bytes(OTHER), digest_bytes(OTHER)),
        history=(
            History(created_by="ENV", empty_layer=True),
            History(created_by="RUN"),
            History(created_by="CMD", empty_layer=True),
        ),
    ).to_bytes()
    layer = Descriptor(mt.OCI_LAYER, blob.digest, blob.size)
    manifest = Manifest(Descriptor(mt.OCI_CONFIG, digest_bytes(config), len(config)), (layer, layer))
    image = stores.images.add(manifest.to_bytes(), config)
    assert [(entry.created_by, entry.layer) for entry in stores.images.history(image.id)] == [
        ("CMD", -1),
        ("RUN", 1),
        ("ENV", -1),
        ("", 0),
    ]


def test_layers_say_who_shares_them(stores: Stores) -> None:
    first = add_image(stores, BASE, TOP, name="first")
    second = add_image(stores, BASE, OTHER, name="second")
    bottom, top = stores.images.layers("first")
    assert bottom.shared_with == (second.id,)
    assert top.shared_with == ()
    assert bottom.unpacked
    assert first.id != second.id


def test_the_bytes_of_hard_links_count_once_where_they_can_be_seen(stores: Stores) -> None:
    base = tars.archive(
        tars.member("a", data=b"12345"), tars.hardlink("b", "a"), tars.hardlink("c", "a"), tars.member("d")
    )
    add_image(stores, base, tars.archive(tars.member(".wh.a")), name="app")
    files = {file.path: file for file in stores.images.layer_files("app", 0)}
    assert [(path, file.kind, file.size, file.link) for path, file in sorted(files.items())] == [
        ("/a", "hardlink", 0, "/b"),
        ("/b", "file", 5, ""),
        ("/c", "hardlink", 0, "/b"),
        ("/d", "file", 0, ""),
    ]


def test_layer_files_tell_changes_and_what_later_layers_hide(stores: Stores) -> None:
    change = tars.archive(
        tars.member("etc/a", data=b"new"),
        tars.folder("opt"),
        tars.member("opt/.wh..wh..opq"),
        tars.symlink("l", "etc/a"),
    )
    base = tars.archive(
        tars.folder("etc"),
        tars.member("etc/a", data=b"old"),
        tars.member("opt/x", data=b"12345"),
        tars.member("kept"),
    )
    add_image(stores, base, change, tars.archive(tars.member("etc/.wh.a")), name="app")
    bottom = {file.path: file for file in stores.images.layer_files("app", 0)}
    assert {path for path, file in bottom.items() if file.hidden} == {"/etc/a", "/opt/x"}
    assert {file.change for file in bottom.values()} == {"added"}
    middle = {file.path: file for file in stores.images.layer_files("app", 1)}
    assert (middle["/etc/a"].change, middle["/etc/a"].hidden) == ("changed", True)
    assert middle["/opt/x"].change == "removed"
    assert (middle["/l"].kind, middle["/l"].link) == ("symlink", "etc/a")
    (last,) = [file for file in stores.images.layer_files("app", 2) if file.change == "removed"]
    assert last.path == "/etc/a"
    with pytest.raises(InvalidInput):
        stores.images.layer_files("app", 3)


def test_usage_splits_shared_and_own_bytes(stores: Stores, users: dict[str, list[str]]) -> None:
    first = add_image(stores, BASE, TOP, name="first")
    second = add_image(stores, BASE, OTHER, name="second")
    users[second.id] = ["web"]
    usage = stores.images.usage()
    by_id = {item.id: item for item in usage.images}
    assert (by_id[first.id].shared, by_id[first.id].own) == (10_003, 3)
    assert (by_id[second.id].own, by_id[second.id].users) == (500, ("web",))
    assert usage.layers == 10_506
    assert usage.reclaimable == 3
    assert usage.packed == sum(blob.size for blob in stores.content.walk())


# unpacking


def test_unpack_makes_what_is_missing(stores: Stores) -> None:
    image = add_image(stores, BASE, TOP, name="app", unpack=False)
    reports: list[object] = []
    assert stores.images.unpack(image, reports.append) == image.chain
    assert stores.layers() == {layer.chain for layer in image.layers}
    assert len(reports) == 4
    assert stores.images.unpack(image, reports.append) == image.chain
    assert len(reports) == 4


def test_a_layer_that_is_not_what_the_image_promises_leaves_nothing(stores: Stores) -> None:
    """AR-12."""
    blob = stores.content.put(OTHER)
    manifest, config = documents(
        Descriptor(mt.OCI_LAYER, blob.digest, blob.size), diff_ids=(digest_bytes(BASE),)
    )
    image = stores.images.add(manifest, config)
    with pytest.raises(BadDigest):
        stores.images.unpack(image)
    assert stores.layers() | stores.active() == set()
    assert stores.snapshots.unknown_folders() == []


def test_a_cancelled_unpack_leaves_nothing(stores: Stores) -> None:
    """F-36."""
    many = tars.archive(*[tars.member(f"f{index}") for index in range(500)])
    image = add_image(stores, many, unpack=False)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Exception, match="cancelled"):
        stores.images.unpack(image, cancel=cancel)
    assert stores.layers() | stores.active() == set()


def test_an_image_built_here_is_whole(stores: Stores) -> None:
    """A written snapshot becomes a layer and an image that unpacks to itself elsewhere."""
    base = add_image(stores, BASE, name="base")
    snapshot = stores.snapshots.prepare("step", base.chain)
    (snapshot.upper / "built").write_text("here")
    with stores.content.lease("build") as lease:
        layer = commit_layer(stores.content, stores.snapshots, "step", lease=lease)
        config = ImageConfig(
            "amd64", config=ContainerConfig(cmd=("x",)), diff_ids=(base.layers[0].diff_id, layer.diff_id)
        ).to_bytes()
        manifest = Manifest(
            Descriptor(mt.OCI_CONFIG, digest_bytes(config), len(config)),
            (base.layers[0].descriptor, layer.blob.wait()),
        )
        image = stores.images.add(
            manifest.to_bytes(), config, names=[parse_reference("built")], action="build"
        )
    assert image.chain == layer.chain
    stores.snapshots.remove(layer.chain)
    assert stores.images.unpack(image) == layer.chain
    assert (stores.snapshots.lowers(layer.chain)[0] / "built").read_text() == "here"


def test_listing_many_images_takes_few_queries(stores: Stores) -> None:
    for index in range(30):
        add_image(stores, BASE, name=f"app:{index}", created=f"2026-01-01T00:00:{index:02}Z")
    queries: list[str] = []
    stores.db.read().set_trace_callback(queries.append)
    assert len(stores.images.list()) == 30
    stores.db.read().set_trace_callback(None)
    assert len(queries) == 4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01T01:00:00.123456789+01:00", 1767225600.123456),
        ("0001-01-01T00:00:00Z", -62135596800.0),
        ("", 0.0),
        ("yesterday", 0.0),
    ],
)
def test_times_of_configs_are_understood(text: str, seconds: float) -> None:
    assert created_at(text) == pytest.approx(seconds)


def test_reading_images_does_not_need_their_blobs(stores: Stores) -> None:
    image: Image = add_image(stores, BASE, name="app")
    for digest in stores.blobs():
        stores.content.remove(Digest(digest))
    assert stores.images.resolve("app").config == image.config
    assert io.BytesIO(stores.images.config_bytes(image.id)).read()

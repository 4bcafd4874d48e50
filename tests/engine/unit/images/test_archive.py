"""Archives of images: what is saved is loaded the same, and what others wrote is understood or refused."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from engine.digest import Digest, digest_bytes, hex_of
from engine.errors import BadArchive, Corrupt, EngineError, ImageNotFound
from engine.images.archive import export_root, import_root, load, save
from engine.layers.compression import Compression, compressor
from engine.layers.limits import LAYER
from engine.layers.tar import Kind, TarReader
from engine.oci import ContainerConfig, ImageConfig, Index, parse_index
from engine.oci import media_types as mt
from engine.progress import CancelToken, LayerProgress, Message
from engine.reference import parse_reference
from tests.support import tars
from tests.support.sentinel import sentinel  # noqa: F401
from tests.support.stores import Stores, add_image, open_stores

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("sentinel")]

BASE = tars.archive(tars.folder("etc"), tars.member("etc/a", data=b"one", mode=0o4755, uid=7))
TOP = tars.archive(tars.member("etc/b", data=b"two"), tars.member("etc/.wh.a"))
OTHER = tars.archive(tars.member("other", data=b"x" * 5000))


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return open_stores(tmp_path / "here")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Stores:
    return open_stores(tmp_path / "there")


def saved(stores: Stores, *references: str) -> bytes:
    out = io.BytesIO()
    save(stores.images, references, out)
    return out.getvalue()


def files(data: bytes) -> dict[str, bytes]:
    reader = TarReader(io.BytesIO(data), require_end=True)
    return {entry.name: reader.read() for entry in reader if entry.kind is Kind.FILE}


# save and load


def test_saved_images_are_loaded_the_same(stores: Stores, elsewhere: Stores) -> None:
    first = add_image(stores, BASE, TOP, name="app:1", config=ContainerConfig(cmd=("x",)))
    second = add_image(stores, BASE, OTHER, name="registry.test:5000/team/other:2")
    data = saved(stores, "app:1", "registry.test:5000/team/other:2")
    messages: list[object] = []
    loaded = load(elsewhere.images, io.BytesIO(data), report=messages.append)
    assert [image.id for image in loaded] == [first.id, second.id]
    assert [image.manifest for image in loaded] == [first.manifest, second.manifest]
    assert elsewhere.images.resolve("app:1").config == first.config
    assert elsewhere.layers() == {layer.chain for image in (first, second) for layer in image.layers}
    assert Message("Loaded image: app:1") in messages
    assert [event.action for event in elsewhere.events()] == ["load", "load"]
    assert any(isinstance(message, LayerProgress) for message in messages)


def test_shared_blobs_are_in_the_archive_once(stores: Stores) -> None:
    add_image(stores, BASE, TOP, name="a")
    add_image(stores, BASE, OTHER, name="b")
    names = [entry.name for entry in TarReader(io.BytesIO(saved(stores, "a", "b")))]
    assert len(names) == len(set(names))


def test_the_archive_is_an_oci_layout_and_a_docker_archive(stores: Stores) -> None:
    image = add_image(stores, BASE, name="team/app:1")
    content = files(saved(stores, "team/app:1"))
    assert json.loads(content["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = parse_index(content["index.json"]).manifests
    assert entry.digest == image.manifest.digest
    assert entry.annotations == {
        "io.containerd.image.name": "docker.io/team/app:1",
        "org.opencontainers.image.ref.name": "1",
    }
    (docker,) = json.loads(content["manifest.json"])
    assert docker["RepoTags"] == ["team/app:1"]
    assert digest_bytes(content[docker["Config"]]) == image.id
    assert [digest_bytes(content[path]) for path in docker["Layers"]] == [image.layers[0].descriptor.digest]


def test_saving_by_id_gives_no_name_and_by_repository_all(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app:1")
    stores.images.tag("app:1", "app:2")
    stores.images.tag("app:1", "other:3")
    tags = lambda *names: json.loads(files(saved(stores, *names))["manifest.json"])[0]["RepoTags"]  # noqa: E731
    assert tags(image.id) == []
    assert tags(image.id[7:19]) == []
    assert tags("app:2") == ["app:2"]
    assert tags("app") == ["app:1", "app:2"]
    assert tags("app:1", "other:3") == ["app:1", "other:3"]


def test_saving_what_is_not_here_writes_nothing(stores: Stores) -> None:
    out = io.BytesIO()
    with pytest.raises(ImageNotFound):
        save(stores.images, ["nothing"], out)
    assert out.getvalue() == b""


def test_a_damaged_blob_ends_the_archive(stores: Stores) -> None:
    """F-25."""
    image = add_image(stores, BASE, name="app")
    path = stores.content.path(image.layers[0].descriptor.digest)
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(Corrupt):
        saved(stores, "app")


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD, Compression.XZ, Compression.BZIP2])
def test_a_packed_archive_is_loaded(stores: Stores, elsewhere: Stores, kind: Compression) -> None:
    image = add_image(stores, BASE, name="app")
    out = io.BytesIO()
    packer = compressor(out, kind)
    packer.write(saved(stores, "app"))
    packer.close()
    assert load(elsewhere.images, io.BytesIO(out.getvalue()))[0].id == image.id


def test_loading_again_changes_nothing(stores: Stores) -> None:
    image = add_image(stores, BASE, name="app")
    data = saved(stores, "app")
    blobs = stores.blobs()
    assert load(stores.images, io.BytesIO(data))[0].id == image.id
    assert stores.blobs() == blobs


# archives of other tools


def old_docker(config: ImageConfig, layers: list[tuple[str, bytes]], tags: list[str], *extra: bytes) -> bytes:
    """Return an archive as `docker save` wrote it before version 25."""
    document = config.to_bytes()
    name = f"{hashlib.sha256(document).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": tags, "Layers": [path for path, _ in layers]}]
    members = [tars.member(path, data=data) for path, data in layers if data]
    return tars.archive(
        *members,
        *extra,
        tars.member(name, data=document),
        tars.member("manifest.json", data=json.dumps(manifest).encode()),
    )


def config_of(*layers: bytes) -> ImageConfig:
    return ImageConfig("amd64", diff_ids=tuple(digest_bytes(data) for data in layers))


def test_an_old_docker_archive_is_loaded_and_its_layers_are_packed(stores: Stores) -> None:
    data = old_docker(config_of(BASE, TOP), [("aaa/layer.tar", BASE), ("bbb/layer.tar", TOP)], ["old/app:1"])
    (image,) = load(stores.images, io.BytesIO(data))
    assert image.familiar_names() == ["old/app:1"]
    assert {layer.descriptor.media_type for layer in image.layers} == {mt.OCI_LAYER_GZIP}
    assert stores.blobs() == {
        image.id,
        image.manifest.digest,
        *(layer.descriptor.digest for layer in image.layers),
    }


def test_a_layer_may_be_a_link_to_another_file_of_the_archive(stores: Stores) -> None:
    data = old_docker(
        config_of(BASE, BASE),
        [("aaa/layer.tar", BASE), ("bbb/layer.tar", b"")],
        [],
        tars.symlink("bbb/layer.tar", "../aaa/layer.tar"),
    )
    (image,) = load(stores.images, io.BytesIO(data))
    assert len(image.layers) == 2


def layout(blobs: list[bytes], index: object, *, extra: dict[str, bytes] | None = None) -> bytes:
    members = [tars.member("oci-layout", data=b'{"imageLayoutVersion":"1.0.0"}')]
    members += [tars.member(f"blobs/sha256/{hex_of(digest_bytes(blob))}", data=blob) for blob in blobs]
    document = index if isinstance(index, bytes) else json.dumps(index).encode()
    members.append(tars.member("index.json", data=document))
    members += [tars.member(name, data=data) for name, data in (extra or {}).items()]
    return tars.archive(*members)


def oci_image(*layers: bytes, architecture: str = "amd64") -> tuple[list[bytes], dict[str, Any]]:
    """Return the blobs of an image and the descriptor of its manifest."""
    config = ImageConfig(architecture, diff_ids=tuple(digest_bytes(data) for data in layers)).to_bytes()
    packed = [tars.zipped(data) for data in layers]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"mediaType": mt.OCI_CONFIG, "digest": digest_bytes(config), "size": len(config)},
            "layers": [
                {"mediaType": mt.OCI_LAYER_GZIP, "digest": digest_bytes(data), "size": len(data)}
                for data in packed
            ],
        }
    ).encode()
    return [config, *packed, manifest], describe(manifest, mt.OCI_MANIFEST)


def describe(document: bytes, kind: str, **more: object) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_bytes(document), "size": len(document), **more}


def index_of(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"schemaVersion": 2, "manifests": list(entries)}


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        ("docker.io/library/app:1", ["app:1"]),
        ("registry.test/a/b:2", ["registry.test/a/b:2"]),
        ("app", ["app:latest"]),
        ("latest", []),
        ("not a name", []),
    ],
)
def test_a_name_in_an_oci_layout_is_taken(stores: Stores, annotation: str, name: list[str]) -> None:
    blobs, entry = oci_image(BASE)
    entry["annotations"] = {"org.opencontainers.image.ref.name": annotation}
    (image,) = load(stores.images, io.BytesIO(layout(blobs, index_of(entry))))
    assert image.familiar_names() == name


def test_of_an_index_the_image_of_this_host_is_loaded(stores: Stores) -> None:
    mine, mine_entry = oci_image(BASE)
    other, other_entry = oci_image(OTHER, architecture="s390x")
    inner = json.dumps(
        index_of(
            {**other_entry, "platform": {"os": "linux", "architecture": "s390x"}},
            {**mine_entry, "platform": {"os": "linux", "architecture": "amd64"}},
        )
    ).encode()
    data = layout([*mine, *other, inner], index_of(describe(inner, mt.OCI_INDEX)))
    (image,) = load(stores.images, io.BytesIO(data))
    assert image.layers[0].diff_id == digest_bytes(BASE)
    assert len(stores.blobs()) == 3


def test_attestations_beside_an_image_are_left_out(stores: Stores) -> None:
    blobs, entry = oci_image(BASE)
    junk = b'{"schemaVersion":2}'
    data = layout(
        [*blobs, junk], index_of(entry, describe(junk, mt.OCI_MANIFEST, artifactType="application/x"))
    )
    assert len(load(stores.images, io.BytesIO(data))) == 1


# archives that are refused (AR-18)


def refused() -> dict[str, bytes]:
    blobs, entry = oci_image(BASE)
    circle = Digest("sha256:" + "c" * 64)
    nested = json.dumps(index_of(entry)).encode()
    for _ in range(5):
        blobs.append(nested)
        nested = json.dumps(
            index_of(describe(nested, mt.OCI_INDEX, platform={"os": "linux", "architecture": "amd64"}))
        ).encode()
    one = config_of(BASE)
    manifest = lambda **fields: tars.member(  # noqa: E731
        "manifest.json",
        data=json.dumps([{"Config": "c.json", "RepoTags": [], "Layers": [], **fields}]).encode(),
    )
    document = tars.member("c.json", data=one.to_bytes())
    return {
        "nothing": tars.archive(),
        "no image": tars.archive(tars.member("etc/passwd", data=b"x")),
        "no tar": b"x" * 2000,
        "a layer that climbs": tars.archive(document, manifest(Layers=["../../x"])),
        "a layer with an absolute path": tars.archive(document, manifest(Layers=["/etc/passwd"])),
        "a layer that is a link out": tars.archive(
            document, tars.symlink("l.tar", "../../etc/passwd"), manifest(Layers=["l.tar"])
        ),
        "a layer that is a link to the host": tars.archive(
            document, tars.symlink("l.tar", "/etc/passwd"), manifest(Layers=["l.tar"])
        ),
        "a layer that is a link to itself": tars.archive(
            document, tars.symlink("l.tar", "l.tar"), manifest(Layers=["l.tar"])
        ),
        "a layer that is missing": tars.archive(document, manifest(Layers=["l.tar"])),
        "a layer too many": tars.archive(
            document, tars.member("l.tar", data=BASE), manifest(Layers=["l.tar", "l.tar"])
        ),
        "another layer": tars.archive(document, tars.member("l.tar", data=TOP), manifest(Layers=["l.tar"])),
        "a config that climbs": tars.archive(manifest(Config="../../../etc/shadow")),
        "a config that is none": tars.archive(tars.member("c.json", data=b"{}"), manifest()),
        "a name that is none": tars.archive(
            document, tars.member("l.tar", data=BASE), manifest(Layers=["l.tar"], RepoTags=["../../x"])
        ),
        "a manifest that is no list": tars.archive(tars.member("manifest.json", data=b"{}")),
        "an entry that climbs": tars.archive(tars.member("../x", data=b"x")),
        "a device": tars.archive(tars.member("sda", tars.BLOCKDEV, major=8)),
        "a blob that is not its name": layout([], index_of(entry), extra={f"blobs/sha256/{'a' * 64}": b"x"}),
        "an index that leads in a circle": layout(
            [], index_of({"mediaType": mt.OCI_INDEX, "digest": circle, "size": 1})
        ),
        "an index too deep": layout([*blobs, nested], nested),
        "an index with a broken digest": layout([], index_of({**entry, "digest": "sha256:../../x"})),
        "a missing manifest": layout([], index_of(entry)),
        "a missing layer": layout([blobs[0], blobs[2]], index_of(entry)),
        "a cut archive": layout(blobs, index_of(entry))[:-5000],
    }


@pytest.mark.parametrize("name", refused().keys())
def test_refuses(stores: Stores, name: str) -> None:
    """AR-18: refused, and nothing stays."""
    with pytest.raises(EngineError):
        load(stores.images, io.BytesIO(refused()[name]))
    assert (stores.images.list(), stores.blobs(), stores.layers() | stores.active()) == ([], set(), set())
    assert stores.content.sweep() == []


def test_a_cancelled_load_leaves_nothing(stores: Stores) -> None:
    """F-36."""
    cancel = CancelToken()
    cancel.cancel()
    blobs, entry = oci_image(BASE)
    with pytest.raises(EngineError, match="cancelled"):
        load(stores.images, io.BytesIO(layout(blobs, index_of(entry))), cancel=cancel)
    assert stores.blobs() == set()


# root file systems


ROOT = tars.archive(
    tars.folder("./", mode=0o755),
    tars.folder("etc"),
    tars.member("etc/hostname", data=b"x" * 3000),
    tars.member("dev/null", tars.CHAR, major=1, minor=3),
    tars.symlink("lib", "usr/lib"),
)


@pytest.mark.parametrize("kind", list(Compression))
def test_a_root_file_system_becomes_an_image(stores: Stores, kind: Compression) -> None:
    out = io.BytesIO()
    packer = compressor(out, kind)
    packer.write(ROOT)
    packer.close()
    image = import_root(
        stores.images,
        io.BytesIO(out.getvalue()),
        names=[parse_reference("root")],
        config=ContainerConfig(cmd=("/bin/sh",)),
        message="from a test",
    )
    assert image.layers[0].diff_id == digest_bytes(ROOT)
    assert image.config.config.cmd == ("/bin/sh",)
    assert image.config.history[0].comment == "from a test"
    kept = kind in (Compression.GZIP, Compression.ZSTD)
    assert (image.layers[0].descriptor.digest == digest_bytes(out.getvalue())) is kept
    expected = mt.OCI_LAYER_ZSTD if kind is Compression.ZSTD else mt.OCI_LAYER_GZIP
    assert image.layers[0].descriptor.media_type == expected
    (folder,) = stores.snapshots.lowers(image.chain)
    assert (folder / "etc/hostname").read_bytes() == b"x" * 3000
    assert [event.action for event in stores.events()] == ["import", "tag"]
    stores.snapshots.remove(image.chain)
    assert stores.images.unpack(image) == image.chain


def test_a_large_root_is_packed_while_it_is_unpacked(stores: Stores) -> None:
    data = tars.archive(*[tars.member(f"f{index}", data=bytes([index]) * 1_000_000) for index in range(12)])
    image = import_root(stores.images, io.BytesIO(data))
    assert image.size == 12_000_000
    assert image.layers[0].diff_id == digest_bytes(data)
    assert stores.content.verify(image.layers[0].descriptor.digest)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        tars.archive(),
        b"no archive at all" * 100,
        ROOT[:3000],
        tars.archive(tars.member("../x")),
        tars.zipped(ROOT)[:-20],
        zstandard.compress(ROOT) + b"junk",
    ],
    ids=["empty", "no entries", "no tar", "cut", "climbs", "cut gzip", "junk after zstd"],
)
def test_a_broken_root_leaves_nothing(stores: Stores, data: bytes) -> None:
    """AR-12."""
    with pytest.raises(BadArchive):
        import_root(stores.images, io.BytesIO(data))
    assert (stores.images.list(), stores.blobs(), stores.layers() | stores.active()) == ([], set(), set())
    assert stores.content.sweep() == []


def test_an_exported_root_is_what_the_layers_show(stores: Stores) -> None:
    add_image(stores, BASE, TOP, name="app")
    out = io.BytesIO()
    export_root(stores.images, "app", out)
    found = {
        entry.name.rstrip("/"): entry for entry in TarReader(io.BytesIO(out.getvalue()), require_end=True)
    }
    assert list(found) == ["etc", "etc/b"]
    image = import_root(stores.images, io.BytesIO(out.getvalue()))
    assert image.size == 3


def test_an_index_is_written_canonically(stores: Stores) -> None:
    add_image(stores, BASE, name="app")
    data = files(saved(stores, "app"))["index.json"]
    assert isinstance(parse_index(data), Index)
    assert parse_index(data).to_bytes() == data


def test_a_bomb_as_a_root_stops_at_its_ratio_and_leaves_nothing(stores: Stores) -> None:
    """AR-10."""
    limits = replace(LAYER, max_ratio=100, ratio_floor=8 * 1024 * 1024)
    bomb = tars.zipped(tars.archive(tars.member("zeros", data=bytes(64 * 1024 * 1024))))
    with pytest.raises(BadArchive, match="unpacking"):
        import_root(stores.images, io.BytesIO(bomb), limits=limits)
    with pytest.raises(BadArchive, match="unpacking"):
        load(stores.images, io.BytesIO(bomb), limits=limits)
    assert (stores.images.list(), stores.blobs(), stores.layers() | stores.active()) == ([], set(), set())
    assert stores.content.sweep() == []
    assert stores.snapshots.unknown_folders() == []

"""Images go to other people's tools and come back: skopeo and umoci read what we save, we load what they write."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from engine.digest import digest_bytes
from engine.images.archive import export_root, import_root, load, save
from engine.images.check import check
from engine.layers.compression import Compression, compressor, open_any
from engine.oci import ContainerConfig
from engine.reference import parse_reference
from tests.support import busybox, tars
from tests.support.stores import Stores, add_image, open_stores

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed"),
]

CONFIG = ContainerConfig(
    cmd=("/bin/sh",), env=("A=1",), labels={"k": "v"}, working_dir="/root", exposed_ports=("80/tcp",)
)
SECOND = tars.archive(
    tars.folder("etc"), tars.member("etc/second", data=b"2", uid=1000), tars.member("etc/.wh.group")
)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    stores = open_stores(tmp_path / "home")
    add_image(stores, busybox.make_tar(), SECOND, name="registry.test/team/app:1", config=CONFIG)
    return stores


@pytest.fixture
def archive(stores: Stores, tmp_path: Path) -> Path:
    path = tmp_path / "saved.tar"
    with path.open("wb") as out:
        save(stores.images, ["registry.test/team/app:1"], out)
    return path


def run(*argv: str | Path) -> str:
    result = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_skopeo_reads_what_we_save(stores: Stores, archive: Path, transport: str) -> None:
    image = stores.images.resolve("registry.test/team/app:1")
    inspected = json.loads(run("skopeo", "inspect", f"{transport}:{archive}"))
    assert inspected["Env"] == ["A=1"]
    assert inspected["Labels"] == {"k": "v"}
    assert len(inspected["Layers"]) == 2
    config = json.loads(run("skopeo", "inspect", "--config", f"{transport}:{archive}"))
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in image.layers]
    if transport == "oci-archive":
        assert inspected["Digest"] == image.manifest.digest


def test_skopeo_finds_our_image_by_its_name(archive: Path) -> None:
    by_name = json.loads(run("skopeo", "inspect", f"docker-archive:{archive}:registry.test/team/app:1"))
    by_tag = json.loads(run("skopeo", "inspect", f"oci-archive:{archive}:1"))
    assert by_name["Labels"] == by_tag["Labels"] == {"k": "v"}
    missing = ["skopeo", "inspect", f"docker-archive:{archive}:registry.test/team/other:1"]
    assert subprocess.run(missing, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("source", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_we_load_what_skopeo_writes(
    stores: Stores, archive: Path, tmp_path: Path, source: str, transport: str
) -> None:
    """Through skopeo and back: the same config, whatever happened to its layers and its JSON on the way."""
    image = stores.images.resolve("registry.test/team/app:1")
    written = tmp_path / "written.tar"
    name = "registry.test/copied/app:2" if transport == "docker-archive" else "copied:2"
    run("skopeo", "copy", "-q", f"{source}:{archive}", f"{transport}:{written}:{name}")
    elsewhere = open_stores(tmp_path / "elsewhere")
    with written.open("rb") as stream:
        (loaded,) = load(elsewhere.images, stream)
    assert loaded.config == image.config
    assert loaded.familiar_names() == [name]
    assert check(elsewhere.images, deep=True) == []
    with elsewhere.snapshots.viewed(loaded.chain) as root:
        assert (root / "etc/second").stat().st_uid == 1000
        assert not (root / "etc/group").exists()
        assert (root / "bin/busybox").stat().st_size == busybox.BUSYBOX.stat().st_size


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_we_load_what_skopeo_packs_otherwise(
    stores: Stores, archive: Path, tmp_path: Path, packed: str
) -> None:
    written = tmp_path / "oci"
    argv = ["--dest-compress-format", packed, "--dest-compress"]
    run("skopeo", "copy", "-q", *argv, f"docker-archive:{archive}", f"oci:{written}:x")
    data = subprocess.run(["tar", "-C", written, "-cf", "-", "."], capture_output=True, check=True).stdout
    elsewhere = open_stores(tmp_path / "elsewhere")
    (loaded,) = load(elsewhere.images, io.BytesIO(data))
    assert loaded.config == stores.images.resolve("registry.test/team/app:1").config
    assert packed in loaded.layers[0].descriptor.media_type


def test_an_archive_of_several_images_is_read_by_skopeo(stores: Stores, tmp_path: Path) -> None:
    add_image(stores, busybox.make_tar(), name="base:1")
    path = tmp_path / "two.tar"
    with path.open("wb") as out:
        save(stores.images, ["registry.test/team/app:1", "base:1"], out)
    for index, count in ((0, 2), (1, 1)):
        inspected = json.loads(run("skopeo", "inspect", f"docker-archive:{path}:@{index}"))
        assert len(inspected["Layers"]) == count


@pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed")
def test_umoci_unpacks_what_we_save_and_we_load_what_it_repacks(
    stores: Stores, archive: Path, tmp_path: Path
) -> None:
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    layout.mkdir()
    run("tar", "-C", layout, "-xf", archive)
    run("umoci", "unpack", "--image", f"{layout}:1", bundle)
    root = bundle / "rootfs"
    assert (root / "etc/second").stat().st_uid == 1000
    assert not (root / "etc/group").exists()
    (root / "etc/from-umoci").write_text("x")
    (root / "etc/passwd").unlink()
    shutil.rmtree(root / "home")
    run("umoci", "repack", "--image", f"{layout}:new", bundle)
    data = subprocess.run(["tar", "-C", layout, "-cf", "-", "."], capture_output=True, check=True).stdout
    elsewhere = open_stores(tmp_path / "elsewhere")
    loaded = load(elsewhere.images, io.BytesIO(data))
    (new,) = [image for image in loaded if len(image.layers) == 3]
    with elsewhere.snapshots.viewed(new.chain) as view:
        assert (view / "etc/from-umoci").read_text() == "x"
        assert not (view / "etc/passwd").exists()
        assert not (view / "home").exists()
    assert check(elsewhere.images, deep=True) == []


def test_python_and_gnu_tar_read_an_exported_root(stores: Stores, tmp_path: Path) -> None:
    out = io.BytesIO()
    export_root(stores.images, "registry.test/team/app:1", out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as exported:
        assert "bin/sh" in exported.getnames()
    target = tmp_path / "unpacked"
    target.mkdir()
    subprocess.run(["tar", "-C", target, "-xf", "-"], input=out.getvalue(), check=True, capture_output=True)
    assert (target / "etc/second").stat().st_uid == 1000
    assert os.readlink(target / "bin/sh") == "busybox"


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD, Compression.XZ])
def test_skopeo_reads_an_imported_root(stores: Stores, tmp_path: Path, kind: Compression) -> None:
    packed = io.BytesIO()
    packer = compressor(packed, kind)
    packer.write(busybox.make_tar())
    packer.close()
    import_root(stores.images, io.BytesIO(packed.getvalue()), names=[parse_reference("root:1")])
    path = tmp_path / "root.tar"
    with path.open("wb") as out:
        save(stores.images, ["root:1"], out)
    copied = tmp_path / "dir"
    run("skopeo", "copy", "-q", f"oci-archive:{path}", f"dir:{copied}")
    manifest = json.loads((copied / "manifest.json").read_text())
    (layer,) = manifest["layers"]
    with (copied / layer["digest"].removeprefix("sha256:")).open("rb") as blob:
        assert open_any(blob).read(1024 * 1024)[:100] == busybox.make_tar()[:100]
    config = json.loads((copied / manifest["config"]["digest"].removeprefix("sha256:")).read_text())
    assert config["rootfs"]["diff_ids"] == [digest_bytes(busybox.make_tar())]

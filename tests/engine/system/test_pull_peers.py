"""Real peers: Debian's docker-registry with and without login and TLS, and images made and read by skopeo, umoci and buildah."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import EngineError
from engine.images.model import Image
from engine.layers.compression import Compression
from engine.reference import parse_reference
from engine.registry import AccessRefused, Credentials, Registries, RegistrySettings, Untrusted
from tests.engine.system.test_push import add_image, noise
from tests.support.fake_registry import layer
from tests.support.image_node import ImageNode, image_node
from tests.support.registry import RealRegistry, real_registry

pytestmark = pytest.mark.root

KINDS = [(False, False), (True, False), (False, True), (True, True)]
FILES = {"etc/motd": b"hello\n", "bin/tool": noise(3, 1_500_000), "empty": b""}


@pytest.fixture(params=KINDS, ids=["open", "login", "TLS", "login and TLS"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealRegistry]:
    auth, tls = request.param
    with real_registry(tmp_path / "registry", auth=auth, tls=tls) as registry:
        yield registry


@pytest.fixture
def node(tmp_path: Path) -> ImageNode:
    return image_node(tmp_path / "node")


def settings(registry: RealRegistry, **changes: str) -> RegistrySettings:
    password = changes.get("password", registry.password)
    account = Credentials(registry.username, password) if registry.username else None
    return RegistrySettings(
        registry.domain, ca_pem=changes.get("ca_pem", registry.ca_pem), credentials=account
    )


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian package {name})")
    return found


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Skopeo:
    """The skopeo command, told of one registry's account and authority."""

    def __init__(self, registry: RealRegistry, folder: Path) -> None:
        self._program = program("skopeo")
        self._domain = registry.domain
        self._options = ["--tls-verify=false"]
        if registry.ca_file:
            certificates = folder / "certs"
            certificates.mkdir()
            shutil.copy(registry.ca_file, certificates / "ca.crt")
            self._options = [f"--cert-dir={certificates}"]
        if registry.username:
            pair = base64.b64encode(f"{registry.username}:{registry.password}".encode()).decode()
            (folder / "auth.json").write_text(json.dumps({"auths": {registry.domain: {"auth": pair}}}))
            self._options.append(f"--authfile={folder / 'auth.json'}")

    def inspect(self, name: str) -> dict[str, object]:
        return dict(
            json.loads(run(self._program, "inspect", *self._options, f"docker://{self._domain}/{name}"))
        )

    def fetch(self, name: str, target: str) -> None:
        options = [
            option.replace("--", "--src-", 1) if "auth" not in option else option for option in self._options
        ]
        run(self._program, "--insecure-policy", "copy", *options, f"docker://{self._domain}/{name}", target)

    def send(self, source: str, name: str, *more: str) -> None:
        options = [
            option.replace("--", "--dest-", 1) if "auth" not in option else option for option in self._options
        ]
        run(
            self._program,
            "--insecure-policy",
            "copy",
            *options,
            *more,
            source,
            f"docker://{self._domain}/{name}",
        )


def made_by_umoci(folder: Path) -> str:
    """Make an OCI image of two layers with umoci; return it as skopeo names it."""
    umoci = program("umoci")
    run(umoci, "init", "--layout", str(folder / "layout"))
    run(umoci, "new", "--image", f"{folder / 'layout'}:1")
    for step, (path, data) in enumerate(FILES.items()):
        source = folder / f"source-{step}"
        source.write_bytes(data)
        run(umoci, "insert", "--image", f"{folder / 'layout'}:1", str(source), f"/{path}")
    run(umoci, "config", "--image", f"{folder / 'layout'}:1", "--config.env", "MADE_BY=umoci")
    return f"oci:{folder / 'layout'}:1"


def merged(node: ImageNode, image: Image) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for one in image.layers:
        files |= node.files(one.chain)
    return files


def test_what_we_push_skopeo_and_umoci_pull_and_verify(
    registry: RealRegistry, node: ImageNode, tmp_path: Path
) -> None:
    name = f"{registry.domain}/team/app:1"
    image = add_image(node, name, [layer(FILES), layer({"top": b"top"})])
    pushed = node.pusher.push(name, settings=settings(registry))
    skopeo = Skopeo(registry, tmp_path)
    assert skopeo.inspect("team/app:1")["Digest"] == pushed.digest
    skopeo.fetch("team/app:1", f"oci:{tmp_path / 'copy'}:1")
    run(program("umoci"), "unpack", "--image", f"{tmp_path / 'copy'}:1", str(tmp_path / "bundle"))
    root = tmp_path / "bundle" / "rootfs"
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found == {**FILES, "top": b"top"}
    assert image.id[7:] in {path.name for path in (tmp_path / "copy/blobs/sha256").iterdir()}


@pytest.mark.parametrize("kind", ["oci", "v2s2", "zstd"])
def test_what_umoci_makes_and_skopeo_pushes_we_pull(
    registry: RealRegistry, node: ImageNode, tmp_path: Path, kind: str
) -> None:
    more = ["--dest-compress-format", "zstd"] if kind == "zstd" else ["--format", kind]
    Skopeo(registry, tmp_path).send(made_by_umoci(tmp_path), "team/app:1", *more)
    image = node.puller.pull(parse_reference(f"{registry.domain}/team/app:1"), settings=settings(registry))
    assert merged(node, image) == FILES
    assert "MADE_BY=umoci" in (image.config.config.env or ())
    again = node.puller.pull(parse_reference(f"{registry.domain}/team/app:1"), settings=settings(registry))
    assert again == image


def test_what_we_push_we_pull_on_another_node(
    registry: RealRegistry, node: ImageNode, tmp_path: Path
) -> None:
    name = f"{registry.domain}/team/app:1"
    image = add_image(node, name, [layer(FILES)])
    node.pusher.push(name, settings=settings(registry), compression=Compression.ZSTD)
    other = image_node(tmp_path / "other")
    pulled = other.puller.pull(parse_reference(name), settings=settings(registry))
    assert pulled.id == image.id
    assert merged(other, pulled) == FILES


def test_another_push_mounts_or_finds_everything(registry: RealRegistry, node: ImageNode) -> None:
    name = f"{registry.domain}/team/app:1"
    add_image(node, name, [layer(FILES)])
    first = node.pusher.push(name, settings=settings(registry))
    again = node.pusher.push(name, settings=settings(registry))
    moved = node.pusher.push(
        name, parse_reference(f"{registry.domain}/else/where:2"), settings=settings(registry)
    )
    assert first.digest == again.digest == moved.digest
    assert "PATCH /v2/else/where" not in registry.log.read_text()


def test_wrong_password_and_wrong_authority(registry: RealRegistry, node: ImageNode) -> None:
    """RG-08 and the sentences for people."""
    name = parse_reference(f"{registry.domain}/team/app:1")
    if registry.username:
        with pytest.raises(AccessRefused) as caught:
            node.puller.pull(name, settings=settings(registry, password="wrong"))
        assert "user name and password" in caught.value.message
    if registry.ca_pem:
        strict = Registries(insecure=())
        with strict.open(registry.domain, settings=settings(registry, ca_pem="")) as client:
            with pytest.raises(Untrusted):
                client.ping()


def test_an_unknown_name_is_said_so(registry: RealRegistry, node: ImageNode) -> None:
    with pytest.raises(EngineError) as caught:
        node.puller.pull(parse_reference(f"{registry.domain}/no/such:1"), settings=settings(registry))
    assert caught.value.code == "image_not_found"
    assert "no/such:1" in caught.value.message


def test_tags_and_catalog(registry: RealRegistry, node: ImageNode) -> None:
    for tag in ("1", "2"):
        name = f"{registry.domain}/team/app:{tag}"
        add_image(node, name, [layer({"tag": tag.encode()})])
        node.pusher.push(name, settings=settings(registry))
    with Registries(insecure=("127.0.0.1",)).open(registry.domain, settings=settings(registry)) as client:
        assert sorted(client.tags("team/app")) == ["1", "2"]
        assert client.catalog() == ["team/app"]


def test_buildah_reads_what_we_push_and_we_read_what_it_commits(tmp_path: Path, node: ImageNode) -> None:
    buildah = program("buildah")
    store = ["--root", str(tmp_path / "b"), "--runroot", str(tmp_path / "r"), "--storage-driver", "vfs"]
    with real_registry(tmp_path / "registry") as registry:
        name = f"{registry.domain}/team/app:1"
        add_image(node, name, [layer(FILES)])
        node.pusher.push(name)
        container = run(buildah, *store, "from", "--tls-verify=false", f"docker://{name}").strip()
        (tmp_path / "more").write_bytes(b"more\n")
        run(buildah, *store, "copy", container, str(tmp_path / "more"), "/more")
        run(buildah, *store, "config", "--env", "MADE_BY=buildah", container)
        run(
            buildah,
            *store,
            "commit",
            "--tls-verify=false",
            container,
            f"docker://{registry.domain}/team/app:2",
        )
        run(buildah, *store, "rm", container)
        image = node.puller.pull(parse_reference(f"{registry.domain}/team/app:2"))
    assert merged(node, image) == {**FILES, "more": b"more\n"}
    assert "MADE_BY=buildah" in (image.config.config.env or ())

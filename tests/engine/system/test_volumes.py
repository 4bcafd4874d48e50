"""Volumes: named and anonymous, filled from images, given out without following links, looked into, removed."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.containers.model import MountPoint, MountSpec
from engine.db import Database
from engine.errors import AlreadyExists, BadSpec, Denied, InUse, NotFound, VolumeNotFound
from engine.volumes import SCHEMA, VolumeManager

pytestmark = pytest.mark.root

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def db(engine_config: EngineConfig) -> Database:
    return Database(engine_config.database, [SCHEMA])


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder of the node that containers may have."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def volumes(engine_config: EngineConfig, db: Database, shared: Path) -> VolumeManager:
    return VolumeManager(replace(engine_config, allowed_bind_roots=(str(shared),)), db)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    """The root of an image with a folder `/data` worth keeping."""
    root = tmp_path / "image"
    (root / "data/deep").mkdir(parents=True)
    (root / "data/file").write_bytes(b"hello")
    (root / "data/tool").write_bytes(b"#!")
    os.link(root / "data/file", root / "data/deep/same")
    (root / "data/link").symlink_to("/etc/passwd")
    os.mkfifo(root / "data/pipe")
    os.chown(root / "data/file", 33, 34)
    os.chown(root / "data", 101, 102)
    (root / "data/tool").chmod(0o4755)
    (root / "data").chmod(0o1770)
    os.setxattr(root / "data/file", "user.note", b"kept")
    os.utime(root / "data/file", ns=(10**18, 10**18))
    fd = os.open(root, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_volume_is_made_on_first_use_and_shared(volumes: VolumeManager) -> None:
    first = volumes.resolve(MountSpec("volume", "/data", "pg", labels={"a": "b"}), ONE)
    second = volumes.resolve(MountSpec("volume", "/mnt", "pg", read_only=True), TWO)
    assert first.source == second.source
    assert (first.name, second.read_only, first.anonymous) == ("pg", True, False)
    volume = volumes.get("pg")
    assert volume.labels == {"a": "b"}
    assert [(use.container_id, use.target, use.read_only) for use in volume.uses] == [
        (ONE, "/data", False), (TWO, "/mnt", True),
    ]  # fmt: skip
    assert volume.last_used_at > 0


def test_anonymous_volume_is_the_container_s_own_and_goes_with_it(volumes: VolumeManager) -> None:
    point = volumes.resolve(MountSpec("volume", "/data"), ONE)
    assert volumes.resolve(MountSpec("volume", "/data"), ONE) == point
    assert volumes.resolve(MountSpec("volume", "/other"), ONE).name != point.name
    assert len(volumes.release(ONE, remove_anonymous=True)) == 2
    assert volumes.list() == []
    assert not Path(point.source).exists()


def test_named_volume_outlives_its_containers(volumes: VolumeManager) -> None:
    point = volumes.resolve(MountSpec("volume", "/data", "pg"), ONE)
    Path(point.source, "row").write_text("kept")
    assert volumes.release(ONE, remove_anonymous=True) == []
    assert Path(volumes.resolve(MountSpec("volume", "/data", "pg"), TWO).source, "row").read_text() == "kept"


def test_volume_in_use_is_not_removed(volumes: VolumeManager) -> None:
    volumes.resolve(MountSpec("volume", "/data", "pg"), ONE)
    with pytest.raises(InUse, match=ONE[:12]):
        volumes.remove("pg", force=True)
    volumes.release(ONE)
    volumes.remove("pg")
    with pytest.raises(VolumeNotFound):
        volumes.remove("pg")
    volumes.remove("pg", force=True)


def test_prune_takes_anonymous_ones_that_nobody_has(volumes: VolumeManager) -> None:
    volumes.create("named")
    volumes.create()
    used = volumes.resolve(MountSpec("volume", "/data"), ONE).name
    assert [name for name, _ in volumes.prune()] != []
    assert {volume.name for volume in volumes.list()} == {"named", used}
    assert [name for name, _ in volumes.prune(everything=True)] == ["named"]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-rf", "a b", "a\nb", "ä", "a" * 256, "a\0b"])
def test_hostile_name_is_refused(volumes: VolumeManager, name: str) -> None:
    """AP-16, RT-16."""
    with pytest.raises(BadSpec):
        volumes.create(name)
    with pytest.raises(BadSpec):
        volumes.resolve(MountSpec("volume", "/data", name), ONE)


def test_create_is_repeatable_but_not_with_other_options(volumes: VolumeManager, shared: Path) -> None:
    volumes.create("v")
    assert volumes.create("v").name == "v"
    with pytest.raises(AlreadyExists):
        volumes.create("v", options={"type": "none", "o": "bind", "device": str(shared)})
    with pytest.raises(BadSpec, match="no volume driver"):
        volumes.create("w", driver="nfs")


def test_every_change_is_an_event_with_the_record(volumes: VolumeManager, db: Database) -> None:
    volumes.create("v", labels={"a": "b"})
    volumes.remove("v")
    events = db.events_after(0)
    assert [(event.type, event.action, event.subject) for event in events] == [
        ("volume", "create", "v"), ("volume", "destroy", "v"),
    ]  # fmt: skip
    assert events[0].attributes["record"]["labels"] == {"a": "b"}


# filling from the image


def test_new_volume_gets_what_the_image_has_with_owners_and_modes(volumes: VolumeManager, image: int) -> None:
    data = Path(volumes.resolve(MountSpec("volume", "/data", "v"), ONE).source)
    assert volumes.copy_up("v", image, "/data")
    info = data.stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (101, 102, 0o1770)
    file = (data / "file").stat()
    assert (file.st_uid, file.st_gid, file.st_mtime_ns, file.st_nlink) == (33, 34, 10**18, 2)
    assert stat.S_IMODE((data / "tool").stat().st_mode) == 0o4755
    assert (data / "deep/same").samefile(data / "file")
    assert os.readlink(data / "link") == "/etc/passwd"
    assert stat.S_ISFIFO((data / "pipe").stat().st_mode)
    assert os.getxattr(data / "file", "user.note") == b"kept"


def test_volume_is_filled_once_and_only_when_empty(volumes: VolumeManager, image: int) -> None:
    volumes.create("v")
    assert volumes.copy_up("v", image, "/data")
    for path in Path(volumes.get("v").path).iterdir():
        if path.is_file() or path.is_symlink():
            path.unlink()
    assert not volumes.copy_up("v", image, "/data")
    volumes.create("w")
    Path(volumes.get("w").path, "own").write_text("mine")
    assert not volumes.copy_up("w", image, "/data")
    assert [path.name for path in Path(volumes.get("w").path).iterdir()] == ["own"]


def test_fill_that_was_cut_is_begun_again(volumes: VolumeManager, db: Database, image: int) -> None:
    volumes.create("v")
    Path(volumes.get("v").path, "half").write_text("x")
    with db.transaction() as connection:
        connection.execute("UPDATE volumes SET filled = 'begun'")
    assert volumes.copy_up("v", image, "/data")
    assert not Path(volumes.get("v").path, "half").exists()


def test_owners_of_a_mapped_image_are_mapped_back(volumes: VolumeManager, tmp_path: Path) -> None:
    root = tmp_path / "mapped"
    (root / "data").mkdir(parents=True)
    (root / "data/file").write_text("x")
    os.chown(root / "data/file", 100_033, 100_000)
    os.chown(root / "data", 100_101, 100_000)
    volumes.create("v")
    fd = os.open(root, os.O_RDONLY)
    assert volumes.copy_up("v", fd, "/data", idmap_start=100_000)
    os.close(fd)
    data = Path(volumes.get("v").path)
    assert (data.stat().st_uid, (data / "file").stat().st_uid, (data / "file").stat().st_gid) == (101, 33, 0)


@pytest.mark.parametrize("target", ["/", "../../../../..", "/../.."])
def test_link_in_the_image_leads_to_the_image_not_to_the_host(
    volumes: VolumeManager, tmp_path: Path, target: str
) -> None:
    """AR-15: the copied place is a link to a folder of the host."""
    root = tmp_path / "image2"
    root.mkdir()
    (tmp_path / "sentinel").mkdir()
    (tmp_path / "sentinel/secret").write_text("secret")
    (root / "data").symlink_to(f"{target}{tmp_path}/sentinel")
    volumes.create("v")
    fd = os.open(root, os.O_RDONLY)
    assert not volumes.copy_up("v", fd, "/data")
    os.close(fd)
    assert list(Path(volumes.get("v").path).iterdir()) == []


# bind mounts


def test_bind_mount_under_an_allowed_root(volumes: VolumeManager, shared: Path) -> None:
    (shared / "site").mkdir()
    point = volumes.resolve(MountSpec("bind", "/srv", str(shared / "site"), read_only=True), ONE)
    with volumes.opened_source(point) as fd:
        assert os.readlink(f"/proc/self/fd/{fd}") == str(shared / "site")
    made = volumes.resolve(MountSpec("bind", "/srv", str(shared / "a/b"), create_source=True), ONE)
    assert Path(made.source).is_dir()
    with pytest.raises(BadSpec, match="does not exist"):
        volumes.resolve(MountSpec("bind", "/srv", str(shared / "none")), ONE)


@pytest.mark.parametrize(
    "source",
    [
        "/",
        "/etc",
        "/proc/1/root",
        "/proc/self/root",
        "/dev",
        "/run",
        "/var/run/docker.sock",
        "/sys",
        "//",
        "/root",
    ],
)
def test_path_outside_the_allowed_roots_is_denied(volumes: VolumeManager, source: str) -> None:
    """RT-08."""
    with pytest.raises(Denied):
        volumes.resolve(MountSpec("bind", "/srv", source), ONE)


def test_engine_s_own_files_are_closed_even_inside_an_allowed_root(
    engine_config: EngineConfig, db: Database
) -> None:
    """RT-08."""
    volumes = VolumeManager(replace(engine_config, allowed_bind_roots=("/",)), db)
    home = engine_config.data_root.parent
    for path in (
        home,
        engine_config.data_root,
        engine_config.run_root,
        engine_config.database,
        home.parent,
        Path("/"),
    ):
        with pytest.raises(Denied):
            volumes.resolve(MountSpec("bind", "/srv", str(path)), ONE)


@pytest.mark.parametrize("how", ["link", "link/below", "../shared", "site/../../.."])
def test_way_through_a_link_or_upwards_is_denied(volumes: VolumeManager, shared: Path, how: str) -> None:
    """RT-08."""
    (shared / "link").symlink_to("/etc")
    (shared / "site").mkdir()
    for create in (False, True):
        with pytest.raises(Denied):
            volumes.resolve(MountSpec("bind", "/srv", f"{shared}/{how}", create_source=create), ONE)


def test_swapped_source_is_never_mounted(volumes: VolumeManager, shared: Path, tmp_path: Path) -> None:
    """RT-08: somebody swaps the folder for a link to a secret while it is opened again and again."""
    (tmp_path / "secret").mkdir()
    (shared / "site/data").mkdir(parents=True)
    point = volumes.resolve(MountSpec("bind", "/srv", str(shared / "site/data")), ONE)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (shared / "site").rename(shared / "away")
            (shared / "site").symlink_to(tmp_path)
            (shared / "site").unlink()
            (shared / "away").rename(shared / "site")

    (tmp_path / "data").mkdir()
    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(2000):
            try:
                with volumes.opened_source(point) as fd:
                    seen.add(os.fstat(fd).st_ino)
            except (Denied, BadSpec):
                continue
    finally:
        stop.set()
        thread.join()
    assert seen <= {(shared / "site/data").stat().st_ino}


def test_volume_that_is_a_bind_mount_obeys_the_same_policy(volumes: VolumeManager, shared: Path) -> None:
    """RT-08: driver options type=none, o=bind, device=/."""
    (shared / "data").mkdir()
    volumes.create("good", options={"type": "none", "o": "bind", "device": str(shared / "data")})
    point = volumes.resolve(MountSpec("volume", "/data", "good"), ONE)
    with volumes.opened_source(point) as fd:
        assert os.readlink(f"/proc/self/fd/{fd}") == str(shared / "data")
    for device in ("/", "/etc", str(shared.parent)):
        with pytest.raises(Denied):
            volumes.create("bad", options={"type": "none", "o": "bind", "device": device})
    with pytest.raises(BadSpec):
        volumes.create("bad", options={"type": "nfs", "o": "addr=192.0.2.1", "device": ":/x"})
    volumes.release(ONE)
    volumes.remove("good")
    assert (shared / "data").is_dir()


# subpaths


def test_subpath_of_a_volume(volumes: VolumeManager) -> None:
    data = Path(volumes.create("v").path)
    (data / "a/b").mkdir(parents=True)
    (data / "evil").symlink_to("/etc")
    point = volumes.resolve(MountSpec("volume", "/data", "v", subpath="a/b"), ONE)
    with volumes.opened_source(point) as fd:
        assert os.readlink(f"/proc/self/fd/{fd}") == str(data / "a/b")
    with pytest.raises(Denied):
        volumes.resolve(MountSpec("volume", "/data", "v", subpath="evil"), ONE)
    for wrong in ("../v", "/etc", "a/../../x"):
        with pytest.raises(BadSpec):
            volumes.resolve(MountSpec("volume", "/data", "v", subpath=wrong), ONE)
    (data / "a").rename(data / "c")
    (data / "a").symlink_to("/")
    with pytest.raises((Denied, BadSpec)), volumes.opened_source(point):
        pass


def test_tmpfs_has_no_source(volumes: VolumeManager) -> None:
    assert volumes.resolve(MountSpec("tmpfs", "/run"), ONE) == MountPoint("tmpfs", "/run", "")


# looking in


def test_folder_and_file_are_read_from_outside(volumes: VolumeManager) -> None:
    data = Path(volumes.create("v").path)
    (data / "sub").mkdir()
    (data / "a.txt").write_bytes(b"hello")
    (data / "link").symlink_to("/etc/passwd")
    os.chown(data / "a.txt", 33, 34)
    listing = volumes.browse("v")
    assert [(entry.name, entry.kind) for entry in listing.entries] == [
        ("sub", "directory"), ("a.txt", "file"), ("link", "symlink"),
    ]  # fmt: skip
    assert (listing.entries[1].uid, listing.entries[1].size_bytes, listing.entries[2].target) == (
        33,
        5,
        "/etc/passwd",
    )
    out: list[bytes] = []
    assert volumes.read("v", "/a.txt", _Into(out)) == 5
    assert b"".join(out) == b"hello"
    assert volumes.browse("v", "/sub").path == "/sub"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/none", NotFound), ("/link", Denied), ("/up/passwd", Denied), ("/../x", BadSpec), ("/pipe", BadSpec),
        ("/sub", BadSpec), ("/a.txt/x", BadSpec), ("/sock", BadSpec), ("/" + "x" * 5000, BadSpec),
    ],
)  # fmt: skip
def test_what_is_no_file_of_the_volume_is_refused_at_once(
    volumes: VolumeManager, path: str, error: type
) -> None:
    """AR-16: links, pipes, sockets."""
    import socket

    data = Path(volumes.create("v").path)
    (data / "sub").mkdir()
    (data / "a.txt").write_text("x")
    (data / "link").symlink_to("/etc/passwd")
    (data / "up").symlink_to("/etc")
    os.mkfifo(data / "pipe")
    here = Path.cwd()
    os.chdir(data)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("sock")
    os.chdir(here)
    with pytest.raises(error):
        volumes.read("v", path, _Into([]))


def test_size_counts_each_file_once_and_follows_nothing(volumes: VolumeManager) -> None:
    data = Path(volumes.create("v").path)
    empty = volumes.usage("v")
    (data / "big").write_bytes(os.urandom(1024 * 1024))
    os.link(data / "big", data / "again")
    (data / "link").symlink_to("/usr")
    assert 1024 * 1024 <= volumes.usage("v") - empty < 1100 * 1024


class _Into:
    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def write(self, data: bytes | memoryview) -> None:
        self._chunks.append(bytes(data))

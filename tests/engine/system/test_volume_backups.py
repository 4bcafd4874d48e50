"""Backups that can be read back, restores that are all or nothing, and archives made to do harm."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from isal import igzip

from engine.config import EngineConfig
from engine.containers.model import MountSpec
from engine.db import Database
from engine.errors import BadArchive, BadSpec, Cancelled, Corrupt, InUse, NoSpace, NotFound, VolumeNotFound
from engine.layers.compression import PACK_BLOCK
from engine.layers.tar import Kind, TarEntry, TarWriter
from engine.progress import CancelToken
from engine.volumes import SCHEMA, VolumeManager
from engine.volumes import restore as restoring
from engine.volumes.manifest import NAME, parse_manifest
from engine.volumes.restore import verify

pytestmark = pytest.mark.root


@pytest.fixture
def db(engine_config: EngineConfig) -> Database:
    return Database(engine_config.database, [SCHEMA])


@pytest.fixture
def volumes(engine_config: EngineConfig, db: Database) -> VolumeManager:
    return VolumeManager(engine_config, db)


@pytest.fixture
def data(volumes: VolumeManager) -> Path:
    """A volume `v` with one of everything."""
    folder = Path(volumes.create("v").path)
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/row").write_bytes(b"hello" * 1000)
    (folder / "empty").write_bytes(b"")
    (folder / "big").write_bytes(os.urandom(3 * 1024 * 1024) + bytes(2 * 1024 * 1024))
    os.link(folder / "big", folder / "deep/same")
    (folder / "link").symlink_to("../outside")
    (folder / ("n" * 200)).write_text("long name")
    (folder / os.fsdecode(b"not-utf8-\xff")).write_text("odd name")
    os.mkfifo(folder / "pipe")
    os.chown(folder / "deep/er/row", 33, 34)
    os.chown(folder, 101, 102)
    (folder / "deep").chmod(0o2750)
    (folder / "empty").chmod(0o4711)
    os.setxattr(folder / "big", "user.note", b"kept")
    os.utime(folder / "deep/er/row", ns=(10**18, 10**18 + 5))
    return folder


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that must survive."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        content: object = ""
        if stat.S_ISREG(info.st_mode):
            content = (
                hashlib.sha256(path.read_bytes()).hexdigest(),
                info.st_nlink,
                info.st_mtime_ns,
                tuple(os.listxattr(path)),
            )
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        found[str(path.relative_to(folder))] = (info.st_mode, info.st_uid, info.st_gid, content)
    return found


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_restored_volume_is_the_one_that_was_backed_up(
    volumes: VolumeManager, data: Path, tmp_path: Path, compression: str
) -> None:
    path = tmp_path / "backup"
    result = volumes.backup_to("v", path, compression=compression)
    assert result.files == 5
    assert result.size_bytes == path.stat().st_size
    assert result.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("rb") as source:
        volumes.restore("copy", source, create=True)
    assert tree(Path(volumes.get("copy").path)) == tree(data)


def test_backup_to_a_stream_is_proven_too(volumes: VolumeManager, data: Path) -> None:
    class Stream:
        def __init__(self) -> None:
            self.data = bytearray()

        def write(self, chunk: bytes) -> None:
            self.data += chunk

    out = Stream()
    volumes.backup("v", out)
    volumes.restore("copy", io.BytesIO(out.data), create=True)
    assert tree(Path(volumes.get("copy").path)) == tree(data)


def test_backup_is_an_ordinary_tar_with_its_list(volumes: VolumeManager, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar.gz"
    volumes.backup_to("v", path)
    names = subprocess.run(["tar", "tzf", path], check=True, capture_output=True).stdout
    assert b"./\n" in names
    assert b"deep/er/row\n" in names
    assert names.endswith(NAME.encode() + b"\n")
    listed = subprocess.run(["tar", "xzOf", path, NAME], check=True, capture_output=True).stdout
    manifest = parse_manifest(listed)
    row = next(entry for entry in manifest.entries if entry.path == "deep/er/row")
    assert (row.size, row.sha256) == (5000, hashlib.sha256(b"hello" * 1000).hexdigest())
    with path.open("rb") as source:
        assert verify(source).volume == "v"


def test_damage_on_the_way_to_the_disk_is_found_before_it_is_called_a_backup(
    volumes: VolumeManager, data: Path, tmp_path: Path
) -> None:
    class Rotten:
        def __init__(self, file: io.BufferedWriter) -> None:
            self._file = file
            self._done = 0

        def write(self, chunk: bytes) -> None:
            spoiled = bytearray(chunk)
            if self._done < 5000 <= self._done + len(chunk):
                spoiled[5000 - self._done] ^= 1
            self._done += len(chunk)
            self._file.write(spoiled)

        def flush(self) -> None:
            self._file.flush()

        def fileno(self) -> int:
            return self._file.fileno()

    with (tmp_path / "backup").open("wb") as file, pytest.raises(Corrupt):
        volumes.backup("v", Rotten(file))


def test_files_that_change_meanwhile_are_named(volumes: VolumeManager, data: Path, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with (data / "log").open("ab") as log:
                log.write(b"line\n" * 100)
            (data / f"temp{number % 7}").write_bytes(b"x" * 1000)
            (data / f"temp{(number + 3) % 7}").unlink(missing_ok=True)

    (data / "log").write_bytes(b"x" * 1000)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(10):
            volumes.backup_to("v", tmp_path / f"backup{number}")
    finally:
        stop.set()
        writer.join()
    with (tmp_path / "backup9").open("rb") as source:
        volumes.restore("copy", source, create=True)
    assert (Path(volumes.get("copy").path) / "deep/er/row").read_bytes() == b"hello" * 1000


def test_second_name_of_a_file_whose_first_went_away_is_kept_as_a_file(
    volumes: VolumeManager, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hard link to a file that is not in the archive could not be restored."""
    os.link(data / "big", data / "deep/third")
    real = os.open

    def removed_meanwhile(path: object, *arguments: object, **options: object) -> int:
        if path == "big":
            (data / "big").unlink(missing_ok=True)
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", removed_meanwhile)
    volumes.backup_to("v", tmp_path / "b")
    with (tmp_path / "b").open("rb") as source:
        volumes.restore("copy", source, create=True)
    copied = Path(volumes.get("copy").path)
    assert not (copied / "big").exists()
    assert (copied / "deep/same").read_bytes() == (data / "deep/same").read_bytes()
    assert (copied / "deep/same").samefile(copied / "deep/third")


def test_archive_is_the_same_however_long_its_files_are(volumes: VolumeManager, tmp_path: Path) -> None:
    """Files that end before, at and after the edge of a block of the packer."""
    folder = Path(volumes.create("edges").path)
    for size in (
        0,
        1,
        511,
        512,
        513,
        PACK_BLOCK - 513,
        PACK_BLOCK - 512,
        PACK_BLOCK,
        PACK_BLOCK + 1,
        3 * PACK_BLOCK,
    ):
        (folder / f"{size}").write_bytes(os.urandom(size))
    volumes.backup_to("edges", tmp_path / "b")
    with (tmp_path / "b").open("rb") as source:
        volumes.restore("copy", source, create=True)
    assert tree(Path(volumes.get("copy").path)) == tree(folder)
    subprocess.run(["tar", "xzf", tmp_path / "b", "-C", tmp_path], check=True)
    assert (tmp_path / f"{PACK_BLOCK + 1}").read_bytes() == (folder / f"{PACK_BLOCK + 1}").read_bytes()


def test_full_disk_fails_the_backup_and_leaves_no_part(
    volumes: VolumeManager, data: Path, tmp_path: Path, small_disk: Path
) -> None:
    with pytest.raises(NoSpace, match="backup"):
        volumes.backup_to("v", small_disk / "backup")
    assert [path.name for path in small_disk.iterdir() if path.name != "lost+found"] == []


def test_cancelled_backup_leaves_no_part(volumes: VolumeManager, data: Path, tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        volumes.backup_to("v", tmp_path / "out", check=token.check)
    assert not any(path.name.endswith(".part") or path.name == "out" for path in tmp_path.iterdir())


def test_unknown_compression_is_refused(volumes: VolumeManager, data: Path) -> None:
    with pytest.raises(BadSpec):
        volumes.backup("v", io.BytesIO(), compression="rar")


# restores


def test_restore_replaces_what_was_there(volumes: VolumeManager, data: Path, tmp_path: Path) -> None:
    before = tree(data)
    volumes.backup_to("v", tmp_path / "b")
    (data / "later").write_text("not in the backup")
    (data / "deep/er/row").write_text("spoiled")
    with (tmp_path / "b").open("rb") as source:
        volumes.restore("v", source)
    assert tree(data) == before


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -9, -1])
def test_cut_archive_leaves_the_old_content(
    volumes: VolumeManager, data: Path, tmp_path: Path, cut: int
) -> None:
    volumes.backup_to("v", tmp_path / "b")
    (data / "later").write_text("mine")
    before = tree(data)
    with pytest.raises(BadArchive):
        volumes.restore("v", io.BytesIO((tmp_path / "b").read_bytes()[:cut]))
    assert tree(data) == before
    assert [path.name for path in data.parent.iterdir()] == ["data"]


def test_file_that_is_not_as_the_list_says_fails_the_restore(
    volumes: VolumeManager, data: Path, tmp_path: Path
) -> None:
    volumes.backup_to("v", tmp_path / "b")
    raw = bytearray(igzip.decompress((tmp_path / "b").read_bytes()))
    place = raw.index(b"hellohello")
    raw[place] ^= 1
    before = tree(data)
    with pytest.raises(BadArchive, match="deep/er/row has other content"):
        volumes.restore("v", io.BytesIO(raw))
    assert tree(data) == before


def test_restore_under_a_running_container_is_refused(
    volumes: VolumeManager, data: Path, tmp_path: Path
) -> None:
    volumes.backup_to("v", tmp_path / "b")
    volumes.resolve(MountSpec("volume", "/data", "v"), "1" * 64)
    with (tmp_path / "b").open("rb") as source, pytest.raises(InUse):
        volumes.restore("v", source, runs=lambda container_id: True)
    with (tmp_path / "b").open("rb") as source:
        volumes.restore("v", source, runs=lambda container_id: False)


def test_restore_into_a_volume_that_is_not_there(volumes: VolumeManager, data: Path, tmp_path: Path) -> None:
    volumes.backup_to("v", tmp_path / "b")
    with (tmp_path / "b").open("rb") as source, pytest.raises(VolumeNotFound):
        volumes.restore("new", source)
    with pytest.raises(BadArchive):
        volumes.restore("new", io.BytesIO(b"rubbish"), create=True)
    with pytest.raises(VolumeNotFound):
        volumes.get("new")
    with pytest.raises(BadSpec):
        volumes.restore("../new", io.BytesIO(b""), create=True)


def test_one_file_comes_back_among_what_is_there(volumes: VolumeManager, data: Path, tmp_path: Path) -> None:
    volumes.backup_to("v", tmp_path / "b")
    before = tree(data)
    (data / "deep/er/row").write_text("spoiled")
    (data / "later").write_text("mine")
    with (tmp_path / "b").open("rb") as source:
        volumes.restore("v", source, files=["deep/er/row"])
    after = tree(data)
    assert after.pop("later")
    assert {name: facts for name, facts in after.items() if stat.S_ISREG(facts[0])} == {
        name: facts for name, facts in before.items() if stat.S_ISREG(facts[0])
    }


def test_file_comes_back_into_a_folder_that_is_gone(
    volumes: VolumeManager, data: Path, tmp_path: Path
) -> None:
    volumes.backup_to("v", tmp_path / "b")
    subprocess.run(["rm", "-r", data / "deep"], check=True)
    with (tmp_path / "b").open("rb") as source:
        volumes.restore("v", source, files=["/deep/er/row"])
    assert (data / "deep/er/row").read_bytes() == b"hello" * 1000
    assert (data / "deep/er/row").stat().st_uid == 33


def test_of_several_files_all_come_back_or_none(volumes: VolumeManager, data: Path, tmp_path: Path) -> None:
    volumes.backup_to("v", tmp_path / "b")
    (data / "empty").write_text("newer")
    subprocess.run(["rm", "-r", data / "deep"], check=True)
    (data / "deep").write_text("a file where the folder was")
    before = tree(data)
    with (tmp_path / "b").open("rb") as source, pytest.raises(BadSpec):
        volumes.restore("v", source, files=["empty", "deep/er/row"])
    assert tree(data) == before
    with (tmp_path / "b").open("rb") as source, pytest.raises(NotFound):
        volumes.restore("v", source, files=["nothing"])
    assert tree(data) == before


@pytest.mark.parametrize("step", range(1, 8))
def test_restore_of_files_that_is_killed_leaves_the_old_content(
    volumes: VolumeManager, data: Path, tmp_path: Path, step: int
) -> None:
    """After each step of it; what is left is undone by the next look, and after the last step nothing is."""
    volumes.backup_to("v", tmp_path / "b")
    whole = {name: data.joinpath(name).read_bytes() for name in ("empty", "deep/er/row", "big")}
    (data / "empty").write_text("newer")
    (data / "deep/er/row").unlink()
    (data / "deep/same").unlink()
    (data / "big").write_text("newer as well")
    before = tree(data)
    child = os.fork()
    if child == 0:
        _die_after(step)
        with (tmp_path / "b").open("rb") as source:
            volumes.restore("v", source, files=list(whole))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert volumes.sweep()
    assert [path.name for path in data.parent.iterdir()] == ["data"]
    if step < 7:
        assert tree(data) == before
    else:
        assert {name: data.joinpath(name).read_bytes() for name in whole} == whole


def _die_after(step: int) -> None:
    """Be killed after so many steps: the new files synced, a journal, three files placed, all synced, the journal gone."""
    done = [0]

    def counted(work: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            result = work(*arguments)
            done[0] += 1
            if done[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("syncfs", "fsync_dir", "_place_one"):
        setattr(restoring, name, counted(getattr(restoring, name)))


def test_folder_and_a_file_in_it_come_back_together(
    volumes: VolumeManager, data: Path, tmp_path: Path
) -> None:
    volumes.backup_to("v", tmp_path / "b")
    before = tree(data)
    subprocess.run(["rm", "-r", data / "deep"], check=True)
    with (tmp_path / "b").open("rb") as source, pytest.raises(BadArchive, match="another name of big"):
        volumes.restore("v", source, files=["deep"])
    with (tmp_path / "b").open("rb") as source:
        volumes.restore("v", source, files=["deep/er/row", "deep", "big", "/deep/er"])
    assert tree(data) == before


def test_file_is_not_restored_through_a_link(volumes: VolumeManager, data: Path, tmp_path: Path) -> None:
    """AP-16: the folder was swapped for a link to the host since."""
    volumes.backup_to("v", tmp_path / "b")
    subprocess.run(["rm", "-r", data / "deep"], check=True)
    (tmp_path / "outside/er").mkdir(parents=True)
    (data / "deep").symlink_to(tmp_path / "outside")
    with (tmp_path / "b").open("rb") as source, pytest.raises(BadSpec):
        volumes.restore("v", source, files=["deep/er/row"])
    assert list((tmp_path / "outside/er").iterdir()) == []


def test_restore_that_was_killed_is_swept(volumes: VolumeManager, data: Path) -> None:
    (data.parent / "restore-abc").mkdir()
    (data.parent / "restore-abc/x").write_text("half")
    stray = data.parent.parent / "stray"
    (stray / "data").mkdir(parents=True)
    assert volumes.check() == ["folder without a volume: stray"]
    assert volumes.sweep() == ["volume stray", "volume v: restore-abc"]
    assert [path.name for path in data.parent.iterdir()] == ["data"]
    assert volumes.check() == []


# archives made to do harm


def archive(*entries: TarEntry, content: bytes = b"") -> io.BytesIO:
    raw = io.BytesIO()
    writer = TarWriter(raw)
    for entry in entries:
        writer.add(entry._replace(size=len(content)) if entry.kind is Kind.FILE else entry)
        if entry.kind is Kind.FILE:
            writer.write(content)
    writer.close()
    return io.BytesIO(raw.getvalue())


HARMFUL: dict[str, Callable[[Path], io.BytesIO]] = {
    "upwards": lambda outside: archive(TarEntry("../../escaped"), content=b"x"),
    "absolute through a link": lambda outside: archive(
        TarEntry("d", Kind.SYMLINK, linkname=str(outside)), TarEntry("d/escaped"), content=b"x"
    ),
    "link upwards": lambda outside: archive(
        TarEntry("d", Kind.SYMLINK, linkname="../../../.."), TarEntry("d/escaped"), content=b"x"
    ),
    "hard link out": lambda outside: archive(
        TarEntry("h", Kind.HARDLINK, linkname=str(outside / "sentinel"))
    ),
    "device": lambda outside: archive(TarEntry("disk", Kind.BLOCK, major=8)),
    "rubbish": lambda outside: io.BytesIO(os.urandom(2000)),
    "no end": lambda outside: io.BytesIO(archive(TarEntry("f"), content=b"x").getvalue()[:-1024]),
    "false list": lambda outside: archive(TarEntry(NAME), content=b"{}\n"),
    "deep": lambda outside: archive(TarEntry("a/" * 1000 + "f"), content=b"x"),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_harmful_archive_changes_nothing(
    volumes: VolumeManager, data: Path, tmp_path: Path, kind: str
) -> None:
    """AP-16 and rows AR-01 to AR-12: refused, or everything lands inside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "sentinel").write_text("safe")
    before, seen = tree(data), tree(outside)
    refused = ""
    try:
        volumes.restore("v", HARMFUL[kind](outside))
    except BadArchive as error:
        refused = error.message
    assert not refused or tree(data) == before
    assert kind == "hard link out" or str(tmp_path) not in refused
    assert tree(outside) == seen
    assert (outside / "sentinel").stat().st_nlink == 1
    assert not list(data.parent.glob("*escaped*"))
    assert not list(data.parent.parent.glob("*escaped*"))
    assert [path.name for path in data.parent.iterdir()] == ["data"]


def test_bomb_is_stopped_before_it_fills_the_disk(
    volumes: VolumeManager, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AR-10: bounded by the free space of the disk."""
    real = os.statvfs

    def nearly_full(path: object) -> os.statvfs_result:
        values = list(real(path))  # type: ignore[arg-type]
        values[4] = 10 * 1024 * 1024 // values[1]
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    before = tree(data)
    bomb = igzip.compress(archive(TarEntry("zeros"), content=bytes(64 * 1024 * 1024)).getvalue())
    with pytest.raises(BadArchive, match="more than"):
        volumes.restore("v", io.BytesIO(bomb))
    assert tree(data) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "wharfinger-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_is_told_from_other_errors(volumes: VolumeManager, data: Path) -> None:
    class Full:
        def write(self, chunk: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoSpace):
        volumes.backup("v", Full())

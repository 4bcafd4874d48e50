"""Paths stay in their root, trees go whatever their shape, writes are whole, and a reserve is there when needed."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from engine.errors import NoSpace
from engine.linux.files import (
    atomic_write,
    open_in_root,
    opened,
    process_umask,
    remove_tree,
    space_translated,
)
from engine.linux.process_keys import is_orphan, process_key
from engine.linux.reserve import Reserve
from engine.linux.walk import walk
from tests.support.sentinel import sentinel  # noqa: F401

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path) -> int:
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/passwd").write_text("inside")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    "path", ["etc/passwd", "/etc/passwd", "../../../etc/passwd", "link", "up", "etc/../../etc/passwd"]
)
def test_every_path_ends_inside(root: int, tmp_path: Path, path: str) -> None:
    """AR-02."""
    (tmp_path / "root/link").symlink_to("/etc/passwd")
    (tmp_path / "root/up").symlink_to("../../../../etc/passwd")
    with opened(open_in_root(root, path, os.O_RDONLY)) as fd:
        assert os.read(fd, 100) == b"inside"


def test_magic_links_are_refused(root: int, tmp_path: Path) -> None:
    """AR-02."""
    with (
        opened(os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)) as proc,
        pytest.raises(OSError, match="symbolic"),
    ):
        open_in_root(proc, "root/etc/passwd", os.O_RDONLY)


def test_a_zero_byte_is_no_path(root: int) -> None:
    with pytest.raises(ValueError, match="null"):
        open_in_root(root, "etc\0/passwd", os.O_RDONLY)


def test_a_tree_of_three_thousand_levels_goes(tmp_path: Path) -> None:
    """AR-10: deeper than paths, recursion and descriptors reach."""
    (tmp_path / "deep").mkdir()
    fd = os.open(tmp_path / "deep", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        with opened(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)):
            pass
        child = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(fd)
    remove_tree(tmp_path / "deep")
    assert os.listdir(tmp_path) == []


def test_removing_does_not_follow_links(tmp_path: Path, sentinel: Path) -> None:  # noqa: F811
    """AR-04."""
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/link").symlink_to(sentinel)
    (tmp_path / "tree/sub/link").symlink_to(sentinel / "etc")
    remove_tree(tmp_path / "tree")
    (tmp_path / "alone").symlink_to(sentinel)
    remove_tree(tmp_path / "alone")
    assert not (tmp_path / "alone").is_symlink()
    remove_tree(tmp_path / "not there/at all")


def test_two_may_remove_the_same_tree(tmp_path: Path) -> None:
    for index in range(300):
        (tmp_path / f"tree/{index % 10}/{index}").mkdir(parents=True)
    failures: list[BaseException] = []

    def remove() -> None:
        try:
            remove_tree(tmp_path / "tree")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=remove) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not (tmp_path / "tree").exists()


def test_a_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic_write(target, b"one", 0o600)
    atomic_write(target, b"two", 0o640)
    assert target.read_bytes() == b"two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    with pytest.raises(TypeError):
        atomic_write(target, None)  # type: ignore[arg-type]
    assert target.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


def test_the_umask_is_read_without_being_changed() -> None:
    before = os.umask(0o027)
    try:
        assert process_umask() == 0o027
    finally:
        assert os.umask(before) == 0o027


def test_a_full_disk_is_no_space_and_other_errors_stay() -> None:
    with pytest.raises(NoSpace, match="a blob"), space_translated("a blob"):
        raise OSError(28, "No space left on device")
    with pytest.raises(PermissionError), space_translated("a blob"):
        raise PermissionError(13, "denied")


def test_walk_goes_parents_first_and_sorted(tmp_path: Path) -> None:
    for name in ("b/y", "a/x", "a/w", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    with opened(os.open(tmp_path, os.O_RDONLY)) as fd:
        assert [folder.path for folder in walk(fd)] == ["", "a", "a/w", "a/x", "b", "b/y", "c"]
        assert [folder.path for folder in walk(fd, "a")] == ["a", "a/w", "a/x"]
        with pytest.raises(NotADirectoryError):
            list(walk(fd, "link"))


# the reserve


def test_a_reserve_is_given_up_only_when_needed(tmp_path: Path) -> None:
    """F-22."""
    reserve = Reserve(tmp_path / "reserve", size_bytes=1024 * 1024)
    held: list[bool] = []

    def action() -> str:
        held.append((tmp_path / "reserve/bytes").exists())
        if held[-1]:
            raise NoSpace("full")
        return "done"

    assert reserve.run(lambda: "easy") == "easy"
    assert reserve.run(action) == "done"
    assert held == [True, False]
    assert (tmp_path / "reserve/bytes").stat().st_blocks * 512 >= 1024 * 1024


def test_other_failures_pass_through(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", size_bytes=4096)
    with pytest.raises(PermissionError):
        reserve.run(lambda: (_ for _ in ()).throw(PermissionError(13, "no")))


def test_a_key_knows_whether_its_process_lives() -> None:
    key = process_key("step")
    assert not is_orphan(key)
    assert is_orphan(key.replace(f"@{os.getpid()}.", f"@{os.getpid()}.1"))
    assert is_orphan("step@999999999.1.x")
    assert not is_orphan("container")

"""A container that swaps a directory and a link while we write to it or read from it leads us nowhere (AR-13)."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.errors import BadArchive
from engine.layers.apply import extract
from engine.layers.diff import pack_tree
from engine.layers.tar import Kind, TarReader
from engine.linux.files import open_in_root, opened
from tests.support import tars
from tests.support.sentinel import sentinel  # noqa: F401

pytestmark = pytest.mark.root

ROUNDS = 5000
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextmanager
def swapper(a: Path, b: Path) -> Iterator[None]:
    """Exchange two names as fast as it goes, in another process, for the length of the block."""
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        first, second = os.fsencode(a), os.fsencode(b)
        while True:
            libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def root(tmp_path: Path, sentinel: Path) -> Path:  # noqa: F811
    """A container's root where `d` is a directory and `link` leads to the sentinel (as the container sees: inside)."""
    folder = tmp_path / "root"
    (folder / "d/etc").mkdir(parents=True)
    (folder / "d/etc/passwd").write_text("mine")
    (folder / "link").symlink_to(sentinel)
    (folder / "climb").symlink_to("../../../../../../../../" + str(sentinel).lstrip("/"))
    return folder


@pytest.mark.parametrize("link", ["link", "climb"])
def test_copying_in_while_a_directory_is_swapped(root: Path, link: str) -> None:
    """AR-13."""
    data = tars.archive(
        tars.folder("d"),
        tars.folder("d/etc", mode=0o777, uid=1234),
        tars.member("d/etc/passwd", data=b"copied in", mode=0o666),
        tars.symlink("d/etc/s", "x"),
        tars.hardlink("d/etc/h", "d/etc/passwd"),
    )
    written = 0
    with swapper(root / "d", root / link):
        for _ in range(ROUNDS // 10):
            try:
                extract(io.BytesIO(data), root)
                written += 1
            except (BadArchive, OSError):
                time.sleep(0.0001)  # let the other side have its turn
    assert written


@pytest.mark.parametrize("link", ["link", "climb"])
def test_copying_out_while_a_directory_is_swapped(root: Path, sentinel: Path, link: str) -> None:  # noqa: F811
    """AR-13."""
    secret = (sentinel / "etc/passwd").read_bytes()
    read = 0
    with swapper(root / "d", root / link):
        for _ in range(ROUNDS // 10):
            out = io.BytesIO()
            try:
                pack_tree(root, out, start="d")
            except OSError:
                continue
            reader = TarReader(io.BytesIO(out.getvalue()))
            for entry in reader:
                assert entry.kind is not Kind.FILE or reader.read() != secret
                read += 1
    assert read


@pytest.mark.parametrize("link", ["link", "climb"])
def test_opening_a_path_while_a_directory_is_swapped(root: Path, sentinel: Path, link: str) -> None:  # noqa: F811
    """AR-13: five thousand rounds of the one call that everything else is built on."""
    forbidden = (sentinel / "etc/passwd").stat().st_ino
    opened_once = 0
    with opened(os.open(root, os.O_RDONLY | os.O_DIRECTORY)) as fd, swapper(root / "d", root / link):
        for _ in range(ROUNDS):
            try:
                with opened(open_in_root(fd, "d/etc/passwd", os.O_RDONLY)) as file:
                    assert os.fstat(file).st_ino != forbidden
                    opened_once += 1
            except OSError:
                time.sleep(0.00001)  # let the other side have its turn
    assert opened_once


def test_a_directory_that_is_moved_up_does_not_open_the_way_out(tmp_path: Path, root: Path) -> None:
    """AR-13: `..` in a link while its directory moves: the kernel asks us to try again, we do."""
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/b/c/up").symlink_to("../../../../../../../../etc")
    (root / "etc").mkdir()
    (root / "etc/x").write_text("inside")
    (root / "other").mkdir()
    with opened(os.open(root, os.O_RDONLY | os.O_DIRECTORY)) as fd, swapper(root / "a/b", root / "other"):
        seen = 0
        for _ in range(ROUNDS):
            try:
                with opened(open_in_root(fd, "a/b/c/up/x", os.O_RDONLY)) as file:
                    assert os.read(file, 100) == b"inside"
                    seen += 1
            except FileNotFoundError:
                time.sleep(0.00001)  # let the other side have its turn
    assert seen

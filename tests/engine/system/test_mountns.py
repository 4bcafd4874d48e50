"""A mount namespace beside the host's: what is not seen in it, and what appears and disappears in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.linux.mount import LinuxMounts, unmount_below
from engine.linux.mountns import MountNamespace, share

pytestmark = pytest.mark.root


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name in ("hidden", "shared/later"):
        (tmp_path / name).mkdir(parents=True)
    LinuxMounts().mount("tmpfs", str(tmp_path / "hidden"), "tmpfs")
    yield tmp_path
    unmount_below(LinuxMounts(), tmp_path)


def below(folder: Path) -> set[str]:
    """Return what is mounted below `folder`, for the calling thread."""
    text = Path("/proc/thread-self/mountinfo").read_text()
    targets = (line.split(" ")[4] for line in text.splitlines())
    return {target.removeprefix(f"{folder}/") for target in targets if target.startswith(f"{folder}/")}


def test_a_mount_is_missing_inside_and_stays_outside(folder: Path) -> None:
    namespace = MountNamespace(without=[str(folder / "hidden")])
    assert "hidden" not in namespace.call(below, folder)
    assert "hidden" in below(folder)


def test_all_calls_share_one_namespace_that_is_not_ours(folder: Path) -> None:
    namespace = MountNamespace(without=[str(folder / "hidden")])
    seen = {namespace.call(os.readlink, "/proc/thread-self/ns/mnt") for _ in range(20)}
    assert len(seen) == 1
    assert os.readlink("/proc/thread-self/ns/mnt") not in seen


def test_mounts_come_and_go_in_a_shared_folder(folder: Path) -> None:
    share(folder / "shared")
    namespace = MountNamespace(without=[str(folder / "hidden")])
    assert "shared/later" not in namespace.call(below, folder)
    LinuxMounts().mount("tmpfs", str(folder / "shared/later"), "tmpfs")
    assert "shared/later" in namespace.call(below, folder)
    LinuxMounts().unmount(str(folder / "shared/later"))
    assert "shared/later" not in namespace.call(below, folder)


def test_what_is_mounted_inside_is_not_seen_outside(folder: Path) -> None:
    share(folder / "shared")
    namespace = MountNamespace(without=[str(folder / "hidden")])
    namespace.call(LinuxMounts().mount, "tmpfs", str(folder / "shared/later"), "tmpfs")
    assert "shared/later" not in below(folder)


def test_sharing_twice_mounts_once(folder: Path) -> None:
    share(folder / "shared")
    before = Path("/proc/self/mountinfo").read_text()
    share(folder / "shared")
    assert Path("/proc/self/mountinfo").read_text() == before


def test_sharing_never_hides_what_is_mounted(folder: Path) -> None:
    with pytest.raises(OSError, match="something is mounted"):
        share(folder)
    assert "hidden" in below(folder)

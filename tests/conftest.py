"""What all tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.linux.mount import LinuxMounts, unmount_below
from tests.support.hostdiff import assert_nothing_left
from tests.support.platform import Platform, busybox_context, running_platform

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: script/test runs as root"))


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of upstream test vectors; skips where it is not beside the checkout."""
    folder = Path(os.environ.get("WHARFINGER_VECTORS", ROOT.parent / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip(f"no test vectors in {folder} (set WHARFINGER_VECTORS)")
    return folder


@pytest.fixture
def engine_config(tmp_path: Path) -> Iterator[EngineConfig]:
    """Configuration of an engine of the test's own; afterwards nothing of it may be left on the host."""
    config = EngineConfig.from_home(tmp_path / "home")
    config.make_folders()
    yield config
    unmount_below(LinuxMounts(), config.run_root)
    unmount_below(LinuxMounts(), config.data_root)
    shutil.rmtree(config.run_root, ignore_errors=True)
    assert_nothing_left(config.instance)


@pytest.fixture(scope="session")
def server() -> Iterator[Platform]:
    """A running platform for all tests of this process that need one, with the image `busybox` in it."""
    folder = Path(tempfile.mkdtemp(prefix="wharfinger-test-"))
    folder.chmod(0o711)  # the web account passes through it
    try:
        with running_platform(folder) as platform:
            built = platform.build(busybox_context(folder / "busybox"), "busybox:latest")
            assert built.status in (200, 201), built.body
            yield platform
        assert_nothing_left(platform.config.instance)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

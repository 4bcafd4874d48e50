"""H14: the tests of rows BU-01 to BU-06 are worth something: each turns red when the guard that it is about is taken away."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.build import builder, context, trees
from engine.build.ops import download, mounts, place
from engine.build.trees import Tree
from tests.engine.system import test_build_faults as faults
from tests.engine.system import test_build_instructions as instructions
from tests.engine.unit import test_build_context as contexts
from tests.support.building import BuildNode, build_node

pytestmark = pytest.mark.root
site = faults.site


@pytest.fixture(scope="module")
def node() -> Iterator[BuildNode]:
    with build_node(reachable=["127.0.0.2/32"]) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(node: BuildNode) -> Iterator[None]:
    yield
    assert node.leftovers() == []


def _is_red(test: Callable[..., None], *arguments: Any) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(*arguments)


def _naive_open(root: int, path: str, flags: int, **_: object) -> int:
    """Open as if the folder were a root, by hand, as it is done where nobody thinks of links."""
    return os.open(path.lstrip("/") or ".", flags & ~os.O_NOFOLLOW, dir_fd=root)


def _naive_resolve(tree: Tree, path: str) -> str | None:
    found = os.path.realpath(tree.root / path)
    return os.path.relpath(found, tree.root) if os.path.exists(found) else None


def _follow_links_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tree, "resolve", _naive_resolve)
    monkeypatch.setattr(trees, "open_in_root", _naive_open)
    monkeypatch.setattr(place, "open_in_root", _naive_open)


def test_bu_01_the_path_of_the_dockerfile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(context, "checked_dockerfile_path", posixpath.normpath)
    _is_red(contexts.test_a_dockerfile_outside_the_context_is_refused, tmp_path, "../../x")


def test_bu_01_links_named_dockerfile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(context, "open_in_root", _naive_open)
    _is_red(contexts.test_links_of_a_context_never_lead_out_of_it, tmp_path)


def test_bu_02_links_of_the_context(monkeypatch: pytest.MonkeyPatch, node: BuildNode, tmp_path: Path) -> None:
    _follow_links_of(monkeypatch)
    _is_red(faults.test_a_link_of_the_context_never_brings_a_file_of_the_host, node, tmp_path)


def test_bu_03_links_of_a_stage(monkeypatch: pytest.MonkeyPatch, node: BuildNode, tmp_path: Path) -> None:
    _follow_links_of(monkeypatch)
    _is_red(faults.test_copy_from_a_stage_with_links_stays_in_the_stage, node, tmp_path)


def test_bu_03_links_where_files_go(monkeypatch: pytest.MonkeyPatch, node: BuildNode, tmp_path: Path) -> None:
    def step_without_a_look(placement: place.Placement, folder: str, name: str) -> None:
        return None

    monkeypatch.setattr(place.Placement, "_step", step_without_a_look)
    monkeypatch.setattr(place, "openat2", _naive_open)
    tmp_path.chmod(0o755)
    with pytest.raises((AssertionError, OSError)):
        faults.test_copy_never_writes_through_links_to_the_host(node, tmp_path, "absolute")


@pytest.mark.parametrize(
    ("mount", "message"),
    [("type=cache,id=trap,source=out,target=/m", "not a folder"), ("type=cache,id=trap,source=../x,target=/m", "leads out")],
)  # fmt: skip
def test_bu_04_folders_of_a_cache(
    monkeypatch: pytest.MonkeyPatch, node: BuildNode, tmp_path: Path, mount: str, message: str
) -> None:
    monkeypatch.setattr(mounts, "inner_folder", lambda folder, path: path)
    _is_red(faults.test_hostile_mounts_reach_nothing_of_the_host, node, tmp_path, mount, message)


def test_bu_04_a_cache_that_changes(monkeypatch: pytest.MonkeyPatch, node: BuildNode, tmp_path: Path) -> None:
    def not_pinned(maker: mounts.MountMaker, root: Path, inner: str) -> Path:
        return root / inner

    monkeypatch.setattr(mounts.MountMaker, "_pinned", not_pinned)
    _is_red(
        faults.test_a_cache_folder_that_becomes_a_link_at_the_last_moment_is_not_followed,
        node,
        tmp_path,
        monkeypatch,
    )


@pytest.mark.parametrize(
    ("mount", "message"),
    [("type=bind,source=leak,target=/m", "not found"), ("type=bind,from=evil,source=/dir,target=/m", "not found")],
)  # fmt: skip
def test_bu_04_sources_of_binds(
    monkeypatch: pytest.MonkeyPatch, node: BuildNode, tmp_path: Path, mount: str, message: str
) -> None:
    _follow_links_of(monkeypatch)
    _is_red(faults.test_hostile_mounts_reach_nothing_of_the_host, node, tmp_path, mount, message)


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("type=bind,target=/sys/fs", "must not lie in /sys"),
        ("type=tmpfs,target=/dev", "must not lie in /dev"),
    ],
)
def test_bu_04_targets(
    monkeypatch: pytest.MonkeyPatch, node: BuildNode, tmp_path: Path, mount: str, message: str
) -> None:
    monkeypatch.setattr(mounts, "check_mount_target", posixpath.normpath)
    _is_red(faults.test_hostile_mounts_reach_nothing_of_the_host, node, tmp_path, mount, message)


def test_bu_05_rights(monkeypatch: pytest.MonkeyPatch, node: BuildNode) -> None:
    monkeypatch.setattr(builder, "_check_rights", lambda plan, request: None)
    _is_red(instructions.test_privilege_is_for_admins, node)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:{port}/", "http://127.0.0.2:{port}/redirect=http://127.0.0.1:{port}/"]
)
def test_bu_06_addresses(monkeypatch: pytest.MonkeyPatch, node: BuildNode, site: int, address: str) -> None:
    monkeypatch.setattr(download, "is_public", lambda address: True)
    _is_red(faults.test_add_reaches_only_the_public_internet, node, site, address)

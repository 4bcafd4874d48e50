"""Seccomp programs that are kept: which configuration gets which, and what is not believed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from engine.runtime.filters import ANNOTATION, Filters

PROGRAM = bytes(range(16))


def config(**profile: Any) -> dict[str, Any]:
    return {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", **profile}}}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "seccomp.bpf").write_bytes(PROGRAM)
    return tmp_path / "seccomp.bpf"


def test_what_was_learned_is_given_to_the_same_profile_alone(tmp_path: Path, made: Path) -> None:
    filters = Filters(tmp_path / "filters", "crun 1")
    assert filters.prepare(config()) == config()
    filters.learn(config(), made)
    given = filters.prepare(config())
    assert base64.b64decode(given["annotations"][ANNOTATION]) == PROGRAM
    assert given["linux"] == config()["linux"]
    assert filters.prepare(config(defaultErrnoRet=1)) == config(defaultErrnoRet=1)


def test_another_process_knows_it_too_and_another_runtime_does_not(tmp_path: Path, made: Path) -> None:
    Filters(tmp_path / "filters", "crun 1").learn(config(), made)
    assert "annotations" in Filters(tmp_path / "filters", "crun 1").prepare(config())
    assert "annotations" not in Filters(tmp_path / "filters", "crun 2").prepare(config())


@pytest.mark.parametrize("content", [b"", b"1234567", bytes(8 * 4097)], ids=["empty", "cut", "too long"])
def test_a_file_that_is_no_program_is_not_kept(tmp_path: Path, made: Path, content: bytes) -> None:
    made.write_bytes(content)
    filters = Filters(tmp_path / "filters", "crun 1")
    filters.learn(config(), made)
    assert filters.prepare(config()) == config()


def test_a_container_that_is_gone_teaches_nothing(tmp_path: Path) -> None:
    filters = Filters(tmp_path / "filters", "crun 1")
    filters.learn(config(), tmp_path / "nowhere")
    assert filters.prepare(config()) == config()


def test_without_a_profile_nothing_is_added(tmp_path: Path, made: Path) -> None:
    filters = Filters(tmp_path / "filters", "crun 1")
    filters.learn({"linux": {}}, made)
    assert filters.prepare({"linux": {}}) == {"linux": {}}

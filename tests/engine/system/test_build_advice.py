"""Advice: each rule fires where it should, says line and bytes, and is explained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.build.advice_rules import RULES, skipped
from engine.build.request import Advice
from tests.support.building import BuildNode, build_node

pytestmark = pytest.mark.root
BASE = "FROM busybox:test\n"
DOCS = Path(__file__).parents[3] / "docs" / "advice"


@pytest.fixture(scope="module")
def node() -> Iterator[BuildNode]:
    with build_node() as made:
        yield made


def _advice(node: BuildNode, dockerfile: str, rule: str, **request: object) -> list[Advice]:
    return [advice for advice in node.build(dockerfile, **request).advice if advice.rule == rule]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "dockerfile", "line"),
    [
        ("merge-run", BASE + 'RUN echo a > /a\nRUN echo b > /b\nCMD ["x"]\n', 2),
        ("secret-variable", BASE + "ARG DB_PASSWORD\n", 2),
        ("secret-variable", BASE + "ENV API_KEY=1\n", 2),
        ("root-user", BASE + 'CMD ["x"]\n', 1),
        ("undefined-variable", BASE + "ENV MODE=a\nLABEL x=$MOED\n", 3),
        ("several-commands", BASE + 'CMD ["a"]\nCMD ["b"]\n', 2),
        ("shell-form", BASE + "CMD run me\n", 2),
        ("relative-workdir", BASE + "WORKDIR app\n", 2),
        ("legacy-form", BASE + "ENV A b\n", 2),
        ("maintainer", BASE + "MAINTAINER me\n", 2),
        ("duplicate-stage", "FROM busybox:test AS a\nFROM busybox:test AS a\n", 2),
        ("empty-continuation", BASE + "RUN true \\\n\n && true\n", 4),
        ("cache-order", BASE + "COPY . /app\nRUN echo pip install -r requirements.txt\n", 2),
    ],
)
def test_a_rule_names_its_line(node: BuildNode, rule: str, dockerfile: str, line: int) -> None:
    found = _advice(node, dockerfile, rule, files={"f": "1"})
    assert [advice.line for advice in found] == [line]
    assert found[0].severity == RULES[rule].severity


@pytest.mark.parametrize(
    "rule", ["merge-run", "root-user", "secret-variable", "shell-form", "undefined-variable"]
)
def test_a_good_dockerfile_gets_no_advice(node: BuildNode, rule: str) -> None:
    text = (
        BASE
        + 'ARG PUBLIC_KEY_FILE=x\nRUN echo $PUBLIC_KEY_FILE > /a\nUSER alice\nLABEL v=${UNSET:-}\nCMD ["x"]\n'
    )
    assert not _advice(node, text, rule)


def test_package_caches_are_found_with_their_bytes(node: BuildNode) -> None:
    text = BASE + "RUN mkdir -p /var/lib/apt/lists && head -c 200000 /dev/zero > /var/lib/apt/lists/x\n"
    (found,) = _advice(node, text, "package-cache")
    assert (found.line, found.size_bytes) == (2, 200_000)


def test_hidden_files_are_found_with_their_bytes(node: BuildNode) -> None:
    text = BASE + "RUN mkdir /d && head -c 300000 /dev/zero > /d/big\nLABEL a=b\nRUN rm -r /d\n"
    (found,) = _advice(node, text, "hidden-files")
    assert (found.line, found.size_bytes) == (4, 300_000)


def test_build_tools_in_the_final_image_are_found(node: BuildNode) -> None:
    text = "FROM busybox:test AS build\nRUN mkdir -p /usr/bin && echo > /usr/bin/gcc && echo x > /out\n"
    assert _advice(node, text, "build-tools")
    assert not _advice(node, text + "FROM scratch\nCOPY --from=build /out /\n", "build-tools")


def test_a_heavy_folder_in_the_upload_is_named(node: BuildNode) -> None:
    files: dict[str, bytes | str] = {"node_modules/big": b"x" * 2_000_000, "app.js": b"y" * 1000}
    (found,) = _advice(node, BASE + "COPY app.js /\n", "ignore-upload", files=files)
    assert found.size_bytes == 2_000_000
    assert "node_modules" in found.message


def test_bases_without_a_version_or_larger_than_needed_are_named(node: BuildNode) -> None:
    node.images.tag("busybox:test", "python:3.12")
    node.images.tag("busybox:test", "python:latest")
    assert _advice(node, "FROM python\n", "floating-base")
    (found,) = _advice(node, "FROM python:3.12\n", "smaller-base")
    assert found.size_bytes > 0


def test_advice_can_be_silenced(node: BuildNode) -> None:
    text = BASE + "MAINTAINER me\nWORKDIR app\n"
    assert not _advice(node, "# check=skip=maintainer\n" + text, "maintainer")
    assert _advice(node, "# check=skip=maintainer\n" + text, "relative-workdir")
    assert node.build("# check=skip=all\n" + text).advice == ()


def test_every_rule_is_explained() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")} - {"README"}
    assert pages == set(RULES)
    for rule in RULES:
        text = (DOCS / f"{rule}.md").read_text()
        assert text.startswith("# ")
        assert f"check=skip={rule}`" in text


def test_skip_directives_are_read() -> None:
    assert skipped("skip=Merge-Run, root-user;error=true") == {"merge-run", "root-user"}
    assert skipped("") == frozenset()

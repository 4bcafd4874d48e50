"""What instructions accept and what they say when they do not, against BuildKit's tables."""

from __future__ import annotations

from typing import Any

import pytest

from engine.build.instruction_parser import parse_instruction
from engine.build.instructions import CommandLine, Copy, InlineFile, Run
from engine.build.parser import parse
from engine.build.ports import exposed_ports
from engine.errors import DockerfileError
from tests.support.vectors import load_vectors

ERRORS = load_vectors("buildkit-dockerfile", "instructions", "errors.json")
HEREDOCS = load_vectors("buildkit-dockerfile", "instructions", "heredoc_copy_run.json")
EXPOSE = load_vectors("buildkit-dockerfile", "instructions", "expose.json")


def _refusals() -> list[tuple[str, str]]:
    cases = [(case["dockerfile"], case["expectedError"]) for case in ERRORS["error_cases"]]
    for group in ("exactly_one_argument", "at_least_one_argument", "no_destination", "blank_names"):
        table = ERRORS[group]
        cases += [
            (table["line"].replace("CMD", name), table["error"].replace("CMD", name))
            for name in table["commands"]
        ]
    return cases


@pytest.mark.parametrize(("dockerfile", "message"), _refusals(), ids=lambda value: repr(value)[:40])
def test_a_wrong_instruction_is_refused_in_the_known_words(dockerfile: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        _first(dockerfile)
    assert message in caught.value.message
    assert caught.value.line == 1


def _first(dockerfile: str) -> Any:  # an instruction of whatever kind
    parsed = parse(dockerfile)
    return parse_instruction(parsed.nodes[0], parsed)


@pytest.mark.parametrize("case", HEREDOCS["copy"], ids=lambda case: case["dockerfile"])
def test_copy_takes_here_documents_as_sources(case: dict[str, Any]) -> None:
    expected = case["sourcesAndDest"]
    copy = _first(case["dockerfile"])
    assert isinstance(copy, Copy)
    assert copy.destination == expected["DestPath"]
    assert list(copy.sources) == expected.get("SourcePaths", [])
    contents = [
        InlineFile(item["Path"], item["Data"], item["Expand"]) for item in expected.get("SourceContents", [])
    ]
    assert list(copy.inline) == contents


@pytest.mark.parametrize("case", HEREDOCS["run"], ids=lambda case: case["dockerfile"])
def test_run_keeps_its_here_documents(case: dict[str, Any]) -> None:
    run = _first(case["dockerfile"])
    assert isinstance(run, Run)
    assert run.command == CommandLine(tuple(case["command"]), case["shell"])
    files = [(item["Name"], item["Data"], item.get("Chomp", False)) for item in case.get("files", [])]
    assert [(file.name, file.content, file.chomp) for file in run.node.heredocs] == files


@pytest.mark.parametrize("case", EXPOSE["ok"], ids=lambda case: case["name"])
def test_expose_reads_ports_with_an_address(case: dict[str, Any]) -> None:
    assert exposed_ports(case["spec"]) == case["expected"]


@pytest.mark.parametrize("case", EXPOSE["errors"], ids=lambda case: case["name"])
def test_expose_refuses_what_names_no_port(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        exposed_ports(case["spec"])
    assert str(caught.value) == case["expError"]

"""The shell syntax of instructions against the vectors of BuildKit's own tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.build.shell import Lexer, ShellSyntaxError
from tests.support.vectors import ROOT, load_vectors

SHELL = ROOT / "buildkit-dockerfile" / "shell"
MATCHES = load_vectors("buildkit-dockerfile", "shell", "process_word_with_matches.json")
MANDATORY = load_vectors("buildkit-dockerfile", "shell", "mandatory_env.json")
ENVIRONMENT = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}


def _env_cases() -> list[tuple[str, str]]:
    lines = _lines(SHELL / "envVarTest")
    parts = [line.split("|") for line in lines if line.strip() and not line.startswith("#")]
    return [
        (source.strip(), expected.strip())
        for platform, source, expected in parts
        if platform.strip() in ("A", "U")
    ]


def _word_cases() -> list[tuple[dict[str, str], str, list[str]]]:
    environment: dict[str, str] = {}
    cases = []
    for line in _lines(SHELL / "wordsTest"):
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith("ENV "):
            name, _, value = line.removeprefix("ENV ").partition("=")
            environment = {**environment, name.lstrip(): value}
            continue
        source, _, expected = line.partition("|")
        cases.append((environment, source.strip(), expected.lstrip().split(",")))
    return cases


def _lines(path: Path) -> list[str]:
    return path.read_text().split("\n")


@pytest.mark.parametrize(("source", "expected"), _env_cases())
def test_variables_are_replaced_as_there(source: str, expected: str) -> None:
    if expected == "error":
        with pytest.raises(ShellSyntaxError):
            Lexer().expand(source, ENVIRONMENT.get)
    else:
        assert Lexer().expand(source, ENVIRONMENT.get).text == expected


@pytest.mark.parametrize(("environment", "source", "expected"), _word_cases())
def test_a_line_splits_into_the_same_words(
    environment: dict[str, str], source: str, expected: list[str]
) -> None:
    if expected == ["error"]:
        with pytest.raises(ShellSyntaxError):
            Lexer().words(source, environment.get)
    else:
        # the upstream test trims the blanks at the end of the expected line, as its words never end with any
        assert [word.rstrip() for word in Lexer().words(source, environment.get)] == [
            word.rstrip() for word in expected
        ]


@pytest.mark.parametrize("case", MATCHES, ids=lambda case: case["input"])
def test_every_form_gives_the_same_text_and_the_same_variables(case: dict[str, Any]) -> None:
    environment = case["envs"] or {}
    if case.get("expectedErr"):
        with pytest.raises(ShellSyntaxError):
            Lexer().expand(case["input"], environment.get)
        return
    result = Lexer().expand(case["input"], environment.get)
    assert result.text == case["expected"]
    assert result.matched == set(case.get("matches") or [])
    assert result.unmatched == set(case.get("unmatched") or [])


@pytest.mark.parametrize("case", MANDATORY, ids=lambda case: f"{case['word']}-{case['env']}")
def test_a_mandatory_variable_speaks_when_missing(case: dict[str, Any]) -> None:
    environment = dict(pair.split("=", 1) for pair in case["env"])
    if "error_contains" in case:
        with pytest.raises(ShellSyntaxError, match=case["error_contains"]):
            Lexer().expand(case["word"], environment.get)
    else:
        assert Lexer().expand(case["word"], environment.get).text == case["expected"]


def test_the_vectors_are_all_there() -> None:
    assert (len(_env_cases()), len(_word_cases()), len(MATCHES)) == (228, 24, 47)

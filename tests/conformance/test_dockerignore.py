"""`.dockerignore` against the tables of the library that Docker uses."""

from __future__ import annotations

from typing import Any

import pytest

from engine.build.dockerignore import BadPattern, Glob, IgnoreMatcher, parse_ignore_file
from tests.support.vectors import load_vectors

FOLDER = "patternmatcher-dockerignore"
MATCHES = load_vectors(FOLDER, "matches.json")
MULTI = load_vectors(FOLDER, "multi_pattern.json")
NAMES = load_vectors(FOLDER, "match_filepath.json")
FILES = load_vectors(FOLDER, "ignorefile.json")


def _agrees(patterns: list[str], text: str, *, expected: bool, error: bool) -> None:
    if error:
        with pytest.raises(BadPattern):
            IgnoreMatcher(patterns)
    else:
        assert IgnoreMatcher(patterns).ignores(text) is expected


@pytest.mark.parametrize("case", MATCHES, ids=lambda case: f"{case['pattern']}-{case['text']}")
def test_a_pattern_matches_a_path_or_its_parents(case: dict[str, Any]) -> None:
    _agrees([case["pattern"]], case["text"], expected=case["pass"], error=False)


@pytest.mark.parametrize("case", MULTI, ids=lambda case: f"{case['patterns']}-{case['text']}")
def test_the_last_pattern_decides(case: dict[str, Any]) -> None:
    _agrees(case["patterns"], case["text"], expected=case.get("pass", False), error=case.get("error", False))


@pytest.mark.parametrize("case", NAMES, ids=lambda case: f"{case['pattern']}-{case['s']}")
def test_a_name_matches_as_go_matches_it(case: dict[str, Any]) -> None:
    _agrees([case["pattern"]], case["s"], expected=case["match"], error=case["error"])


@pytest.mark.parametrize("case", [case for case in MATCHES + NAMES if not case.get("error")], ids=str)
def test_the_way_for_many_wildcards_agrees_with_the_quick_one(case: dict[str, Any]) -> None:
    glob = Glob.parse(case["pattern"].rstrip("/") or "/")
    text = (case.get("text") or case["s"]).rstrip("/")
    if not glob.plain:
        assert glob._walk(text) is glob.matches(text)


@pytest.mark.parametrize("case", FILES)
def test_a_file_is_read_into_patterns(case: dict[str, Any]) -> None:
    assert parse_ignore_file(case["content"].encode()) == case["expected"]

"""Reading Dockerfiles against the test files of BuildKit's parser: the same tree, the same lines, the same refusals."""

from __future__ import annotations

from typing import Any

import pytest

from engine.build.heredoc import Heredoc, heredocs_in, parse_heredoc
from engine.build.parser import Node, parse, parse_json_list, split_words
from engine.build.quote import quote, quote_list
from engine.build.shell import ShellSyntaxError
from engine.errors import DockerfileError
from tests.support.vectors import ROOT, load_vectors

PARSER = ROOT / "buildkit-dockerfile" / "parser"
HEREDOC_HELPERS = load_vectors("buildkit-dockerfile", "parser", "heredoc_helpers.json")
HEREDOCS = load_vectors("buildkit-dockerfile", "parser", "heredocs.json")
WORDS = load_vectors("buildkit-dockerfile", "parser", "parse_words.json")
ARRAYS = load_vectors("buildkit-dockerfile", "parser", "json_arrays.json")
LINES = load_vectors("buildkit-dockerfile", "parser", "testfile-line", "expected.json")


def _names(folder: str) -> list[str]:
    return sorted(path.name for path in (PARSER / folder).iterdir())


def _dump(node: Node) -> str:
    parts = [node.name.lower()]
    if node.flags:
        parts.append(quote_list(node.flags))
    parts += [f"({_dump(node.child)})"] if node.child else [quote(word) for word in node.args]
    return " ".join(parts)


@pytest.mark.parametrize("name", _names("testfiles"))
def test_a_file_gives_the_same_tree(name: str) -> None:
    parsed = parse((PARSER / "testfiles" / name / "Dockerfile").read_bytes())
    dumped = "".join(f"({_dump(node)})\n" for node in parsed.nodes)
    assert dumped == (PARSER / "testfiles" / name / "result").read_text()


@pytest.mark.parametrize("name", _names("testfiles-negative"))
def test_a_bad_file_is_refused(name: str) -> None:
    with pytest.raises(DockerfileError):
        parse((PARSER / "testfiles-negative" / name / "Dockerfile").read_bytes())


def test_nodes_know_their_lines() -> None:
    parsed = parse((PARSER / "testfile-line" / "Dockerfile").read_bytes())
    assert [[node.line, node.end_line] for node in parsed.nodes] == LINES["children_start_end"]
    assert (parsed.nodes[0].line, parsed.nodes[-1].end_line) == (
        LINES["ast_start_line"],
        LINES["ast_end_line"],
    )


def _heredoc(case: dict[str, Any]) -> Heredoc:
    return Heredoc(
        case["Name"], case["Expand"], case.get("Chomp", False), case.get("FileDescriptor", 0), case["Content"]
    )


def test_here_documents_hold_the_same_text() -> None:
    parsed = parse(HEREDOCS["dockerfile"])
    found = [list(node.heredocs) for node in parsed.nodes[1:]]
    assert found == [
        [_heredoc(case) for case in cases or []] for cases in HEREDOCS["heredocs_per_instruction_from_2nd"]
    ]


@pytest.mark.parametrize("word", HEREDOC_HELPERS["valid"])
def test_a_here_document_word_names_its_end(word: str) -> None:
    found = parse_heredoc(word)
    assert found is not None
    assert found.name == "EOF"


@pytest.mark.parametrize("word", HEREDOC_HELPERS["not_heredoc"])
def test_another_word_begins_no_here_document(word: str) -> None:
    assert parse_heredoc(word) is None


@pytest.mark.parametrize("word", HEREDOC_HELPERS["invalid"])
def test_open_quotes_in_a_here_document_word_are_an_error(word: str) -> None:
    with pytest.raises(ShellSyntaxError):
        parse_heredoc(word)


@pytest.mark.parametrize("case", HEREDOC_HELPERS["from_line"], ids=lambda case: case["line"])
def test_a_line_announces_its_here_documents(case: dict[str, Any]) -> None:
    assert [document.name for document in heredocs_in(case["line"])] == (case["heredocNames"] or [])


@pytest.mark.parametrize("case", WORDS, ids=lambda case: case["input"])
def test_words_split_outside_quotes(case: dict[str, Any]) -> None:
    assert split_words(case["input"], "\\") == case["expect"]


@pytest.mark.parametrize("case", ARRAYS["valid"], ids=lambda case: case["input"])
def test_a_json_array_of_strings_is_read(case: dict[str, Any]) -> None:
    assert parse_json_list(case["input"]) == case["expect"]


@pytest.mark.parametrize("text", ARRAYS["invalid"])
def test_a_json_array_of_other_things_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="comprised of strings only"):
        parse_json_list(text)

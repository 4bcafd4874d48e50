"""Problems of a Dockerfile while it is typed, each at its line.

This is a reader's quick look, so that a slip is seen before anything is sent; the node's parser has the last word.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import Any

KNOWN = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL",
    "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip
_HEREDOC = re.compile(r"<<-?\s*([\"']?)([A-Za-z_][A-Za-z0-9_]*)\1")
_ESCAPE = re.compile(r"#\s*escape\s*=\s*(\S)", re.I)
_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z")


@dataclass(frozen=True)
class Instruction:
    line: int
    word: str
    rest: str


def problems_of(text: str) -> list[dict[str, Any]]:
    """Return `{line, message, hint, tone}` (tone: fail or warn), by line."""
    instructions, found = read(text)
    found += _order(instructions)
    stages: list[str] = []
    for instruction in instructions:
        found += _one(instruction, stages)
    return sorted(found, key=lambda problem: problem["line"])


def read(text: str) -> tuple[list[Instruction], list[dict[str, Any]]]:
    """Return the instructions of a Dockerfile, continuations joined and heredocs skipped, and what cannot be read."""
    lines, escape = text.split("\n"), "\\"
    instructions: list[Instruction] = []
    at = 0
    while at < len(lines):
        raw = lines[at].strip()
        if raw.startswith("#") or not raw:
            if not instructions and (match := _ESCAPE.match(raw)):
                escape = match.group(1)
            at += 1
            continue
        start, joined = at, ""
        while True:
            part = lines[at].rstrip()
            if part.strip().startswith("#") and at > start:
                part = ""
            goes_on = part.endswith(escape)
            joined += (part[:-1] if goes_on else part) + " "
            at += 1
            if at >= len(lines) or not (
                goes_on
                or (
                    joined.strip()
                    and not part.strip()
                    and at > start + 1
                    and lines[at - 2].rstrip().endswith(escape)
                )
            ):
                break
        word, _, rest = joined.strip().partition(" ")
        instructions.append(Instruction(start + 1, word, rest.strip()))
        at, missing = _skip_heredocs(lines, at, word, rest)
        if missing:
            return instructions, [
                _problem(start + 1, f"the text after <<{missing} never ends", f"end it with a line {missing}")
            ]
    return instructions, []


def _skip_heredocs(lines: list[str], at: int, word: str, rest: str) -> tuple[int, str]:
    if word.upper() not in ("RUN", "COPY", "ADD"):
        return at, ""
    for _, name in _HEREDOC.findall(rest):
        while at < len(lines) and lines[at].strip() != name:
            at += 1
        if at >= len(lines):
            return at, name
        at += 1
    return at, ""


def _problem(line: int, message: str, hint: str = "", tone: str = "fail") -> dict[str, Any]:
    return {"line": line, "message": message, "hint": hint, "tone": tone}


def _order(instructions: list[Instruction]) -> list[dict[str, Any]]:
    first = next((one for one in instructions if one.word.upper() != "ARG"), None)
    if first is None:
        return (
            [_problem(1, "there is no FROM", "begin with FROM and the name of a base image, or FROM scratch")]
            if instructions
            else []
        )
    if first.word.upper() != "FROM" and first.word.upper() in KNOWN:
        return [_problem(first.line, f"{first.word.upper()} stands before FROM", "only ARG may")]
    return []


def _one(instruction: Instruction, stages: list[str]) -> list[dict[str, Any]]:
    word, rest, line = instruction.word.upper(), instruction.rest, instruction.line
    if word not in KNOWN:
        near = difflib.get_close_matches(word, KNOWN, 1, 0.6)
        return [
            _problem(
                line,
                f"unknown instruction {instruction.word[:40]}",
                f"did you mean {near[0]}?" if near else "",
            )
        ]
    if not rest:
        return [_problem(line, f"{word} says nothing", "an argument is missing")]
    if word == "FROM":
        return _from(rest, line, stages)
    if word in ("COPY", "ADD"):
        return _copy(word, rest, line, stages)
    if word in ("CMD", "ENTRYPOINT", "SHELL") and rest.startswith("["):
        return _json_form(word, rest, line)
    if word == "SHELL":
        return [_problem(line, "SHELL needs its words as a list", 'like SHELL ["/bin/bash", "-c"]')]
    if word == "MAINTAINER":
        return [_problem(line, "MAINTAINER is old", "write LABEL org.opencontainers.image.authors=…", "warn")]
    if word in ("ENV", "ARG") and _looks_secret(rest):
        return [
            _problem(
                line, f"a secret in {word} stays readable in the image", "use RUN --mount=type=secret", "warn"
            )
        ]
    return []


def _from(rest: str, line: int, stages: list[str]) -> list[dict[str, Any]]:
    words = [word for word in rest.split() if not word.startswith("--")]
    found = []
    if not words:
        return [_problem(line, "FROM names no image")]
    name = words[2].lower() if len(words) == 3 and words[1].upper() == "AS" else ""
    if len(words) not in (1, 3) or (len(words) == 3 and not name):
        found.append(_problem(line, "FROM is written FROM image [AS name]"))
    elif name and not _NAME.match(name):
        found.append(
            _problem(
                line, f"{words[2][:40]} cannot be the name of a stage", "lower-case letters, digits, - _ ."
            )
        )
    elif name and name in stages:
        found.append(_problem(line, f"two stages are called {name}"))
    base = words[0]
    if (
        base.lower() not in stages
        and base != "scratch"
        and "$" not in base
        and (":" not in base.rsplit("/", 1)[-1] or base.endswith(":latest"))
        and "@" not in base
    ):
        found.append(
            _problem(
                line, f"{base[:60]} may be another image tomorrow", "name a version instead of latest", "warn"
            )
        )
    stages.append(name or str(len(stages)))
    return found


def _copy(word: str, rest: str, line: int, stages: list[str]) -> list[dict[str, Any]]:
    flags = [part for part in rest.split() if part.startswith("--")]
    words = [part for part in rest.split() if not part.startswith("--")]
    found = []
    if (
        not rest.split("--")[-1].strip().startswith("[")
        and "<<" not in rest
        and len(words) < 2
        and not rest.startswith("[")
    ):
        found.append(_problem(line, f"{word} needs a source and a destination"))
    if word == "COPY" and len(words) >= 2 and words[0].startswith(("http://", "https://")):
        found.append(_problem(line, "COPY fetches no address", "ADD does"))
    source = next((flag.partition("=")[2] for flag in flags if flag.startswith("--from=")), "")
    if source.isdecimal() and int(source) >= len(stages) - 1:
        found.append(_problem(line, f"there is no stage {source} above this one"))
    if words[:1] == ["."] and word == "COPY" and not source:
        found.append(
            _problem(
                line,
                "everything is copied: any change makes this and all after it run again",
                "copy what is needed, or keep a .dockerignore",
                "warn",
            )
        )
    return found


def _json_form(word: str, rest: str, line: int) -> list[dict[str, Any]]:
    try:
        value = json.loads(rest)
    except ValueError:
        return [
            _problem(
                line,
                f"{word} looks like a list but cannot be read as one",
                "words in double quotes, parted by commas",
                "warn",
            )
        ]
    return (
        []
        if isinstance(value, list) and all(isinstance(item, str) for item in value)
        else [_problem(line, f"{word}'s list may hold words only")]
    )


def _looks_secret(rest: str) -> bool:
    name, equal, value = rest.partition("=")
    return (
        bool(equal and value.strip("\"' "))
        and bool(re.search(r"(?:password|passwd|secret|token|api_?key)", name, re.I))
        and "$" not in value
    )

"""`.dockerignore`: which files of an upload never become part of the build context.

    matcher = IgnoreMatcher(parse_ignore_file(b"*.log\\n!keep.log\\nnode_modules\\n"))
    matcher.ignores("node_modules/left-pad/index.js")   -> True
    matcher.ignores("keep.log")                          -> False

Rules (Docker's): one pattern a line, `#` begins a comment, the last pattern that matches a path or one of its parents decides, `!` makes
an exception; `*` and `?` stay inside a folder, `**` crosses folders, `[a-z]` is a class, a backslash takes the next character as it is.
Source: Dockerfile reference, ".dockerignore file"; Go's path/filepath.Match for the syntax of one name.

Gotcha: the patterns are foreign. Matching never goes back over the path more than a bounded number of times.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import InvalidInput

MAX_PATTERNS = 10_000
MAX_PATTERN_LENGTH = 4096
_MAX_CACHED_FOLDERS = 100_000
_MANY_WILDCARDS = 3  # more than these make a regular expression slow on a hostile path


class BadPattern(InvalidInput):
    """A pattern cannot be read."""

    code = "dockerfile_error"


def parse_ignore_file(content: bytes) -> list[str]:
    """Return the patterns of an ignore file in their short form, exceptions with a `!` before them."""
    patterns: list[str] = []
    for line in content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        exception = pattern.startswith("!")
        if exception:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = _clean(pattern)
            pattern = pattern[1:] if len(pattern) > 1 and pattern.startswith("/") else pattern
        patterns.append("!" + pattern if exception else pattern)
    return patterns


class IgnoreMatcher:
    """Decides about paths; they are relative to the context, with slashes. Not for use by two threads at once."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raise `BadPattern` for a pattern that cannot be read."""
        cleaned = [pattern.strip() for pattern in patterns]
        self.patterns = [Glob.parse(_clean(pattern)) for pattern in cleaned if pattern]
        if len(self.patterns) > MAX_PATTERNS:
            raise BadPattern(f"more than {MAX_PATTERNS} ignore patterns")
        self.has_exceptions = any(pattern.exception for pattern in self.patterns)
        self._folders: dict[str, int] = {"": 0}

    def ignores(self, path: str) -> bool:
        """Tell whether `path` is left out. The context itself (`.`) never is."""
        path = _clean(path)
        if path == "." or not self.patterns:
            return False
        parents = self._matches(posixpath.dirname(path))
        ignored = False
        for bit, pattern in enumerate(self.patterns):
            if pattern.exception == ignored and (parents >> bit & 1 or pattern.matches(path)):
                ignored = not pattern.exception
        return ignored

    def ignores_all_below(self, path: str) -> bool:
        """Tell whether everything below the folder `path` is left out, so that a walk need not enter it."""
        if not self.ignores(path):
            return False
        return not self.has_exceptions or not any(
            pattern.exception and pattern.may_match_below(path) for pattern in self.patterns
        )

    def _matches(self, folder: str) -> int:
        """Return a bit for every pattern that matches `folder` or a folder above it."""
        known = self._folders.get(folder)
        if known is not None:
            return known
        parent = posixpath.dirname(folder)
        bits = self._matches(parent) if parent != folder else 0
        for bit, pattern in enumerate(self.patterns):
            if not bits >> bit & 1 and pattern.matches(folder):
                bits |= 1 << bit
        if len(self._folders) > _MAX_CACHED_FOLDERS:
            self._folders = {"": 0}
        self._folders[folder] = bits
        return bits


@dataclass(frozen=True)
class Token:
    """A piece of a pattern. `kind`: `text`, `one` (any but a slash), `some` (any row of those), `folders` (any row of
    folders, also none), `rest` (everything to the end) or `class` (`text` is the regular expression of the class)."""

    kind: str
    text: str = ""


@dataclass(frozen=True)
class Glob:
    """One pattern. `plain` patterns are compared as texts: the whole path, its beginning or its end."""

    source: str
    exception: bool
    tokens: tuple[Token, ...]
    plain: str  # "", "whole", "beginning", "end"
    regex: re.Pattern[str] | None

    @classmethod
    def parse(cls, pattern: str) -> Glob:
        exception = pattern.startswith("!")
        source = pattern[1:] if exception else pattern
        if not source:
            raise BadPattern('illegal exclusion pattern: "!"')
        if len(source) > MAX_PATTERN_LENGTH:
            raise BadPattern(f"an ignore pattern is longer than {MAX_PATTERN_LENGTH} characters")
        tokens = tuple(_tokens(source))
        wild = sum(token.kind in ("some", "folders", "rest") for token in tokens)
        plain = _plain(source, tokens)
        regex = (
            None if plain or wild > _MANY_WILDCARDS else re.compile("".join(map(_regex, tokens)), re.DOTALL)
        )
        return cls(source, exception, tokens, plain, regex)

    def matches(self, path: str) -> bool:
        """Tell whether the whole of `path` fits."""
        if self.plain == "whole":
            return path == self.source
        if self.plain == "beginning":
            return path.startswith(self.source[:-2])
        if self.plain == "end":
            ending = self.source[2:]
            return path.endswith(ending) or (ending.startswith("/") and path == ending[1:])
        if self.regex is not None:
            return self.regex.fullmatch(path) is not None
        return self._walk(path)

    def may_match_below(self, folder: str) -> bool:
        """Tell whether a path below `folder` could fit; a false yes costs time, a false no would lose files."""
        first = self.tokens[0]
        if first.kind != "text":
            return True
        start = first.text
        inside = folder + "/"
        return start.startswith(inside) or inside.startswith(start)

    def _walk(self, path: str) -> bool:
        """Follow all positions that can be reached, token by token."""
        reached = {0}
        for token in self.tokens:
            reached = _advance(token, path, reached)
            if not reached:
                return False
        return len(path) in reached


def _advance(token: Token, path: str, reached: set[int]) -> set[int]:
    if token.kind == "text":
        return {at + len(token.text) for at in reached if path.startswith(token.text, at)}
    if token.kind == "one":
        return {at + 1 for at in reached if at < len(path) and path[at] != "/"}
    if token.kind == "class":
        one = re.compile(token.text, re.DOTALL)
        return {at + 1 for at in reached if at < len(path) and one.match(path[at])}
    first = min(reached)
    if token.kind == "rest":
        return set(range(first, len(path) + 1))
    if token.kind == "folders":
        return reached | {at + 1 for at in range(first, len(path)) if path[at] == "/"}
    result: set[int] = set()
    for at in range(first, len(path) + 1):
        if at in reached or (at - 1 in result and path[at - 1] != "/"):
            result.add(at)
    return result


def _plain(source: str, tokens: tuple[Token, ...]) -> str:
    """Return how a pattern without wildcards inside is compared, nothing for one that has some."""
    kinds = [] if "\\" in source else [token.kind for token in tokens]
    if kinds == ["text"]:
        return "whole"
    if kinds == ["text", "rest"]:
        return "beginning"
    return "end" if kinds in (["folders", "text"], ["rest"]) else ""


def _regex(token: Token) -> str:
    fixed = {"one": "[^/]", "some": "[^/]*", "folders": "(?:.*/)?", "rest": ".*", "class": token.text}
    return fixed.get(token.kind) or re.escape(token.text)


def _tokens(source: str) -> list[Token]:
    """Split a pattern; raise `BadPattern` where Go's `filepath.Match` would."""
    tokens: list[Token] = []
    text: list[str] = []

    def flush() -> None:
        if text:
            tokens.append(Token("text", "".join(text)))
            text.clear()

    at = 0
    while at < len(source):
        character = source[at]
        at += 1
        if character == "*":
            flush()
            if source[at : at + 1] == "*":
                at += 1
                at += source[at : at + 1] == "/"
                tokens.append(Token("folders" if at < len(source) else "rest"))
            else:
                tokens.append(Token("some"))
        elif character == "?":
            flush()
            tokens.append(Token("one"))
        elif character == "[":
            flush()
            regex, at = _class(source, at)
            tokens.append(Token("class", regex))
        elif character == "\\":
            if at == len(source):
                raise _bad(source)
            text.append(source[at])
            at += 1
        else:
            text.append(character)
    flush()
    return tokens


def _class(source: str, at: int) -> tuple[str, int]:
    """Read a character class after its `[`; return a regular expression for one character and where the class ends."""
    negated = source[at : at + 1] == "^"
    at += negated
    parts: list[str] = []
    while source[at : at + 1] != "]" or not parts:
        low, at = _class_character(source, at)
        high = low
        if source[at : at + 1] == "-":
            high, at = _class_character(source, at + 1)
        if high < low:
            raise _bad(source)
        parts.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"[{'^' if negated else ''}{''.join(parts)}]", at + 1


def _class_character(source: str, at: int) -> tuple[str, int]:
    character = source[at : at + 1]
    if not character or character in "-]":
        raise _bad(source)
    if character == "\\":
        at += 1
        character = source[at : at + 1]
    if not character or at + 1 >= len(source):
        raise _bad(source)
    return character, at + 1


def _bad(source: str) -> BadPattern:
    return BadPattern(
        f"syntax error in pattern {source[:100]!r}", hint="check the brackets and the backslashes"
    )


def _clean(path: str) -> str:
    """Return the shortest form of a path (Go's filepath.Clean)."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned

"""A Dockerfile's text becomes a list of nodes: one an instruction, with its words, flags, here-documents and lines.

What is decided here: lines and their continuations, comments, parser directives (`escape`, `syntax`, `check`), flags before the
words, JSON arrays, here-documents. What the words mean is decided in `instructions`. Messages are those that people know.
Source: Dockerfile reference, "Parser directives", "Here-Documents", "Shell and exec form".

    parse("FROM scratch\\nCOPY a /\\n").nodes[1].args  ->  ("a", "/")
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from engine.build.heredoc import Heredoc, heredocs_in
from engine.build.shell import ShellSyntaxError, is_space
from engine.errors import DockerfileError

MAX_BYTES = 4 * 1024 * 1024
MAX_INSTRUCTIONS = 10_000

_SPACES = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z")
_DIRECTIVES = ("syntax", "escape", "check")
_CONTINUED = {
    token: re.compile(rf"(?:(?<![{re.escape(token)}])|^){re.escape(token)}[ \t]*\Z") for token in "\\`"
}
_HOLDS_HEREDOC = frozenset({"add", "copy", "run"})


@dataclass(frozen=True)
class Node:
    """One instruction as written. `name` keeps its case; ENV and LABEL words come in threes: name, value, `=` or nothing."""

    name: str
    args: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    is_json: bool = False
    original: str = ""
    line: int = 0
    end_line: int = 0
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()
    child: Node | None = None  # the instruction after ONBUILD


@dataclass(frozen=True)
class Warning_:
    """Something that works and should not be written so."""

    text: str
    line: int


@dataclass(frozen=True)
class Parsed:
    """A parsed file. `lines` are the lines as written, for messages that point at a column."""

    nodes: tuple[Node, ...]
    escape: str = "\\"
    directives: dict[str, str] = field(default_factory=dict)
    warnings: tuple[Warning_, ...] = ()
    lines: tuple[str, ...] = ()
    file: str = "Dockerfile"


def parse(source: str | bytes, file: str = "Dockerfile") -> Parsed:
    """Return the nodes of a Dockerfile; raise `DockerfileError` with the line where it cannot be read."""
    if len(source) > MAX_BYTES:
        raise DockerfileError(f"the Dockerfile is larger than {MAX_BYTES >> 20} MiB", file=file)
    text = source.decode("utf-8", "replace") if isinstance(source, bytes) else source
    return _Parser(text, file).run()


def column_of(lines: tuple[str, ...], first: int, last: int, token: str) -> tuple[int, int]:
    """Return line and column (both from 1) where `token` first stands in lines `first` to `last`; column 0 if nowhere."""
    if token:
        for number in range(first, min(last, len(lines)) + 1):
            found = lines[number - 1].find(token)
            if found >= 0:
                return number, found + 1
    return first, 0


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self._file = file
        pieces = text.removeprefix("\ufeff").split("\n")
        self._lines = [piece + "\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
        self._at = 0  # lines read so far, so also the number of the line read last
        self._escape = "\\"
        self._directives: dict[str, str] = {}
        self._may_be_directive = True
        self._warnings: list[Warning_] = []

    def run(self) -> Parsed:
        nodes: list[Node] = []
        comments: list[str] = []
        while self._at < len(self._lines):
            line = self._read()
            bare = line.lstrip()
            if self._is_directive(bare):
                continue
            if bare.startswith("#"):
                comment = line[1:].strip()
                comments = [*comments, comment] if comment else []
                continue
            node = self._instruction(bare, tuple(comments))
            if node:
                nodes.append(node)
                comments = []
            if len(nodes) > MAX_INSTRUCTIONS:
                raise self._error(f"more than {MAX_INSTRUCTIONS} instructions", self._at)
        if not nodes:
            raise self._error("file with no instructions", self._at)
        lines = tuple(line.rstrip("\r\n") for line in self._lines)
        return Parsed(tuple(nodes), self._escape, self._directives, tuple(self._warnings), lines, self._file)

    def _read(self) -> str:
        line = self._lines[self._at].rstrip("\r\n")
        self._at += 1
        if "\0" in line:
            raise self._error("a line holds a NUL byte", self._at)
        return line

    def _is_directive(self, line: str) -> bool:
        """Take a parser directive; they end at the first line that is none."""
        match = _DIRECTIVE.match(line) if self._may_be_directive else None
        if not match or match[1].lower() not in _DIRECTIVES:
            self._may_be_directive = False
            return False
        name, value = match[1].lower(), match[2]
        if name in self._directives:
            raise self._error(f"only one {name} parser directive can be used", self._at)
        if name == "escape":
            if value not in ("`", "\\"):
                raise self._error(f"invalid escape token '{value}' does not match ` or \\", self._at)
            self._escape = value
        self._directives[name] = value
        return True

    def _instruction(self, line: str, comments: tuple[str, ...]) -> Node | None:
        start = self._at
        text = self._joined(line)
        if not text:
            return None
        try:
            node = _node(text, self._escape)
            if not _may_hold_heredoc(node) or "<<" not in text:
                return replace(node, line=start, end_line=self._at, comments=comments)
            heredocs = tuple(self._heredoc(document, start) for document in heredocs_in(text))
        except (ShellSyntaxError, ValueError) as error:
            message = error.message if isinstance(error, ShellSyntaxError) else str(error)
            raise self._error(message, start) from error
        return replace(node, line=start, end_line=self._at, comments=comments, heredocs=heredocs)

    def _joined(self, line: str) -> str:
        """Return the line with those that continue it; comments and empty lines between them are dropped."""
        piece, continued = self._continuation(line)
        if not continued and not piece:
            return ""
        pieces, had_empty = [piece], False
        while continued and self._at < len(self._lines):
            line = self._read()
            bare = line.strip()
            if bare.startswith("#"):
                continue
            if not bare:
                had_empty = True
                continue
            piece, continued = self._continuation(line)
            pieces.append(piece)
        text = "".join(pieces)
        if had_empty:
            self._warnings.append(Warning_(f"Empty continuation line found in: {text[:200]}", self._at))
        return text

    def _continuation(self, line: str) -> tuple[str, bool]:
        shortened, count = _CONTINUED[self._escape].subn("", line, count=1)
        return shortened, bool(count)

    def _heredoc(self, document: Heredoc, start: int) -> Heredoc:
        content: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._read()
            if document.is_end(line):
                return replace(document, content="".join(content))
            content.append(line)
        raise self._error(
            "unterminated heredoc", start, hint=f"a line that says only {document.name} must end it"
        )

    def _error(self, message: str, line: int, hint: str = "") -> DockerfileError:
        return DockerfileError(message, line=line, file=self._file, hint=hint)


def _may_hold_heredoc(node: Node) -> bool:
    inner = node.child if node.name.lower() == "onbuild" and node.child else node
    return inner.name.lower() in _HOLDS_HEREDOC and not inner.is_json


def _node(line: str, escape: str) -> Node:
    """Return the node of one joined line; raise ValueError with the reason."""
    name, _, rest = _split_once(line.strip())
    flags, rest = _flags(rest, escape)
    rest = rest.strip()
    kind = name.lower()
    if kind == "onbuild":
        child = _node(rest, escape) if rest else None
        inner = (child.name, *child.args) if child else ()
        return Node(name, inner, tuple(flags), original=line, child=child)
    args, is_json = _ARGUMENTS.get(kind, _no_arguments)(rest, escape)
    return Node(name, tuple(args), tuple(flags), is_json, line)


def _split_once(text: str) -> tuple[str, str, str]:
    match = _SPACES.search(text)
    return (text[: match.start()], match[0], text[match.end() :]) if match else (text, "", "")


def _flags(text: str, escape: str) -> tuple[list[str], str]:
    """Take the words that begin with `--` from the front; quotes and escapes are undone in them, a lone `--` ends them."""
    flags: list[str] = []
    position = 0
    while True:
        while position < len(text) and is_space(text[position]):
            position += 1
        if text[position : position + 2] != "--":
            return flags, text[position:]
        word, position = _flag_word(text, position, escape)
        if word == "--":
            return flags, text[position:]
        flags.append(word)


def _flag_word(text: str, position: int, escape: str) -> tuple[str, int]:
    word: list[str] = []
    quote = ""
    while position < len(text):
        character = text[position]
        if not quote and is_space(character):
            break
        position += 1
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        elif character != escape:
            word.append(character)
        elif position < len(text):
            word.append(text[position])
            position += 1
    return "".join(word), position


def split_words(text: str, escape: str) -> list[str]:
    """Split at spaces outside quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    characters = iter(text)
    for character in characters:
        if not quote and is_space(character):
            if word:
                words.append("".join(word))
                word = []
            continue
        if character == escape and quote != "'":
            following = next(characters, "")
            word.append(character + following if following else "")
            continue
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        word.append(character)
    return [*words, "".join(word)] if any(word) else words


def parse_json_list(text: str) -> list[str] | None:
    """Return the strings of a JSON array, None for anything else; raise ValueError for an array of other things."""
    if not text.lstrip().startswith("["):
        return None
    try:
        values = json.loads(text, strict=True)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(value, str) for value in values):
        raise ValueError("when using JSON array syntax, arrays must be comprised of strings only")
    return list(values)


Arguments = Callable[[str, str], tuple[list[str], bool]]


def _no_arguments(rest: str, escape: str) -> tuple[list[str], bool]:
    return [], False


def _whole(rest: str, escape: str) -> tuple[list[str], bool]:
    return ([rest] if rest else []), False


def _spaced(rest: str, escape: str) -> tuple[list[str], bool]:
    return (_SPACES.split(rest) if rest else []), False


def _quoted_words(rest: str, escape: str) -> tuple[list[str], bool]:
    return split_words(rest, escape), False


def _json_or_whole(rest: str, escape: str) -> tuple[list[str], bool]:
    values = parse_json_list(rest)
    return (values, True) if values is not None else _whole(rest, escape)


def _json_or_spaced(rest: str, escape: str) -> tuple[list[str], bool]:
    values = parse_json_list(rest)
    return (values, True) if values is not None else _spaced(rest, escape)


def _health(rest: str, escape: str) -> tuple[list[str], bool]:
    kind, _, command = _split_once(rest)
    if not kind:
        return [], False
    args, is_json = _json_or_whole(command, escape)
    return [kind, *args], is_json


def _pairs(name: str) -> Arguments:
    def arguments(rest: str, escape: str) -> tuple[list[str], bool]:
        words = split_words(rest, escape)
        if not words:
            return [], False
        if "=" not in words[0]:
            key, separator, value = _split_once(rest)
            if not separator:
                raise ValueError(f"{name} must have two arguments")
            return [key, value, ""], False
        result: list[str] = []
        for word in words:
            key, separator, value = word.partition("=")
            if not separator:
                raise ValueError(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
            result += [key, value, "="]
        return result, False

    return arguments


_ARGUMENTS: dict[str, Arguments] = {
    "add": _json_or_spaced,
    "arg": _quoted_words,
    "cmd": _json_or_whole,
    "copy": _json_or_spaced,
    "entrypoint": _json_or_whole,
    "env": _pairs("ENV"),
    "expose": _spaced,
    "from": _spaced,
    "healthcheck": _health,
    "label": _pairs("LABEL"),
    "maintainer": _whole,
    "run": _json_or_whole,
    "shell": _json_or_whole,
    "stopsignal": _whole,
    "user": _whole,
    "volume": _json_or_spaced,
    "workdir": _whole,
}

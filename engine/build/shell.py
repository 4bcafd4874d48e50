"""Words and variables in a Dockerfile: the small piece of shell syntax that instructions understand.

    Lexer().expand("${NAME:-me} $X", {"X": "1"}.get).text      -> "me 1"
    Lexer().words('a "b c" d', lookup)                          -> ["a", "b c", "d"]

Forms: `$name`, `${name}`, `${name:-word}` `${name-word}`, `:+` `+`, `:?` `?`, `#` `##` (prefix), `%` `%%` (suffix), `/pattern/text`
(first match) and `//pattern/text` (all). Patterns know `*`, `?` and an escape before a character; a longest match is
taken for `##`, `%%` and `/`. Single quotes keep everything, double quotes keep all but `$` and the escape character.
Source: Dockerfile reference, "Environment replacement". Splitting into words happens after replacement, as in a shell.

Gotcha: the input is foreign, so nesting (`MAX_NESTING`) and the length of a result (`MAX_RESULT`) are limited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.build.shellpattern import Pattern, PatternError
from engine.errors import InvalidInput

Lookup = Callable[[str], str | None]  # the value of a variable, None: not set

MAX_NESTING = 64
MAX_RESULT = 1 << 20  # characters; a variable that repeats itself would otherwise double for ever
_SPECIAL = frozenset("@*#?-$!0")
_END = ""


class ShellSyntaxError(InvalidInput):
    """A word cannot be read or a mandatory variable is missing; the message says why."""

    code = "dockerfile_error"


@dataclass
class Expansion:
    """The result: `text` with everything replaced, `words` it splits into, and the variables found or missed.

    `careless` are those that were missed where nothing was said about that case (`$x`, not `${x:-}`).
    """

    text: str = ""
    words: list[str] = field(default_factory=list)
    matched: set[str] = field(default_factory=set)
    unmatched: set[str] = field(default_factory=set)
    careless: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Lexer:
    """How words are read. `escape` is a backslash or a backtick.

    `raw_quotes` keeps the quote characters, `raw_escapes` the escape characters, `skip_quotes` takes quotes for plain
    characters, `keep_unset` leaves what names an unset variable as it is written.
    """

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    skip_quotes: bool = False
    keep_unset: bool = False

    def expand(self, text: str, lookup: Lookup) -> Expansion:
        """Replace the variables of `text`; raise `ShellSyntaxError` where that cannot be done."""
        return _Reading(self, text, lookup).run()

    def words(self, text: str, lookup: Lookup) -> list[str]:
        """Split `text` into words after replacing its variables."""
        return self.expand(text, lookup).words


class _Words:
    """Collects characters into words; a plain space ends a word, a quoted or escaped one does not."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._current: list[str] = []

    def plain(self, text: str) -> None:
        for character in text:
            if not is_space(character):
                self._current.append(character)
            elif any(self._current):
                self._finish()

    def raw(self, text: str) -> None:
        self._current.append(text)

    def all(self) -> list[str]:
        if any(self._current):
            self._finish()
        return self.done

    def _finish(self) -> None:
        self.done.append("".join(self._current))
        self._current = []


class _Reading:
    """One pass over one text."""

    def __init__(self, lexer: Lexer, text: str, lookup: Lookup) -> None:
        self._lexer = lexer
        self._text = text
        self._lookup = lookup
        self._position = 0
        self._depth = 0
        self._result = Expansion()

    def run(self) -> Expansion:
        try:
            text, words = self._until(_END, self._lexer.raw_escapes)
        except ShellSyntaxError as error:
            raise ShellSyntaxError(f"failed to process {_shown(self._text)}: {error.message}") from error
        self._result.text, self._result.words = text, words
        return self._result

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _next(self) -> str:
        character = self._peek()
        self._position += len(character)
        return character

    def _until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Read up to the character `stop` (taken away too) or to the end of the text."""
        result: list[str] = []
        words = _Words()
        size = 0
        while character := self._peek():
            if character == stop:
                self._next()
                return "".join(result), words.all()
            if character == "$":
                value = self._dollar(raw_escapes)
                words.plain(value)
            elif character in "'\"" and not self._lexer.skip_quotes:
                value = self._single_quoted() if character == "'" else self._double_quoted(raw_escapes)
                words.raw(value)
            elif character == "<":
                value = self._possible_heredoc()
                words.raw(value)
            elif character == self._lexer.escape:
                value = self._escaped(raw_escapes)
                words.raw(value)
            else:
                value = self._next()
                words.plain(value)
            result.append(value)
            size += len(value)
            if size > MAX_RESULT:
                raise ShellSyntaxError(f"the result is longer than {MAX_RESULT} characters")
        if stop != _END:
            raise ShellSyntaxError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(result), words.all()

    def _escaped(self, raw: bool) -> str:
        escape = self._next()
        return (escape if raw else "") + self._next()

    def _single_quoted(self) -> str:
        start = self._position + 1
        end = self._text.find("'", start)
        if end < 0:
            raise ShellSyntaxError("unexpected end of statement while looking for matching single-quote")
        self._position = end + 1
        return self._text[start - 1 : end + 1] if self._lexer.raw_quotes else self._text[start:end]

    def _double_quoted(self, raw_escapes: bool) -> str:
        mark = self._next() if self._lexer.raw_quotes else self._next()[:0]
        result = [mark]
        while character := self._peek():
            if character == '"':
                self._next()
                result.append(mark)
                return "".join(result)
            if character == "$":
                result.append(self._dollar(raw_escapes))
            elif character == self._lexer.escape:
                result.append(self._escaped_in_quotes(raw_escapes))
            else:
                result.append(self._next())
        raise ShellSyntaxError("unexpected end of statement while looking for matching double-quote")

    def _escaped_in_quotes(self, raw: bool) -> str:
        escape = self._next()
        kept = escape if raw else ""
        if self._peek() in ('"', "$", self._lexer.escape):
            return kept + self._next()
        return kept + escape if self._peek() else kept

    def _possible_heredoc(self) -> str:
        """Keep the blanks between `<<` or `<<-` and its word inside that word, so `<< EOF` is one."""
        start = self._position
        self._next()
        if self._peek() != "<":
            return "<"
        self._next()
        if self._peek() == "-":
            self._next()
        while self._peek() in ("\t", "\r", " "):
            self._next()
        return self._text[start : self._position]

    def _dollar(self, raw_escapes: bool) -> str:
        self._next()
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            if value is None:
                return "$" + name if self._lexer.keep_unset else ""
            return value
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise ShellSyntaxError(f"${{}} is nested more than {MAX_NESTING} deep")
        value = self._braced()
        self._depth -= 1
        return value

    def _braced(self) -> str:
        self._next()
        if not self._peek():
            raise ShellSyntaxError("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise ShellSyntaxError("syntax error: bad substitution")
        name = self._name()
        operator = self._next()
        if operator == "}":
            value = self._value(name)
            if value is None:
                return f"${{{name}}}" if self._lexer.keep_unset else ""
            return value
        if operator == ":" or (operator and operator in "+-?#%"):
            return self._modified(name, operator)
        if operator == "/":
            return self._replaced(name)
        raise _unsupported(operator)

    def _modified(self, name: str, operator: str) -> str:
        null_is_unset = operator == ":"
        kind = self._next() if null_is_unset else operator
        written = ":" + kind if null_is_unset else kind
        trims = kind in ("#", "%")
        if trims and null_is_unset:
            raise _unsupported(written)
        word = self._word_until("}", trims, "'}'")
        value = self._value(name, careful=not trims)
        if value is None and self._lexer.keep_unset:
            return f"${{{name}{written}{word}}}"
        missing = value is None or (null_is_unset and value == "")
        if kind == "-":
            return word if missing else value or ""
        if kind == "+":
            return "" if missing else word
        if kind == "?":
            if missing:
                state = "unset" if value is None else "empty"
                raise ShellSyntaxError(f"{name}: {word or f'is not allowed to be {state}'}")
            return value or ""
        if trims:
            return self._trimmed(kind, word, value or "")
        raise _unsupported(written)

    def _trimmed(self, kind: str, word: str, value: str) -> str:
        longest = word.startswith(kind)
        pattern = _pattern(word[1:] if longest else word)
        return (
            pattern.without_prefix(value, longest) if kind == "#" else pattern.without_suffix(value, longest)
        )

    def _replaced(self, name: str) -> str:
        every = self._peek() == "/"
        if every:
            self._next()
        wanted = self._word_until("/", True, "'/' in ${}")
        replacement = self._word_until("}", True, "'}'")
        value = self._value(name)
        if value is None and self._lexer.keep_unset:
            return f"${{{name}/{wanted}/{replacement}}}"
        try:
            return _pattern(wanted).replace(value or "", replacement, every, MAX_RESULT)
        except PatternError as error:
            raise ShellSyntaxError(f"cannot replace in {name}: {error}") from error

    def _word_until(self, stop: str, raw_escapes: bool, missing: str) -> str:
        try:
            return self._until(stop, raw_escapes)[0]
        except ShellSyntaxError as error:
            if not self._peek():
                raise ShellSyntaxError(f"syntax error: missing {missing}") from error
            raise

    def _name(self) -> str:
        start = self._position
        first = self._peek()
        if first.isdigit():
            while self._peek().isdigit():
                self._next()
        elif first and first in _SPECIAL:
            self._next()
        else:
            while self._peek().isalnum() or self._peek() == "_":
                self._next()
        return self._text[start : self._position]

    def _value(self, name: str, *, careful: bool = False) -> str | None:
        value = self._lookup(name)
        (self._result.unmatched if value is None else self._result.matched).add(name)
        if value is None and not careful:
            self._result.careless.add(name)
        return value


def is_space(character: str) -> bool:
    """Tell whether a character separates words."""
    return character.isspace()


def _pattern(text: str) -> Pattern:
    try:
        return Pattern.parse(text)
    except PatternError as error:
        raise ShellSyntaxError(f"invalid pattern ({text}) in substitution: {error}") from error


def _unsupported(modifier: str) -> ShellSyntaxError:
    return ShellSyntaxError(f"unsupported modifier ({modifier}) in substitution")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "...")

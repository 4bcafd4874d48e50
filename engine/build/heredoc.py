"""Here-documents: lines of the Dockerfile that stand for a file, in RUN, COPY and ADD.

    COPY <<EOF /etc/motd        RUN <<-'EOF' python3
    hello $NAME                     print("no variables here")
    EOF                         EOF

`<<-` takes tabs at the start of lines away, a quoted word keeps variables as they are written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.build.shell import Lexer, ShellSyntaxError

_WORD = re.compile(r"(\d*)<<(-?)\s*([^<]*)\Z")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True)
class Heredoc:
    """A here-document: `name` ends it, `content` is what stood between, tabs still in place."""

    name: str
    expand: bool = True
    chomp: bool = False
    descriptor: int = 0
    content: str = ""

    @property
    def text(self) -> str:
        """The content as the file gets it."""
        return _LEADING_TABS.sub("", self.content) if self.chomp else self.content

    def is_end(self, line: str) -> bool:
        """Tell whether `line` (with or without its end) ends this document."""
        bare = line.rstrip("\r\n")
        return (bare.lstrip("\t") if self.chomp else bare) == self.name


def parse_heredoc(word: str) -> Heredoc | None:
    """Return the here-document that `word` begins, None for another word; raise `ShellSyntaxError` for open quotes."""
    match = _WORD.match(word)
    if not match or not match[3]:
        return None
    names = Lexer(keep_unset=True).words(match[3], _unset)
    if len(names) != 1:
        return None
    raw = Lexer(keep_unset=True, raw_quotes=True).words(match[3], _unset)
    expand = _quotes(names[0]) == _quotes("".join(raw))
    return Heredoc(names[0], expand, match[2] == "-", int(match[1][:9] or 0))


def maybe_heredoc(word: str) -> Heredoc | None:
    """As `parse_heredoc`, for a word that may be anything: open quotes make it another word."""
    try:
        return parse_heredoc(word)
    except ShellSyntaxError:
        return None


def heredocs_in(line: str) -> list[Heredoc]:
    """Return the here-documents that an instruction announces, in order, still without content."""
    lexer = Lexer(keep_unset=True, raw_quotes=True, raw_escapes=True)
    try:
        words = lexer.words(line, _unset)
    except ShellSyntaxError:
        return []  # quotes that the instruction's own shell may understand: no here-document that we could see
    return [found for word in words if (found := parse_heredoc(word))]


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def _unset(name: str) -> str | None:
    return None

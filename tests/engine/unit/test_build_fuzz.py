"""Hostile text for everything that reads a Dockerfile: an error of the right kind or an answer, soon, and never anything else.

`WHARFINGER_FUZZ_SECONDS` sets how long each reader is tried (a few seconds by default, a minute in CI). A failing input is
shown by the assertion; put it into `_SEEDS`, so that it is tried for ever.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable

import pytest

from engine.build.dockerignore import BadPattern, Glob, IgnoreMatcher, parse_ignore_file
from engine.build.gitref import BadGitReference, parse_git_reference
from engine.build.heredoc import heredocs_in
from engine.build.instruction_parser import parse_dockerfile
from engine.build.modes import parse_mode
from engine.build.ports import exposed_ports
from engine.build.runmounts import MountError, parse_mount
from engine.build.shell import Lexer, ShellSyntaxError
from engine.errors import DockerfileError, InvalidInput

SECONDS = float(os.environ.get("WHARFINGER_FUZZ_SECONDS", "3")) / 4
SLOWEST_S = 1.0
pytestmark = pytest.mark.timeout(600)

_SEEDS = (
    "FROM a\nCOPY C='d <<-e' \"F\"=g /c\nRUN <<E cat 'x\nE\n",
    "FROM a AS b\nARG X=${Y:-z}\nRUN --mount=type=cache,target=/c <<EOF\nls\nEOF\nCOPY --from=b --chmod=u=rwX a b /c/\n",
    "# escape=`\n# syntax=x\nFROM a\nENV A=b `\n  C='d e' \"F\"=g\nLABEL a b\nONBUILD RUN x\n",
    'FROM a\nCMD ["a", "b"]\nHEALTHCHECK --interval=1s CMD ["x"]\nEXPOSE 80/tcp 1-9\nVOLUME ["/a"]\nSHELL ["b"]\n',
    "he${XXX:-${YYY:+zz}}'a b'\"c$D\" ${A#*x} ${B%%?y} ${C//\\//-} $1 \\$ <<- E",
    "**/*.py\n!a/[b-d]e\\*?/**\n# c\n/x/../y\n*a*b*c*d*e\n",
    'type=bind,from=a,source=b,target=/c,rw,"x=y,z",uid=0,size=5m',
    "https://u:p@h/x.git?ref=a&submodules=1#b:c git@h:p/q u=rwX,go+s-t [::1]:1-2:3-4/udp",
)
_BITS = ("\\", "`", "'", '"', "$", "${", "}", ":-", ":?", "//", "#", "%", "<<", "<<-", "\n", "\\\n", "\t", " ", "=", ",", "[", "]",
         "!", "*", "**", "?", "/", "..", "--", "\0", "\ufeff", "\u2028", "é", "🚢", "EOF", "FROM ", "RUN ", "COPY ", "ONBUILD ",
         "x" * 300, "[" * 50, "${a" * 20)  # fmt: skip


def _mutated(source: random.Random) -> str:
    text = source.choice(_SEEDS)
    for _ in range(source.randint(1, 12)):
        at = source.randint(0, len(text))
        action = source.random()
        if action < 0.5:
            text = text[:at] + source.choice(_BITS) + text[at:]
        elif action < 0.8:
            text = text[:at] + text[at + source.randint(1, 9) :]
        else:
            other = source.choice(_SEEDS)
            start = source.randint(0, len(other))
            text = text[:at] + other[start : start + source.randint(1, 40)] + text[at:]
    return text


def _words(text: str) -> None:
    values = {"A": "aXbXc", "B": "*?\\", "XXX": ""}
    for lexer in (
        Lexer(),
        Lexer("`"),
        Lexer(raw_quotes=True, raw_escapes=True, keep_unset=True),
        Lexer(skip_quotes=True),
    ):
        try:
            lexer.expand(text, values.get)
        except ShellSyntaxError:
            continue
    with contextlib.suppress(ShellSyntaxError):
        heredocs_in(text.replace("\n", " "))


def _ignored(text: str) -> None:
    for pattern in parse_ignore_file(text.encode("utf-8", "surrogatepass")):
        try:
            glob = Glob.parse(pattern)
            matcher = IgnoreMatcher([pattern])
        except BadPattern:
            continue
        for path in ("a", "a/b/c.py", "abcde", "x/y", "a/be*", "é/🚢"):
            matcher.ignores(path)
            if not glob.plain:
                assert glob.matches(path) is glob._walk(path), (pattern, path)


def _small_things(text: str) -> None:
    for line in text.split("\n"):
        for read, errors in (
            (parse_git_reference, BadGitReference),
            (parse_mode, InvalidInput),
            (exposed_ports, ValueError),
            (parse_mount, MountError),
            (lambda value: parse_mount(value, str), MountError),
        ):
            try:
                read(line)  # type: ignore[operator]
            except errors:
                continue


def _dockerfile(text: str) -> None:
    try:
        parse_dockerfile(text)
    except DockerfileError as error:
        if not error.message or error.line > text.count("\n") + 1:
            raise AssertionError(f"a useless error: {error.message!r} at {error.line}") from error


@pytest.mark.parametrize("read", [_dockerfile, _words, _ignored, _small_things])
def test_any_text_is_read_or_refused(read: Callable[[str], None]) -> None:
    """H11, BU-08: no other exception, no input that takes long."""
    seed = int(os.environ.get("WHARFINGER_FUZZ_SEED", "0")) or random.SystemRandom().randint(1, 1 << 30)
    source = random.Random(seed)
    for text in _SEEDS:
        read(text)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        text = _mutated(source)
        began = time.thread_time()
        try:
            read(text)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__} for {text!r}") from error
        assert time.thread_time() - began < SLOWEST_S, (seed, text)

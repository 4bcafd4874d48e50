"""Variables in instructions: which words of which instruction are expanded, and which are left to the shell of RUN.

ARG, CMD, ENTRYPOINT, HEALTHCHECK, MAINTAINER, ONBUILD, SHELL and the command of RUN stay as they are.
Source: Dockerfile reference, "Environment replacement".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch

from engine.build import instructions as ins
from engine.build.parser import Parsed, column_of
from engine.build.ports import exposed_ports
from engine.build.shell import Expansion, Lexer, Lookup, ShellSyntaxError
from engine.errors import DockerfileError

Expand = Callable[[str], str]


class Expander:
    """Expands the words of one Dockerfile and remembers which variables were asked for and not found."""

    def __init__(self, parsed: Parsed) -> None:
        self._parsed = parsed
        self.lexer = Lexer(parsed.escape)
        self._raw = Lexer(skip_quotes=True)
        self.undefined: dict[int, set[str]] = {}  # by line

    def instruction(self, instruction: ins.Instruction, lookup: Lookup) -> ins.Instruction:
        """Return the instruction with its variables replaced; raise `DockerfileError` where that fails."""
        return _expand(
            instruction,
            lambda word: self.word(word, lookup, instruction),
            self._document(instruction, lookup),
        )

    def word(self, word: str, lookup: Lookup, instruction: ins.Instruction) -> str:
        """Return one word of an instruction with its variables replaced."""
        return self._noted(self.lexer, word, lookup, instruction).text

    def words(self, word: str, lookup: Lookup, instruction: ins.Instruction) -> list[str]:
        """Return the words that one word of an instruction becomes."""
        return self._noted(self.lexer, word, lookup, instruction).words

    def _document(self, instruction: ins.Instruction, lookup: Lookup) -> Expand:
        return lambda text: self._noted(self._raw, text, lookup, instruction).text

    def _noted(self, lexer: Lexer, word: str, lookup: Lookup, instruction: ins.Instruction) -> Expansion:
        try:
            result = lexer.expand(word, lookup)
        except ShellSyntaxError as error:
            raise self.error(error.message, instruction, word) from error
        if result.careless:
            self.undefined.setdefault(instruction.line, set()).update(result.careless)
        return result

    def error(
        self, message: str, instruction: ins.Instruction, token: str = "", hint: str = ""
    ) -> DockerfileError:
        """Return an error that points at `token` in the instruction's lines."""
        node = instruction.node
        line, column = column_of(self._parsed.lines, node.line, node.end_line, token or node.name)
        return DockerfileError(message, line=line, column=column, file=self._parsed.file, hint=hint)

    def ports(self, instruction: ins.Expose, lookup: Lookup) -> list[str]:
        """Return what EXPOSE names as `port/protocol`."""
        found: list[str] = []
        for word in instruction.ports:
            for spec in self.words(word, lookup, instruction):
                try:
                    found += exposed_ports(spec)
                except ValueError as error:
                    raise self.error(str(error), instruction, word) from error
        return found


@singledispatch
def _expand(instruction: ins.Instruction, expand: Expand, document: Expand) -> ins.Instruction:
    return instruction


@_expand.register
def _env(instruction: ins.Env, expand: Expand, document: Expand) -> ins.Instruction:
    return replace(instruction, pairs=_pairs(instruction.pairs, expand))


@_expand.register
def _label(instruction: ins.Label, expand: Expand, document: Expand) -> ins.Instruction:
    return replace(instruction, pairs=_pairs(instruction.pairs, expand))


def _pairs(pairs: tuple[ins.Pair, ...], expand: Expand) -> tuple[ins.Pair, ...]:
    return tuple(ins.Pair(expand(pair.name), expand(pair.value), pair.legacy) for pair in pairs)


@_expand.register
def _transfer(instruction: ins.Transfer, expand: Expand, document: Expand) -> ins.Instruction:
    inline = tuple(
        replace(file, text=document(file.text)) if file.expand else file for file in instruction.inline
    )
    changed = replace(
        instruction,
        sources=tuple(expand(source) for source in instruction.sources),
        inline=inline,
        destination=expand(instruction.destination),
        chown=expand(instruction.chown),
        chmod=expand(instruction.chmod),
    )
    return replace(changed, checksum=expand(changed.checksum)) if isinstance(changed, ins.Add) else changed


@_expand.register
def _workdir(instruction: ins.Workdir, expand: Expand, document: Expand) -> ins.Instruction:
    return replace(instruction, path=expand(instruction.path))


@_expand.register
def _user(instruction: ins.User, expand: Expand, document: Expand) -> ins.Instruction:
    return replace(instruction, user=expand(instruction.user))


@_expand.register
def _volume(instruction: ins.Volume, expand: Expand, document: Expand) -> ins.Instruction:
    return replace(instruction, paths=tuple(expand(path) for path in instruction.paths))


@_expand.register
def _stopsignal(instruction: ins.StopSignal, expand: Expand, document: Expand) -> ins.Instruction:
    return replace(instruction, signal=expand(instruction.signal))

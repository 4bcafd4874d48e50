"""Variables of a build: what ARG and ENV set, who sees it, and which of it may be written down.

Before the first FROM there is one global scope: the platform arguments and the ARGs that stand there. A stage sees of it only
what its own ARG lines ask for. ENV wins over ARG of the same name. The predefined proxy arguments reach RUN without
an ARG and leave no trace: neither in the history nor in the cache key.
Source: Dockerfile reference, "ARG", "Scope", "Predefined ARGs", "Automatic platform ARGs in the global scope".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.build.instructions import Arg, ArgDefinition
from engine.build.shell import Lexer
from engine.platform import Platform

PROXIES = (
    "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy",
    "ALL_PROXY", "all_proxy",
)  # fmt: skip
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def platform_arguments(build: Platform, target: Platform, stage: str) -> dict[str, str]:
    """Return the arguments that exist without being defined, in the global scope."""
    return {
        "BUILDPLATFORM": str(build),
        "BUILDOS": build.os,
        "BUILDOSVERSION": "",
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": str(target),
        "TARGETOS": target.os,
        "TARGETOSVERSION": "",
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }


def global_scope(
    automatic: Mapping[str, str], given: Mapping[str, str], definitions: Iterable[Arg], lexer: Lexer
) -> dict[str, str]:
    """Return the variables that FROM lines see. Raises `ShellSyntaxError` for a default that cannot be expanded."""
    scope = {name: given.get(name, value) for name, value in automatic.items()}
    for instruction in definitions:
        for definition in instruction.definitions:
            if definition.name in given:
                scope[definition.name] = given[definition.name]
            elif definition.default is not None:
                scope[definition.name] = lexer.expand(definition.default, scope.get).text
    return scope


@dataclass
class Scope:
    """The variables inside one stage, at one point of it. `arguments` None: declared, but nobody gave a value."""

    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def of_environment(cls, lines: Iterable[str]) -> Scope:
        """Return a scope with an image's `NAME=value` lines."""
        scope = cls()
        for line in lines:
            name, _, value = line.partition("=")
            scope.environment[name] = value
        return scope

    def copy(self) -> Scope:
        return Scope(dict(self.environment), dict(self.arguments))

    def get(self, name: str) -> str | None:
        value = self.environment.get(name)
        return self.arguments.get(name) if value is None else value

    def names(self) -> list[str]:
        return [*self.environment, *self.arguments]

    def declare(
        self, definition: ArgDefinition, given: Mapping[str, str], outer: Mapping[str, str], lexer: Lexer
    ) -> str | None:
        """Take an ARG line's definition into the scope and return its value, None if there is none."""
        name = definition.name
        if name in given:
            value: str | None = given[name]
        elif definition.default is not None:
            value = lexer.expand(definition.default, self.get).text
        else:
            value = outer.get(name)
        self.arguments[name] = value
        return value

    def for_command(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a RUN: arguments, over them the environment, and the proxies that were given."""
        values = {name: value for name, value in self.used_arguments().items() if value is not None}
        proxies = {name: given[name] for name in PROXIES if name in given}
        return {"PATH": DEFAULT_PATH, **proxies, **values, **self.environment}

    def used_arguments(self) -> dict[str, str | None]:
        """Return the declared arguments that a command sees and that may be written into history and cache key."""
        return {
            name: value
            for name, value in self.arguments.items()
            if name not in self.environment and not (name in PROXIES and value is None)
        }

"""The instructions of a Dockerfile as values: what was asked for, checked, with variables still in place.

An instruction keeps the `Node` it came from, so every later message can point at its line. `instruction_parser` makes these values,
`expansion` replaces their variables, `ops` and `stage` carry them out. A stage begins with its `From`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from engine.build.parser import Node, Parsed


@dataclass(frozen=True)
class Instruction:
    """What all instructions have: the text they came from. `triggered` marks one that a base image's ONBUILD brought."""

    keyword: ClassVar[str] = ""
    node: Node
    triggered: bool = field(default=False, kw_only=True)

    @property
    def line(self) -> int:
        return self.node.line

    @property
    def text(self) -> str:
        """The instruction on one line, as written."""
        return self.node.original.strip()


@dataclass(frozen=True)
class Pair:
    """A name and its value; `legacy` when written `NAME value` instead of `NAME=value`."""

    name: str
    value: str
    legacy: bool = False

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


@dataclass(frozen=True)
class From(Instruction):
    """`FROM [--platform=P] BASE [AS NAME]`"""

    keyword = "FROM"
    base: str
    name: str = ""
    platform: str = ""


@dataclass(frozen=True)
class ArgDefinition:
    """A build argument; `default` None when the line gives none."""

    name: str
    default: str | None = None


@dataclass(frozen=True)
class Arg(Instruction):
    """`ARG NAME[=DEFAULT] ...`"""

    keyword = "ARG"
    definitions: tuple[ArgDefinition, ...]


@dataclass(frozen=True)
class Env(Instruction):
    """`ENV NAME=VALUE ...`"""

    keyword = "ENV"
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Label(Instruction):
    """`LABEL NAME=VALUE ...`"""

    keyword = "LABEL"
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Maintainer(Instruction):
    """`MAINTAINER WHO`: the author field of the image, kept for old files."""

    keyword = "MAINTAINER"
    maintainer: str


@dataclass(frozen=True)
class InlineFile:
    """A here-document as a source of COPY or ADD, or as input of RUN. `expand` only matters to COPY and ADD."""

    name: str
    text: str
    expand: bool = True


@dataclass(frozen=True)
class Transfer(Instruction):
    """What COPY and ADD share. `excludes` are patterns, `chmod` is octal or symbolic, an empty text means "as it is"."""

    sources: tuple[str, ...]
    inline: tuple[InlineFile, ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Copy(Transfer):
    """`COPY [--from=X] [--parents] ... SOURCE... DESTINATION`; `origin` is a stage, its index or an image."""

    keyword = "COPY"
    origin: str = ""
    parents: bool = False


@dataclass(frozen=True)
class Add(Transfer):
    """`ADD [--checksum=D] [--unpack=B] ... SOURCE... DESTINATION`; sources may be URLs and archives."""

    keyword = "ADD"
    checksum: str = ""
    unpack: bool | None = None
    keep_git_dir: bool | None = None


@dataclass(frozen=True)
class CommandLine:
    """A command: `words` to execute, or with `shell` one text that the stage's shell is given."""

    words: tuple[str, ...] = ()
    shell: bool = False


@dataclass(frozen=True)
class Run(Instruction):
    """`RUN [--mount=M]... [--network=N] [--security=S] COMMAND`; `mounts` still as written."""

    keyword = "RUN"
    command: CommandLine
    files: tuple[InlineFile, ...] = ()
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"


@dataclass(frozen=True)
class Cmd(Instruction):
    """`CMD COMMAND`: what a container runs when nobody says otherwise."""

    keyword = "CMD"
    command: CommandLine


@dataclass(frozen=True)
class Entrypoint(Instruction):
    """`ENTRYPOINT COMMAND`: what every container of the image runs first."""

    keyword = "ENTRYPOINT"
    command: CommandLine


@dataclass(frozen=True)
class HealthCheck(Instruction):
    """`HEALTHCHECK [OPTIONS] CMD COMMAND | NONE`; `test` in the form of image configs, times in nanoseconds, 0: default."""

    keyword = "HEALTHCHECK"
    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True)
class Expose(Instruction):
    """`EXPOSE PORT[/PROTOCOL] ...`, sorted."""

    keyword = "EXPOSE"
    ports: tuple[str, ...]


@dataclass(frozen=True)
class User(Instruction):
    """`USER NAME[:GROUP]`"""

    keyword = "USER"
    user: str


@dataclass(frozen=True)
class Volume(Instruction):
    """`VOLUME PATH ...`"""

    keyword = "VOLUME"
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Workdir(Instruction):
    """`WORKDIR PATH`"""

    keyword = "WORKDIR"
    path: str


@dataclass(frozen=True)
class StopSignal(Instruction):
    """`STOPSIGNAL SIGNAL`"""

    keyword = "STOPSIGNAL"
    signal: str


@dataclass(frozen=True)
class Shell(Instruction):
    """`SHELL ["program", "option"]`: what the shell form of commands runs in."""

    keyword = "SHELL"
    words: tuple[str, ...]


@dataclass(frozen=True)
class OnBuild(Instruction):
    """`ONBUILD INSTRUCTION`: kept as text for the build that uses the image as its base."""

    keyword = "ONBUILD"
    expression: str


@dataclass(frozen=True)
class Stage:
    """A FROM and the instructions up to the next one."""

    head: From
    body: tuple[Instruction, ...] = ()


@dataclass(frozen=True)
class Dockerfile:
    """A whole file: the ARGs before the first FROM, and the stages."""

    stages: tuple[Stage, ...]
    meta_args: tuple[Arg, ...]
    parsed: Parsed

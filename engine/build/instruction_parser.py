"""Nodes become instructions: arguments are counted and checked, flags read, names of stages looked at.

Messages are those of the Dockerfile tools that people know; where a word was probably misspelt, the hint names the right one,
and line and column point at it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from engine.build import instructions as ins
from engine.build.durations import parse_duration
from engine.build.flags import FlagError, Flags, read_flags
from engine.build.heredoc import maybe_heredoc
from engine.build.parser import Node, Parsed, column_of, parse
from engine.build.runmounts import MountError, parse_mount
from engine.build.suggest import did_you_mean
from engine.errors import DockerfileError

MAX_STAGES = 500
NETWORKS = ("default", "none", "host")
SECURITIES = ("sandbox", "insecure")

_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*\Z")
_ONBUILD = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)
_MIN_INTERVAL_NS = 1_000_000


def parse_dockerfile(source: str | bytes, file: str = "Dockerfile") -> ins.Dockerfile:
    """Read a whole Dockerfile; raise `DockerfileError` with file, line and column."""
    parsed = parse(source, file)
    meta_args: list[ins.Arg] = []
    stages: list[tuple[ins.From, list[ins.Instruction]]] = []
    for node in parsed.nodes:
        instruction = parse_instruction(node, parsed)
        if isinstance(instruction, ins.From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, ins.Arg):
            meta_args.append(instruction)
        else:
            raise DockerfileError(
                "no build stage in current context",
                line=node.line,
                column=1,
                file=file,
                hint="a Dockerfile begins with FROM",
            )
        if len(stages) > MAX_STAGES:
            raise DockerfileError(f"more than {MAX_STAGES} stages", line=node.line, file=file)
    if not stages:
        raise DockerfileError("dockerfile contains no stages to build", line=1, file=file, hint="add a FROM")
    return ins.Dockerfile(
        tuple(ins.Stage(head, tuple(body)) for head, body in stages), tuple(meta_args), parsed
    )


def parse_instruction(node: Node, parsed: Parsed) -> ins.Instruction:
    """Return the instruction of one node; raise `DockerfileError` where its words do not fit."""
    reader = _READERS.get(node.name.lower())
    try:
        if reader is None:
            raise FlagError(
                f"unknown instruction: {node.name}",
                node.name,
                did_you_mean(node.name, [name.upper() for name in _READERS]),
            )
        return reader(node)
    except (FlagError, MountError) as error:
        message, token, hint = str(error), error.token, error.hint
    except ValueError as error:
        message, token, hint = str(error), node.name, ""
    line, column = column_of(parsed.lines, node.line, node.end_line, token)
    raise DockerfileError(message, line=line, column=column, file=parsed.file, hint=hint)


def parse_trigger(expression: str, head: ins.From, parsed: Parsed) -> ins.Instruction:
    """Return the instruction of an ONBUILD trigger; its messages point at the FROM that brought it."""
    nodes = parse(expression, parsed.file).nodes
    if len(nodes) != 1:
        raise DockerfileError(
            "onbuild trigger should be a single expression", line=head.line, file=parsed.file
        )
    node = nodes[0]
    instruction = parse_instruction(replace(node, line=head.line, end_line=head.node.end_line), parsed)
    if isinstance(instruction, ins.From | ins.OnBuild | ins.Maintainer):
        raise DockerfileError(
            f"{node.name.upper()} isn't allowed as an ONBUILD trigger", line=head.line, file=parsed.file
        )
    return replace(instruction, triggered=True)


def _exactly_one(node: Node) -> str:
    if len(node.args) != 1:
        raise ValueError(f"{node.name.upper()} requires exactly one argument")
    return node.args[0]


def _at_least_one(node: Node) -> tuple[str, ...]:
    if not node.args:
        raise ValueError(f"{node.name.upper()} requires at least one argument")
    return node.args


def _from(node: Node) -> ins.From:
    name = ""
    if len(node.args) == 3 and node.args[1].lower() == "as":
        name = node.args[2].lower()
        if not _STAGE_NAME.match(name):
            raise FlagError(
                f'invalid name for build stage: "{node.args[2]}", name can\'t start with a number or contain symbols',
                node.args[2],
            )
    elif len(node.args) != 1:
        raise ValueError("FROM requires either one or three arguments")
    flags = read_flags(node.flags, texts=("platform",))
    return ins.From(node, node.args[0], name, flags.text("platform"))


def _arg(node: Node) -> ins.Arg:
    definitions = []
    for word in _at_least_one(node):
        name, separator, default = word.partition("=")
        if not name:
            raise ValueError("ARG names can not be blank")
        definitions.append(ins.ArgDefinition(name, default if separator else None))
    return ins.Arg(node, tuple(definitions))


def _pairs(node: Node) -> tuple[ins.Pair, ...]:
    read_flags(node.flags)
    words = _at_least_one(node)
    pairs = [
        ins.Pair(name, value, not separator)
        for name, value, separator in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]
    if not all(pair.name for pair in pairs):
        raise ValueError(f"{node.name.upper()} names can not be blank")
    return tuple(pairs)


def _env(node: Node) -> ins.Env:
    return ins.Env(node, _pairs(node))


def _label(node: Node) -> ins.Label:
    return ins.Label(node, _pairs(node))


def _maintainer(node: Node) -> ins.Maintainer:
    who = _exactly_one(node)
    read_flags(node.flags)
    return ins.Maintainer(node, who)


def _places(node: Node) -> tuple[tuple[str, ...], tuple[ins.InlineFile, ...], str]:
    """Return sources, here-documents and destination of COPY or ADD."""
    *words, destination = node.args
    if not node.is_json and maybe_heredoc(destination):
        raise ValueError(f"{node.name.upper()} cannot accept a heredoc as a destination")
    contents = {document.name: document for document in node.heredocs}
    sources: list[str] = []
    inline: list[ins.InlineFile] = []
    for word in words:
        found = None if node.is_json else maybe_heredoc(word)
        if found:
            document = contents.get(found.name, found)
            inline.append(ins.InlineFile(found.name, document.text, found.expand))
        else:
            sources.append(word)
    return tuple(sources), tuple(inline), destination


def _check_destination(node: Node) -> None:
    if len(node.args) < 2:
        message = f"{node.name.upper()} requires at least two arguments, but only one was provided."
        raise ValueError(f"{message} Destination could not be determined")


def _copy(node: Node) -> ins.Copy:
    _check_destination(node)
    flags = read_flags(
        node.flags, texts=("chown", "from", "chmod"), switches=("link", "parents"), lists=("exclude",)
    )
    sources, inline, destination = _places(node)
    return ins.Copy(
        node, sources, inline, destination, flags.text("chown"), flags.text("chmod"), bool(flags.switch("link")),
        flags.all("exclude"), flags.text("from"), bool(flags.switch("parents")),
    )  # fmt: skip


def _add(node: Node) -> ins.Add:
    _check_destination(node)
    flags = read_flags(
        node.flags,
        texts=("chown", "chmod", "checksum"),
        switches=("link", "keep-git-dir", "unpack"),
        lists=("exclude",),
    )
    sources, inline, destination = _places(node)
    return ins.Add(
        node, sources, inline, destination, flags.text("chown"), flags.text("chmod"), bool(flags.switch("link")),
        flags.all("exclude"), flags.text("checksum"), flags.switch("unpack"), flags.switch("keep-git-dir"),
    )  # fmt: skip


def _command(node: Node) -> ins.CommandLine:
    if node.is_json:
        return ins.CommandLine(node.args)
    return ins.CommandLine((" ".join(node.args),) if node.args else (), shell=True)


def _run(node: Node) -> ins.Run:
    flags = read_flags(node.flags, texts=("network", "security"), lists=("mount",))
    network, security = flags.text("network", "default"), flags.text("security", "sandbox")
    if network not in NETWORKS:
        raise FlagError(f'invalid network mode "{network}"', "--network", did_you_mean(network, NETWORKS))
    if security not in SECURITIES:
        raise FlagError(
            f'security "{security}" is not valid', "--security", did_you_mean(security, SECURITIES)
        )
    for mount in flags.all("mount"):
        parse_mount(mount)
    files = tuple(
        ins.InlineFile(document.name, document.content, document.expand) for document in node.heredocs
    )
    command = _command(node)
    if not command.words:
        raise ValueError("RUN requires at least one argument")
    return ins.Run(node, command, files, flags.all("mount"), network, security)


def _cmd(node: Node) -> ins.Cmd:
    read_flags(node.flags)
    return ins.Cmd(node, _command(node))


def _entrypoint(node: Node) -> ins.Entrypoint:
    read_flags(node.flags)
    return ins.Entrypoint(node, _command(node))


def _healthcheck(node: Node) -> ins.HealthCheck:
    kind, *command = _at_least_one(node)
    kind = kind.upper()
    if kind == "NONE":
        if command:
            raise ValueError("HEALTHCHECK NONE takes no arguments")
        return ins.HealthCheck(node, ("NONE",))
    flags = read_flags(node.flags, texts=("interval", "timeout", "start-period", "start-interval", "retries"))
    if kind != "CMD":
        raise FlagError(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)', node.args[0])
    if not command:
        raise ValueError("Missing command after HEALTHCHECK CMD")
    test = ("CMD", *command) if node.is_json else ("CMD-SHELL", " ".join(command))
    return ins.HealthCheck(
        node, test, _interval(flags, "interval"), _interval(flags, "timeout"), _interval(flags, "start-period"),
        _interval(flags, "start-interval"), _retries(flags.text("retries")),
    )  # fmt: skip


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    try:
        nanoseconds = parse_duration(text) if text else 0
    except ValueError as error:
        raise FlagError(str(error), f"--{name}") from error
    if nanoseconds != 0 and nanoseconds < _MIN_INTERVAL_NS:
        raise FlagError(f'Interval "{name}" cannot be less than 1ms', f"--{name}")
    return nanoseconds


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.match(r"-?[0-9]{1,9}\Z", text):
        raise FlagError(f"--retries must be a number, not {text}", "--retries")
    if int(text) < 0:
        raise FlagError(f"--retries cannot be negative ({text})", "--retries")
    return int(text)


def _expose(node: Node) -> ins.Expose:
    words = _at_least_one(node)
    read_flags(node.flags)
    return ins.Expose(node, tuple(sorted(words)))


def _user(node: Node) -> ins.User:
    user = _exactly_one(node)
    read_flags(node.flags)
    return ins.User(node, user)


def _volume(node: Node) -> ins.Volume:
    paths = tuple(path.strip() for path in _at_least_one(node))
    read_flags(node.flags)
    if not all(paths):
        raise ValueError("VOLUME specified can not be an empty string")
    return ins.Volume(node, paths)


def _workdir(node: Node) -> ins.Workdir:
    path = _exactly_one(node)
    read_flags(node.flags)
    return ins.Workdir(node, path)


def _stopsignal(node: Node) -> ins.StopSignal:
    return ins.StopSignal(node, _exactly_one(node))


def _shell(node: Node) -> ins.Shell:
    read_flags(node.flags)
    words = _at_least_one(node)
    if not node.is_json:
        raise ValueError("SHELL requires the arguments to be in JSON form")
    return ins.Shell(node, words)


def _onbuild(node: Node) -> ins.OnBuild:
    read_flags(node.flags)
    trigger = _at_least_one(node)[0].upper()
    if trigger == "ONBUILD":
        raise ValueError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise FlagError(f"{trigger} isn't allowed as an ONBUILD trigger", node.args[0])
    expression = _ONBUILD.sub("", node.original, count=1)
    for document in node.heredocs:
        expression += f"\n{document.content}{document.name}"
    return ins.OnBuild(node, expression)


_READERS: dict[str, Callable[[Node], ins.Instruction]] = {
    "from": _from,
    "run": _run,
    "cmd": _cmd,
    "label": _label,
    "expose": _expose,
    "env": _env,
    "add": _add,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "volume": _volume,
    "user": _user,
    "workdir": _workdir,
    "arg": _arg,
    "onbuild": _onbuild,
    "stopsignal": _stopsignal,
    "healthcheck": _healthcheck,
    "shell": _shell,
    "maintainer": _maintainer,
}

"""What a stage is at one point of its instructions: its file system, its config, its variables, its history.

Instructions that change no file are carried out here, on the config alone. Texts of the history are those that people know from their
tools (`CMD ["nginx"]`, `RUN |1 VERSION=3 /bin/sh -c make`). A history entry takes the time of the layer below it, so a build that finds
everything in the cache gives the same image, to the byte.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatchmethod

from engine.build import instructions as ins
from engine.build.durations import format_duration
from engine.build.expansion import Expander
from engine.build.quote import quote_list
from engine.build.secrecy import shown_arguments, without_credentials
from engine.build.shell import ShellSyntaxError
from engine.build.stopsignals import is_signal
from engine.build.variables import DEFAULT_PATH, Scope
from engine.digest import Digest
from engine.layers.pack import PendingBlob
from engine.oci.descriptor import Descriptor
from engine.oci.image_config import ContainerConfig, Healthcheck, History, ImageConfig
from engine.platform import Platform

HISTORY_COMMENT = "wharfinger.dockerfile.v1"
DEFAULT_SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True)
class Layer:
    """A layer of the image being built."""

    diff_id: Digest
    chain: Digest
    blob: Descriptor | PendingBlob
    size: int = 0

    def descriptor(self) -> Descriptor:
        """Return the descriptor of the blob, waiting for one that is still being made."""
        return self.blob if isinstance(self.blob, Descriptor) else self.blob.wait()


@dataclass
class StageState:
    """A stage while it is built. `lineage` names its file system for the cache, `created` its last change (RFC 3339)."""

    platform: Platform
    config: ContainerConfig = field(default_factory=ContainerConfig)
    scope: Scope = field(default_factory=Scope)
    layers: list[Layer] = field(default_factory=list)
    history: list[History] = field(default_factory=list)
    lineage: str = "scratch"
    created: str = ""
    author: str = ""
    os_version: str = ""
    has_own_cmd: bool = False
    base_layers: int = 0  # how many layers and lines of history are the base image's
    base_history: int = 0

    @classmethod
    def of_image(cls, config: ImageConfig, layers: list[Layer]) -> StageState:
        """Return the state at the beginning of a stage on an image."""
        last = config.history[-1].created if config.history else ""
        return cls(
            config.platform,
            replace(config.config, on_build=()),
            Scope.of_environment(config.config.env),
            layers,
            list(config.history),
            layers[-1].chain if layers else "scratch",
            last or config.created,
            config.author,
            config.os_version,
            base_layers=len(layers),
            base_history=len(config.history),
        )

    def fork(self) -> StageState:
        """Return the state at the beginning of a stage on this one."""
        return replace(
            self,
            config=replace(self.config, on_build=()),
            scope=self.scope.copy(),
            layers=list(self.layers),
            history=list(self.history),
            has_own_cmd=False,
        )

    @property
    def chain(self) -> Digest | None:
        return self.layers[-1].chain if self.layers else None

    @property
    def workdir(self) -> str:
        return self.config.working_dir or "/"

    def note(self, text: str, *, empty: bool = True, created: str = "", key: str = "") -> None:
        """Write the history."""
        if created:
            self.created = created
        comment = f"{HISTORY_COMMENT} {key}" if key else HISTORY_COMMENT
        self.history.append(History(self.created, text, comment=comment, empty_layer=empty))

    def set_environment(self, name: str, value: str) -> None:
        """Set a variable of the image's environment, in its place where it was."""
        lines = list(self.config.env)
        line = f"{name}={value}"
        place = next((index for index, old in enumerate(lines) if old.partition("=")[0] == name), None)
        if place is None:
            lines.append(line)
        else:
            lines[place] = line
        self.config = replace(self.config, env=tuple(lines))
        self.scope.environment[name] = value

    def set_workdir(self, path: str) -> None:
        self.config = replace(self.config, working_dir=path)

    def ensure_path(self) -> None:
        """Give an image without a PATH the usual one."""
        if "PATH" not in self.scope.environment:
            self.set_environment("PATH", DEFAULT_PATH)

    def shelled(self, command: ins.CommandLine) -> tuple[str, ...]:
        """Return the words to execute: a shell's where the instruction is in shell form."""
        if not command.shell:
            return command.words
        return (*(self.config.shell or DEFAULT_SHELL), *command.words)

    def image_config(self, labels: Mapping[str, str], created: str) -> ImageConfig:
        """Return the config of the image that the stage has become."""
        config = replace(self.config, labels={**self.config.labels, **labels}) if labels else self.config
        return ImageConfig(
            self.platform.architecture,
            self.platform.os,
            self.platform.variant,
            created,
            self.author,
            config,
            tuple(layer.diff_id for layer in self.layers),
            tuple(self.history),
            self.os_version,
        )


class MetadataWriter:
    """Carries out the instructions that only change the config. `given` are the build arguments, `outer` the global scope."""

    def __init__(self, expander: Expander, given: Mapping[str, str], outer: Mapping[str, str]) -> None:
        self._expander = expander
        self._given = given
        self._outer = outer

    @singledispatchmethod
    def apply(self, instruction: ins.Instruction, state: StageState) -> bool:
        """Carry the instruction out; False if it needs the file system. Raises `DockerfileError`."""
        return False

    @apply.register
    def _arg(self, instruction: ins.Arg, state: StageState) -> bool:
        written = []
        for definition in instruction.definitions:
            try:
                value = state.scope.declare(definition, self._given, self._outer, self._expander.lexer)
            except ShellSyntaxError as error:
                raise self._expander.error(error.message, instruction, definition.name) from error
            shown = shown_arguments({definition.name: value})[definition.name]
            written.append(definition.name if shown is None else f"{definition.name}={shown}")
        state.note("ARG " + " ".join(written))
        return True

    @apply.register
    def _env(self, instruction: ins.Env, state: StageState) -> bool:
        for pair in instruction.pairs:
            if not pair.name or "\0" in pair.name + pair.value:
                raise self._expander.error(
                    "an environment variable needs a name and no zero bytes", instruction
                )
            state.set_environment(pair.name, pair.value)
        state.note("ENV " + " ".join(map(str, instruction.pairs)))
        return True

    @apply.register
    def _label(self, instruction: ins.Label, state: StageState) -> bool:
        labels = {**state.config.labels, **{pair.name: pair.value for pair in instruction.pairs}}
        state.config = replace(state.config, labels=labels)
        state.note("LABEL " + " ".join(map(str, instruction.pairs)))
        return True

    @apply.register
    def _maintainer(self, instruction: ins.Maintainer, state: StageState) -> bool:
        state.author = instruction.maintainer
        state.note(f"MAINTAINER {instruction.maintainer}")
        return True

    @apply.register
    def _cmd(self, instruction: ins.Cmd, state: StageState) -> bool:
        words = state.shelled(instruction.command)
        state.config = replace(state.config, cmd=words, args_escaped=True)
        state.has_own_cmd = True
        state.note(f"CMD {quote_list(words)}")
        return True

    @apply.register
    def _entrypoint(self, instruction: ins.Entrypoint, state: StageState) -> bool:
        words = state.shelled(instruction.command) if instruction.command.words else None
        state.config = replace(state.config, entrypoint=words)
        if not state.has_own_cmd:
            state.config = replace(
                state.config, cmd=None
            )  # a base image's arguments were for its own entrypoint
        state.note(f"ENTRYPOINT {quote_list(words or ())}")
        return True

    @apply.register
    def _healthcheck(self, instruction: ins.HealthCheck, state: StageState) -> bool:
        check = Healthcheck(
            instruction.test,
            instruction.interval_ns,
            instruction.timeout_ns,
            instruction.start_period_ns,
            instruction.start_interval_ns,
            instruction.retries,
        )
        state.config = replace(state.config, healthcheck=check)
        state.note(_health_text(check))
        return True

    @apply.register
    def _expose(self, instruction: ins.Expose, state: StageState) -> bool:
        ports = self._expander.ports(instruction, state.scope.get)
        exposed = tuple(sorted({*state.config.exposed_ports, *ports}))
        state.config = replace(state.config, exposed_ports=exposed)
        state.note(f"EXPOSE [{' '.join(ports)}]")
        return True

    @apply.register
    def _user(self, instruction: ins.User, state: StageState) -> bool:
        state.config = replace(state.config, user=instruction.user)
        state.note(f"USER {instruction.user}")
        return True

    @apply.register
    def _volume(self, instruction: ins.Volume, state: StageState) -> bool:
        if not all(instruction.paths):
            raise self._expander.error("VOLUME specified can not be an empty string", instruction)
        volumes = tuple(sorted({*state.config.volumes, *instruction.paths}))
        state.config = replace(state.config, volumes=volumes)
        state.note(f"VOLUME [{' '.join(instruction.paths)}]")
        return True

    @apply.register
    def _stopsignal(self, instruction: ins.StopSignal, state: StageState) -> bool:
        if not is_signal(instruction.signal):
            raise self._expander.error(f"invalid signal: {instruction.signal}", instruction)
        state.config = replace(state.config, stop_signal=instruction.signal)
        state.note(f"STOPSIGNAL {instruction.signal}")
        return True

    @apply.register
    def _shell(self, instruction: ins.Shell, state: StageState) -> bool:
        state.config = replace(state.config, shell=instruction.words)
        state.note(f"SHELL [{' '.join(instruction.words)}]")
        return True

    @apply.register
    def _onbuild(self, instruction: ins.OnBuild, state: StageState) -> bool:
        state.config = replace(state.config, on_build=(*state.config.on_build, instruction.expression))
        state.note(f"ONBUILD {instruction.expression}")
        return True


def joined_workdir(before: str, path: str) -> str:
    """Return the working directory after `WORKDIR path`: relative to the one before, in its short form."""
    joined = posixpath.normpath(posixpath.join("/", before, path))
    return "/" + joined.lstrip("/")


def run_text(words: tuple[str, ...], arguments: Mapping[str, str | None]) -> str:
    """Return a RUN as the history has it, with the arguments that it saw."""
    seen = [f"{name}={value or ''}" for name, value in shown_arguments(arguments).items()]
    return without_credentials("RUN " + " ".join([f"|{len(seen)}", *seen, *words] if seen else words))


def _health_text(check: Healthcheck) -> str:
    options = [
        f"--{name}={format_duration(value)}"
        for name, value in (
            ("interval", check.interval_ns),
            ("timeout", check.timeout_ns),
            ("start-period", check.start_period_ns),
            ("start-interval", check.start_interval_ns),
        )
        if value
    ]
    options += [f"--retries={check.retries}"] if check.retries else []
    return "HEALTHCHECK " + " ".join([*options, quote_list(check.test)])

"""`--change` of a commit or an import: instructions that only shape the config, applied to an image's config.

Source: docker commit, docker import: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.build import instructions as ins
from engine.build.expansion import Expander
from engine.build.instruction_parser import parse_instruction
from engine.build.parser import parse
from engine.build.state import MetadataWriter, StageState, joined_workdir
from engine.build.variables import Scope
from engine.errors import DockerfileError, InvalidInput
from engine.oci.image_config import ContainerConfig
from engine.platform import host_platform

ALLOWED = (
    ins.Cmd, ins.Entrypoint, ins.Env, ins.Expose, ins.HealthCheck, ins.Label, ins.OnBuild, ins.StopSignal, ins.User, ins.Volume,
    ins.Workdir,
)  # fmt: skip
FILE = "change"


@dataclass(frozen=True)
class Changed:
    """The config after the changes, and the texts that the history gets for them."""

    config: ContainerConfig
    history: tuple[str, ...]


def apply_changes(config: ContainerConfig, changes: Iterable[str]) -> Changed:
    """Apply changes, each an instruction, in order. Raises `InvalidInput` (`DockerfileError` with its column)."""
    state = StageState(host_platform(), config, Scope.of_environment(config.env))
    for text in changes:
        _apply(state, text)
    return Changed(state.config, tuple(entry.created_by for entry in state.history))


def _apply(state: StageState, text: str) -> None:
    parsed = parse(text, FILE)
    if len(parsed.nodes) != 1:
        raise DockerfileError(f"one instruction is expected: {text[:100]!r}", file=FILE)
    instruction = parse_instruction(parsed.nodes[0], parsed)
    if not isinstance(instruction, ALLOWED):
        names = ", ".join(kind.keyword for kind in ALLOWED)
        raise InvalidInput(
            f"{parsed.nodes[0].name.upper()} is not a valid change command", hint=f"allowed are {names}"
        )
    expander = Expander(parsed)
    expanded = expander.instruction(instruction, state.scope.get)
    if isinstance(expanded, ins.Workdir):
        path = joined_workdir(state.config.working_dir, expanded.path)
        state.set_workdir(path)
        state.note(f"WORKDIR {path}")
        return
    MetadataWriter(expander, {}, {}).apply(expanded, state)

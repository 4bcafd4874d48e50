"""Changes of a configuration given as Dockerfile lines: `docker commit --change` and `docker import --change`."""

from __future__ import annotations

from collections.abc import Sequence

from engine.build import instructions as ins
from engine.build.expansion import Expander
from engine.build.instruction_parser import parse_instruction
from engine.build.parser import parse
from engine.build.state import MetadataWriter, StageState, joined_workdir
from engine.build.variables import Scope
from engine.errors import DockerfileError
from engine.oci.image_config import ContainerConfig
from engine.platform import host_platform

ALLOWED = (
    ins.Cmd | ins.Entrypoint | ins.Env | ins.Expose | ins.HealthCheck | ins.Label | ins.OnBuild | ins.Shell
    | ins.StopSignal | ins.User | ins.Volume | ins.Workdir
)  # fmt: skip


def changed_config(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """Return `config` with the changes applied in order; raises `DockerfileError` for a line that cannot be one."""
    text = "\n".join(line for line in changes if line.strip())
    if not text:
        return config
    parsed = parse(text, "change")
    state = StageState(host_platform(), config, Scope.of_environment(config.env))
    expander = Expander(parsed)
    writer = MetadataWriter(expander, {}, {})
    for node in parsed.nodes:
        instruction = parse_instruction(node, parsed)
        if not isinstance(instruction, ALLOWED):
            raise DockerfileError(
                f"{node.name.upper()} is not a valid change command",
                line=node.line,
                file="change",
                hint="CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR",
            )
        expanded = expander.instruction(instruction, state.scope.get)
        if isinstance(expanded, ins.Workdir):
            state.set_workdir(joined_workdir(state.config.working_dir, expanded.path))
        else:
            writer.apply(expanded, state)
    return state.config

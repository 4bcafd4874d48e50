"""What a container really runs: its image's config with the spec laid over it, by Docker's rules."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from engine.containers.model import ContainerSpec, Healthcheck
from engine.errors import BadSpec
from engine.linux.process import CLEAN_ENV
from engine.oci.image_config import ContainerConfig

_SECOND_NS = 1_000_000_000
DEFAULT_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Effective:
    """The merged settings. `argv` is the whole command line, `env` holds `NAME=value` in order."""

    argv: list[str]
    entrypoint: list[str]
    command: list[str]
    env: list[str]
    user: str
    workdir: str
    labels: dict[str, str]
    stop_signal: str
    volumes: list[str]
    exposed_ports: list[str]
    healthcheck: Healthcheck | None


def merge(image: ContainerConfig, spec: ContainerSpec) -> Effective:
    """Lay a spec over an image's config. Raises `BadSpec` when nothing is left to run."""
    entrypoint, command = _command(image, spec)
    if not entrypoint and not command:
        raise BadSpec(
            "no command is given, neither by the image nor by the request", hint="give a command to run"
        )
    return Effective(
        argv=[*entrypoint, *command],
        entrypoint=entrypoint,
        command=command,
        env=_env(image, spec),
        user=spec.user or image.user,
        workdir=spec.workdir or image.working_dir or "/",
        labels={**image.labels, **spec.labels},
        stop_signal=spec.stop_signal or image.stop_signal or "SIGTERM",
        volumes=list(image.volumes),
        exposed_ports=sorted({*image.exposed_ports, *spec.exposed_ports}),
        healthcheck=_healthcheck(image, spec),
    )


def to_config(effective: Effective, spec: ContainerSpec) -> dict[str, Any]:
    """Return the merged settings under the names of the OCI image config, for `Container.config`."""
    config: dict[str, Any] = {
        "User": effective.user,
        "Env": effective.env,
        "Entrypoint": effective.entrypoint or None,
        "Cmd": effective.command or None,
        "WorkingDir": effective.workdir,
        "Labels": effective.labels,
        "StopSignal": effective.stop_signal,
        "ExposedPorts": {port: {} for port in effective.exposed_ports},
        "Volumes": {path: {} for path in effective.volumes},
        "Hostname": spec.hostname,
        "Domainname": spec.domainname,
        "Tty": spec.tty,
        "OpenStdin": spec.stdin_open,
        "StdinOnce": spec.stdin_once,
    }
    if (check := effective.healthcheck) is not None:
        config["Healthcheck"] = {
            "Test": list(check.test),
            "Interval": round(check.interval_s * _SECOND_NS),
            "Timeout": round(check.timeout_s * _SECOND_NS),
            "StartPeriod": round(check.start_period_s * _SECOND_NS),
            "StartInterval": round(check.start_interval_s * _SECOND_NS),
            "Retries": check.retries,
        }
    return config


def healthcheck_of(config: dict[str, Any]) -> Healthcheck | None:
    """Return the health check that `to_config` wrote, None where there is none to run."""
    found = config.get("Healthcheck")
    if not found or not found["Test"] or found["Test"][0] == "NONE":
        return None
    return Healthcheck(
        list(found["Test"]), found["Interval"] / _SECOND_NS, found["Timeout"] / _SECOND_NS,
        found["StartPeriod"] / _SECOND_NS, found["StartInterval"] / _SECOND_NS, found["Retries"],
    )  # fmt: skip


def command_line(argv: list[str]) -> str:
    """Return a command line as people read it."""
    return shlex.join(argv)


def _command(image: ContainerConfig, spec: ContainerSpec) -> tuple[list[str], list[str]]:
    """An entrypoint of the request takes the image's command away; `[""]` or an empty list takes its entrypoint away."""
    if spec.entrypoint is None:
        return list(image.entrypoint or ()), list(spec.command or image.cmd or ())
    entrypoint = [] if spec.entrypoint in ([], [""]) else list(spec.entrypoint)
    return entrypoint, list(spec.command or ())


def _env(image: ContainerConfig, spec: ContainerSpec) -> list[str]:
    values: dict[str, str] = {}
    for line in image.env:
        name, _, value = line.partition("=")
        values[name] = value
    for name, wanted in spec.env.items():
        if wanted is None:
            values.pop(name, None)
        else:
            values[name] = wanted
    values.setdefault("PATH", CLEAN_ENV["PATH"])
    return [f"{name}={value}" for name, value in values.items()]


def _healthcheck(image: ContainerConfig, spec: ContainerSpec) -> Healthcheck | None:
    """Each field that the request leaves at 0 comes from the image."""
    own, base = spec.healthcheck, image.healthcheck
    if base is None:
        return own
    inherited = Healthcheck(
        list(base.test), base.interval_ns / _SECOND_NS, base.timeout_ns / _SECOND_NS, base.start_period_ns / _SECOND_NS,
        base.start_interval_ns / _SECOND_NS, base.retries,
    )  # fmt: skip
    if own is None:
        return inherited
    return Healthcheck(
        own.test or inherited.test, own.interval_s or inherited.interval_s, own.timeout_s or inherited.timeout_s,
        own.start_period_s or inherited.start_period_s, own.start_interval_s or inherited.start_interval_s,
        own.retries or inherited.retries,
    )  # fmt: skip

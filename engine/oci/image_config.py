"""The config of an image: how to run it, what its layers unpack to, how it came about.

Read leniently in what is optional and strictly in types; fields that neither OCI nor Docker define are not kept.
Sources: OCI image specification, config.md; Docker Image Specification v1.3 (Healthcheck, OnBuild, Shell).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.digest import Digest, parse_digest
from engine.errors import InvalidInput
from engine.oci.fields import Fields
from engine.oci.manifest import LAYER_LIMIT
from engine.oci.strict_json import canonical_json, parse_object
from engine.platform import Platform

HISTORY_LIMIT = 10_000


@dataclass(frozen=True)
class Healthcheck:
    """`test` is `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", line]`; times are nanoseconds, 0 means inherited."""

    test: tuple[str, ...] = ()
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True)
class ContainerConfig:
    """What a container gets from its image. `entrypoint`, `cmd`, `shell` None: not set (an empty tuple is set, to nothing)."""

    user: str = ""
    exposed_ports: tuple[str, ...] = ()  # "80/tcp"
    env: tuple[str, ...] = ()  # "NAME=value", in order
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object under its names in the specification, without what is not set."""
        values: dict[str, Any] = {
            "User": self.user,
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "Env": list(self.env),
            "Volumes": {path: {} for path in self.volumes},
            "WorkingDir": self.working_dir,
            "Labels": self.labels,
            "StopSignal": self.stop_signal,
            "OnBuild": list(self.on_build),
            "ArgsEscaped": self.args_escaped,
        }
        values = {name: value for name, value in values.items() if value}
        for name, words in (("Entrypoint", self.entrypoint), ("Cmd", self.cmd), ("Shell", self.shell)):
            if words is not None:
                values[name] = list(words)
        if self.healthcheck is not None:
            values["Healthcheck"] = _healthcheck_to_json(self.healthcheck)
        return values


@dataclass(frozen=True)
class History:
    """One instruction; `empty_layer` means that it made no layer. `created` is RFC 3339 text."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "created": self.created,
            "created_by": self.created_by,
            "author": self.author,
            "comment": self.comment,
            "empty_layer": self.empty_layer,
        }
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True)
class ImageConfig:
    """The document whose digest is the image's id. `diff_ids` name the unpacked layers, bottom first."""

    architecture: str
    os: str = "linux"
    variant: str = ""
    created: str = ""
    author: str = ""
    config: ContainerConfig = field(default_factory=ContainerConfig)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    os_version: str = ""

    @property
    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant)

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "architecture": self.architecture,
            "os": self.os,
            "config": self.config.to_json(),
        }
        values["rootfs"] = {"type": "layers", "diff_ids": list(self.diff_ids)}
        optional = {
            "variant": self.variant,
            "created": self.created,
            "author": self.author,
            "os.version": self.os_version,
        }
        values.update({name: value for name, value in optional.items() if value})
        if self.history:
            values["history"] = [entry.to_json() for entry in self.history]
        return values

    def to_bytes(self) -> bytes:
        """Return the document as we write it."""
        return canonical_json(self.to_json())


def parse_config(data: bytes) -> ImageConfig:
    """Return the image config in `data`; raises `InvalidInput`."""
    fields = Fields(parse_object(data, "image config"), "image config")
    rootfs = fields.child("rootfs")
    if rootfs is None or rootfs.text("type") != "layers":
        raise InvalidInput(
            "image config.rootfs.type must be layers", hint="this is not the config of a container image"
        )
    diff_ids = rootfs.texts("diff_ids") or ()
    if len(diff_ids) > LAYER_LIMIT:
        raise InvalidInput(f"the image has {len(diff_ids)} layers, more than the {LAYER_LIMIT} allowed")
    config = fields.child("config")
    return ImageConfig(
        architecture=fields.text("architecture"),
        os=fields.text("os") or "linux",
        variant=fields.text("variant"),
        created=fields.text("created"),
        author=fields.text("author"),
        config=ContainerConfig() if config is None else read_container_config(config),
        diff_ids=tuple(parse_digest(item) for item in diff_ids),
        history=fields.children("history", _read_history, limit=HISTORY_LIMIT),
        os_version=fields.text("os.version"),
    )


def read_container_config(fields: Fields) -> ContainerConfig:
    """Read the `config` object of an image config (also what `docker commit` sends)."""
    healthcheck = fields.child("Healthcheck")
    return ContainerConfig(
        user=fields.text("User"),
        exposed_ports=fields.names("ExposedPorts"),
        env=fields.texts("Env") or (),
        entrypoint=fields.texts("Entrypoint"),
        cmd=fields.texts("Cmd"),
        volumes=fields.names("Volumes"),
        working_dir=fields.text("WorkingDir"),
        labels=fields.mapping("Labels"),
        stop_signal=fields.text("StopSignal"),
        shell=fields.texts("Shell"),
        on_build=fields.texts("OnBuild") or (),
        healthcheck=None if healthcheck is None else _read_healthcheck(healthcheck),
        args_escaped=fields.flag("ArgsEscaped"),
    )


def _read_healthcheck(fields: Fields) -> Healthcheck:
    return Healthcheck(
        test=fields.texts("Test") or (),
        interval_ns=fields.number("Interval"),
        timeout_ns=fields.number("Timeout"),
        start_period_ns=fields.number("StartPeriod"),
        start_interval_ns=fields.number("StartInterval"),
        retries=fields.number("Retries"),
    )


def _healthcheck_to_json(check: Healthcheck) -> dict[str, Any]:
    values: dict[str, Any] = {
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "StartInterval": check.start_interval_ns,
        "Retries": check.retries,
    }
    values = {name: value for name, value in values.items() if value}
    if check.test:
        values["Test"] = list(check.test)
    return values


def _read_history(fields: Fields) -> History:
    return History(
        created=fields.text("created"),
        created_by=fields.text("created_by"),
        author=fields.text("author"),
        comment=fields.text("comment"),
        empty_layer=fields.flag("empty_layer"),
    )

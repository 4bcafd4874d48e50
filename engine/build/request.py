"""What a build is asked for, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.containers.model import Resources

DEFAULT_DOCKERFILE = "Dockerfile"


@dataclass(frozen=True)
class BuildLimits:
    """What one build may use; 0 means no limit. Disk is what its layers and its context take, together."""

    time_s: float = 6 * 3600
    log_bytes: int = 64 * 1024 * 1024
    disk_bytes: int = 0
    step: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class BuildRequest:
    """One build.

    `context` is a folder, or a file with a tar (packed in any way) or a zip; None means there is none, or the one that the address
    `remote` leads to. `dockerfile` is the text
    itself; without it `dockerfile_path` inside the context is read. `secrets` are bytes by id, `ssh` host sockets
    by id. `no_cache_filter` names stages that are built anew, `cache_from` images whose layers may be used. `origin` is who
    asked; `may_be_privileged` lets RUN use the host's network or more rights, for who is allowed that.
    """

    context: Path | None = None
    remote: str = ""
    dockerfile: str | bytes | None = None
    dockerfile_path: str = DEFAULT_DOCKERFILE
    tags: Sequence[str] = ()
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    no_cache: bool = False
    no_cache_filter: Sequence[str] = ()
    cache_from: Sequence[str] = ()
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    ssh: Mapping[str, Path] = field(default_factory=dict)
    network_mode: str = "default"
    extra_hosts: Sequence[str] = ()  # "name:address"
    shm_size_bytes: int = 0
    pull: bool = False
    squash: bool = False
    origin: str = ""
    may_be_privileged: bool = False
    limits: BuildLimits = field(default_factory=BuildLimits)
    build_id: str = ""  # chosen by the caller where it has a name for it already


@dataclass(frozen=True)
class StepResult:
    """One instruction after the build. `status`: `cached`, `done`, `skipped`; `reason` says why the cache missed."""

    id: str
    stage: str
    name: str
    line: int
    status: str
    reason: str = ""
    duration_s: float = 0.0
    size_bytes: int = 0
    diff_id: str = ""


@dataclass(frozen=True)
class Advice:
    """A hint about the Dockerfile or the image: which rule, where, why, and the bytes that it would save (0: unknown)."""

    rule: str
    message: str
    line: int = 0
    size_bytes: int = 0
    severity: str = "info"  # info, warning

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "message": self.message,
            "line": self.line,
            "size_bytes": self.size_bytes,
            "severity": self.severity,
        }


@dataclass(frozen=True)
class BuildResult:
    """The image that was built, how, and what could be better."""

    image_id: str
    tags: tuple[str, ...] = ()
    steps: tuple[StepResult, ...] = ()
    advice: tuple[Advice, ...] = ()
    context_bytes: int = 0
    duration_s: float = 0.0

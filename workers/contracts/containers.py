"""The life cycle of containers. `container` is an id, a unique prefix of one, or a name.

`rights` are the risky rights of the person who asks (`workers.contracts.policy`); the node judges the spec against them again.
Every result of a verb that leaves the container in being is `{"container": record}`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workers.contracts.base import BULK, SECRET, Contract
from workers.contracts.images import RegistryAccess


@dataclass(frozen=True)
class ContainerCreate(Contract):
    """Make a container and, if `start`, start it.

    `id` (64 hex digits) is chosen by who asks, so a second delivery finds the first one's container. `spec` has the fields
    of the REST API. `pull`: `missing`, `always` or `never`.
    """

    KIND = "container.create"
    DEADLINE_S = 3600.0

    id: str
    spec: dict[str, Any]  # judged by the engine
    start: bool = False
    pull: str = "missing"
    platform: str = ""
    rights: list[str] = field(default_factory=list)
    registries: list[RegistryAccess] = field(default_factory=list, metadata=SECRET)


@dataclass(frozen=True)
class ContainerStart(Contract):
    KIND = "container.start"

    container: str


@dataclass(frozen=True)
class ContainerStop(Contract):
    """Send the stop signal, wait `timeout_s` (None: the container's own), then kill."""

    KIND = "container.stop"
    DEADLINE_S = 3600.0

    container: str
    timeout_s: float | None = None
    signal: str = ""


@dataclass(frozen=True)
class ContainerRestart(Contract):
    KIND = "container.restart"
    DEADLINE_S = 3600.0

    container: str
    timeout_s: float | None = None
    signal: str = ""


@dataclass(frozen=True)
class ContainerKill(Contract):
    KIND = "container.kill"

    container: str
    signal: str = "SIGKILL"


@dataclass(frozen=True)
class ContainerPause(Contract):
    KIND = "container.pause"

    container: str


@dataclass(frozen=True)
class ContainerUnpause(Contract):
    KIND = "container.unpause"

    container: str


@dataclass(frozen=True)
class ContainerRename(Contract):
    KIND = "container.rename"

    container: str
    name: str


@dataclass(frozen=True)
class ContainerUpdate(Contract):
    """Change limits (fields of a spec's `resources` that are given) and the restart policy (as in a spec)."""

    KIND = "container.update"

    container: str
    resources: dict[str, Any] = field(default_factory=dict)  # judged by the engine
    restart: dict[str, Any] | None = None  # judged by the engine
    rights: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ContainerRemove(Contract):
    """Remove a container; `volumes`: its anonymous volumes too; `keep_log`: its log stays. Result: `{"id"}`."""

    KIND = "container.remove"

    container: str
    force: bool = False
    volumes: bool = False
    keep_log: bool = False


@dataclass(frozen=True)
class KeptLogRemove(Contract):
    """Remove the log of a container that is gone. Result: `{"id"}`."""

    KIND = "kept_log.remove"

    log: str


@dataclass(frozen=True)
class ContainerCommit(Contract):
    """Make an image of a container's changes. `changes` are Dockerfile lines. Result: `{"image": record}`."""

    KIND = "container.commit"
    LANE = BULK
    DEADLINE_S = 3600.0

    container: str
    reference: str = ""
    message: str = ""
    author: str = ""
    changes: list[str] = field(default_factory=list)
    pause: bool = True


@dataclass(frozen=True)
class ContainerExec(Contract):
    """Run a command in a running container without a terminal.

    Result: `{"exec_id", "exit_code", "stdout", "stderr", "truncated"}` (outputs capped at 1 MiB each); with `detach` the
    answer does not wait: `{"exec_id"}`. Interactive commands are a stream of kind `exec`.
    """

    KIND = "container.exec"
    DEADLINE_S = 3600.0

    container: str
    exec_id: str  # 64 hex digits
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    tty: bool = False
    privileged: bool = False
    detach: bool = False
    rights: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ContainerPrune(Contract):
    """Remove stopped containers. Result: `{"removed": [id], "freed_bytes"}`."""

    KIND = "container.prune"
    DEADLINE_S = 1800.0

    older_than_s: float = 0.0
    labels: list[str] = field(default_factory=list)
    without_labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ContainerFilesPut(Contract):
    """Extract the spooled tar `source` in the container's folder `path`. Result: `{"container": record}`."""

    KIND = "container.files_put"
    LANE = BULK
    DEADLINE_S = 3600.0

    container: str
    path: str
    source: str
    no_overwrite_dir_non_dir: bool = False
    copy_uid_gid: bool = False

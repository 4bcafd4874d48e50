"""What a container is asked to be (`ContainerSpec`), what it is (`Container`), and which verbs its state allows.

The spec is the one canonical form: every front door (REST, Docker API, pages, Compose, command line) compiles to it, and
policy is judged on it. Field names are those of the REST API. All times are seconds, all sizes bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_type_hints

from engine.errors import BadSpec

T = TypeVar("T")


class Status(StrEnum):
    """The state of a container and the verbs that it allows."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"

    def can_start(self) -> bool:
        return self in (Status.CREATED, Status.EXITED, Status.RESTARTING)

    def can_stop(self) -> bool:
        return self in (Status.RUNNING, Status.PAUSED, Status.RESTARTING)

    def can_kill(self) -> bool:
        return self in (Status.RUNNING, Status.PAUSED)

    def can_pause(self) -> bool:
        return self is Status.RUNNING

    def can_unpause(self) -> bool:
        return self is Status.PAUSED

    def can_exec(self) -> bool:
        return self is Status.RUNNING

    def can_attach(self) -> bool:
        return self in (Status.CREATED, Status.RUNNING, Status.PAUSED, Status.EXITED, Status.RESTARTING)

    def can_remove(self) -> bool:
        return self in (Status.CREATED, Status.EXITED, Status.DEAD, Status.CREATING, Status.REMOVING)

    def is_alive(self) -> bool:
        return self in (Status.RUNNING, Status.PAUSED)


@dataclass(frozen=True)
class MountSpec:
    """A mount asked for. `type`: `volume` (source is a name, empty = anonymous), `bind` (source is a host path), `tmpfs`."""

    type: str
    target: str
    source: str = ""
    read_only: bool = False
    subpath: str = ""
    nocopy: bool = False
    propagation: str = ""
    create_source: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    tmpfs_size_bytes: int = 0
    tmpfs_mode: int = 0
    tmpfs_options: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PortSpec:
    """A published port. `host_port` 0 means the engine chooses; empty `host_ip` means the node's policy."""

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


@dataclass(frozen=True)
class EndpointSpec:
    """A network to join. `name` is a network's name or id."""

    name: str
    aliases: list[str] = field(default_factory=list)
    ipv4_address: str = ""
    ipv6_address: str = ""
    mac_address: str = ""
    driver_opts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ulimit:
    name: str
    soft: int
    hard: int


@dataclass(frozen=True)
class DeviceSpec:
    path_on_host: str
    path_in_container: str = ""
    permissions: str = "rwm"


@dataclass(frozen=True)
class Resources:
    """Limits; 0 (or an empty string) means none. `cpus` is a number of cores, 1.5 is one and a half."""

    memory_bytes: int = 0
    memory_swap_bytes: int = 0  # memory and swap together, -1: no limit
    memory_reservation_bytes: int = 0
    cpus: float = 0.0
    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int = 0  # 0: the engine's default, -1: no limit
    blkio_weight: int = 0
    oom_kill_disable: bool = False
    oom_score_adj: int = 0
    ulimits: list[Ulimit] = field(default_factory=list)


@dataclass(frozen=True)
class RestartPolicy:
    """`name`: `no`, `on-failure`, `always`, `unless-stopped`; the count limits `on-failure` (0: no limit)."""

    name: str = "no"
    maximum_retry_count: int = 0


@dataclass(frozen=True)
class Healthcheck:
    """`test` as in an image config: `["CMD", ...]`, `["CMD-SHELL", line]`, `["NONE"]`; 0 means the default."""

    test: list[str] = field(default_factory=list)
    interval_s: float = 0.0
    timeout_s: float = 0.0
    start_period_s: float = 0.0
    start_interval_s: float = 0.0
    retries: int = 0


@dataclass(frozen=True)
class ContainerSpec:
    """Everything that can be asked of a container. None means "as the image says", where the image can say it."""

    image: str
    name: str = ""
    command: list[str] | None = None
    entrypoint: list[str] | None = None
    env: dict[str, str | None] = field(default_factory=dict)  # None takes an image's variable away
    user: str = ""
    groups: list[str] = field(default_factory=list)
    workdir: str = ""
    hostname: str = ""
    domainname: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    tty: bool = False
    stdin_open: bool = False
    stdin_once: bool = False
    stop_signal: str = ""
    stop_timeout_s: int | None = None
    init: bool = False
    read_only: bool = False
    shm_size_bytes: int = 0
    mounts: list[MountSpec] = field(default_factory=list)
    volumes_from: list[str] = field(default_factory=list)  # "container[:ro|rw]"
    ports: list[PortSpec] = field(default_factory=list)
    exposed_ports: list[str] = field(default_factory=list)  # "80/tcp"
    publish_all: bool = False
    network_mode: str = "bridge"  # bridge, none, host, container:REF, or the name of a network
    networks: list[EndpointSpec] = field(default_factory=list)
    mac_address: str = ""
    dns: list[str] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)
    dns_options: list[str] = field(default_factory=list)
    extra_hosts: list[str] = field(default_factory=list)  # "name:address"
    links: list[str] = field(default_factory=list)  # "container:alias"
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    resources: Resources = field(default_factory=Resources)
    cap_add: list[str] = field(default_factory=list)
    cap_drop: list[str] = field(default_factory=list)
    privileged: bool = False
    security_opt: list[str] = field(default_factory=list)
    devices: list[DeviceSpec] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    pid_mode: str = ""
    ipc_mode: str = ""
    uts_mode: str = ""
    userns_mode: str = ""  # "" (own range) or "host"
    cgroupns_mode: str = ""
    cgroup_parent: str = ""
    healthcheck: Healthcheck | None = None
    log_driver: str = ""  # "" (json lines kept by the engine) or "none"
    log_options: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PortBinding:
    """A port that is really published."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int


@dataclass(frozen=True)
class Endpoint:
    """Membership of a network: addresses are empty while the container does not run."""

    network_id: str
    network: str
    aliases: list[str] = field(default_factory=list)
    ipv4_address: str = ""
    ipv4_prefix: int = 0
    gateway: str = ""
    ipv6_address: str = ""
    ipv6_prefix: int = 0
    ipv6_gateway: str = ""
    mac_address: str = ""


@dataclass(frozen=True)
class MountPoint:
    """A mount that a container really has; `source` is the host path, `name` the volume's name."""

    type: str
    target: str
    source: str
    name: str = ""
    read_only: bool = False
    anonymous: bool = False


@dataclass(frozen=True)
class HealthResult:
    started_at: float
    finished_at: float
    exit_code: int
    output: str


@dataclass(frozen=True)
class Health:
    """`status`: `none`, `starting`, `healthy`, `unhealthy`; `log` holds the last five results."""

    status: str = "none"
    failing_streak: int = 0
    log: list[HealthResult] = field(default_factory=list)


@dataclass(frozen=True)
class Container:
    """A container as it is. Times are seconds since the epoch, 0 means never."""

    id: str
    name: str
    spec: ContainerSpec
    image_id: str
    image: str
    status: Status
    created_at: float
    started_at: float = 0.0
    finished_at: float = 0.0
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    restart_count: int = 0
    stopped_by_user: bool = False
    path: str = ""
    args: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)  # image config merged with the spec, OCI field names
    endpoints: list[Endpoint] = field(default_factory=list)
    ports: list[PortBinding] = field(default_factory=list)
    mounts: list[MountPoint] = field(default_factory=list)
    health: Health = field(default_factory=Health)
    driver: str = "overlay"
    subuid: int = 0
    generation: int = 0  # grows with every change of this record


def to_json(value: Any) -> Any:
    """Return a dataclass of this module as JSON values (enums as their text)."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list or kind is tuple:
        return [to_json(item) for item in value]
    if kind is dict:
        return {key: to_json(item) for key, item in value.items()}
    if (names := _field_names(cast(Any, kind))) is not None:
        return {name: to_json(getattr(value, name)) for name in names}
    return value.value if isinstance(value, StrEnum) else value


def from_json(kind: type[T], data: Any, where: str = "") -> T:
    """Build the dataclass `kind` from JSON; unknown fields and wrong types raise `BadSpec` naming the field."""
    try:
        built: T = _converter(cast(Any, kind))(data)
    except _Mismatch as error:
        raise BadSpec(error.sentence(where, kind.__name__)) from None
    return built


_PLAIN = frozenset({str, int, float, bool, type(None)})


class _Mismatch(Exception):
    """A value that does not fit; who comes back through a field adds its name, so what fits costs no text."""

    def __init__(self, problem: str, *, unknown: str = "") -> None:
        super().__init__(problem)
        self.problem, self.unknown, self.path = problem, unknown, ""

    def inside(self, step: str) -> _Mismatch:
        joint = "." if self.path and not self.path.startswith("[") else ""
        self.path = f"{step}{joint}{self.path}"
        return self

    def sentence(self, where: str, kind: str) -> str:
        joint = "." if where and self.path and not self.path.startswith("[") else ""
        path = f"{where}{joint}{self.path}"
        if self.unknown:
            return f"unknown field {path + '.' if path else ''}{self.unknown}"
        return f"{path or kind}{self.problem}"


Convert = Callable[[Any], Any]


@cache
def _field_names(kind: Any) -> tuple[str, ...] | None:  # any type
    return tuple(item.name for item in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


@cache
def _converter(hint: Any) -> Convert:
    """Return what turns a JSON value into a value of the type `hint`, made once for each type."""
    options = get_args(hint)
    origin = getattr(hint, "__origin__", None)
    if hint is Any:
        return lambda value: value
    if origin is None and options:  # X | None
        inner = _converter(next(option for option in options if option is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is list:
        return _list_of(_converter(options[0]))
    if origin is dict:
        return _dict_of(_converter(options[1]))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _object_of(hint)
    return _scalar_of(hint)


def _list_of(inner: Convert) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            raise _Mismatch(" must be a list")
        found = []
        for index, item in enumerate(value):
            try:
                found.append(inner(item))
            except _Mismatch as error:
                raise error.inside(f"[{index}]") from None
        return found

    return convert


def _dict_of(inner: Convert) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise _Mismatch(" must be an object")
        found = {}
        for key, item in value.items():
            try:
                found[key] = inner(item)
            except _Mismatch as error:
                raise error.inside(key) from None
        return found

    return convert


def _object_of(kind: Any) -> Convert:
    converters = {name: _converter(hint) for name, hint in get_type_hints(kind).items()}

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Mismatch(" must be an object")
        found = {}
        for name, item in value.items():
            inner = converters.get(name)
            if inner is None:
                raise _Mismatch("", unknown=str(name))
            try:
                found[name] = inner(item)
            except _Mismatch as error:
                raise error.inside(name) from None
        try:
            return kind(**found)
        except TypeError as error:
            raise _Mismatch(f": {error}") from None

    return convert


def _scalar_of(hint: Any) -> Convert:
    if isinstance(hint, type) and issubclass(hint, StrEnum):

        def to_enum(value: Any) -> Any:
            try:
                return hint(value)
            except ValueError:
                raise _Mismatch(f": unknown value {value!r}") from None

        return to_enum
    word = "text" if hint is str else hint.__name__

    def convert(value: Any) -> Any:
        kind = type(value)
        if kind is hint:
            return value
        if hint is float and kind is int:
            return float(value)
        raise _Mismatch(f" must be {word}")

    return convert

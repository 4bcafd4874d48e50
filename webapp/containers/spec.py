"""The canonical spec of a container. Every front door (REST, pages, Docker API) compiles to it; policy is judged on it.

`compile_spec` takes what people write (see the REST API's `POST /containers/`) and returns the whole spec as JSON with
the field names that the node knows. What is not a field of it is refused. The dataclasses mirror the engine's; a test
compares them.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, fields
from typing import Any

from webapp.containers.mounts import parse_mount
from webapp.containers.ports import parse_port
from webapp.core.errors import Invalid
from webapp.core.ids import is_name
from workers.contracts.values import ContractError, from_json, to_json


@dataclass(frozen=True)
class Mount:
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
class Port:
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


@dataclass(frozen=True)
class Endpoint:
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
class Device:
    path_on_host: str
    path_in_container: str = ""
    permissions: str = "rwm"


@dataclass(frozen=True)
class Resources:
    memory_bytes: int = 0
    memory_swap_bytes: int = 0
    memory_reservation_bytes: int = 0
    cpus: float = 0.0
    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int = 0
    blkio_weight: int = 0
    oom_kill_disable: bool = False
    oom_score_adj: int = 0
    ulimits: list[Ulimit] = field(default_factory=list)


@dataclass(frozen=True)
class Restart:
    name: str = "no"
    maximum_retry_count: int = 0


@dataclass(frozen=True)
class Healthcheck:
    test: list[str] = field(default_factory=list)
    interval_s: float = 0.0
    timeout_s: float = 0.0
    start_period_s: float = 0.0
    start_interval_s: float = 0.0
    retries: int = 0


@dataclass(frozen=True)
class Spec:
    image: str
    name: str = ""
    command: list[str] | None = None
    entrypoint: list[str] | None = None
    env: dict[str, str | None] = field(default_factory=dict)
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
    mounts: list[Mount] = field(default_factory=list)
    volumes_from: list[str] = field(default_factory=list)
    ports: list[Port] = field(default_factory=list)
    exposed_ports: list[str] = field(default_factory=list)
    publish_all: bool = False
    network_mode: str = "bridge"
    networks: list[Endpoint] = field(default_factory=list)
    mac_address: str = ""
    dns: list[str] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)
    dns_options: list[str] = field(default_factory=list)
    extra_hosts: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    restart: Restart = field(default_factory=Restart)
    auto_remove: bool = False
    resources: Resources = field(default_factory=Resources)
    cap_add: list[str] = field(default_factory=list)
    cap_drop: list[str] = field(default_factory=list)
    privileged: bool = False
    security_opt: list[str] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    pid_mode: str = ""
    ipc_mode: str = ""
    uts_mode: str = ""
    userns_mode: str = ""
    cgroupns_mode: str = ""
    cgroup_parent: str = ""
    healthcheck: Healthcheck | None = None
    log_driver: str = ""
    log_options: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


RESOURCE_FIELDS = frozenset(item.name for item in fields(Resources))
RESTART_NAMES = ("no", "on-failure", "always", "unless-stopped")
_LINE = re.compile(r"[\x00-\x1f\x7f]")
_ONE_LINE = (
    "name",
    "user",
    "workdir",
    "hostname",
    "domainname",
    "stop_signal",
    "network_mode",
    "cgroup_parent",
)
_ONE_LINE_LISTS = ("dns", "dns_search", "dns_options", "extra_hosts", "links", "groups", "volumes_from")


def compile_spec(data: dict[str, Any]) -> dict[str, Any]:
    """Return the canonical spec of what was asked for, else raise `Invalid` naming the field."""
    wanted = dict(data)
    aliases = wanted.pop("aliases", None) or []
    if not wanted.get("image"):
        raise Invalid("say which image to run", fields={"image": ["missing"]})
    for name in ("command", "entrypoint"):
        if isinstance(wanted.get(name), str):
            wanted[name] = _words(name, wanted[name])
    wanted["env"] = env_file_of(wanted.pop("env_file", None)) | env_of(wanted.get("env"))
    wanted["ports"] = [port for item in _list(wanted, "ports") for port in _port(item)]
    wanted["mounts"] = [
        parse_mount(item) if isinstance(item, str) else item for item in _list(wanted, "mounts")
    ]
    wanted["restart"] = restart_of(wanted.get("restart"))
    wanted["resources"] = resources_of(wanted)
    _networks(wanted, aliases)
    spec = to_json(strict(Spec, {name: value for name, value in wanted.items() if value is not None}))
    _check(spec)
    return dict(spec)


def strict(kind: type[Any], data: Any) -> Any:
    """Build a dataclass of this module from JSON, else raise `Invalid`."""
    try:
        return from_json(kind, data)
    except ContractError as error:
        name = str(error).removeprefix("unknown field ").split(" ")[0].strip(":")
        raise Invalid(
            str(error), fields={name: ["unknown" if "unknown" in str(error) else "wrong type"]}
        ) from error


def env_file_of(value: Any) -> dict[str, str | None]:
    """Return the variables of the content of environment files: the later line wins, `env` wins over all.

    As with the docker command: `NAME=VALUE` lines, taken as they are (quotes too); empty lines and those that begin with `#` say
    nothing. `NAME` alone would be the value that the writer's own shell has, which is not here: it is refused.
    """
    texts = value if isinstance(value, list) else [value or ""]
    if not all(isinstance(text, str) for text in texts):
        raise Invalid(
            "env_file must be the text of a file, or a list of texts", fields={"env_file": ["wrong type"]}
        )
    env: dict[str, str | None] = {}
    for text in texts:
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
            name, equal, rest = line.lstrip().partition("=")
            if not name or name.startswith("#"):
                continue
            if not equal or " " in name or "\0" in line:
                raise Invalid(
                    f"line {number} of the environment file is no NAME=VALUE: {line[:60]!r}",
                    fields={"env_file": [f"line {number}"]},
                )
            env[name] = rest
    return env


def env_of(value: Any) -> dict[str, str | None]:
    """Return environment variables from an object or a list of `NAME=VALUE` (`NAME` alone takes the image's away)."""
    if isinstance(value, list):
        pairs = [str(item).partition("=") for item in value]
        value = {name: text if equal else None for name, equal, text in pairs}
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid("env must be an object", fields={"env": ["wrong type"]})
    env = {
        name: str(item) if isinstance(item, int | float) and not isinstance(item, bool) else item
        for name, item in value.items()
    }
    for name, text in env.items():
        if not name or "=" in name or _LINE.search(name) or (isinstance(text, str) and "\0" in text):
            raise Invalid(
                f"{name[:60]!r} is no name of an environment variable", fields={"env": ["bad name or value"]}
            )
    return env


def restart_of(value: Any) -> dict[str, Any]:
    """Return a restart policy from `always`, `on-failure:3` or an object."""
    if isinstance(value, dict):
        restart = to_json(strict(Restart, value))
    else:
        name, colon, count = (value if isinstance(value, str) else "no" if value is None else "?").partition(
            ":"
        )
        if colon and (name != "on-failure" or not count.isdecimal()):
            raise Invalid(
                f"restart policy {str(value)[:40]!r} is not valid", fields={"restart": ["not valid"]}
            )
        restart = {"name": name or "no", "maximum_retry_count": int(count) if colon else 0}
    if restart["name"] not in RESTART_NAMES:
        raise Invalid(
            f"no restart policy {str(restart['name'])[:40]!r}",
            fields={"restart": [f"one of {', '.join(RESTART_NAMES)}"]},
        )
    return dict(restart)


def resources_of(wanted: dict[str, Any]) -> dict[str, Any]:
    """Take limits out of `wanted`, where they may stand at the top as well as under `resources`."""
    resources = wanted.pop("resources", None) or {}
    if not isinstance(resources, dict):
        raise Invalid("resources must be an object", fields={"resources": ["wrong type"]})
    top = {name: wanted.pop(name) for name in RESOURCE_FIELDS & set(wanted)}
    merged = {**resources, **{name: value for name, value in top.items() if value is not None}}
    for name, value in merged.items():
        lowest = (
            -1 if name in ("memory_swap_bytes", "pids_limit") else -1000 if name == "oom_score_adj" else 0
        )
        if isinstance(value, int | float) and not isinstance(value, bool) and value < lowest:
            raise Invalid(f"{name} cannot be {value}", fields={name: ["too small"]})
    return merged


def _list(wanted: dict[str, Any], name: str) -> list[Any]:
    value = wanted.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Invalid(f"{name} must be a list", fields={name: ["wrong type"]})
    return value


def _port(item: Any) -> list[Any]:
    if isinstance(item, int) and not isinstance(item, bool):
        return parse_port(str(item))
    return parse_port(item) if isinstance(item, str) else [item]


def _networks(wanted: dict[str, Any], aliases: list[str]) -> None:
    """Bring the short ways to say a network into `network_mode` and `networks`."""
    endpoints = [{"name": item} if isinstance(item, str) else item for item in _list(wanted, "networks")]
    if not endpoints and aliases:
        endpoints = [{"name": wanted.get("network_mode") or "bridge"}]
    if aliases:
        first = endpoints[0]
        endpoints[0] = {**first, "aliases": [*first.get("aliases", []), *aliases]}
    mode = wanted.get("network_mode") or ""
    special = mode in ("host", "none") or mode.startswith("container:")
    if special and endpoints:
        raise Invalid(
            f"network mode {mode!r} goes with no other network", fields={"networks": ["not with this mode"]}
        )
    wanted["networks"] = endpoints
    wanted["network_mode"] = mode or (
        str(endpoints[0].get("name", "")) if endpoints and isinstance(endpoints[0], dict) else "bridge"
    )


def _check(spec: dict[str, Any]) -> None:
    if spec["name"] and not is_name(spec["name"]):
        raise Invalid(
            f"{spec['name'][:60]!r} is no name for a container",
            fields={"name": ["letters, digits, dot, dash, underscore; at most 128"]},
        )
    for name in _ONE_LINE:
        if _LINE.search(spec[name]):
            raise Invalid(f"{name} has a line break or control character", fields={name: ["not one line"]})
    for name in _ONE_LINE_LISTS:
        if any(_LINE.search(item) for item in spec[name]):
            raise Invalid(f"{name} has a line break or control character", fields={name: ["not one line"]})
    if any(_LINE.search(key) for key in spec["labels"]):
        raise Invalid(
            "a label's name has a line break or control character", fields={"labels": ["not one line"]}
        )
    if spec["auto_remove"] and spec["restart"]["name"] != "no":
        raise Invalid(
            "a container that is removed at its end cannot be restarted",
            fields={"restart": ["not with auto_remove"]},
        )
    for mount in spec["mounts"]:
        if mount["type"] not in ("volume", "bind", "tmpfs"):
            raise Invalid(
                f"no mount type {mount['type'][:20]!r}", fields={"mounts": ["volume, bind or tmpfs"]}
            )
    for port in spec["ports"]:
        if not 1 <= port["container_port"] <= 65535 or not 0 <= port["host_port"] <= 65535:
            raise Invalid("a port is a number from 1 to 65535", fields={"ports": ["out of range"]})


def _words(name: str, line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise Invalid(f"{name}: {str(error).lower()}", fields={name: ["unbalanced quotes"]}) from error

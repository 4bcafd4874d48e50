"""What may be asked of a container on this node. Everything that cannot be done is refused here with its reason.

Who may ask for what is decided above; here is what nobody gets: wrong values, values that this kernel cannot honour, targets that
would open the sandbox. The spec is judged whole, before anything is made.
"""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from engine.containers.model import ContainerSpec, Resources, RestartPolicy, Ulimit
from engine.errors import BadSpec, Unsupported
from engine.linux.cgroup import Cgroups, Mode
from engine.runtime import capabilities
from engine.runtime.paths import check_mount_target, clean_path

SAFE_SYSCTLS = (
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
    "kernel.shm_rmid_forced",
)  # fmt: skip
LOG_DRIVERS = ("", "json-file", "local", "k8s-file", "none")
LOG_OPTIONS = {"max-size", "max-file", "mode", "compress"}
_LEAST_MEMORY = 6 * 1024 * 1024
_LIMITS = {name.removeprefix("RLIMIT_").lower() for name in dir(resource) if name.startswith("RLIMIT_")}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")
_DOMAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")  # setdomainname(2)
_ENV_NAME = re.compile(r"[^=\0\n]+\Z")
_SYSCTL = re.compile(r"[a-z0-9_]+([./][A-Za-z0-9_.-]+)+\Z")
_CPUSET = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*\Z")
_REFUSED_ANNOTATIONS = ("run.oci.", "io.podman.", "io.kubernetes.", "io.katacontainers.", "wharfinger.")


@dataclass(frozen=True)
class Security:
    """What `security_opt` asks for. `seccomp`: `` (the default profile), `unconfined`, or a profile's JSON."""

    no_new_privileges: bool = False
    seccomp: str = ""
    unmasked: bool = False


def check_spec(spec: ContainerSpec, cgroups: Cgroups) -> None:
    """Refuse a spec with `BadSpec` or `Unsupported`, naming the field and the reason."""
    _check_texts(spec)
    _check_modes(spec)
    _check_lifetime(spec)
    check_resources(spec.resources, cgroups)
    parse_security(spec.security_opt)
    capabilities.resolve(spec.cap_add, spec.cap_drop, privileged=spec.privileged)
    check_sysctls(spec)
    if spec.workdir:
        clean_path(spec.workdir, "the working directory")
    targets = [check_mount_target(mount.target) for mount in spec.mounts]
    for target in targets:
        if targets.count(target) > 1:
            raise BadSpec(f"two mounts have the same target {target}")
    for mount in spec.mounts:
        if mount.propagation not in ("", "private", "rprivate"):
            raise Unsupported(
                f"mount propagation {mount.propagation!r} is not supported",
                hint="mounts of a container stay its own",
            )


def parse_signal(text: str) -> int:
    """Return the number of a signal given as `SIGTERM`, `term` or `15`; raises `BadSpec`."""
    name = text.strip().upper()
    if name.isascii() and name.isdigit() and 1 <= int(name) <= 64:
        return int(name)
    name = name if name.startswith("SIG") else f"SIG{name}"
    if found := re.fullmatch(r"SIGRT(MIN|MAX)(?:([+-])(\d{1,2}))?", name):
        base = int(getattr(signal, f"SIGRT{found[1]}"))
        number = base + int((found[2] or "+") + (found[3] or "0"))
        if int(signal.SIGRTMIN) <= number <= int(signal.SIGRTMAX):
            return number
    elif name in signal.Signals.__members__:
        return int(signal.Signals[name])
    raise BadSpec(f"unknown signal {text[:32]!r}", hint="a name like SIGTERM or a number from 1 to 64")


def parse_security(options: Iterable[str]) -> Security:
    """Read `security_opt`; raises `BadSpec` for what is not known here."""
    no_new, seccomp, unmasked = False, "", False
    for option in options:
        key, separator, value = _split_option(option)
        if key == "no-new-privileges" and value in ("", "true", "false"):
            no_new = value != "false"
        elif key == "seccomp" and value:
            seccomp = "" if value in ("builtin", "default") else value
        elif key == "systempaths" and value == "unconfined":
            unmasked = True
        elif (key, value) in (("apparmor", "unconfined"), ("label", "disable")):
            continue  # there is none to switch off
        else:
            raise BadSpec(
                f"security option {(key + separator + value)[:64]!r} is not supported",
                hint="no-new-privileges, seccomp=unconfined, seccomp=PROFILE and systempaths=unconfined are",
            )
    return Security(no_new, seccomp, unmasked)


def check_resources(wanted: Resources, cgroups: Cgroups) -> None:
    """Refuse limits that make no sense or that the control groups of this host cannot hold."""
    _check_memory(wanted, cgroups)
    _check_cpu(wanted, cgroups)
    controllers = cgroups.controllers()
    if wanted.pids_limit < -1:
        raise BadSpec("pids_limit must be a number, 0 for the default or -1 for none")
    _require(wanted.pids_limit > 0, "pids" in controllers, "a limit of processes", "pids")
    if wanted.blkio_weight and not 10 <= wanted.blkio_weight <= 1000:
        raise BadSpec("blkio_weight must be from 10 to 1000")
    has_weight = any(cgroups.has_file("blkio", name) for name in ("blkio.weight", "blkio.bfq.weight"))
    can_weigh = "io" in controllers if cgroups.mode is Mode.V2 else has_weight
    _require(wanted.blkio_weight > 0, can_weigh, "a block I/O weight", "blkio.weight")
    if not -1000 <= wanted.oom_score_adj <= 1000:
        raise BadSpec("oom_score_adj must be from -1000 to 1000")
    if wanted.oom_score_adj and wanted.oom_score_adj < _own_oom_score() and not _may_lower_oom_score():
        raise Unsupported(
            f"oom_score_adj {wanted.oom_score_adj} is below the engine's own {_own_oom_score()}",
            hint="the engine lacks CAP_SYS_RESOURCE on this host",
        )
    for limit in wanted.ulimits:
        check_ulimit(limit)


def check_ulimit(limit: Ulimit) -> None:
    """Refuse a limit above our own hard one: a process without CAP_SYS_RESOURCE cannot raise it."""
    if limit.name not in _LIMITS:
        raise BadSpec(f"unknown ulimit {limit.name[:32]!r}", hint=f"one of {', '.join(sorted(_LIMITS))}")
    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{limit.name.upper()}"))[1]
    infinity = resource.RLIM_INFINITY
    for value in (limit.soft, limit.hard):
        if value < -1 or (hard != infinity and (value == -1 or value > hard)):
            raise Unsupported(
                f"ulimit {limit.name} of {value} is above the hard limit {hard} of this host",
                hint="ask for less",
            )
    if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
        raise BadSpec(f"the soft limit of ulimit {limit.name} is above its hard limit")


def check_sysctls(spec: ContainerSpec) -> None:
    """Allow only what belongs to the container's own namespaces."""
    for name in spec.sysctls:
        if not _SYSCTL.match(name):
            raise BadSpec(f"not a kernel parameter: {name[:64]!r}")
        dotted = name.replace("/", ".")
        if dotted.startswith("net."):
            if spec.network_mode == "host" or spec.network_mode.startswith("container:"):
                raise BadSpec(f"{dotted} belongs to a network namespace that is not the container's own")
        elif dotted in SAFE_SYSCTLS or dotted.startswith("fs.mqueue."):
            if spec.ipc_mode == "host" or spec.ipc_mode.startswith("container:"):
                raise BadSpec(f"{dotted} belongs to an IPC namespace that is not the container's own")
        else:
            raise BadSpec(
                f"{dotted} is a parameter of the whole machine",
                hint="net.*, fs.mqueue.* and System V IPC can be set",
            )


def _check_texts(spec: ContainerSpec) -> None:
    if spec.hostname and not _HOST.match(spec.hostname):
        raise BadSpec(f"not a host name: {spec.hostname[:64]!r}")
    if spec.domainname and not _DOMAIN.match(spec.domainname):
        raise BadSpec(
            f"not a domain name: {spec.domainname[:64]!r}",
            hint="letters, digits, dots and dashes, at most 64",
        )
    for name, value in spec.env.items():
        if not _ENV_NAME.match(name) or "\0" in (value or ""):
            raise BadSpec(f"not an environment variable: {name[:64]!r}")
    for text in [*(spec.command or ()), *(spec.entrypoint or ())]:
        if "\0" in text:
            raise BadSpec("a command cannot hold a zero byte")
    for name, value in spec.labels.items():
        if not name or any(ord(character) < 32 for character in name) or "\0" in value:
            raise BadSpec(f"not a label: {name[:64]!r}")
    for text in (*spec.dns, *spec.dns_search, *spec.dns_options, *spec.extra_hosts, *spec.links):
        if not text or any(ord(character) <= 32 or ord(character) == 127 for character in text):
            raise BadSpec(f"not a single word: {text[:64]!r}")
    for name in spec.annotations:
        if name.startswith(_REFUSED_ANNOTATIONS):
            raise BadSpec(
                f"annotation {name[:64]!r} would steer the runtime",
                hint="annotations are notes, kept in the record",
            )
    if spec.log_driver not in LOG_DRIVERS:
        raise Unsupported(
            f"log driver {spec.log_driver[:32]!r} is not supported", hint="the engine keeps the log itself"
        )
    if unknown := set(spec.log_options) - LOG_OPTIONS:
        raise Unsupported(
            f"log option {min(unknown)[:32]!r} is not supported", hint="max-size and max-file are"
        )


def _check_modes(spec: ContainerSpec) -> None:
    allowed = {
        "pid_mode": ("", "host", "private"), "ipc_mode": ("", "host", "private", "shareable", "none"),
        "uts_mode": ("", "host", "private"), "userns_mode": ("", "host", "private"),
        "cgroupns_mode": ("", "host", "private"),
    }  # fmt: skip
    for name, values in allowed.items():
        mode = getattr(spec, name)
        joins = mode.startswith("container:") and len(mode) > 10 and name in ("pid_mode", "ipc_mode")
        if mode not in values and not joins:
            raise BadSpec(
                f"{name} {mode[:64]!r} is not supported",
                hint=f"one of {', '.join(value or 'empty' for value in values)}",
            )
    shares = spec.network_mode in ("host", "none") or spec.network_mode.startswith("container:")
    if shares and (spec.ports or spec.publish_all):
        raise BadSpec(
            f"no port can be published with network {spec.network_mode}",
            hint="leave the ports or the network mode out",
        )
    if shares and spec.networks and any(entry.name != spec.network_mode for entry in spec.networks):
        raise BadSpec(f"network {spec.network_mode} cannot be combined with other networks")
    if spec.uts_mode == "host" and (spec.hostname or spec.domainname):
        raise BadSpec("a container that shares the host's name cannot have its own")
    if spec.cgroup_parent:
        raise Unsupported(
            "cgroup_parent is not supported", hint="all containers of this engine have one parent group"
        )


def check_restart(policy: RestartPolicy, *, auto_remove: bool = False) -> None:
    """Refuse a restart policy that does not exist or contradicts the rest."""
    if policy.name not in ("", "no", "on-failure", "always", "unless-stopped"):
        raise BadSpec(
            f"unknown restart policy {policy.name[:32]!r}", hint="no, on-failure, always or unless-stopped"
        )
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise BadSpec("a maximum retry count goes with the restart policy on-failure only")
    if policy.maximum_retry_count < 0:
        raise BadSpec("the maximum retry count cannot be negative")
    if auto_remove and policy.name not in ("", "no"):
        raise BadSpec(
            "a container that is removed when it ends cannot be restarted", hint="choose one of the two"
        )


def _check_lifetime(spec: ContainerSpec) -> None:
    check_restart(spec.restart, auto_remove=spec.auto_remove)
    if spec.stop_signal:
        parse_signal(spec.stop_signal)
    if spec.stop_timeout_s is not None and spec.stop_timeout_s < -1:
        raise BadSpec("stop_timeout_s must be a number of seconds, or -1 to wait for ever")
    if (check := spec.healthcheck) is not None:
        if check.test and check.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
            raise BadSpec(f"a health check begins with NONE, CMD or CMD-SHELL, not {check.test[0][:32]!r}")
        if len(check.test) == 1 and check.test[0] != "NONE":
            raise BadSpec("a health check needs a command")
        times = (
            check.interval_s,
            check.timeout_s,
            check.start_period_s,
            check.start_interval_s,
            check.retries,
        )
        if any(value < 0 for value in times) or any(0 < value < 0.001 for value in times):
            raise BadSpec("times of a health check are 0 or at least a millisecond")


def _check_memory(wanted: Resources, cgroups: Cgroups) -> None:
    if wanted.memory_bytes and wanted.memory_bytes < _LEAST_MEMORY:
        raise BadSpec("the memory limit must be at least 6 MiB")
    _require(wanted.memory_bytes > 0, "memory" in cgroups.controllers(), "a memory limit", "memory")
    if wanted.memory_swap_bytes > 0:
        if not wanted.memory_bytes:
            raise BadSpec("a limit of memory and swap needs a memory limit")
        if wanted.memory_swap_bytes < wanted.memory_bytes:
            raise BadSpec("the limit of memory and swap together must be at least the memory limit")
        can_swap = cgroups.mode is Mode.V2 or cgroups.has_file("memory", "memory.memsw.limit_in_bytes")
        _require(wanted.memory_swap_bytes != wanted.memory_bytes, can_swap, "a swap limit", "swap accounting")
    elif wanted.memory_swap_bytes < -1:
        raise BadSpec("memory_swap_bytes must be a size, or -1 for no limit")
    if (
        wanted.memory_reservation_bytes
        and wanted.memory_bytes
        and wanted.memory_reservation_bytes > wanted.memory_bytes
    ):
        raise BadSpec("the memory reservation must not be above the memory limit")
    if wanted.memory_bytes < 0 or wanted.memory_reservation_bytes < 0:
        raise BadSpec("a size of memory cannot be negative")
    _require(
        wanted.oom_kill_disable,
        cgroups.mode is not Mode.V2,
        "oom_kill_disable",
        "control groups of version 1",
    )


def _check_cpu(wanted: Resources, cgroups: Cgroups) -> None:
    count = os.cpu_count() or 1
    if wanted.cpus < 0 or wanted.cpus > count:
        raise BadSpec(f"cpus must be from 0.01 to {count}, the processors of this host")
    if wanted.cpus and (wanted.cpu_quota or wanted.cpu_period):
        raise BadSpec("cpus cannot be combined with cpu_quota or cpu_period")
    if wanted.cpu_period and not 1000 <= wanted.cpu_period <= 1_000_000:
        raise BadSpec("cpu_period must be from 1000 to 1000000 microseconds")
    if wanted.cpu_quota and wanted.cpu_quota < 1000 and wanted.cpu_quota != -1:
        raise BadSpec("cpu_quota must be at least 1000 microseconds")
    if wanted.cpu_shares and not 2 <= wanted.cpu_shares <= 262144:
        raise BadSpec("cpu_shares must be from 2 to 262144")
    limited = bool(wanted.cpus or wanted.cpu_quota or wanted.cpu_shares)
    _require(limited, "cpu" in cgroups.controllers(), "a processor limit", "cpu")
    for text, present in ((wanted.cpuset_cpus, _online("cpu")), (wanted.cpuset_mems, _online("node"))):
        if text and not _CPUSET.match(text):
            raise BadSpec(f"not a list of numbers and ranges: {text[:64]!r}")
        if text and not cpu_numbers(text) <= present:
            raise BadSpec(f"{text!r} names what this host does not have", hint=f"it has {sorted(present)}")
    _require(
        bool(wanted.cpuset_cpus or wanted.cpuset_mems),
        "cpuset" in cgroups.controllers(),
        "a processor set",
        "cpuset",
    )


def cpu_numbers(text: str) -> set[int]:
    """Return the numbers of a list like `0-3,7`."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            numbers.update(range(int(first), min(int(last or first), 8192) + 1))
    return numbers


def _online(kind: str) -> set[int]:
    try:
        with open(f"/sys/devices/system/{kind}/online") as file:
            return cpu_numbers(file.read())
    except FileNotFoundError:
        return {0}


def _require(asked: bool, able: bool, what: str, needs: str) -> None:
    if asked and not able:
        raise Unsupported(f"this host cannot hold {what}", hint=f"its kernel or control groups lack {needs}")


def _split_option(option: str) -> tuple[str, str, str]:
    """Docker takes `key=value` and, from older days, `key:value`."""
    separator = "=" if "=" in option.split("{")[0] else ":"
    return option.partition(separator) if separator in option else (option, "", "")


def _own_oom_score() -> int:
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read())


def _may_lower_oom_score() -> bool:
    return "CAP_SYS_RESOURCE" in capabilities.available()

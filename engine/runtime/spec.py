"""The description of a process and its sandbox, and the OCI `config.json` that it becomes.

The runtime trusts `config.json` blindly, so nothing in here is taken over from an image unread: every value arrives
checked, in the two dataclasses below. Annotations and hooks are never written: runtimes act on them.
Source: OCI runtime specification 1.0, config.md and config-linux.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.containers.model import Resources, Ulimit

OCI_VERSION = "1.0.2"

MASKED_PATHS = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
# the last one: the folder of the version 1 hierarchies, which runc leaves writable in a user namespace
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup")

_NAMESPACES = ("user", "pid", "ipc", "uts", "mount", "network", "cgroup")
_DEFAULT_CPU_PERIOD_US = 100_000


@dataclass(frozen=True)
class ProcessSpec:
    """A process to run inside: numbers only, names are resolved before. `env` holds `NAME=value` lines.

    `no_new_privileges` is off unless asked for, as with Docker: setuid programs (`su`, `sudo`, `ping` in ordinary
    images) work, and what they gain is root of the container's own range of ids, which is nobody on the host.
    """

    argv: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: Sequence[int] = ()
    tty: bool = False
    size: tuple[int, int] = (0, 0)  # rows, columns of the terminal
    capabilities: frozenset[str] = frozenset()
    no_new_privileges: bool = False
    ulimits: Sequence[Ulimit] = ()
    oom_score_adj: int | None = None

    def to_oci(self) -> dict[str, Any]:
        """Return the `process` object. Inheritable and ambient sets stay empty, and only root has effective ones."""
        ordered = sorted(self.capabilities)
        own = ordered if self.uid == 0 else []
        user: dict[str, Any] = {"uid": self.uid, "gid": self.gid}
        if self.groups:
            user["additionalGids"] = list(self.groups)
        process: dict[str, Any] = {
            "terminal": self.tty,
            "user": user,
            "args": list(self.argv),
            "env": list(self.env),
            "cwd": self.cwd,
            "capabilities": {
                "bounding": ordered,
                "effective": own,
                "permitted": own,
                "inheritable": [],
                "ambient": [],
            },
            "noNewPrivileges": self.no_new_privileges,
        }
        if self.tty and all(self.size):
            process["consoleSize"] = {"height": self.size[0], "width": self.size[1]}
        if self.ulimits:
            process["rlimits"] = [
                {
                    "type": f"RLIMIT_{limit.name.upper()}",
                    "soft": _rlimit(limit.soft),
                    "hard": _rlimit(limit.hard),
                }
                for limit in self.ulimits
            ]
        if self.oom_score_adj is not None:
            process["oomScoreAdj"] = self.oom_score_adj
        return process


@dataclass(frozen=True)
class Device:
    """A device of the host at `source` that the container finds at `path`; `access` is some of `rwm`."""

    source: str
    path: str
    type: str
    major: int
    minor: int
    access: str = "rwm"
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class SandboxSpec:
    """What is around the process.

    Without `shm_size_bytes` there is no `/dev/shm`; `shm_source` is a folder of the host that is shown there.
    `namespaces` maps each kind (`user`, `pid`, `ipc`, `uts`, `mount`, `network`, `cgroup`) to the path of one to join or
    to "" for a new one; a kind that is not there is shared with the host. `id_start` is the first host id of the range,
    None without a user namespace. `mounts` are OCI mount objects that come after the engine's own.
    """

    rootfs: Path
    cgroup: str
    namespaces: dict[str, str]
    id_start: int | None
    id_size: int = 65536
    hostname: str = ""
    read_only: bool = False
    mounts: Sequence[dict[str, Any]] = ()
    shm_size_bytes: int = 64 * 1024 * 1024
    shm_source: str = ""
    resources: Resources = field(default_factory=Resources)
    devices: Sequence[Device] = ()
    device_rules: Sequence[dict[str, Any]] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    seccomp: dict[str, Any] | None = None
    privileged: bool = False
    unmasked: bool = False  # no masked and no read-only paths
    runtime: str = "runc"


def build_config(process: ProcessSpec, sandbox: SandboxSpec) -> dict[str, Any]:
    """Return the `config.json` of a container."""
    linux: dict[str, Any] = {
        "cgroupsPath": "/" + sandbox.cgroup.lstrip("/"),
        "namespaces": [
            _namespace(kind, sandbox.namespaces[kind]) for kind in _NAMESPACES if kind in sandbox.namespaces
        ],
        "resources": build_resources(
            sandbox.resources, privileged=sandbox.privileged, devices=sandbox.devices
        ),
        "rootfsPropagation": "private" if not sandbox.privileged else "rslave",
    }
    linux["resources"]["devices"] += list(sandbox.device_rules)
    if sandbox.id_start is not None:
        # runc wants the mappings even when it joins a namespace that has them; crun takes either
        mapping = [{"containerID": 0, "hostID": sandbox.id_start, "size": sandbox.id_size}]
        linux |= {"uidMappings": mapping, "gidMappings": mapping}
    if sandbox.devices and sandbox.id_start is None:
        linux["devices"] = [_device_node(device) for device in sandbox.devices]
    if sandbox.sysctls:
        linux["sysctl"] = dict(sandbox.sysctls)
    if not (sandbox.privileged or sandbox.unmasked):
        linux |= {"maskedPaths": list(MASKED_PATHS), "readonlyPaths": list(READ_ONLY_PATHS)}
    if sandbox.seccomp is not None:
        linux["seccomp"] = sandbox.seccomp
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": process.to_oci(),
        "root": {"path": str(sandbox.rootfs), "readonly": sandbox.read_only},
        "mounts": [*_own_mounts(sandbox), *_device_mounts(sandbox), *sandbox.mounts],
        "linux": linux,
    }
    if sandbox.hostname and "uts" in sandbox.namespaces:
        config["hostname"] = sandbox.hostname
    return config


def build_resources(
    resources: Resources, *, privileged: bool = False, devices: Sequence[Device] = ()
) -> dict[str, Any]:
    """Return the `linux.resources` object; a limit of 0 is left out, so the group keeps what its parent allows."""
    result: dict[str, Any] = {"devices": _device_rules(privileged, devices)}
    if memory := _memory(resources):
        result["memory"] = memory
    if cpu := _cpu(resources):
        result["cpu"] = cpu
    if resources.pids_limit:
        result["pids"] = {"limit": resources.pids_limit}
    if resources.blkio_weight:
        result["blockIO"] = {"weight": resources.blkio_weight}
    return result


def _memory(resources: Resources) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if resources.memory_bytes:
        memory["limit"] = resources.memory_bytes
    if resources.memory_swap_bytes:
        memory["swap"] = resources.memory_swap_bytes
    if resources.memory_reservation_bytes:
        memory["reservation"] = resources.memory_reservation_bytes
    if resources.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(resources: Resources) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if resources.cpus:
        cpu |= {"period": _DEFAULT_CPU_PERIOD_US, "quota": round(resources.cpus * _DEFAULT_CPU_PERIOD_US)}
    if resources.cpu_quota:
        cpu["quota"] = resources.cpu_quota
    if resources.cpu_period:
        cpu["period"] = resources.cpu_period
    if resources.cpu_shares:
        cpu["shares"] = resources.cpu_shares
    if resources.cpuset_cpus:
        cpu["cpus"] = resources.cpuset_cpus
    if resources.cpuset_mems:
        cpu["mems"] = resources.cpuset_mems
    return cpu


def _device_rules(privileged: bool, devices: Sequence[Device]) -> list[dict[str, Any]]:
    """Deny everything first; the runtime itself adds null, zero, full, random, urandom, tty and the pseudo-terminals."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for device in devices:
        rules.append(
            {
                "allow": True,
                "type": device.type,
                "major": device.major,
                "minor": device.minor,
                "access": device.access,
            }
        )
    return rules


def _device_node(device: Device) -> dict[str, Any]:
    return {
        "path": device.path, "type": device.type, "major": device.major, "minor": device.minor,
        "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
    }  # fmt: skip


def _device_mounts(sandbox: SandboxSpec) -> list[dict[str, Any]]:
    """In a user namespace no device node can be made: there the host's own is shown."""
    if sandbox.id_start is None:
        return []
    options = ["bind", "rprivate", "nosuid", "noexec"]
    return [_mount(device.path, "bind", device.source, options) for device in sandbox.devices]


def _own_mounts(sandbox: SandboxSpec) -> list[dict[str, Any]]:
    """Return the mounts that every container has: all of `/dev` is fresh, so nothing in an image can stand in its place."""
    strict = ["nosuid", "noexec", "nodev"]
    mode = "rw" if sandbox.privileged else "ro"
    mounts = [
        _proc(sandbox),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        _sysfs(sandbox, [*strict, mode]),
        _cgroupfs(sandbox, [*strict, mode]),
        _mqueue(sandbox, strict),
    ]
    if not sandbox.shm_size_bytes:
        return mounts
    if sandbox.shm_source:
        mounts.append(
            _mount("/dev/shm", "bind", sandbox.shm_source, ["rbind", "nosuid", "noexec", "nodev", "rw"])
        )
    else:
        size = f"size={sandbox.shm_size_bytes}"
        mounts.append(_mount("/dev/shm", "tmpfs", "shm", [*strict, "mode=1777", size]))
    return mounts


def _proc(sandbox: SandboxSpec) -> dict[str, Any]:
    """The kernel lets only a pid namespace's owner mount its proc; the host's can be shown, not mounted anew."""
    if sandbox.id_start is not None and "pid" not in sandbox.namespaces:
        return _mount("/proc", "bind", "/proc", ["rbind", "nosuid", "noexec", "nodev"])
    return _mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"])


def _mqueue(sandbox: SandboxSpec, options: list[str]) -> dict[str, Any]:
    if sandbox.id_start is not None and "ipc" not in sandbox.namespaces:
        return _mount("/dev/mqueue", "bind", "/dev/mqueue", ["rbind", *options])
    return _mount("/dev/mqueue", "mqueue", "mqueue", options)


def _sysfs(sandbox: SandboxSpec, options: list[str]) -> dict[str, Any]:
    """The same holds for sysfs and the network namespace."""
    if sandbox.id_start is not None and "network" not in sandbox.namespaces:
        return _mount("/sys", "bind", "/sys", ["rbind", *options])
    return _mount("/sys", "sysfs", "sysfs", options)


def _cgroupfs(sandbox: SandboxSpec, options: list[str]) -> dict[str, Any]:
    return _mount("/sys/fs/cgroup", "cgroup", "cgroup", ["relatime", *options])


def _mount(target: str, fstype: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": fstype, "source": source, "options": options}


def _namespace(kind: str, path: str) -> dict[str, Any]:
    return {"type": kind, "path": path} if path else {"type": kind}


def _rlimit(value: int) -> int:
    return 2**64 - 1 if value < 0 else value

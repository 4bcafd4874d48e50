"""From a container's record to the sandbox that the runtime makes: namespaces, mounts, files of ours, devices."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.containers.model import Container, MountPoint, MountSpec, Resources
from engine.containers.parts import Parts, init_program
from engine.containers.policy import parse_security
from engine.errors import BadSpec, Unsupported, WrongState
from engine.linux.cgroup import Mode
from engine.linux.files import open_in_root
from engine.linux.userns import RANGE_SIZE, IdMap
from engine.runtime import capabilities, stubs
from engine.runtime.paths import check_root, checked_cwd
from engine.runtime.seccomp import default_seccomp, parse_profile
from engine.runtime.spec import Device, ProcessSpec, SandboxSpec, build_config
from engine.runtime.users import resolve_user
from engine.volumes.spec import tmpfs_options

INIT = "/dev/init"
DEFAULT_SHM_BYTES = 64 * 1024 * 1024
_MAX_ID = 2**31 - 1
_FILES = {"hosts": "/etc/hosts", "resolv.conf": "/etc/resolv.conf", "hostname": "/etc/hostname"}


@dataclass(frozen=True)
class Assembled:
    """The runtime's configuration, and the mount points that it will have to make in the root."""

    config: dict[str, Any]
    stubs: list[str]


def own_userns(container: Container) -> bool:
    """Whether the container's ids are mapped; privileged containers and `userns_mode=host` have the host's."""
    return container.subuid > 0


def uses_host_ids(spec: Any) -> bool:  # ContainerSpec, or anything with these two fields
    return bool(spec.privileged or spec.userns_mode == "host")


def joined(container: Container) -> dict[str, str]:
    """Return which namespaces are another container's: kind and reference."""
    modes = {
        "network": container.spec.network_mode,
        "pid": container.spec.pid_mode,
        "ipc": container.spec.ipc_mode,
    }
    return {kind: mode.partition(":")[2] for kind, mode in modes.items() if mode.startswith("container:")}


class Assembler:
    """Puts a sandbox together for one start."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def assemble(self, container: Container, rootfs: Path, idmap: IdMap | None, undo: ExitStack) -> Assembled:
        """Return the configuration for the mounted root. Mounts that it makes on the host are undone by `undo`."""
        root_fd = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            check_root(root_fd)
            mounts = self._mounts(container, idmap, undo)
            sandbox = self._sandbox(container, rootfs, idmap, mounts)
            config = build_config(self._process(container, root_fd, idmap), sandbox)
            targets = [mount["destination"] for mount in config["mounts"]]
            return Assembled(config, stubs.absent(root_fd, targets))
        finally:
            os.close(root_fd)

    def _process(self, container: Container, root_fd: int, idmap: IdMap | None) -> ProcessSpec:
        spec, config = container.spec, container.config
        ids = resolve_user(root_fd, config["User"], spec.groups, max_id=idmap.size - 1 if idmap else _MAX_ID)
        cwd = make_workdir(root_fd, config["WorkingDir"] or "/", idmap, (ids.uid, ids.gid))
        argv = [container.path, *container.args]
        return ProcessSpec(
            argv=[INIT, "--", *argv] if spec.init else argv,
            env=environment(container, ids.home),
            cwd=cwd, uid=ids.uid, gid=ids.gid, groups=ids.groups, tty=spec.tty,
            capabilities=capabilities.resolve(spec.cap_add, spec.cap_drop, privileged=spec.privileged),
            no_new_privileges=parse_security(spec.security_opt).no_new_privileges,
            ulimits=spec.resources.ulimits,
            oom_score_adj=spec.resources.oom_score_adj or None,
        )  # fmt: skip

    def _sandbox(
        self, container: Container, rootfs: Path, idmap: IdMap | None, mounts: list[dict[str, Any]]
    ) -> SandboxSpec:
        spec = container.spec
        security = parse_security(spec.security_opt)
        return SandboxSpec(
            rootfs=rootfs,
            cgroup=self._parts.group_of(container.id),
            namespaces=self._namespaces(container, idmap),
            id_start=idmap.host_start if idmap else None,
            hostname=hostname(container),
            read_only=spec.read_only,
            mounts=mounts,
            shm_size_bytes=0 if spec.ipc_mode == "none" else spec.shm_size_bytes or DEFAULT_SHM_BYTES,
            shm_source=self._shm(container),
            resources=effective_resources(spec.resources, self._parts.config.default_pids_limit),
            devices=self._devices(container),
            sysctls=_sysctls(container),
            seccomp=self._seccomp(container),
            privileged=spec.privileged,
            unmasked=security.unmasked,
            runtime=self._parts.runtime.name,
        )

    def _seccomp(self, container: Container) -> dict[str, Any] | None:
        spec = container.spec
        wanted = parse_security(spec.security_opt).seccomp
        if spec.privileged or wanted == "unconfined":
            return None
        given = capabilities.resolve(spec.cap_add, spec.cap_drop)
        return parse_profile(wanted, given) if wanted else default_seccomp(given)

    def _namespaces(self, container: Container, idmap: IdMap | None) -> dict[str, str]:
        spec = container.spec
        found = {"mount": ""}
        if idmap is not None:
            found["user"] = idmap.path
        if spec.network_mode != "host":
            netns = self._parts.bundle(container.id).netns
            found["network"] = str(netns) if netns.exists() else ""
        for kind, mode in (("pid", spec.pid_mode), ("ipc", spec.ipc_mode), ("uts", spec.uts_mode)):
            if mode != "host":
                found[kind] = ""
        private = spec.cgroupns_mode == "private" or (
            not spec.cgroupns_mode and self._parts.cgroups.mode is Mode.V2
        )
        if private and not (spec.privileged and not spec.cgroupns_mode):
            found["cgroup"] = ""
        for kind, ref in joined(container).items():
            found[kind] = f"/proc/{self.running(ref).pid}/ns/{'net' if kind == 'network' else kind}"
        return found

    def running(self, ref: str) -> Container:
        """Return the container whose namespaces are joined; it must run."""
        other = self._parts.store.get(ref)
        if not other.status.is_alive():
            raise WrongState(
                f"container {other.name!r}, whose namespaces are to be joined, does not run",
                hint="start it first",
            )
        return other

    def _shm(self, container: Container) -> str:
        """A container that shares its IPC namespace shares `/dev/shm` too, so that lies on the host."""
        mode = container.spec.ipc_mode
        if mode == "host":
            return "/dev/shm"
        if mode.startswith("container:"):
            return str(self._parts.roots.folder(self.running(mode.partition(":")[2]).id) / "shm")
        if mode == "shareable":
            return str(self._parts.roots.folder(container.id) / "shm")
        return ""

    def _mounts(self, container: Container, idmap: IdMap | None, undo: ExitStack) -> list[dict[str, Any]]:
        taken = {point.target for point in container.mounts}
        mounts = [
            _bind(self._parts.roots.folder(container.id) / name, target, read_only=container.spec.read_only)
            for name, target in _FILES.items()
            if target not in taken and not (name == "hostname" and container.spec.uts_mode == "host")
        ]
        if container.spec.init:
            mounts.append(
                {**_bind(Path(init_program()), INIT, read_only=True), "options": ["bind", "ro", "nosuid"]}
            )
        tmpfs = {spec.target: spec for spec in container.spec.mounts if spec.type == "tmpfs"}
        for index, point in enumerate(sorted(container.mounts, key=lambda point: point.target.count("/"))):
            if point.type == "tmpfs":
                mounts.append(
                    _tmpfs(
                        tmpfs.get(point.target, MountSpec("tmpfs", point.target, read_only=point.read_only))
                    )
                )
            else:
                source = self._stage(container, point, index, idmap, undo)
                mounts.append(_bind(source, point.target, read_only=point.read_only))
        return mounts

    def _stage(
        self, container: Container, point: MountPoint, index: int, idmap: IdMap | None, undo: ExitStack
    ) -> Path:
        """Mount a volume or host path beside the root, with the container's ids: no path is followed after this."""
        target = self._parts.roots.folder(container.id) / f"mount-{index}"
        with self._parts.volumes.opened_source(point) as source_fd:
            source = f"/proc/self/fd/{source_fd}"
            if stat.S_ISDIR(os.fstat(source_fd).st_mode):
                target.mkdir(exist_ok=True)
            else:
                target.touch()
            try:
                if idmap is None:
                    self._parts.mounts.bind(source, str(target), read_only=point.read_only)
                else:
                    self._parts.mounts.idmap(source, str(target), idmap.userns_fd, read_only=point.read_only)
            except OSError as error:
                raise Unsupported(
                    f"{point.name or point.source} cannot be mounted with the container's ids: {error.strerror}",
                    hint="its file system cannot be idmapped; userns_mode=host does without, with an admin's right",
                ) from error
        undo.callback(self._parts.mounts.unmount, str(target), detach=True)
        return target

    def _devices(self, container: Container) -> list[Device]:
        spec = container.spec
        found = [
            device_of(item.path_on_host, item.path_in_container or item.path_on_host, item.permissions)
            for item in spec.devices
        ]
        if spec.privileged:
            present = {device.path for device in found}
            found += [device for device in host_devices() if device.path not in present]
        return found


def effective_resources(resources: Resources, pids_limit: int) -> Resources:
    """Fill in what is not asked for: a limit of processes, and as Docker does as much swap as memory."""
    values = dict(resources.__dict__)
    if resources.pids_limit == 0:
        values["pids_limit"] = pids_limit
    if resources.memory_bytes and not resources.memory_swap_bytes:
        values["memory_swap_bytes"] = 2 * resources.memory_bytes
    return Resources(**values)


def hostname(container: Container) -> str:
    return container.spec.hostname or container.id[:12]


def environment(container: Container, home: str) -> list[str]:
    """Return the variables of a container's processes: the record's, and those that every program expects."""
    env = list(container.config["Env"])
    names = {line.partition("=")[0] for line in env}
    if "HOSTNAME" not in names and container.spec.uts_mode != "host":
        env.append(f"HOSTNAME={hostname(container)}")
    if container.spec.tty and "TERM" not in names:
        env.append("TERM=xterm")
    if "HOME" not in names:
        env.append(f"HOME={home or '/'}")
    return env


def make_workdir(root_fd: int, workdir: str, idmap: IdMap | None, owner: tuple[int, int]) -> str:
    """Check the working directory and make what is missing of it, inside the root whatever links are on the way."""
    path = checked_cwd(root_fd, workdir)
    current = os.dup(root_fd)
    try:
        walked = ""
        for part in Path(path).parts[1:]:
            walked = f"{walked}/{part}"
            try:
                following = open_in_root(root_fd, walked, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=current)
                following = os.open(
                    part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current
                )
                start = idmap.host_start if idmap else 0
                os.fchown(following, start, start)
            except NotADirectoryError as error:
                raise BadSpec(f"the working directory {path} is not a folder") from error
            os.close(current)
            current = following
    finally:
        os.close(current)
    return path


def _sysctls(container: Container) -> dict[str, str]:
    """As with Docker, who owns the network namespace may listen on any port and send pings, root or not."""
    spec = container.spec
    asked = {name.replace("/", "."): value for name, value in spec.sysctls.items()}
    if spec.network_mode == "host" or spec.network_mode.startswith("container:"):
        return asked
    most = "65535" if own_userns(container) else "2147483647"
    return {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": f"0 {most}", **asked}


def device_of(source: str, target: str, permissions: str) -> Device:
    """Describe a device of the host; raises `BadSpec` when there is none at that path."""
    if not permissions or set(permissions) - set("rwm"):
        raise BadSpec(f"permissions of a device are some of rwm, not {permissions[:16]!r}")
    try:
        status = os.stat(source)
    except OSError as error:
        raise BadSpec(f"no device {source[:100]} on this host: {error.strerror}") from error
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        raise BadSpec(f"{source[:100]} is not a device")
    if not os.path.normpath(target).startswith("/dev/"):
        raise BadSpec(f"a device can be shown below /dev only, not at {target[:100]}")
    number = status.st_rdev
    return Device(
        source,
        os.path.normpath(target), kind, os.major(number), os.minor(number), permissions, stat.S_IMODE(status.st_mode),
        status.st_uid, status.st_gid,
    )  # fmt: skip


def host_devices() -> list[Device]:
    """Return the devices of the host, for a privileged container."""
    found = []
    for folder, folders, names in os.walk("/dev"):
        folders[:] = [
            name
            for name in folders
            if os.path.join(folder, name) not in ("/dev/pts", "/dev/shm", "/dev/mqueue")
        ]
        for name in names:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and path not in ("/dev/console", "/dev/tty"):
                found.append(device_of(path, path, "rwm"))
    return found


def _bind(source: Path, target: str, *, read_only: bool) -> dict[str, Any]:
    options = ["rbind", "rprivate", "ro" if read_only else "rw"]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


def _tmpfs(spec: MountSpec) -> dict[str, Any]:
    return {"destination": spec.target, "type": "tmpfs", "source": "tmpfs", "options": tmpfs_options(spec)}


def mapping(container: Container, userns_fd: int, pin: Path) -> IdMap:
    return IdMap(container.subuid, RANGE_SIZE, userns_fd, pin)

"""Starting a container: everything that is set up for it in the kernel, in order, each step with its undo.

    namespaces → root mounted → files → ports held → bundle → [monitor and runtime | network] → record → go

The two in brackets run at the same time. The record says `running` just before the program may run; until then a failure, or a
crash that `reconcile` finds, takes everything away again. Sources: runc's create and start, the network part's manager.
"""

from __future__ import annotations

import dataclasses
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

from engine.containers.model import Container, Endpoint, EndpointSpec, Health, PortBinding, PortSpec, Status
from engine.containers.parts import Parts
from engine.containers.sandbox import Assembler, hostname, joined, own_userns
from engine.containers.store import Private
from engine.errors import InUse, NotFound
from engine.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID
from engine.linux.userns import RANGE_SIZE, IdMap, make_netns_inside, make_userns, open_idmap, unpin
from engine.linux.uts import set_domain
from engine.network.ports import PROTOCOLS, parse_exposed
from engine.runtime import stubs
from engine.runtime.conmon import Launch, Launched
from engine.runtime.stdio import give_streams, owner_of

_NO_NETWORK = ("host", "none")


class Launcher:
    """Starts containers and takes apart what a start has set up. The caller holds the container's lock."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._assembler = Assembler(parts)
        self._pool = ThreadPoolExecutor(8, "container-network")

    def launch(self, container: Container, *, restarted: bool = False) -> Container:
        """Start a container that is not running and return its record as a running one.

        Raises what went wrong; then the record is what it was and nothing is left in the kernel.
        """
        parts, bundle = self._parts, self._parts.bundle(container.id)
        if self.has_leftovers(container):  # what an earlier run could not take away
            self.dismantle(container)
        with ExitStack() as undo:
            undo.callback(self.dismantle, container)
            with ExitStack() as closing:
                idmap = self._namespaces(container, closing)
                rootfs = self._mount_root(container, idmap)
                bindings = self._hold_ports(container)
                container = dataclasses.replace(container, ports=bindings)
                endpoints = self._allocate(container)
                container = dataclasses.replace(container, endpoints=endpoints)
                self.write_files(container)
                assembled = self._assembler.assemble(container, rootfs, idmap, undo)
                bundle.make(parts.runtime.prepare(assembled.config))
                network = self._pool.submit(self._connect, container, bindings)
                try:
                    launched = self._create(container)
                    parts.cgroups.complete(parts.group_of(container.id), launched.init.pid)
                    parts.runtime.learn(assembled.config, container.id)
                    give_streams(launched.init.pid, owner_of(assembled.config["process"], idmap))
                    if container.spec.domainname:
                        set_domain(launched.init.pid, container.spec.domainname)
                finally:
                    _settle(network)
                container = dataclasses.replace(container, endpoints=network.result())
            container = self._record(container, launched, assembled.stubs, restarted=restarted)
            undo.callback(self._unrecord, container)
            parts.runtime.start(container.id, launched.init)
            undo.pop_all()
        return container

    def has_leftovers(self, container: Container) -> bool:
        """Tell whether a container that does not run has anything in the kernel or in the run root."""
        bundle = self._parts.bundle(container.id)
        places = (bundle.folder, bundle.userns.parent, self._parts.roots.folder(container.id))
        return any(place.exists() for place in places) or self._parts.cgroups.exists(
            self._parts.group_of(container.id)
        )

    def dismantle(self, container: Container, *, keep_bundle: bool = False) -> None:
        """Take away everything that a start sets up in the kernel and in the run root. Idempotent.

        A root that is still in use stays mounted; the next start, removal or reconcile tries again. `keep_bundle` leaves
        the bundle with the exit status, for who has not recorded it yet.
        """
        parts, container_id = self._parts, container.id
        bundle, private = parts.bundle(container_id), parts.store.private(container_id)
        with ExitStack() as all_of:  # each is done, whatever the others say; the first error is raised
            all_of.callback(self._unmount_root, container, private)
            if not keep_bundle:
                all_of.callback(bundle.remove)
            all_of.callback(_remove_empty, bundle.userns.parent)
            all_of.callback(unpin, bundle.userns, mounts=parts.mounts)
            all_of.callback(unpin, bundle.netns, mounts=parts.mounts)
            all_of.callback(parts.runtime.forget, container_id)
            all_of.callback(parts.network.release, container_id)
            all_of.callback(parts.monitors.end, private.monitor, 0.5)
            all_of.callback(parts.cgroups.remove, parts.group_of(container_id))
            all_of.callback(parts.cgroups.kill, parts.group_of(container_id))
            if private.monitor is None and bundle.folder.exists():
                all_of.callback(parts.monitors.end_strays, bundle)

    def write_files(self, container: Container) -> None:
        """Write the files of ours that are bound into the container, in place, so that a running one sees them."""
        parts, folder = self._parts, self._parts.roots.folder(container.id)
        texts = {
            "hosts": parts.network.hosts(container) + self._links(container),
            "resolv.conf": parts.network.resolv_conf(container),
            "hostname": hostname(container) + "\n",
        }
        for name, text in texts.items():
            descriptor = os.open(
                folder / name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
            )
            with open(descriptor, "w") as file:
                os.fchown(descriptor, container.subuid, container.subuid)
                os.fchmod(descriptor, 0o644)
                file.write(text)
                file.truncate()

    def _namespaces(self, container: Container, closing: ExitStack) -> IdMap | None:
        """Make the pinned namespaces; a container that joins another's uses the user namespace of that one."""
        bundle = self._parts.bundle(container.id)
        others = joined(container)
        wants_net = container.spec.network_mode not in _NO_NETWORK and "network" not in others
        if not own_userns(container):
            if wants_net:
                self._parts.network.make_netns(bundle.netns)
            return None
        if others:
            other = self._assembler.running(next(iter(others.values())))
            pin = self._parts.bundle(other.id).userns
            if wants_net:
                make_netns_inside(pin, bundle.netns, mounts=self._parts.mounts)
            return closing.enter_context(open_idmap(container.subuid, pin))
        make_userns(
            container.subuid,
            RANGE_SIZE,
            bundle.userns,
            netns=bundle.netns if wants_net else None,
            mounts=self._parts.mounts,
        )
        return closing.enter_context(open_idmap(container.subuid, bundle.userns))

    def _mount_root(self, container: Container, idmap: IdMap | None) -> Path:
        rootfs = self._parts.roots.make(container.id, container.subuid)
        self._parts.snapshots.mount(container.id, rootfs, idmap=idmap)
        if container.spec.ipc_mode == "shareable":
            self._mount_shm(container)
        return rootfs

    def _mount_shm(self, container: Container) -> None:
        target = self._parts.roots.folder(container.id) / "shm"
        target.mkdir(exist_ok=True)
        size = container.spec.shm_size_bytes or 64 * 1024 * 1024
        options = f"mode=1777,size={size},uid={container.subuid},gid={container.subuid}"
        self._parts.mounts.mount("shm", str(target), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)

    def _hold_ports(self, container: Container) -> list[PortBinding]:
        wanted = list(container.spec.ports)
        if container.spec.publish_all:
            published = {(port.container_port, port.protocol) for port in wanted}
            for exposed in (
                port for text in container.config["ExposedPorts"] for port in parse_exposed(text)
            ):
                if exposed not in published and exposed[1] in PROTOCOLS:
                    wanted.append(PortSpec(*exposed))
                    published.add(exposed)
        return self._parts.network.hold(container.id, wanted, name=container.name) if wanted else []

    def _allocate(self, container: Container) -> list[Endpoint]:
        return [
            self._parts.network.allocate(
                wanted.name,
                container.id,
                wanted,
                name=container.name,
                hostname=hostname(container),
                dns=container.spec.dns,
            )
            for wanted in endpoint_specs(container)
        ]

    def _connect(self, container: Container, bindings: list[PortBinding]) -> list[Endpoint]:
        """Plug the interfaces in and open the ports; runs while the runtime makes the container."""
        netns = self._parts.bundle(container.id).netns
        attached = [
            self._parts.network.attach(netns, container.id, endpoint) for endpoint in container.endpoints
        ]
        if bindings and attached:
            self._parts.network.publish(container.id, attached[0], bindings)
        return attached

    def _create(self, container: Container) -> Launched:
        spec, files = container.spec, self._parts.log_files(container)
        keeps_log = spec.log_driver != "none"
        if keeps_log:
            files.prepare()
        sockets = self._parts.network.sockets(container.id)
        try:
            return self._parts.monitors.create(
                Launch(
                    self._parts.bundle(container.id), files.active if keeps_log else None, files.segment_bytes, tty=spec.tty,
                    stdin_open=spec.stdin_open, stdin_once=spec.stdin_once,
                ),
                inherit=[socket.fileno() for socket in sockets],
            )  # fmt: skip
        finally:
            for socket in sockets:
                socket.close()

    def _record(
        self, container: Container, launched: Launched, made: list[str], *, restarted: bool
    ) -> Container:
        monitor = launched.monitor
        private = dataclasses.replace(
            self._parts.store.private(container.id),
            init_pid=launched.init.pid, init_start=launched.init.start_time,
            monitor_pid=monitor.pid if monitor else 0, monitor_start=monitor.start_time if monitor else 0,
            stubs=sorted({*self._parts.store.private(container.id).stubs, *made}), boot=boot_id(),
            restart_at=0.0,
        )  # fmt: skip
        running = dataclasses.replace(
            container, status=Status.RUNNING, pid=launched.init.pid, started_at=time.time(), exit_code=0, oom_killed=False,
            error="", stopped_by_user=False, restart_count=container.restart_count + 1 if restarted else 0,
            health=Health("starting") if container.config.get("Healthcheck") else Health(),
        )  # fmt: skip
        return self._parts.store.save(running, "start", private=private)

    def _unrecord(self, started: Container) -> None:
        back = dataclasses.replace(started, status=Status.EXITED, pid=0, endpoints=_idle(started), ports=[])
        self._parts.store.save(back, "die", exitCode="127")

    def _unmount_root(self, container: Container, private: Private) -> None:
        """Take the mount points away that the runtime made, then the mount; ours, so nobody else's hand is in it."""
        rootfs = self._parts.roots.rootfs(container.id)
        if private.stubs and os.path.ismount(rootfs):
            root_fd = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                stubs.remove(root_fd, private.stubs)
            finally:
                os.close(root_fd)
        try:
            with suppress(NotFound):  # it went with a removal that was cut off
                self._parts.snapshots.unmount(container.id)
            self._parts.roots.remove(container.id)
        except OSError as error:
            raise InUse(
                f"the root of container {container.name!r} is still in use",
                hint="a copy or commit may be under way",
            ) from error

    def _links(self, container: Container) -> str:
        """Return lines for the old `links`: the other container by its alias, where it is now."""
        lines = ""
        for link in container.spec.links:
            ref, _, alias = link.partition(":")
            other = self._parts.store.get(ref)
            mine = {endpoint.network_id for endpoint in container.endpoints}
            for endpoint in other.endpoints:
                if endpoint.network_id in mine and endpoint.ipv4_address:
                    lines += f"{endpoint.ipv4_address}\t{alias or other.name} {other.id[:12]} {other.name}\n"
        return lines


def endpoint_specs(container: Container) -> list[EndpointSpec]:
    """Return the networks that a container shall join, that of its mode first."""
    spec = container.spec
    if spec.network_mode in _NO_NETWORK or spec.network_mode.startswith("container:"):
        return []
    first = "bridge" if spec.network_mode in ("", "default") else spec.network_mode
    named = {entry.name: entry for entry in spec.networks}
    main = named.pop(first, EndpointSpec(first))
    if spec.mac_address and not main.mac_address:
        main = dataclasses.replace(main, mac_address=spec.mac_address)
    return [main, *named.values()]


def _remove_empty(folder: Path) -> None:
    with suppress(FileNotFoundError):
        folder.rmdir()


def _idle(container: Container) -> list[Endpoint]:
    """Return the memberships of a container that does not run: without addresses."""
    return [Endpoint(item.network_id, item.network, item.aliases) for item in container.endpoints]


@cache
def boot_id() -> str:
    """Return the name that the kernel gave to this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _settle(future: Future[list[Endpoint]]) -> None:
    """Wait for the network, whatever came of it: nothing may be taken away while it still works."""
    future.exception()

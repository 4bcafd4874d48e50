"""The life of a container: create, start, stop, kill, restart, pause, wait, exit, remove.

Each verb holds the container's file lock while it reads the record, decides and changes it, so any number of processes make a
linear history. While it waits for a program to end it does not hold the lock. Every verb can be repeated.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from engine.containers import effective, names
from engine.containers import exec as execs
from engine.containers.diskguard import refuse_when_low
from engine.containers.effective import DEFAULT_STOP_TIMEOUT_S, Effective
from engine.containers.keptlogs import KeptLogs
from engine.containers.launch import Launcher, endpoint_specs
from engine.containers.model import Container, ContainerSpec, Endpoint, Health, MountPoint, MountSpec, Status
from engine.containers.parts import Parts
from engine.containers.policy import check_spec, parse_signal
from engine.containers.sandbox import device_of, joined, uses_host_ids
from engine.containers.store import Private
from engine.containers.verdict import Verdict, after_exit
from engine.errors import (
    AlreadyExists,
    BadSpec,
    CommandFailed,
    ContainerNotFound,
    EngineError,
    InUse,
    NoSpace,
    Unavailable,
    WrongState,
)
from engine.images.model import Image
from engine.linux.files import remove_tree
from engine.progress import CancelToken, Reporter, silent
from engine.runtime.paths import check_mount_target

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

KILL_TIMEOUT_S = 10.0
EXIT_UNKNOWN = 255  # the exit status of a container whose end nobody saw: the host went down
EXIT_KILLED = 137
_LOST_MONITOR = "the container's monitor died; its exit status is not known"


def _on_a_full_disk_too(verb: Callable[P, T]) -> Callable[P, T]:
    """Let a verb that ends or removes something use the reserve when the disk is full; it is begun again then."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        lifecycle = cast("Lifecycle", args[0])
        return lifecycle.reserve.run(lambda: verb(*args, **kwargs))

    return run


class Lifecycle:
    """The verbs that change a container's state."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store
        self.reserve = parts.reserve
        self.launcher = Launcher(parts)

    # create

    def create(
        self,
        spec: ContainerSpec,
        *,
        container_id: str = "",
        report: Reporter = silent,
        cancel: CancelToken | None = None,
    ) -> Container:
        """Make a container from an image that is here. With an id that exists already, return that container.

        Raises `BadSpec`, `Unsupported`, `ImageNotFound`, `AlreadyExists` (the name is taken); then nothing is left.
        """
        container_id = names.check_id(container_id) if container_id else names.random_id()
        check_spec(spec, self._parts.cgroups)
        for device in spec.devices:
            device_of(
                device.path_on_host, device.path_in_container or device.path_on_host, device.permissions
            )
        with self._parts.lock_id(container_id):
            if (found := self._store.find(container_id)) is not None and found.status is not Status.CREATING:
                return found
            if found is not None:
                self._erase(found, announce=False)  # a creation that was cut off
            refuse_when_low(self._parts.config.data_root)
            image = self._parts.images.resolve(spec.image)
            merged = effective.merge(image.config.config, spec)
            parse_signal(merged.stop_signal)
            with ExitStack() as undo, _translated("the container could not be created"):
                container = self._insert(container_id, spec, image, merged)
                undo.callback(self._erase, container, announce=False)
                container = self._equip(container, image, merged, report, cancel or CancelToken())
                container = self._store.save(dataclasses.replace(container, status=Status.CREATED), "create")
                undo.pop_all()
            return container

    def _insert(self, container_id: str, spec: ContainerSpec, image: Image, merged: Effective) -> Container:
        """Write the first row, which takes the name."""
        name = names.check_name(spec.name) if spec.name else ""
        for attempt in range(20):
            container = Container(
                id=container_id, name=name or _suggest(attempt), spec=spec, image_id=image.id, image=_familiar(spec.image),
                status=Status.CREATING, created_at=time.time(), path=merged.argv[0], args=merged.argv[1:],
                config=effective.to_config(merged, spec), driver=self._parts.snapshots.driver,
            )  # fmt: skip
            try:
                self._store.insert(container)
            except AlreadyExists:
                if name:
                    raise
            else:
                return container
        raise Unavailable("no free name for a container was found", hint="give it a name")

    def _equip(
        self, container: Container, image: Image, merged: Effective, report: Reporter, cancel: CancelToken
    ) -> Container:
        """Give a new container its snapshot, ids, networks and volumes."""
        parts, spec = self._parts, container.spec
        subuid = self._ids(container)
        chain = parts.images.unpack(image, report, cancel)
        parts.snapshots.prepare(container.id, chain)
        endpoints = [
            Endpoint(network.id, network.name, list(wanted.aliases))
            for wanted in endpoint_specs(container)
            for network in [parts.network.get(wanted.name)]
        ]
        mounts = self._mount_points(container, merged.volumes)
        container = dataclasses.replace(container, subuid=subuid, endpoints=endpoints, mounts=mounts)
        self._fill_volumes(container, {mount.target for mount in spec.mounts if mount.nocopy})
        return container

    def _ids(self, container: Container) -> int:
        """Return the first host id of the container: its own range, or that of the container whose namespaces it joins."""
        if uses_host_ids(container.spec):
            return 0
        starts = set()
        for ref in joined(container).values():
            other = self._store.get(ref)
            if other.subuid == 0:
                raise BadSpec(
                    f"container {other.name!r} has the host's user ids, so its namespaces cannot be joined with others",
                    hint="userns_mode=host joins them, with an admin's right",
                )
            starts.add(other.subuid)
        if len(starts) > 1:
            raise BadSpec("namespaces of containers with different user ids cannot be combined")
        if starts:
            start = starts.pop()
            self._parts.ranges.share(start, container.id)
            return start
        return self._parts.ranges.allocate(container.id)

    def _mount_points(self, container: Container, image_volumes: list[str]) -> list[MountPoint]:
        """Resolve the mounts asked for, those of other containers, and the image's own volumes."""
        found: dict[str, MountPoint] = {}
        for text in container.spec.volumes_from:
            ref, _, mode = text.partition(":")
            if mode not in ("", "ro", "rw"):
                raise BadSpec(f"volumes_from ends with :ro or :rw, not {mode[:16]!r}")
            for point in self._store.get(ref).mounts:
                asked = MountSpec(
                    point.type, point.target, point.name or point.source, point.read_only or mode == "ro"
                )
                if point.type != "tmpfs":
                    found[point.target] = self._parts.volumes.resolve(asked, container.id)
        for mount in container.spec.mounts:
            target = check_mount_target(mount.target)
            found[target] = self._parts.volumes.resolve(
                dataclasses.replace(mount, target=target), container.id
            )
        for path in image_volumes:
            target = check_mount_target(path)
            if target not in found:
                found[target] = self._parts.volumes.resolve(MountSpec("volume", target), container.id)
        return list(found.values())

    def _fill_volumes(self, container: Container, nocopy: set[str]) -> None:
        """Copy what the image has at a volume's place into a new volume, with the owners as they are inside."""
        wanted = [
            point for point in container.mounts if point.type == "volume" and point.target not in nocopy
        ]
        if not wanted:
            return
        view = self._parts.roots.make(container.id, 0)
        try:
            self._parts.snapshots.mount_view(self._parts.snapshots.get(container.id).parent, view)
            root_fd = os.open(view, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for point in wanted:
                    self._parts.volumes.copy_up(point.name, root_fd, point.target)
            finally:
                os.close(root_fd)
        finally:
            self._parts.snapshots.unmount_view(view)
            self._parts.roots.remove(container.id)

    # start, stop, kill

    def start(self, ref: str, *, restarted: bool = False) -> Container:
        """Start a container; one that runs already is left alone. Raises `WrongState`, or what hindered the start."""
        with self._parts.locked(ref) as container:
            return self.start_locked(container, restarted=restarted)

    def start_locked(self, container: Container, *, restarted: bool = False) -> Container:
        """As `start`, for a caller that holds the lock."""
        if container.status.is_alive():
            container = self.exit_locked(container) or container
        if container.status.is_alive():
            return container
        if not container.status.can_start():
            raise WrongState(f"container {container.name!r} is {container.status} and cannot be started")
        try:
            with _translated(f"container {container.name!r} could not be started"):
                refuse_when_low(self._parts.config.data_root)
                started = self.launcher.launch(container, restarted=restarted)
        except EngineError as error:
            self._note_failure(container, error)
            raise
        self._volumes_used(started)
        return started

    def _note_failure(self, before: Container, error: EngineError) -> None:
        """Keep in the record why a start failed; one that never ran stays `created`, one to be removed after its run is gone."""
        current = self._store.find(before.id) or before
        status = Status.CREATED if before.status is Status.CREATED else Status.EXITED
        code = error.status if isinstance(error, CommandFailed) else 128
        failed = dataclasses.replace(current, status=status, pid=0, error=str(error), exit_code=code)
        failed = self._store.save(failed, "start_failed", error=str(error))
        if failed.spec.auto_remove:
            self._erase(failed, volumes=True)

    @_on_a_full_disk_too
    def stop(
        self, ref: str, timeout_s: float | None = None, *, signal: str = "", cancel: CancelToken | None = None
    ) -> Container:
        """Send the stop signal, wait up to the grace time, then kill. Returns the exited container; idempotent."""
        with self._parts.locked(ref) as container:
            container = self.exit_locked(container, by_user=True) or container
            if not container.status.is_alive():
                return self._hold_still(container)
            number = parse_signal(signal or container.config["StopSignal"])
            if container.status is Status.PAUSED:
                container = self._thaw(container)
            container = self._signal(container, number, by_user=True)
        grace = stop_timeout_s(container) if timeout_s is None else timeout_s
        self._await_end(container, grace, cancel)
        with self._parts.locked(container.id) as container:
            if container.status.is_alive() and (ended := self.exit_locked(container, by_user=True)) is None:
                self._parts.cgroups.kill(self._parts.group_of(container.id), KILL_TIMEOUT_S)
                self._store.announce(container, "kill", signal="9")
                ended = self._exit_after_kill(container)
            else:
                ended = ended if container.status.is_alive() else container
            if ended is None:
                raise Unavailable(
                    f"container {container.name!r} does not end", hint="a process may wait for a device"
                )
            self._store.announce(ended, "stop")
            return ended

    @_on_a_full_disk_too
    def kill(self, ref: str, signal: str = "SIGKILL") -> Container:
        """Send a signal to a container's first process. SIGKILL ends it, also a paused one, and is waited for."""
        number = parse_signal(signal or "SIGKILL")
        with self._parts.locked(ref) as container:
            if (ended := self.exit_locked(container)) is not None:
                container = ended
            if not container.status.can_kill():
                raise WrongState(f"container {container.name!r} is not running")
            if number != 9:
                return self._signal(container, number, by_user=False)
            container = self._signal(container, number, by_user=True)
            self._parts.cgroups.kill(self._parts.group_of(container.id), KILL_TIMEOUT_S)
            return self._exit_after_kill(container) or container

    def restart(
        self, ref: str, timeout_s: float | None = None, *, signal: str = "", cancel: CancelToken | None = None
    ) -> Container:
        """Stop a container if it runs, then start it."""
        stopped = self.stop(ref, timeout_s, signal=signal, cancel=cancel)
        started = self.start(stopped.id)
        self._store.announce(started, "restart")
        return started

    @_on_a_full_disk_too
    def pause(self, ref: str, *, reason: str = "") -> Container:
        """Freeze all processes of a running container; `reason` is kept in the record. Idempotent."""
        with self._parts.locked(ref) as container:
            if container.status is Status.PAUSED:
                return container
            if not container.status.can_pause():
                raise WrongState(
                    f"container {container.name!r} is {container.status}, only a running one can be paused"
                )
            self._parts.cgroups.freeze(self._parts.group_of(container.id), True)
            paused = dataclasses.replace(container, status=Status.PAUSED, error=reason)
            return self._store.save(paused, "pause", reason=reason)

    def unpause(self, ref: str) -> Container:
        """Let a paused container go on. Idempotent."""
        with self._parts.locked(ref) as container:
            if container.status is Status.RUNNING:
                return container
            if not container.status.can_unpause():
                raise WrongState(f"container {container.name!r} is not paused")
            return self._thaw(container)

    # exit

    @_on_a_full_disk_too
    def reap(self, ref: str) -> Container | None:
        """Process the end of a container if it has ended and that has not been done. Idempotent.

        Returns its record, None when there is no such container (any more).
        """
        try:
            with self._parts.locked(ref) as container:
                return self.exit_locked(container) or container
        except ContainerNotFound:
            return None

    def exit_locked(self, container: Container, *, by_user: bool = False) -> Container | None:
        """Record the end of a container whose processes are gone, and take apart what it had; None while it lives.

        The exit status comes from the monitor's file. Without monitor and file it is not known: 137 when we had to kill what was
        left of it, 255 when the host went down meanwhile.
        """
        if not container.status.is_alive():
            return None
        private, bundle = self._store.private(container.id), self._parts.bundle(container.id)
        code, error = bundle.read_exit_status(), ""
        if code is None:
            if private.monitor is not None and private.monitor.alive:
                return None
            code = bundle.read_exit_status()  # written between the two looks
        if code is None:
            was_alive = private.init is not None and private.init.alive
            code, error = (EXIT_KILLED if was_alive else EXIT_UNKNOWN), _LOST_MONITOR
            bundle.note_exit(code)
        oom = (
            bundle.oom_file.exists() or self._parts.cgroups.oom_kills(self._parts.group_of(container.id)) > 0
        )
        if oom:
            bundle.note_oom()
        # the clock of files is a few milliseconds coarser than ours
        finished = max(_finished_at(bundle.exit_file), container.started_at)
        self._take_apart(container, keep_bundle=True)
        stopped = by_user or container.stopped_by_user
        ended = dataclasses.replace(
            container, status=Status.EXITED, pid=0, exit_code=code, oom_killed=oom, error=error, finished_at=finished,
            stopped_by_user=stopped, ports=[], health=_ended_health(container),
            endpoints=[Endpoint(item.network_id, item.network, item.aliases) for item in container.endpoints],
        )  # fmt: skip
        ended = self._settle(ended, private)
        bundle.remove()  # last: until the record is written, this is where the exit status is
        return ended

    def _settle(self, ended: Container, private: Private) -> Container:
        """Decide by the restart policy what becomes of an ended container, and record both at once."""
        verdict, delay = after_exit(ended, private.restart_delay_s)
        attributes = {
            "exitCode": str(ended.exit_code),
            "execDuration": str(int(max(0.0, ended.finished_at - ended.started_at))),
        }
        restart_at = time.time() + delay if verdict is Verdict.RESTART else 0.0
        if verdict is Verdict.RESTART:
            ended = dataclasses.replace(ended, status=Status.RESTARTING)
        private = dataclasses.replace(
            private, init_pid=0, monitor_pid=0, restart_at=restart_at, restart_delay_s=delay, boot=""
        )
        if ended.oom_killed:
            self._store.announce(ended, "oom")
        ended = self._store.save(ended, "die", private=private, **attributes)
        self._volumes_used(ended)
        if verdict is Verdict.REMOVE:
            self._erase(ended, volumes=True)
        return ended

    # wait, remove, rename

    def wait(
        self,
        ref: str,
        condition: str = "not-running",
        *,
        timeout_s: float | None = None,
        cancel: CancelToken | None = None,
    ) -> Container:
        """Wait for `not-running`, `next-exit` or `removed` and return the record as it was then.

        Raises `Unavailable` after `timeout_s`.
        """
        if condition not in ("not-running", "next-exit", "removed"):
            raise BadSpec(f"unknown condition {condition[:32]!r}", hint="not-running, next-exit or removed")
        container = self._store.get(ref)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        first_finish, last = container.finished_at, container
        while True:
            found = self._store.find(container.id)
            if found is None:
                return last
            last = found
            over = (
                condition == "not-running"
                and not found.status.is_alive()
                and found.status is not Status.RESTARTING
            )
            over = over or (condition == "next-exit" and found.finished_at > first_finish)
            if over:
                return found
            if deadline is not None and time.monotonic() > deadline:
                raise Unavailable(f"container {container.name!r} is still {found.status}")
            self._pause_for(found, cancel)

    @_on_a_full_disk_too
    def remove(self, ref: str, *, force: bool = False, volumes: bool = False, keep_log: bool = False) -> str:
        """Remove a container, with `force` one that runs, with `volumes` its anonymous volumes too; return its id.

        `keep_log` lets its log stay on the node (see `engine.containers.keptlogs`).
        Can be repeated at any point: a removal that was cut off is finished.
        """
        with self._parts.locked(ref) as container:
            container = self.exit_locked(container, by_user=True) or container
            if container.status.is_alive():
                if not force:
                    raise WrongState(
                        f"container {container.name!r} is {container.status}",
                        hint="stop it first, or remove it by force",
                    )
                self._signal(container, 9, by_user=True)
                self._parts.cgroups.kill(self._parts.group_of(container.id), KILL_TIMEOUT_S)
                container = self._exit_after_kill(container) or container
            if self._store.find(container.id) is not None:
                self._erase(container, volumes=volumes, keep_log=keep_log)
        return container.id

    def rename(self, ref: str, name: str) -> Container:
        """Give a container another name; raises `AlreadyExists`."""
        name = names.check_name(name)
        with self._parts.locked(ref) as container:
            if container.name == name:
                return container
            old, renamed = container.name, dataclasses.replace(container, name=name)
            renamed = self._store.save(renamed, "rename", oldName=old)
            self._parts.network.rename(container.id, name)
            return renamed

    def erase_leftover(self, container: Container) -> None:
        """Finish a creation or removal whose process died; the caller holds the lock."""
        self._erase(container, announce=container.status is not Status.CREATING)

    # helpers

    def _erase(
        self, container: Container, *, volumes: bool = False, announce: bool = True, keep_log: bool = False
    ) -> None:
        """Take everything of a container away, its row last, so that a removal that is cut off can be found and finished."""
        parts = self._parts
        private = self._store.private(container.id)
        keep_log = keep_log or private.keep_log  # asked for before the removal was cut off
        if announce:
            private = dataclasses.replace(private, keep_log=keep_log)
            container = self._store.save(
                dataclasses.replace(container, status=Status.REMOVING), private=private
            )
        self._take_apart(container, strict=True)
        with (
            ExitStack() as last
        ):  # the files go last, being slow, but go they do: nothing else names them any more
            if (trash := parts.snapshots.detach(container.id)) is not None:
                last.callback(remove_tree, trash)
            parts.volumes.release(container.id, remove_anonymous=volumes or not announce)
            parts.network.release(container.id)
            parts.ranges.release(container.id)
            folder = parts.data_folder(container.id)
            if keep_log:
                KeptLogs(parts.config).keep(container, folder / "log")
            remove_tree(folder)
            parts.bundle(container.id).remove()
            execs.forget(parts.db, container.id)
            self._store.delete(container, "destroy" if announce else "")
        parts.lock_path(container.id).unlink(missing_ok=True)

    def _take_apart(self, container: Container, *, strict: bool = False, keep_bundle: bool = False) -> None:
        """Dismantle. What is in use just now is left to the next start or to reconcile, unless `strict`."""
        try:
            self.launcher.dismantle(container, keep_bundle=keep_bundle)
        except (EngineError, OSError) as error:
            if isinstance(error, NoSpace):
                raise
            if strict:
                raise InUse(
                    f"container {container.name!r} cannot be taken apart: {error}", hint="try again"
                ) from error
            logger.warning("container %s is not fully taken apart yet: %s", container.id[:12], error)

    def _hold_still(self, container: Container) -> Container:
        """Take back a restart that was due."""
        if container.status is not Status.RESTARTING:
            return container
        private = dataclasses.replace(self._store.private(container.id), restart_at=0.0, restart_delay_s=0.0)
        still = dataclasses.replace(container, status=Status.EXITED, stopped_by_user=True)
        return self._store.save(still, "stop", private=private)

    def _signal(self, container: Container, number: int, *, by_user: bool) -> Container:
        if by_user and not container.stopped_by_user:
            container = dataclasses.replace(container, stopped_by_user=True)
        container = self._store.save(container, "kill", signal=str(number))
        init = self._store.private(container.id).init
        if init is not None and number != 9:
            init.send(number)
        return container

    def _thaw(self, container: Container) -> Container:
        with suppress(Unavailable):
            self._parts.cgroups.freeze(self._parts.group_of(container.id), False)
        return self._store.save(dataclasses.replace(container, status=Status.RUNNING, error=""), "unpause")

    def _await_end(self, container: Container, grace_s: float, cancel: CancelToken | None) -> None:
        """Wait for the container's monitor to end, which it does right after its first process."""
        monitor = self._store.private(container.id).monitor
        deadline = time.monotonic() + (grace_s if grace_s >= 0 else float("inf"))
        while monitor is not None and time.monotonic() < deadline:
            if cancel is not None:
                cancel.check()
            if monitor.wait(min(0.5, max(0.0, deadline - time.monotonic()))):
                return

    def _exit_after_kill(self, container: Container) -> Container | None:
        """Give the monitor a moment to record the exit of what has just been killed, then process it."""
        monitor = self._store.private(container.id).monitor
        if monitor is not None:
            monitor.wait(2.0)
        return self.exit_locked(container, by_user=True)

    def _pause_for(self, container: Container, cancel: CancelToken | None) -> None:
        """Sleep until something may have happened: at once when the monitor ends, whose end is then processed."""
        if cancel is not None:
            cancel.check()
        monitor = self._store.private(container.id).monitor if container.status.is_alive() else None
        if monitor is None:
            time.sleep(0.02)
        elif monitor.wait(0.5):
            self.reap(container.id)

    def _volumes_used(self, container: Container) -> None:
        if any(point.type == "volume" for point in container.mounts):
            self._parts.volumes.used(container.id)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raise what the kernel refuses inside the block as `NoSpace` or `Unavailable`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"{what}: the disk of this node is full", hint="free space, then try again"
            ) from error
        raise Unavailable(f"{what}: {error.strerror or error} {error.filename or ''}".rstrip()) from error


def stop_timeout_s(container: Container) -> float:
    wanted = container.spec.stop_timeout_s
    return DEFAULT_STOP_TIMEOUT_S if wanted is None else float(wanted)


def _suggest(attempt: int) -> str:
    name = names.random_name()
    return name if attempt < 10 else f"{name}_{names.random_id()[:4]}"


def _familiar(reference: str) -> str:
    return reference


def _finished_at(exit_file: object) -> float:
    """Return when the monitor wrote the exit status: the true time of the end, even if we come much later."""
    with suppress(OSError):
        return os.stat(str(exit_file)).st_mtime
    return time.time()


def _ended_health(container: Container) -> Health:
    if container.health.status == "none":
        return container.health
    return dataclasses.replace(
        container.health, status="unhealthy" if container.health.status == "unhealthy" else "starting"
    )

"""One function a kind: contract in, call of the engine, JSON out. Nothing is decided here but who may ask for what.

Every verb runs at least once and perhaps again after its worker died, so what a verb does twice must be what it does once: ids are
chosen by who asks, and for the few verbs where doing it again would show (`start`, `commit` ...) `RECALL` names the event
that proves it was done.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from engine.build.request import BuildLimits, BuildRequest
from engine.containers.model import (
    ContainerSpec,
    EndpointSpec,
    Resources,
    RestartPolicy,
    from_json,
)
from engine.errors import AlreadyExists, Denied, InvalidInput, NotFound
from engine.linux.files import space_translated
from engine.network.model import NetworkSpec, SubnetSpec
from engine.progress import CancelToken, Reporter
from engine.registry.settings import Credentials, RegistrySettings
from engine.volumes.retention import Retention, StoredBackup
from workers import contracts as c
from workers.backups import backup_path
from workers.contracts import policy
from workers.contracts.base import Contract
from workers.contracts.names import check_id
from workers.facade import EngineFacade
from workers.records import to_record
from workers.tasks import spool

C = TypeVar("C", bound=Contract)
Result = dict[str, Any]  # JSON


@dataclass(frozen=True)
class Context:
    """What a verb works with. `again` is True when an earlier attempt at the same operation was interrupted."""

    engine: EngineFacade
    home: Path
    report: Reporter
    cancel: CancelToken
    again: bool = False


Verb = Callable[[Context, Any], Result]  # the second argument is the contract of the kind
VERBS: dict[str, Verb] = {}

# The event of an interrupted attempt that proves the work was done: (type, action).
RECALL: dict[str, tuple[str, str]] = {
    "container.start": ("container", "start"),
    "container.restart": ("container", "restart"),
    "container.kill": ("container", "kill"),
    "container.commit": ("image", "create"),
    "container.exec": ("container", "exec_start"),
    "image.import": ("image", "import"),
}


def verb(contract: type[C]) -> Callable[[Callable[[Context, C], Result]], Callable[[Context, C], Result]]:
    """Register the function that does a kind of work."""

    def register(function: Callable[[Context, C], Result]) -> Callable[[Context, C], Result]:
        VERBS[contract.KIND] = function
        return function

    return register


# images -------------------------------------------------------------------------------------------------------------
@verb(c.ImagePull)
def image_pull(x: Context, p: c.ImagePull) -> Result:
    before = None if p.all_tags else _image_named(x, p.reference)
    pull = x.engine.pull_all if p.all_tags else x.engine.pull
    image = pull(
        reference=p.reference,
        platform=p.platform,
        registries=registries_of(p.registries),
        report=x.report,
        cancel=x.cancel,
    )
    record = to_record(image)
    return {"image": record, "changed": record["id"] != before}


def _image_named(x: Context, reference: str) -> str | None:
    """Return the id of the image that has a name, None where there is none."""
    with contextlib.suppress(NotFound):
        return str(to_record(x.engine.image_get(ref=reference))["id"])
    return None


@verb(c.ImagePush)
def image_push(x: Context, p: c.ImagePush) -> Result:
    pushed = x.engine.push(
        image=p.image,
        reference=p.reference,
        compression=p.compression,
        all_platforms=p.all_platforms,
        registries=registries_of(p.registries),
        report=x.report,
        cancel=x.cancel,
    )
    return _object(pushed)


@verb(c.ImageTag)
def image_tag(x: Context, p: c.ImageTag) -> Result:
    return {"image": to_record(x.engine.tag(image=p.image, reference=p.reference))}


@verb(c.ImageUntag)
def image_untag(x: Context, p: c.ImageUntag) -> Result:
    with _gone_is_done(x):
        x.engine.untag(reference=p.reference)
    return {"reference": p.reference}


@verb(c.NamesProtect)
def names_protect(x: Context, p: c.NamesProtect) -> Result:
    return {"patterns": x.engine.protect_names(patterns=p.patterns, revision=p.revision)}


@verb(c.ImageRemove)
def image_remove(x: Context, p: c.ImageRemove) -> Result:
    removed: list[dict[str, str]] = []
    with _gone_is_done(x):
        removed = x.engine.image_remove(image=p.image, force=p.force, keep_parents=p.keep_parents)
    return {"removed": removed}


@verb(c.ImageLoad)
def image_load(x: Context, p: c.ImageLoad) -> Result:
    with spool.incoming(x.home, p.source) as source:
        images = x.engine.image_load(source=source, report=x.report, cancel=x.cancel)
    return {"images": to_record(images)}


@verb(c.ImageImport)
def image_import(x: Context, p: c.ImageImport) -> Result:
    with spool.incoming(x.home, p.source) as source:
        image = x.engine.image_import(
            source=source,
            reference=p.reference,
            message=p.message,
            changes=p.changes,
            platform=p.platform,
            report=x.report,
            cancel=x.cancel,
        )
    return {"image": to_record(image)}


@verb(c.ImageSave)
def image_save(x: Context, p: c.ImageSave) -> Result:
    with spool.outgoing(x.home, p.target) as out:
        x.engine.image_save(images=p.images, out=out, report=x.report, cancel=x.cancel)
    return {"target": p.target, "size_bytes": spool.size_of(x.home, p.target)}


@verb(c.ImagePrune)
def image_prune(x: Context, p: c.ImagePrune) -> Result:
    return _object(
        x.engine.image_prune(
            mode=p.mode, older_than_s=p.older_than_s, labels=p.labels, without_labels=p.without_labels
        )
    )


# builds -------------------------------------------------------------------------------------------------------------
@verb(c.BuildRun)
def build_run(x: Context, p: c.BuildRun) -> Result:
    _permit(policy.rights_of_build(p.network_mode, p.dockerfile), p.rights)
    with _context_path(x, p.context) as context:
        result = x.engine.build(
            request=_build_request(p, context),
            registries=registries_of(p.registries),
            report=x.report,
            cancel=x.cancel,
        )
    answer = _object(result)
    with contextlib.suppress(NotFound):  # the image may be gone again, the build succeeded all the same
        answer["image"] = to_record(x.engine.image_get(ref=answer["image_id"]))
    return answer


@verb(c.BuildCachePrune)
def build_cache_prune(x: Context, p: c.BuildCachePrune) -> Result:
    return _object(
        x.engine.build_cache_prune(keep_bytes=p.keep_bytes, older_than_s=p.older_than_s, all=p.all)
    )


def _build_request(p: c.BuildRun, context: Path | None) -> BuildRequest:
    resources = {
        "memory_bytes": p.memory_bytes,
        "cpus": p.cpus,
        "pids_limit": p.pids_limit,
        "ulimits": p.ulimits,
    }
    privileged = {policy.PRIVILEGED, policy.HOST_NAMESPACES} <= set(p.rights)
    return BuildRequest(
        context=context,
        remote=p.remote,
        dockerfile=p.dockerfile or None,
        dockerfile_path=p.dockerfile_path,
        tags=p.tags,
        build_args={name: value for name, value in p.build_args.items() if value is not None},
        target=p.target,
        labels=p.labels,
        platform=p.platform,
        no_cache=p.no_cache,
        no_cache_filter=p.no_cache_filter,
        cache_from=p.cache_from,
        secrets={name: _decode(name, value) for name, value in p.secrets.items()},
        network_mode=p.network_mode or "default",
        extra_hosts=p.extra_hosts,
        shm_size_bytes=p.shm_size_bytes,
        pull=p.pull,
        squash=p.squash,
        may_be_privileged=privileged,
        limits=BuildLimits(disk_bytes=p.disk_bytes, step=from_json(Resources, resources)),
    )


# containers ---------------------------------------------------------------------------------------------------------
@verb(c.ContainerCreate)
def container_create(x: Context, p: c.ContainerCreate) -> Result:
    spec = from_json(ContainerSpec, p.spec)
    _permit(_rights_of(x, p.spec, spec), p.rights)
    container = x.engine.create(
        spec=spec,
        id=check_id(p.id),
        pull=p.pull,
        platform=p.platform,
        registries=registries_of(p.registries),
        report=x.report,
        cancel=x.cancel,
    )
    if p.start and not (x.again and container.started_at):
        container = x.engine.start(container=container.id)
    return {"container": to_record(container)}


@verb(c.ContainerStart)
def container_start(x: Context, p: c.ContainerStart) -> Result:
    return {"container": to_record(x.engine.start(container=p.container))}


@verb(c.ContainerStop)
def container_stop(x: Context, p: c.ContainerStop) -> Result:
    stopped = x.engine.stop(container=p.container, timeout_s=p.timeout_s, signal=p.signal, cancel=x.cancel)
    return {"container": to_record(stopped)}


@verb(c.ContainerRestart)
def container_restart(x: Context, p: c.ContainerRestart) -> Result:
    started = x.engine.restart(container=p.container, timeout_s=p.timeout_s, signal=p.signal, cancel=x.cancel)
    return {"container": to_record(started)}


@verb(c.ContainerKill)
def container_kill(x: Context, p: c.ContainerKill) -> Result:
    return {"container": to_record(x.engine.kill(container=p.container, signal=p.signal))}


@verb(c.ContainerPause)
def container_pause(x: Context, p: c.ContainerPause) -> Result:
    return {"container": to_record(x.engine.pause(container=p.container))}


@verb(c.ContainerUnpause)
def container_unpause(x: Context, p: c.ContainerUnpause) -> Result:
    return {"container": to_record(x.engine.unpause(container=p.container))}


@verb(c.ContainerRename)
def container_rename(x: Context, p: c.ContainerRename) -> Result:
    return {"container": to_record(x.engine.rename(container=p.container, name=p.name))}


@verb(c.ContainerUpdate)
def container_update(x: Context, p: c.ContainerUpdate) -> Result:
    _permit(policy.rights_of_resources(p.resources), p.rights)
    from_json(Resources, p.resources)
    restart = from_json(RestartPolicy, p.restart) if p.restart is not None else None
    updated = x.engine.update(container=p.container, resources=p.resources, restart=restart)
    return {"container": to_record(updated)}


@verb(c.ContainerRemove)
def container_remove(x: Context, p: c.ContainerRemove) -> Result:
    with _gone_is_done(x):
        removed = x.engine.remove(
            container=p.container, force=p.force, volumes=p.volumes, keep_log=p.keep_log
        )
        return {"id": removed}
    return {"id": p.container}


@verb(c.KeptLogRemove)
def kept_log_remove(x: Context, p: c.KeptLogRemove) -> Result:
    with _gone_is_done(x):
        return {"id": x.engine.kept_log_remove(log=p.log)}
    return {"id": p.log}


@verb(c.ContainerCommit)
def container_commit(x: Context, p: c.ContainerCommit) -> Result:
    image = x.engine.commit(
        container=p.container,
        reference=p.reference,
        message=p.message,
        author=p.author,
        changes=p.changes,
        pause=p.pause,
    )
    return {"image": to_record(image)}


@verb(c.ContainerExec)
def container_exec(x: Context, p: c.ContainerExec) -> Result:
    _permit(policy.rights_of_exec(p.privileged), p.rights)
    done = x.engine.exec_run(
        container=p.container,
        exec_id=check_id(p.exec_id),
        command=p.command,
        env=p.env,
        user=p.user,
        workdir=p.workdir,
        tty=p.tty,
        privileged=p.privileged,
        detach=p.detach,
        cancel=x.cancel,
    )
    return {"exec_id": p.exec_id, **({} if p.detach else _object(done))}


@verb(c.ContainerPrune)
def container_prune(x: Context, p: c.ContainerPrune) -> Result:
    return _object(
        x.engine.container_prune(
            older_than_s=p.older_than_s, labels=p.labels, without_labels=p.without_labels
        )
    )


@verb(c.ContainerFilesPut)
def container_files_put(x: Context, p: c.ContainerFilesPut) -> Result:
    with spool.incoming(x.home, p.source) as source:
        x.engine.archive_put(
            container=p.container,
            path=p.path,
            source=source,
            no_overwrite_dir_non_dir=p.no_overwrite_dir_non_dir,
            copy_uid_gid=p.copy_uid_gid,
        )
    return {"container": to_record(x.engine.container_get(ref=p.container))}


# networks -----------------------------------------------------------------------------------------------------------
@verb(c.NetworkCreate)
def network_create(x: Context, p: c.NetworkCreate) -> Result:
    spec = NetworkSpec(
        name=p.name,
        driver=p.driver,
        internal=p.internal,
        ipv6=p.ipv6,
        subnets=[SubnetSpec(**dataclasses.asdict(subnet)) for subnet in p.subnets],
        options=p.options,
        labels=p.labels,
        attachable=p.attachable,
    )
    return {"network": to_record(x.engine.network_create(spec=spec, id=check_id(p.id)))}


@verb(c.NetworkRemove)
def network_remove(x: Context, p: c.NetworkRemove) -> Result:
    with _gone_is_done(x):
        return {"id": x.engine.network_remove(network=p.network)}
    return {"id": p.network}


@verb(c.NetworkConnect)
def network_connect(x: Context, p: c.NetworkConnect) -> Result:
    endpoint = from_json(EndpointSpec, {**p.endpoint, "name": p.network})
    try:
        container = x.engine.network_connect(network=p.network, container=p.container, endpoint=endpoint)
    except AlreadyExists:
        if not x.again:
            raise
        container = x.engine.container_get(ref=p.container)
    return {"container": to_record(container)}


@verb(c.NetworkDisconnect)
def network_disconnect(x: Context, p: c.NetworkDisconnect) -> Result:
    with _gone_is_done(x):
        x.engine.network_disconnect(network=p.network, container=p.container, force=p.force)
    return {"container": to_record(x.engine.container_get(ref=p.container))}


@verb(c.NetworkPrune)
def network_prune(x: Context, p: c.NetworkPrune) -> Result:
    return _object(
        x.engine.network_prune(older_than_s=p.older_than_s, labels=p.labels, without_labels=p.without_labels)
    )


# volumes ------------------------------------------------------------------------------------------------------------
@verb(c.VolumeCreate)
def volume_create(x: Context, p: c.VolumeCreate) -> Result:
    _permit(policy.rights_of_volume(p.options), p.rights)
    made = x.engine.volume_create(name=p.name, driver=p.driver, options=p.options, labels=p.labels)
    return {"volume": to_record(made)}


@verb(c.VolumeRemove)
def volume_remove(x: Context, p: c.VolumeRemove) -> Result:
    with _gone_is_done(x):
        x.engine.volume_remove(volume=p.volume, force=p.force)
    return {"name": p.volume}


@verb(c.VolumePrune)
def volume_prune(x: Context, p: c.VolumePrune) -> Result:
    return _object(x.engine.volume_prune(all=p.all, labels=p.labels, without_labels=p.without_labels))


@verb(c.VolumeBackup)
def volume_backup(x: Context, p: c.VolumeBackup) -> Result:
    with _backup_target(x, p) as out:
        done = x.engine.volume_backup(
            volume=p.volume, out=out, compression=p.compression, report=x.report, cancel=x.cancel
        )
    if p.directory:
        path = _backup_path(x, p.directory, p.file_name)
        removed = _let_go(path, p)
        return {**_object(done), "path": str(path), "size_bytes": path.stat().st_size, "removed": removed}
    return {**_object(done), "target": p.target, "size_bytes": spool.size_of(x.home, p.target)}


@verb(c.VolumeRestore)
def volume_restore(x: Context, p: c.VolumeRestore) -> Result:
    with contextlib.ExitStack() as stack:
        source: BinaryIO
        if p.directory:
            path = _backup_path(x, p.directory, p.file_name)
            source = stack.enter_context(
                os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
            )
        else:
            source = stack.enter_context(spool.incoming(x.home, p.source))
        restored = x.engine.volume_restore(
            volume=p.volume, source=source, create=p.create, files=p.files, report=x.report, cancel=x.cancel
        )
    return {"volume": to_record(restored)}


@verb(c.BackupRemove)
def backup_remove(x: Context, p: c.BackupRemove) -> Result:
    path = _backup_path(x, p.directory, p.file_name)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return {"path": str(path)}


# the node -----------------------------------------------------------------------------------------------------------
@verb(c.SystemPrune)
def system_prune(x: Context, p: c.SystemPrune) -> Result:
    return _object(
        x.engine.prune(
            images=p.images,
            containers=p.containers,
            volumes=p.volumes,
            networks=p.networks,
            build_cache=p.build_cache,
            older_than_s=p.older_than_s,
            labels=p.labels,
        )
    )


@verb(c.SystemCheck)
def system_check(x: Context, p: c.SystemCheck) -> Result:
    return {"problems": to_record(x.engine.check(deep=p.deep, report=x.report, cancel=x.cancel))}


@verb(c.SystemRepair)
def system_repair(x: Context, p: c.SystemRepair) -> Result:
    return _object(x.engine.repair(problems=p.problems, report=x.report, cancel=x.cancel))


# what verbs share ---------------------------------------------------------------------------------------------------
def _permit(needed: dict[str, str], granted: Sequence[str]) -> None:
    """Raise `Denied` unless every right that is needed was granted to who asks (judged in the web site before)."""
    for right, reason in policy.missing(needed, granted).items():
        raise Denied(f"this {reason}", hint=f"an administrator can grant the right {right!r}", right=right)


def _rights_of(x: Context, raw: dict[str, Any], spec: ContainerSpec) -> dict[str, str]:
    """Return the rights that a spec needs, those of the containers that it borrows from included."""
    needed = policy.rights_of_spec(raw)
    for borrowed in spec.volumes_from:
        source = x.engine.container_get(ref=borrowed.partition(":")[0])
        if any(mount.type == "bind" for mount in source.mounts):
            needed.setdefault(policy.HOST_MOUNTS, f"takes over mounts of the host from {source.name}")
    for mode in ("network_mode", "pid_mode", "ipc_mode", "uts_mode", "userns_mode"):
        kind, _, ref = str(getattr(spec, mode)).partition(":")
        if kind == "container" and getattr(x.engine.container_get(ref=ref).spec, mode) == "host":
            needed.setdefault(policy.HOST_NAMESPACES, f"shares a namespace of the host through {ref}")
    return needed


@contextlib.contextmanager
def _gone_is_done(x: Context) -> Iterator[None]:
    """On a second attempt a thing that is not there any more was removed by the first."""
    try:
        yield
    except NotFound:
        if not x.again:
            raise


def registries_of(accesses: Sequence[c.RegistryAccess]) -> list[RegistrySettings]:
    return [
        RegistrySettings(
            host=access.host,
            insecure=access.insecure,
            ca_pem=access.ca_pem,
            credentials=Credentials(access.username, access.password, access.identity_token)
            if access.username or access.identity_token
            else None,
            registered=access.registered,
        )
        for access in accesses
    ]


def _object(value: Any) -> Result:  # a value of the engine
    record = to_record(value)
    return record if isinstance(record, dict) else {"value": record}


@contextlib.contextmanager
def _context_path(x: Context, file_id: str) -> Iterator[Path | None]:
    """Yield a path to the spooled context that stays what it was when it was checked."""
    if not file_id:
        yield None
        return
    with spool.incoming(x.home, file_id) as file:
        yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")


def _decode(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"secret {name!r} is not base64") from error


def _backup_path(x: Context, directory: str, file_name: str) -> Path:
    return backup_path(x.home, x.engine.config.allowed_bind_roots, directory, file_name)


@contextlib.contextmanager
def _backup_target(x: Context, p: c.VolumeBackup) -> Iterator[BinaryIO]:
    if not p.directory:
        with spool.outgoing(x.home, p.target) as out:
            yield out
        return
    path = _backup_path(x, p.directory, p.file_name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as file, space_translated(f"the backup {p.file_name}"):
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _let_go(path: Path, p: c.VolumeBackup) -> list[str]:
    """Remove the older backups beside `path` that are not to be kept; their names begin with the volume's and a dash."""
    policy = Retention(p.keep, p.keep_daily, p.keep_weekly, p.keep_monthly)
    siblings = [
        item for item in path.parent.glob(f"{p.volume}-*") if item.is_file() and not item.is_symlink()
    ]
    expired = policy.expired(StoredBackup(item.name, item.stat().st_mtime) for item in siblings)
    for old in expired:
        (path.parent / old.file_name).unlink(missing_ok=True)
    return [old.file_name for old in expired]

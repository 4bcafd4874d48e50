"""What people do with containers. Each verb writes its operation and audit entry and sends the work to the node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import IntegrityError, transaction

from webapp.accounts.actor import Actor
from webapp.containers import policy
from webapp.containers.models import Container, Status
from webapp.containers.naming import make_name
from webapp.containers.spec import RESOURCE_FIELDS, compile_spec, env_of, resources_of, restart_of
from webapp.core.errors import Conflict, Invalid
from webapp.core.ids import is_name, new_container_id, short
from webapp.images import selectors as images
from webapp.images.names import Name, parse_name
from webapp.images.protection import refuse_moves
from webapp.nodes.models import Node
from webapp.nodes.selectors import default_node
from webapp.operations import services as operations
from webapp.operations.models import Operation
from webapp.operations.services import Target
from webapp.registries.selectors import access_for
from workers.contracts import containers as contracts

PULL = ("missing", "always", "never")


def target_of(container: Container) -> Target:
    return Target("container", container.id, container.name)


def container_create(
    actor: Actor,
    data: dict[str, Any],
    *,
    node: Node | None = None,
    start: bool = True,
    pull: str = "missing",
    platform: str = "",
) -> tuple[Container, Operation]:
    """Make a container (and start it). `data` are the fields of `POST /containers/`; see `spec.compile_spec`.

    Raises `Invalid`, `Denied` (a right is missing), `Conflict` (the name is taken, here at once; other conflicts end the
    operation).
    """
    operations.replay(actor)
    spec = compile_spec(data)
    if pull not in PULL:
        raise Invalid(f"pull {pull[:20]!r} is not one of {', '.join(PULL)}", fields={"pull": ["not valid"]})
    rights = policy.judge_spec(actor, spec)
    node = node or default_node()
    image = image_reference(spec["image"])
    with transaction.atomic():
        container = _new_row(actor, node, spec)
        contract = contracts.ContainerCreate(
            id=container.id,
            spec=spec,
            start=start,
            pull=pull,
            platform=platform,
            rights=rights,
            registries=access_for(actor, [image.domain]) if image else [],
        )
        body = {**spec, "start": start, "pull": pull}
        operation = operations.submit(actor, contract, node=node, target=target_of(container), body=body)
    return container, operation


def _new_row(actor: Actor, node: Node, spec: dict[str, Any]) -> Container:
    """Write the container that is about to be made; its name is chosen here if none was asked for."""
    spec["name"] = _free_name(node, spec["name"])
    shown = {"labels": spec["labels"], "networks": [{"name": item["name"]} for item in spec["networks"]]}
    try:
        with transaction.atomic():
            return Container.objects.create(
                id=new_container_id(),
                node=node,
                name=spec["name"],
                image=spec["image"],
                status=Status.CREATING,
                created_by=actor.user,
                summary=shown,
            )
    except IntegrityError as error:  # somebody took it since we looked
        raise Conflict(
            f"the name {spec['name']!r} is taken", code="already_exists", hint="choose another name"
        ) from error


def image_reference(text: str) -> Name | None:
    """Return the parsed name of an image, None for an id."""
    digest = text.removeprefix("sha256:")
    if len(digest) >= 12 and all(letter in "0123456789abcdef" for letter in digest):
        return None
    return parse_name(text)


def _free_name(node: Node, wanted: str) -> str:
    taken = Container.objects.filter(node=node)
    if wanted:
        if holder := taken.filter(name=wanted).first():
            raise Conflict(
                f"the name {wanted!r} is taken by container {short(holder.id)}",
                code="already_exists",
                hint="choose another name, or remove or rename that container",
                container=holder.id,
            )
        return wanted
    name = make_name()
    for attempt in range(2, 10_000):
        if not taken.filter(name=name).exists():
            break
        name = f"{make_name()}_{attempt}"
    return name


# --- life cycle -------------------------------------------------------------------------------------------------


def _verb(actor: Actor, container: Container, contract: Any, body: dict[str, Any] | None = None) -> Operation:
    return operations.submit(actor, contract, node=container.node, target=target_of(container), body=body)


def container_start(actor: Actor, container: Container) -> Operation:
    return _verb(actor, container, contracts.ContainerStart(container=container.id))


def container_stop(
    actor: Actor, container: Container, *, timeout_s: float | None = None, signal: str = ""
) -> Operation:
    """Send the stop signal, wait, then kill. None: the container's own grace time."""
    contract = contracts.ContainerStop(
        container=container.id, timeout_s=_grace(timeout_s), signal=signal_name(signal)
    )
    return _verb(actor, container, contract)


def container_restart(
    actor: Actor, container: Container, *, timeout_s: float | None = None, signal: str = ""
) -> Operation:
    contract = contracts.ContainerRestart(
        container=container.id, timeout_s=_grace(timeout_s), signal=signal_name(signal)
    )
    return _verb(actor, container, contract)


def container_kill(actor: Actor, container: Container, *, signal: str = "SIGKILL") -> Operation:
    return _verb(
        actor,
        container,
        contracts.ContainerKill(container=container.id, signal=signal_name(signal) or "SIGKILL"),
    )


def container_pause(actor: Actor, container: Container) -> Operation:
    return _verb(actor, container, contracts.ContainerPause(container=container.id))


def container_unpause(actor: Actor, container: Container) -> Operation:
    return _verb(actor, container, contracts.ContainerUnpause(container=container.id))


def container_rename(actor: Actor, container: Container, name: str) -> Operation:
    """Give a container another name."""
    name = name.removeprefix("/")
    if not is_name(name):
        raise Invalid(
            f"{name[:60]!r} is no name for a container",
            fields={"name": ["letters, digits, dot, dash, underscore"]},
        )
    if Container.objects.filter(node=container.node, name=name).exclude(pk=container.pk).exists():
        raise Conflict(f"the name {name!r} is taken", code="already_exists", hint="choose another name")
    return _verb(actor, container, contracts.ContainerRename(container=container.id, name=name))


def container_update(
    actor: Actor, container: Container, resources: dict[str, Any] | None = None, restart: Any = None
) -> Operation:
    """Change limits and the restart policy; works on a running container."""
    wanted = dict(resources or {})
    if unknown := sorted(set(wanted) - RESOURCE_FIELDS):
        raise Invalid(f"unknown limit {unknown[0][:60]!r}", fields={unknown[0]: ["unknown"]})
    limits = resources_of({"resources": wanted})
    rights = policy.judge_update(actor, container, limits)
    policy_of_restart = restart_of(restart) if restart is not None else None
    contract = contracts.ContainerUpdate(
        container=container.id, resources=limits, restart=policy_of_restart, rights=rights
    )
    return _verb(actor, container, contract)


def container_remove(
    actor: Actor, container: Container, *, force: bool = False, volumes: bool = False, keep_log: bool = False
) -> Operation:
    """Remove a container; a living one only with `force`. `volumes` removes its anonymous volumes too.

    `keep_log` lets its log stay (see `webapp.containers.kept_logs`).
    """
    state = container.state
    if not force and not state.can_remove and state is not Status.REMOVING:
        raise Conflict(
            f"container {container.name} is {container.status}",
            code="wrong_state",
            hint="stop it first, or remove it with force",
        )
    contract = contracts.ContainerRemove(
        container=container.id, force=force, volumes=volumes, keep_log=keep_log
    )
    return _verb(actor, container, contract)


def container_prune(
    actor: Actor, node: Node | None = None, *, older_than_s: float = 0.0, labels: list[str] | None = None
) -> Operation:
    """Remove all stopped containers of a node."""
    contract = contracts.ContainerPrune(older_than_s=older_than_s, labels=labels or [])
    return operations.submit(
        actor, contract, node=node or default_node(), target=Target("container", "", "stopped containers")
    )


def signal_name(text: str | int) -> str:
    """Return a signal as `SIGTERM` or its number; empty stays empty. Raises `Invalid`."""
    word = str(text).strip().upper()
    if not word:
        return ""
    if word.isdecimal() and 1 <= int(word) <= 64:
        return word
    name = word.removeprefix("SIG")
    if name.isdecimal() or not name.replace("+", "").replace("-", "").isalnum() or len(name) > 12:
        raise Invalid(f"no signal {str(text)[:20]!r}", fields={"signal": ["not a signal"]})
    return f"SIG{name}"


def _grace(timeout_s: float | None) -> float | None:
    if timeout_s is not None and not -1 <= timeout_s <= 3600:
        raise Invalid("the grace time is at most an hour", fields={"timeout_s": ["out of range"]})
    return timeout_s


# --- into and out of a container --------------------------------------------------------------------------------


def container_exec(
    actor: Actor,
    container: Container,
    command: list[str],
    *,
    env: Any = None,
    user: str = "",
    workdir: str = "",
    tty: bool = False,
    privileged: bool = False,
    detach: bool = False,
) -> tuple[str, Operation]:
    """Run a command in a running container; return the exec's id and the operation, whose result has code and outputs."""
    if not command or not all(isinstance(word, str) for word in command):
        raise Invalid("say which command to run", fields={"command": ["a list of words"]})
    if not container.state.can_exec:
        raise Conflict(
            f"container {container.name} is {container.status}", code="wrong_state", hint="start it first"
        )
    rights = policy.judge_exec(actor, container, privileged=privileged)
    variables = {name: value or "" for name, value in env_of(env).items()}
    exec_id = new_container_id()
    contract = contracts.ContainerExec(
        container=container.id,
        exec_id=exec_id,
        command=command,
        env=variables,
        user=user,
        workdir=workdir,
        tty=tty,
        privileged=privileged,
        detach=detach,
        rights=rights,
    )
    return exec_id, _verb(actor, container, contract)


def container_commit(
    actor: Actor,
    container: Container,
    *,
    reference: str = "",
    message: str = "",
    author: str = "",
    changes: list[str] | None = None,
    pause: bool = True,
) -> Operation:
    """Make an image of what a container changed."""
    name = parse_name(reference) if reference else None
    refuse_moves(actor, "container.commit", [name] if name else [], container.node)
    contract = contracts.ContainerCommit(
        container=container.id,
        reference=str(name) if name else "",
        message=message,
        author=author or actor.name,
        changes=changes or [],
        pause=pause,
    )
    return _verb(actor, container, contract)


def container_files_put(
    actor: Actor,
    container: Container,
    path: str,
    spool_id: str,
    *,
    no_overwrite_dir_non_dir: bool = False,
    copy_uid_gid: bool = False,
) -> Operation:
    """Unpack a spooled tar in a folder of the container."""
    path_of(path)
    policy.judge_exec(actor, container, privileged=False)
    contract = contracts.ContainerFilesPut(
        container=container.id,
        path=path,
        source=spool_id,
        no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
        copy_uid_gid=copy_uid_gid,
    )
    return operations.submit(
        actor, contract, node=container.node, target=target_of(container), uploads=(spool_id,)
    )


def path_of(path: str) -> str:
    """Return a path inside a container if it can be one (the node resolves it inside the container's root)."""
    if not path or "\0" in path or len(path) > 4096:
        raise Invalid("say which path in the container", fields={"path": ["missing or not a path"]})
    return path


# --- questions to the node (no operation, nothing changes) --------------------------------------------------------


def ask(container: Container, what: str, **params: Any) -> Any:
    """Ask the node about a container: `top`, `stats`, `changes`, `stat`, `list_files`, `exec_inspect`, `timeline`, `inspect`."""
    key = "ref" if what == "inspect" else "container"
    return operations.ask(container.node, f"container.{what}", {key: container.id, **params})


def processes(container: Container, ps_args: str = "") -> Any:
    return ask(container, "top", ps_args=ps_args)


def stats(container: Container) -> Any:
    return ask(container, "stats")


def changes(container: Container) -> Any:
    return ask(container, "changes")


def file_stat(container: Container, path: str) -> Any:
    return ask(container, "stat", path=path_of(path))


def files(container: Container, path: str) -> Any:
    return ask(container, "list_files", path=path_of(path))


# --- several at once ----------------------------------------------------------------------------------------------


def project_apply(actor: Actor, project: str, verb: str) -> list[Operation]:
    """Start, stop, restart or remove all containers of an application: what others need first (stopping: last)."""
    members = in_order(
        Container.objects.select_related("node").filter(project=project).order_by("created_at")
    )
    if not members:
        raise Invalid(f"no application {project[:100]!r}")
    if verb == "start":
        return [container_start(actor, item) for item in members if item.state.can_start]
    if verb == "stop":
        return [container_stop(actor, item) for item in reversed(members) if item.state.can_stop]
    if verb == "restart":
        return [container_restart(actor, item) for item in members if item.state.can_restart]
    if verb == "remove":
        return [container_remove(actor, item, force=True) for item in reversed(members)]
    raise Invalid(f"no verb {verb[:20]!r} for an application")


def in_order(members: Iterable[Container]) -> list[Container]:
    """Return containers so that what a service depends on comes before it, else as they are given.

    Who needs whom stands in the label that Compose writes, `SERVICE:CONDITION:RESTART,...`; in a ring nobody waits.
    """
    waiting, ordered = list(members), []
    while waiting:
        there = {item.service for item in waiting}
        ready = [item for item in waiting if not _needs(item) & there - {item.service}] or waiting[:1]
        ordered += ready
        waiting = [item for item in waiting if item not in ready]
    return ordered


def _needs(container: Container) -> set[str]:
    text = str((container.summary.get("labels") or {}).get("com.docker.compose.depends_on", ""))
    return {part.partition(":")[0].strip() for part in text.split(",") if part}


def image_defaults(ref: str) -> dict[str, Any]:
    """Return what an image itself says (env, ports, volumes, command ...), for the run form."""
    image = images.image_get(ref)
    config = (image.record.get("config") or {}).get("config") or {}
    return {
        "image_id": image.image_id,
        "env": dict(item.partition("=")[::2] for item in config.get("Env") or []),
        "ports": sorted(config.get("ExposedPorts") or {}),
        "volumes": sorted(config.get("Volumes") or {}),
        "command": config.get("Cmd") or [],
        "entrypoint": config.get("Entrypoint") or [],
        "workdir": config.get("WorkingDir") or "",
        "user": config.get("User") or "",
        "labels": config.get("Labels") or {},
        "stop_signal": config.get("StopSignal") or "",
        "healthcheck": config.get("Healthcheck"),
    }

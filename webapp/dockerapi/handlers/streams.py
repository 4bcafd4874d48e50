"""Logs, attach, exec, and files in and out: what flows between a client and a container."""

from __future__ import annotations

import base64
import json
from typing import Any

from webapp.accounts.actor import Actor
from webapp.audit import services as audit
from webapp.containers import policy, services
from webapp.containers.models import Container
from webapp.core.errors import AppError
from webapp.core.ids import new_container_id
from webapp.dockerapi import execs, streaming, work
from webapp.dockerapi.call import Call, in_thread
from webapp.dockerapi.errors import BadParameter, DockerError
from webapp.dockerapi.frames import RAW, STDOUT, frame
from webapp.dockerapi.protocol import Hijacked
from webapp.dockerapi.values import parse_time, rfc3339
from webapp.operations.services import submit
from webapp.realtime.streams import open_stream
from workers.contracts.containers import ContainerExec
from workers.contracts.problems import NodeError, NodeSilent

ARCHIVE_CREDIT = 8 * 1024 * 1024  # of one archive under way: few waits for the reader
_GO_DIRECTORY, _GO_SYMLINK = 1 << 31, 1 << 27
_GO_SPECIAL = {0o10000: 1 << 25, 0o140000: 1 << 24, 0o60000: 1 << 26, 0o20000: (1 << 26) | (1 << 21)}


async def logs(call: Call) -> None:
    """Stream the log. Without a terminal the node itself writes the frames, so a million lines pass through untouched."""
    stdout, stderr = call.truth("stdout"), call.truth("stderr")
    if not stdout and not stderr:
        raise BadParameter("Bad parameters: you must choose at least one stream")
    container = await work.container(call.actor, call.parameters["ref"])
    tty = is_tty(container)
    parameters = {
        "container": container.id,
        "stdout": stdout,
        "stderr": stderr,
        "follow": call.truth("follow"),
        "timestamps": call.truth("timestamps"),
        "format": "raw" if tty else "mux",
        **_window(call),
    }
    async with open_stream(container.node.name, "logs", parameters) as stream:
        await call.start(200, call.stream_type(tty=tty))

        async def pass_on() -> None:
            async for chunk in stream:
                await call.write(chunk.data)
            await call.end()

        await streaming.until_gone(call, pass_on())


def _window(call: Call) -> dict[str, Any]:
    """Return since, until and tail as the node wants them (nanoseconds, a number or all)."""
    window: dict[str, Any] = {}
    for name in ("since", "until"):
        text = call.text(name)
        if text and text != "0":
            window[name] = float(parse_time(text))
    tail = call.text("tail", "all")
    if tail not in ("", "all") and tail.isdecimal():
        window["tail"] = int(tail)
    return window


def is_tty(container: Container) -> bool:
    return bool((container.record.get("spec") or {}).get("tty"))


async def attach(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    await in_thread(allowed_inside, call.actor, container, "container.attach")
    tty, stdin = is_tty(container), call.truth("stdin") and bool(container.record["spec"]["stdin_open"])
    parameters = {
        "container": container.id,
        "stdin": stdin,
        "stdout": call.truth("stdout"),
        "stderr": call.truth("stderr"),
        "logs": call.truth("logs"),
        "detach_keys": call.text("detachKeys"),
    }
    if not call.truth("stream"):
        parameters["logs"] = True
    async with open_stream(container.node.name, "attach", parameters) as stream:
        await carry(call, stream, tty=tty, stdin=stdin)


async def carry(call: Call, stream: Any, *, tty: bool, stdin: bool) -> None:
    """Join the client to the stream, over the hijacked connection or, where it did not ask for one, in the answer's body."""
    if call.can_hijack():
        await streaming.join(call.hijack(tty=tty), stream, tty=tty, stdin=stdin)
        return
    await call.start(200, RAW if tty else call.stream_type(tty=tty))
    await streaming.until_gone(call, streaming.pour(stream, call.write, tty=tty))
    await call.end()


def allowed_inside(
    actor: Actor, container: Container, action: str, *, body: dict[str, Any] | None = None
) -> list[str]:
    """Judge and record that somebody enters a container; return their rights for the node."""
    privileged = bool((body or {}).get("privileged"))
    rights = policy.judge_exec(actor, container, privileged=privileged)
    audit.record(
        actor,
        action,
        target_type="container",
        target_id=container.id,
        target=container.name,
        node=container.node.name,
        body=body or {},
    )
    return rights


async def resize(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    width, height = terminal(call)
    await in_thread(services.ask, container, "resize", width=width, height=height)
    await call.nothing(200)


def terminal(call: Call) -> tuple[int, int]:
    width, height = call.number("w"), call.number("h")
    if not (0 <= width <= 65535 and 0 <= height <= 65535):
        raise BadParameter("invalid terminal size")
    return max(1, width), max(1, height)


# --- exec -------------------------------------------------------------------------------------------------------


async def exec_create(call: Call) -> None:
    body = await call.json()
    await call.answer({"Id": await in_thread(_exec_remembered, call, body)}, 201)


def _exec_remembered(call: Call, body: dict[str, Any]) -> str:
    """Judge a wish and keep it until it is started; return its id."""
    container = work.container_of(call.parameters["ref"])
    command = body.get("Cmd") or []
    if not command or not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise BadParameter("No exec command specified")
    if container.status == "paused":
        raise DockerError(
            f"Container {call.parameters['ref']} is paused, unpause the container before exec", 409
        )
    if container.status != "running":
        raise DockerError(f"container {container.id} is not running", 409)
    wish = execs.Wish.of(body, container.id)
    policy.judge_exec(call.actor, container, privileged=wish.privileged)
    identity = new_container_id()
    execs.remember(identity, wish)
    return identity


async def exec_start(call: Call) -> None:
    body = await call.json()
    identity = call.parameters["id"]
    wish, container, rights = await in_thread(_exec_taken, call.actor, identity)
    size = body.get("ConsoleSize") or wish.console_size or [0, 0]
    parameters = {
        "container": container.id,
        "exec_id": identity,
        "command": wish.command,
        "env": wish.env,
        "user": wish.user,
        "workdir": wish.workdir,
        "tty": wish.tty,
        "stdin": wish.stdin and not body.get("Detach"),
        "privileged": wish.privileged,
        "rights": rights,
        "width": int(size[1]) or 80,
        "height": int(size[0]) or 24,
        "detach_keys": wish.detach_keys,
    }
    if body.get("Detach"):
        await in_thread(_exec_detached, call.actor, container, identity, wish)
        await call.nothing(200)
        return
    if not call.can_hijack():
        async with open_stream(container.node.name, "exec", parameters) as stream:
            await carry(call, stream, tty=wish.tty, stdin=wish.stdin)
        return
    await _exec_upgraded(call.hijack(tty=wish.tty), container, identity, wish, parameters)


def _exec_taken(actor: Actor, identity: str) -> tuple[execs.Wish, Container, list[str]]:
    """Take a wish to start it: judge it again, in the name of who starts it, and write that into the book."""
    wish = execs.take(identity)
    container = work.container_of(wish.container)
    audited = {
        "command": wish.command,
        "user": wish.user,
        "tty": wish.tty,
        "privileged": wish.privileged,
        "exec_id": identity,
    }
    return wish, container, allowed_inside(actor, container, "container.exec", body=audited)


async def _exec_upgraded(
    connection: Hijacked, container: Container, identity: str, wish: execs.Wish, parameters: dict[str, Any]
) -> None:
    """Carry an exec over a taken connection, which is told so before the program starts, as the engine does.

    Some clients lose what comes in one packet with the answer's headers. What hinders the start is said in the output.
    """
    try:
        async with open_stream(container.node.name, "exec", parameters) as stream:
            await streaming.join(connection, stream, tty=wish.tty, stdin=wish.stdin)
    except (NodeError, NodeSilent) as error:
        detail = error.problem.detail if isinstance(error, NodeError) else str(error)
        await in_thread(execs.note_failure, identity, execs.status_of(detail))
        text = f"{detail}\r\n".encode()
        await connection.write(text if wish.tty else frame(STDOUT, text))
        await connection.close()


def _exec_detached(actor: Actor, container: Container, identity: str, wish: execs.Wish) -> None:
    contract = ContainerExec(
        container=container.id,
        exec_id=identity,
        command=wish.command,
        env=wish.env,
        user=wish.user,
        workdir=wish.workdir,
        tty=wish.tty,
        privileged=wish.privileged,
        detach=True,
        rights=[right.value for right in actor.rights],
    )
    submit(actor, contract, node=container.node, target=services.target_of(container))


async def exec_resize(call: Call) -> None:
    width, height = terminal(call)
    wish = await in_thread(execs.get, call.parameters["id"])
    container = await work.container(call.actor, wish.container)
    await in_thread(
        services.ask, container, "exec_resize", exec_id=call.parameters["id"], width=width, height=height
    )
    await call.nothing(200)


async def exec_inspect(call: Call) -> None:
    await call.answer(await in_thread(_exec_inspected, call.parameters["id"]))


def _exec_inspected(identity: str) -> dict[str, Any]:
    wish = execs.get(identity)
    container = work.container_of(wish.container)
    try:
        state = services.ask(container, "exec_inspect", exec_id=identity)
    except AppError as error:
        if error.status != 404:
            raise
        state = {"running": False, "exit_code": None, "pid": 0}
    if state["exit_code"] is None and not state["running"]:
        state = {**state, "exit_code": execs.failure_of(identity)}
    return execs.document(identity, wish, state)


# --- files ------------------------------------------------------------------------------------------------------


async def archive_stat(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    stat = await _stat(container, call.text("path"))
    await call.answer_bytes(b"", "application/json", **_stat_header(stat))


async def _stat(container: Container, path: str) -> dict[str, Any]:
    if not path:
        raise BadParameter("bad parameter: 'path' cannot be empty")
    try:
        return dict(await in_thread(services.file_stat, container, path))
    except AppError as error:
        if error.status == 404:
            raise DockerError(f"Could not find the file {path} in container {container.name}", 404) from None
        raise


def _stat_header(stat: dict[str, Any]) -> dict[str, str]:
    document = {
        "name": stat["name"],
        "size": stat["size_bytes"],
        "mode": go_mode(int(stat["mode"])),
        "mtime": rfc3339(stat["mtime"]),
        "linkTarget": stat.get("link_target") or "",
    }
    return {"x_docker_container_path_stat": base64.b64encode(json.dumps(document).encode()).decode()}


def go_mode(mode: int) -> int:
    """Return a mode of stat(2) as the bits of Go's FileMode, which the API sends."""
    kind, result = mode & 0o170000, mode & 0o777
    result |= {0o40000: _GO_DIRECTORY, 0o120000: _GO_SYMLINK, **_GO_SPECIAL}.get(kind, 0)
    for bit, go_bit in ((0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)):
        result |= go_bit if mode & bit else 0
    return result


async def archive_get(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    path = call.text("path")
    stat = await _stat(container, path)
    await in_thread(allowed_inside, call.actor, container, "container.files_get", body={"path": path})
    async with open_stream(
        container.node.name,
        "container.archive",
        {"container": container.id, "path": path},
        credit=ARCHIVE_CREDIT,
    ) as stream:
        await call.start(200, "application/x-tar", **_stat_header(stat))
        await streaming.until_gone(call, _copy(call, stream))


async def _copy(call: Call, stream: Any) -> None:
    async for chunk in stream:
        await call.write(chunk.data)
    await call.end()


async def archive_put(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    path = call.text("path")
    await _stat(container, path)
    spool_id, _ = await call.spooled()
    operation = await work.handed_over(
        spool_id,
        services.container_files_put,
        call.actor,
        container,
        path,
        spool_id,
        no_overwrite_dir_non_dir=call.truth("noOverwriteDirNonDir"),
        copy_uid_gid=call.truth("copyUIDGID"),
    )
    await work.finished(operation)
    await call.nothing(200)


async def export(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    await in_thread(allowed_inside, call.actor, container, "container.export")
    async with open_stream(container.node.name, "container.export", {"container": container.id}) as stream:
        await call.start(200, "application/x-tar")
        await streaming.until_gone(call, _copy(call, stream))

"""Programs started in a running container, with their streams.

Each has a monitor of its own, so here flow control goes all the way: a reader that is slow slows its own program, and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

from engine.containers.exec import ExecSpec
from engine.errors import Denied
from engine.runtime.exec_session import ExecSession
from engine.runtime.streams import PACKET_BYTES, DetachKeys
from workers.agent.feeds import params as p
from workers.agent.feeds.follow import Sources
from workers.agent.stream import NodeStream
from workers.agent.tasks import end_tasks
from workers.contracts import policy
from workers.contracts.names import check_id

DEFAULT_KEYS = "ctrl-p,ctrl-q"
BATCH = 32  # packets joined into one frame
_CHANNELS = {2: 1, 3: 2}  # the monitor's numbers of the streams, and ours


async def exec_(stream: NodeStream, sources: Sources) -> dict[str, Any]:
    """Start the program and carry its streams; `end` has `exit_code`, or `detached` when the reader pressed the keys."""
    params, engine = stream.params, sources.engine
    for right, reason in policy.missing(
        policy.rights_of_exec(p.truth(params, "privileged")), p.texts(params, "rights")
    ).items():
        raise Denied(f"this {reason}", hint=f"an administrator can grant the right {right!r}", right=right)
    spec, exec_id = spec_of(params), check_id(p.text(params, "exec_id"))
    session = await asyncio.to_thread(_start, sources, p.text(params, "container"), spec, exec_id)
    ended = False
    try:
        await stream.opened(tty=spec.tty, exec_id=exec_id, pid=session.pid)
        facts = await _carry(stream, session, DetachKeys.parse(spec.detach_keys or DEFAULT_KEYS))
        ended = not facts
        if ended:
            facts = {
                "exit_code": await asyncio.to_thread(engine.exec_finish, exec_id=exec_id, session=session)
            }
        return facts
    finally:
        if not ended:
            if stream.closed.is_set() and p.truth(params, "hangup"):
                session.kill()
            await asyncio.to_thread(engine.exec_leave, exec_id=exec_id, session=session)


def _start(sources: Sources, container: str, spec: ExecSpec, exec_id: str) -> ExecSession:
    sources.engine.exec_create(container=container, spec=spec, exec_id=exec_id)
    size = (spec.rows, spec.columns) if spec.tty and spec.rows and spec.columns else None
    return sources.engine.exec_start(exec_id=exec_id, size=size)


def spec_of(params: dict[str, Any]) -> ExecSpec:
    """Return what a stream's parameters ask to run."""
    return ExecSpec(
        command=p.texts(params, "command"),
        env=p.mapping(params, "env"),
        user=p.text(params, "user", ""),
        workdir=p.text(params, "workdir", ""),
        tty=p.truth(params, "tty"),
        stdin=p.truth(params, "stdin"),
        privileged=p.truth(params, "privileged"),
        detach_keys=p.text(params, "detach_keys", "") or DEFAULT_KEYS,
        rows=int(p.number(params, "height")),
        columns=int(p.number(params, "width")),
    )


async def _carry(stream: NodeStream, session: ExecSession, keys: DetachKeys) -> dict[str, Any]:
    """Carry both directions; return at the end of the output (nothing), or when the reader leaves (why)."""
    with _handle(session) as client:
        showing = asyncio.create_task(_show(stream, client))
        typing = asyncio.create_task(_type(stream, session, client, keys))
        closed = asyncio.create_task(stream.closed.wait())
        try:
            await asyncio.wait((showing, typing, closed), return_when=asyncio.FIRST_COMPLETED)
            if typing.done() and not typing.result():  # no more input; the output goes on
                await asyncio.wait((showing, closed), return_when=asyncio.FIRST_COMPLETED)
            if showing.done():
                showing.result()
                return {}
            if closed.done():
                return {"reason": "closed"}
            return {"reason": "detached", "detached": True}
        finally:
            await end_tasks((showing, typing, closed))


async def _show(stream: NodeStream, client: socket.socket) -> None:
    while True:
        await stream.wait_for_credit()
        await _readable(client)
        for channel, data in _drain(client):
            if channel < 0:
                return
            await stream.write(data, channel=channel)


async def _type(stream: NodeStream, session: ExecSession, client: socket.socket, keys: DetachKeys) -> bool:
    """Pass on input and sizes; return whether the reader pressed the keys that leave."""
    if p.truth(stream.params, "stdin"):
        await stream.grant()
    while True:
        item = await stream.inputs.get()
        if item.resize:
            await asyncio.to_thread(session.resize, item.resize[1], item.resize[0])
        if item.data:
            data, leaving = keys.feed(item.data) if p.truth(stream.params, "tty") else (item.data, False)
            try:
                await _send(client, data)
            except ConnectionError:
                return False  # it has ended: the output says how
            if leaving:
                return True
            await stream.taken(item)
        if item.eof:
            if not stream.closed.is_set():
                session.end_input()
            return False


@contextlib.contextmanager
def _handle(session: ExecSession) -> Iterator[socket.socket]:
    """Give a second handle on the session's socket for the event loop, which never waits on it.

    Both handles share their flags: from here on the session's own blocking `read` and `write` must not be used.
    """
    client = socket.socket(fileno=os.dup(session.fileno()))
    client.setblocking(False)
    try:
        yield client
    finally:
        client.close()


async def _send(client: socket.socket, data: bytes) -> None:
    """Send input in packets, waiting while the program does not read."""
    loop = asyncio.get_running_loop()
    for start in range(0, len(data), PACKET_BYTES // 2):
        await loop.sock_sendall(client, data[start : start + PACKET_BYTES // 2])


async def _readable(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(client.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(client.fileno())


def _drain(client: socket.socket) -> list[tuple[int, bytes]]:
    """Take the packets that are waiting, neighbours of one channel joined; (-1, b"") at the end of the output."""
    joined: list[tuple[int, bytearray]] = []
    end: list[tuple[int, bytes]] = []
    for _ in range(BATCH):
        try:
            packet = client.recv(PACKET_BYTES + 1)
        except BlockingIOError:
            break
        except ConnectionResetError:
            packet = b""
        if not packet:
            end = [(-1, b"")]
            break
        channel = _CHANNELS.get(packet[0], 1)
        if joined and joined[-1][0] == channel:
            joined[-1][1].extend(packet[1:])
        else:
            joined.append((channel, bytearray(packet[1:])))
    return [*((channel, bytes(data)) for channel, data in joined), *end]

"""Archives and files on their way to or from the web site: written by the engine in a thread, at the pace of the reader."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO, cast

from engine.errors import NotFound
from engine.progress import CancelToken, silent
from workers.agent.feeds import params as p
from workers.agent.feeds.follow import Sources
from workers.agent.stream import NodeStream, StreamClosed
from workers.backups import backup_path
from workers.contracts.names import spool_path
from workers.records import file_record, to_record

BLOCK = 256 * 1024


class StreamWriter(io.RawIOBase):
    """A file for the engine to write to, in a thread; `write` waits for the reader's credit, one block behind.

    `finish` must be called at the end: it waits until all is sent.
    """

    def __init__(self, stream: NodeStream) -> None:
        super().__init__()
        self._stream = stream
        self._held = bytearray()
        self._sending: Future[None] | None = None
        self.total = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # whatever bytes() takes
        self._held += data
        self.total += len(data)
        if len(self._held) >= BLOCK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if not self._held:
            return
        self._settle()
        if self._stream.closed.is_set():
            raise StreamClosed(self._stream.id)
        self._sending, self._held = self._stream.begin_write(bytes(self._held)), bytearray()

    def finish(self) -> None:
        self.flush()
        self._settle()

    def _settle(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()


async def pour(stream: NodeStream, work: Callable[[BinaryIO], Any]) -> dict[str, Any]:
    """Run `work(out)` in a thread, its output going to the stream; `end` has the size."""
    writer = StreamWriter(stream)

    def run() -> Any:
        result = work(cast(BinaryIO, writer))
        writer.finish()
        return result

    result = await asyncio.to_thread(run)
    facts = to_record(result)
    return {"size_bytes": writer.total, **(facts if isinstance(facts, dict) else {})}


async def container_archive(stream: NodeStream, sources: Sources) -> dict[str, Any]:
    container, path = p.text(stream.params, "container"), p.text(stream.params, "path")
    stat = await asyncio.to_thread(sources.engine.archive_stat, container=container, path=path)
    await stream.opened(stat=file_record(stat))
    return await pour(stream, lambda out: sources.engine.archive_get(container=container, path=path, out=out))


async def container_export(stream: NodeStream, sources: Sources) -> dict[str, Any]:
    container = sources.engine.container_get(ref=p.text(stream.params, "container"))
    await stream.opened(container=container.id)
    return await pour(stream, lambda out: sources.engine.export(container=container.id, out=out))


async def image_save(stream: NodeStream, sources: Sources) -> dict[str, Any]:
    images = p.texts(stream.params, "images")
    for ref in images:
        await asyncio.to_thread(sources.engine.image_get, ref=ref)
    await stream.opened()
    cancel = _until_closed(stream)
    return await pour(
        stream, lambda out: sources.engine.image_save(images=images, out=out, report=silent, cancel=cancel)
    )


async def volume_file(stream: NodeStream, sources: Sources) -> dict[str, Any]:
    volume, path = p.text(stream.params, "volume"), p.text(stream.params, "path")
    await stream.opened()
    return await pour(stream, lambda out: sources.engine.volume_read(volume=volume, path=path, out=out))


async def volume_backup(stream: NodeStream, sources: Sources) -> dict[str, Any]:
    volume, compression = p.text(stream.params, "volume"), p.text(stream.params, "compression", "gzip")
    await asyncio.to_thread(sources.engine.volume_get, name=volume)
    await stream.opened()
    cancel = _until_closed(stream)
    return await pour(
        stream,
        lambda out: sources.engine.volume_backup(
            volume=volume, out=out, compression=compression, report=silent, cancel=cancel
        ),
    )


async def backup_file(stream: NodeStream, sources: Sources, *, home: Path) -> dict[str, Any]:
    """Feed a backup that is kept on this node."""
    directory, file_name = p.text(stream.params, "directory"), p.text(stream.params, "file_name")
    path = backup_path(home, sources.engine.config.allowed_bind_roots, directory, file_name)
    try:
        return await _feed(stream, path)
    except FileNotFoundError:
        raise NotFound(
            f"the file of this backup is gone from the node: {path.name}",
            hint="somebody removed it on the node; remove its entry here too",
        ) from None


async def spool_read(stream: NodeStream, home: Path) -> dict[str, Any]:
    """Feed a file that an operation left for the web site, for one on another machine."""
    return await _feed(stream, spool_path(home, "out", p.text(stream.params, "target")))


async def _feed(stream: NodeStream, path: Path) -> dict[str, Any]:
    descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        await stream.opened(size_bytes=os.fstat(descriptor).st_size)
        while data := await asyncio.to_thread(file.read, BLOCK):
            await stream.write(data)
    return {}


async def spool_write(stream: NodeStream, home: Path) -> dict[str, Any]:
    """Take an upload from a web site on another machine into this node's spool; all of it or nothing."""
    path = spool_path(home, "in", p.text(stream.params, "source"))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    total = 0
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            await stream.opened()
            await stream.grant(1024 * 1024)
            while not (item := await stream.inputs.get()).eof:
                total += len(item.data)
                await asyncio.to_thread(file.write, item.data)
                await stream.taken(item)
        if stream.closed.is_set():
            raise StreamClosed(stream.id)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return {"size_bytes": total}


def _until_closed(stream: NodeStream) -> CancelToken:
    """Return a token that is cancelled when the reader leaves."""
    token = CancelToken()
    task = asyncio.ensure_future(stream.closed.wait())
    task.add_done_callback(lambda _: token.cancel())
    return token

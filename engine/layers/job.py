"""One job of the helper, from the engine's side: fed through a pipe, listened to, and killed when it may not go on."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.errors import Unavailable
from engine.layers import helper
from engine.layers.apply import Folders
from engine.layers.limits import too_big
from engine.layers.policy import ApplyResult
from engine.layers.tar import TarEntry
from engine.layers.wire import END, LINE_LIMIT, Job, frame, rebuilt
from engine.linux.files import opened, opened_directory, space_translated

STALL_S = 120.0
"""How long a job may take nothing and say nothing: the disk hangs, or an archive found a way to keep it busy."""
_PIPE = 1024 * 1024
_POLL_S = 0.25
_DEATH_S = 10.0
_GATHER = 64 * 1024
_LOST: dict[str, Any] = {"lost": True}


class RunningJob:
    """A job that was handed over; a context manager, at whose end its process is gone.

    Raises what the job raises, what `check` raises, `BadArchive` after the limits' deadline, and `Unavailable` when the job
    stalls or is killed by somebody else.
    """

    def __init__(
        self, job: Job, target: Path | int, lowers: Sequence[Path], check: Callable[[], None] | None
    ) -> None:
        self._job = job
        self._target = target
        self._lowers = lowers
        self._check = check
        self._parts: list[bytes] = []
        self._gathered = 0
        self._text = b""
        self._data = self._process = -1
        self._outcome: dict[str, Any] | None = None  # what the job said last, as JSON has it

    def __enter__(self) -> RunningJob:
        self._begun = self._moved = time.monotonic()
        with ExitStack() as undo:
            root = undo.enter_context(opened_directory(self._target))
            self._outside = Folders(root, self._lowers)
            undo.callback(self._close_data)
            self._answers = undo.enter_context(self._hand_over(root))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._undo:
            if self._outcome is None or self._outcome is _LOST:
                self._kill()
            self._join()

    def entry(self, entry: TarEntry) -> None:
        """Give the next entry; the content of a file follows."""
        self.content(frame(entry))

    def content(self, data: bytes | memoryview) -> None:
        """Give bytes of the archive, or of the current entry. Small ones are gathered."""
        if len(data) < _GATHER:
            self._parts.append(bytes(data))
            self._gathered += len(data)
            if self._gathered >= _GATHER:
                self._flush()
        else:
            self._flush()
            self._write(data)

    def end(self) -> None:
        """Say that no more entries come."""
        self.content(END)

    def result(self) -> ApplyResult:
        """Close the pipe and wait for the job's end; return what it did or raise why it did not."""
        self._flush()
        self._close_data()
        while self._outcome is None:
            self._wait()
        return self._result()

    def _hand_over(self, root: int) -> socket.socket:
        """Submit the job; return our end of the socket on which it answers."""
        source, self._data = os.pipe()
        with opened(source):
            with suppress(OSError):  # a larger pipe only saves changes between processes
                fcntl.fcntl(self._data, fcntl.F_SETPIPE_SZ, _PIPE)
            os.set_blocking(self._data, False)
            ours, theirs = socket.socketpair()
            ours.settimeout(_DEATH_S)
            with theirs:
                try:
                    helper.submit(self._job, [root, source, theirs.fileno()])
                except BaseException:
                    ours.close()
                    raise
        return ours

    def _close_data(self) -> None:
        if self._data >= 0:
            os.close(self._data)
            self._data = -1

    def _flush(self) -> None:
        data, self._parts, self._gathered = b"".join(self._parts), [], 0
        self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        self._look()
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._data, view) :]
            except BlockingIOError:
                self._wait()
                if self._outcome is not None:
                    self._result()
                continue
            except BrokenPipeError:
                while self._outcome is None:
                    self._wait()
                self._result()
            self._moved = time.monotonic()

    def _wait(self) -> None:
        """Wait until the job takes more bytes or says something, for a moment at most."""
        poller = select.poll()
        poller.register(self._answers, select.POLLIN)
        if self._data >= 0:
            poller.register(self._data, select.POLLOUT)
        for descriptor, events in poller.poll(_POLL_S * 1000):
            if descriptor == self._answers.fileno():
                self._receive()
            elif events & select.POLLERR and self._outcome is None:
                self._receive()  # its end of the pipe is closed: it has said why, or will not
        self._look()

    def _look(self) -> None:
        """Raise where the job may not go on."""
        if self._check is not None:
            self._check()
        now, allowed_s = time.monotonic(), self._job.limits.deadline_s
        if now - self._begun > allowed_s:
            raise too_big(f"taken more than {allowed_s:.0f} s", "time")
        if now - self._moved > STALL_S:
            raise Unavailable(
                f"unpacking has made no progress for {STALL_S:.0f} s",
                hint="the node's disk may hang; see the kernel's log",
            )

    def _receive(self) -> None:
        """Take what the job says. A job that says what it should not is taken for lost."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._answers, 65536, 1)
            for descriptor in descriptors:
                self._take_process(descriptor)
            self._text += data
            if not data or len(self._text) > LINE_LIMIT:
                raise ValueError("the end, or no end")
            *lines, self._text = self._text.split(b"\n")
            for line in lines:
                self._heed(json.loads(line))
        except (ValueError, TypeError, ConnectionError, TimeoutError):
            self._outcome = self._outcome or _LOST
        self._moved = time.monotonic()

    def _take_process(self, descriptor: int) -> None:
        self._undo.callback(os.close, descriptor)
        if self._process < 0:
            self._process = descriptor

    def _heed(self, said: dict[str, Any]) -> None:
        if "error" in said or "size" in said:
            self._outcome = said
        elif "lower" in said:
            self._answer(self._outside.lower_directory(str(said["lower"])))
        elif "names" in said:
            self._answer(self._outside.lower_names())
        elif "opaque" in said:
            with space_translated("the layer"):
                self._outside.mark_opaque(str(said["opaque"]))
            self._answer(None)

    def _answer(self, value: object) -> None:
        self._answers.sendall(json.dumps(value).encode() + b"\n")

    def _result(self) -> ApplyResult:
        said = self._outcome
        if said is not None and "size" in said and self._data < 0:
            return ApplyResult(int(said["size"]), int(said["entries"]))
        if said is not None and "error" in said:
            raise rebuilt(said["error"])
        raise Unavailable(
            "the process that unpacked the archive was killed",
            hint="the machine may be short of memory; try again",
        )

    def _kill(self) -> None:
        """End the job's process. One that has not said who it is yet says so first: the helper forks without delay."""
        deadline = time.monotonic() + _DEATH_S
        while self._process < 0 and self._outcome is None and time.monotonic() < deadline:
            if select.select([self._answers], [], [], _POLL_S)[0]:
                self._receive()
        if self._process >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def _join(self) -> None:
        """Wait for the process's end: then it holds nothing open of the target. One stuck in the kernel is left there."""
        if self._process >= 0:
            poller = select.poll()
            poller.register(self._process, select.POLLIN)
            poller.poll(_DEATH_S * 1000)

"""The process that unpacks archives for the engine (D1), and what it does for a job.

The helper is started once, by `engine.layers.confined`, without environment, with an empty folder as its root and none of the
host's mounts. It forks a spare process that waits for the next job, and another one as soon as that has come, so a job waits
for no fork. Who does a job has a mount namespace of its own, takes the job's target as its root, and loses what it does not
need: descriptors, capabilities, system calls, resources. Then it unpacks, answers with one line and ends. It ends as well when
the helper does, and the helper when the engine does: the socket is closed.

After a root has been entered nothing is imported, executed or looked up by name (D2): this module imports all it will need.

Gotcha: `PR_SET_PDEATHSIG` tells of the end of the *thread* that forked. The helper has one thread, so its forks may use it; the
engine has many, so the helper must not.
"""

from __future__ import annotations

import array
import gc
import json
import os
import signal
import socket
import time
from contextlib import suppress

from engine.layers.apply import DirectoryInfo, unpack_entries
from engine.layers.policy import ApplyResult
from engine.layers.tar import TarReader
from engine.layers.wire import CHUNK, FrameReader, Job, described
from engine.linux import confine
from engine.linux.files import opened
from engine.linux.identity import become

KEPT = (
    confine.CAP_CHOWN,
    confine.CAP_DAC_OVERRIDE,
    confine.CAP_FOWNER,
    confine.CAP_FSETID,
    confine.CAP_SETFCAP,
)
MEMORY_BYTES = 1024**3
_DESCRIPTORS = 512
_BEAT_S = 1.0
_PAUSE_S = 0.05
_TAKEN, _OVER = b"t", b"o"  # what a spare process says to the helper
_MESSAGE = 64 * 1024


def serve(control: socket.socket) -> None:
    """Keep one process waiting for the next job, until the engine closes its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks are not waited for
    confine.own_mounts()
    confine.empty_root()
    os.umask(0)
    gc.freeze()
    while (said := _spare(control)) != _OVER:
        if said != _TAKEN:
            time.sleep(_PAUSE_S)  # it was killed, or could not be made: not as fast as it goes


def _spare(control: socket.socket) -> bytes:
    """Fork a process that takes the next job; return what it said when it did, empty if it died."""
    reading, writing = os.pipe()
    parent = os.getpid()
    with opened(reading):
        with opened(writing), suppress(OSError):  # what cannot be forked says nothing
            if not os.fork():
                os.close(reading)
                _wait_and_do(control, parent, writing)
        return os.read(reading, 1)


def _wait_and_do(control: socket.socket, parent: int, helper: int) -> None:
    """Be the spare process: take one job, tell the helper so that it makes the next one, do the job, end."""
    status = 1
    try:
        confine.die_with_parent(parent)
        confine.own_mounts()
        message, descriptors = _receive(control)
        os.write(helper, _TAKEN if message else _OVER)
        if message:
            os.close(helper)
            control.close()
            _do(parent, message, descriptors)
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Serve the socket that is standard input."""
    serve(socket.socket(fileno=0))


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    message, ancillary, _, _ = control.recvmsg(_MESSAGE, socket.CMSG_SPACE(3 * 4))
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, descriptors.tolist()


def _do(parent: int, message: bytes, descriptors: list[int]) -> None:
    target, source, answers = descriptors
    engine = _Engine(socket.socket(fileno=answers))
    try:
        engine.greet()
        job = Job.from_json(json.loads(message))
        engine.has_lowers = job.has_lowers
        enter(target, job)
        confine.die_with_parent(parent)  # again: a change of file-system ids takes it back
        result = _unpack(job, target, source, engine)
        engine.say({"size": result.size, "entries": result.entries})
    except BaseException as error:
        engine.say({"error": described(error)})


def enter(target: int, job: Job) -> None:
    """Give up everything but the directory `target`; this process has its own mounts already."""
    confine.enter_root(target)
    confine.limit_resources(
        cpu_s=max(1, int(min(job.limits.deadline_s, 2**31))),
        memory_bytes=MEMORY_BYTES,
        file_bytes=min(job.limits.max_bytes, 2**63 - 1),
        descriptors=_DESCRIPTORS,
    )
    if job.owner is not None:
        become(*job.owner)
    confine.keep_capabilities(KEPT)
    confine.forbid_calls()


def _unpack(job: Job, target: int, source: int, engine: _Engine) -> ApplyResult:
    policy = job.policy
    reader = (
        TarReader(_Pipe(source), job.limits, require_end=policy.require_end)
        if job.is_tar
        else FrameReader(source)
    )
    return unpack_entries(
        reader,
        target,
        job.limits,
        policy,
        outside=engine,
        idmap_start=job.idmap_start,
        umask=0,
        check=engine.beat,
    )


class _Pipe:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int = CHUNK, /) -> bytes:
        return os.read(self._descriptor, size)


class _Engine:
    """The engine, seen from a job: told how it goes, and asked for what lies outside of the root."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.has_lowers = True
        self._answers = connection.makefile("rb")
        self._said = time.monotonic()

    def greet(self) -> None:
        """Hand over this process's descriptor, by which it can be killed and waited for, whatever its number is then."""
        rights = array.array("i", [os.pidfd_open(os.getpid())])
        self._connection.sendmsg(
            [b'{"hello": 1}\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights.tobytes())]
        )
        os.close(rights[0])

    def say(self, value: dict[str, object]) -> None:
        _say(self._connection, value)

    def beat(self) -> None:
        """Show now and then that the work goes on."""
        now = time.monotonic()
        if now - self._said > _BEAT_S:
            self._said = now
            self.say({"alive": 1})

    def lower_directory(self, path: str) -> DirectoryInfo | None:
        if not self.has_lowers:
            return None
        found = self._ask({"lower": path})
        return None if found is None else DirectoryInfo(*found)  # type: ignore[misc]

    def lower_names(self) -> list[str]:
        return self._ask({"names": 1})  # type: ignore[return-value]

    def mark_opaque(self, path: str) -> None:
        self._ask({"opaque": path})

    def _ask(self, question: dict[str, object]) -> object:
        self.say(question)
        return json.loads(self._answers.readline())


def _say(connection: socket.socket, value: dict[str, object]) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    main()

"""The helper process of this process: started when the first archive is unpacked, kept for the next, ended with us."""

from __future__ import annotations

import array
import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from engine.errors import Unavailable
from engine.layers.wire import Job

_ROOT = Path(__file__).resolve().parents[2]
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from engine.layers.unpacker import main; main()"
_SEND_S = 30.0


class Helper:
    """A running helper. Several threads may hand it jobs at once: a message is taken whole or not at all."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, str(_ROOT)],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={}, cwd="/", start_new_session=True,
            )  # fmt: skip
        ours.settimeout(_SEND_S)
        self._control = ours

    def send(self, job: Job, descriptors: list[int]) -> None:
        """Hand over a job; raises `OSError` when the helper is gone."""
        rights = array.array("i", descriptors)
        message = json.dumps(job.to_json()).encode()
        self._control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights.tobytes())])

    def close(self) -> None:
        """End the helper, and with it the jobs that it still has."""
        self._control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """Let go of a helper that belongs to the process which forked this one."""
        self._control.close()
        self.process.returncode = 0  # not our child: nothing to wait for


_lock = threading.Lock()
_running: Helper | None = None


def start() -> Helper:
    """Return this process's helper, started where it is missing."""
    global _running
    with _lock:
        if _running is None or _running.process.poll() is not None:
            _stop()
            _running = Helper()
        return _running


def submit(job: Job, descriptors: list[int]) -> None:
    """Hand a job to the helper; one that has died is replaced, once. Raises `Unavailable`."""
    for is_last in (False, True):
        helper = start()
        try:
            helper.send(job, descriptors)
        except OSError as error:
            if is_last:
                raise Unavailable(
                    f"the process that unpacks archives does not answer: {error.strerror or error}",
                    hint="the machine may be out of memory or processes",
                ) from error
            _discard(helper)
        else:
            return


def _discard(helper: Helper) -> None:
    global _running
    with _lock:
        if _running is helper:
            _stop()


def _stop() -> None:
    global _running
    if _running is not None:
        _running.close()
        _running = None


def _after_fork() -> None:
    global _running, _lock
    _lock = threading.Lock()
    if _running is not None:
        _running.forget()
        _running = None


atexit.register(_stop)
os.register_at_fork(after_in_child=_after_fork)

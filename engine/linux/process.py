"""Processes: running a program to its end, and telling a process from another that got the same number later.

Sources: pidfd_open(2), pidfd_send_signal(2), proc_pid_stat(5). Programs get a clean environment: nothing of ours leaks
into a runtime, and nothing from a container steers it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import CommandFailed, Unavailable

CLEAN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_STDERR_LIMIT = 64 * 1024
_DEAD = ("Z", "X")


@dataclass(frozen=True)
class ProcessId:
    """A process by number and start time (clock ticks since boot): unlike the number alone, never given out twice."""

    pid: int
    start_time: int

    @property
    def alive(self) -> bool:
        """Tell whether this very process still runs; one that is dead and not yet waited for does not."""
        fields = _stat(self.pid) if self.pid > 0 else []
        return bool(fields) and int(fields[19]) == self.start_time and fields[0] not in _DEAD

    def send(self, number: int) -> bool:
        """Send a signal to this very process; return False when it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (ProcessLookupError, ValueError):
            return False
        try:
            if start_time(self.pid) != self.start_time:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of this process without being its parent; return whether it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (ProcessLookupError, ValueError):
            return True
        try:
            if start_time(self.pid) != self.start_time:
                return True
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            return bool(poller.poll(max(0, int(timeout_s * 1000))))
        finally:
            os.close(descriptor)


def process_id(pid: int) -> ProcessId | None:
    """Return the identity of the process that has the number `pid` now, None when there is none."""
    started = start_time(pid)
    return None if started is None else ProcessId(pid, started)


def start_time(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot; None when there is no such process."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def is_zombie(pid: int) -> bool:
    """Tell whether `pid` is dead and waits for its parent."""
    fields = _stat(pid)
    return bool(fields) and fields[0] in _DEAD


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 30.0,
    stdin: bytes | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; raise `CommandFailed` when it fails and `check` is set, `Unavailable` after `timeout_s`."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True,
            timeout=timeout_s, pass_fds=tuple(pass_fds), cwd=cwd, env=CLEAN_ENV, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{argv[0]} did not answer within {timeout_s:g} s", hint="the machine may be overloaded"
        ) from error
    except FileNotFoundError as error:
        raise CommandFailed(f"{argv[0]} is not installed", argv=argv, status=127) from error
    if check and done.returncode != 0:
        stderr = done.stderr[-_STDERR_LIMIT:].decode(errors="replace").strip()
        raise CommandFailed(
            f"{os.path.basename(argv[0])} failed: {stderr[-500:]}",
            argv=argv,
            status=done.returncode,
            stderr=stderr,
        )
    return done


def wait_child(program: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for a child of ours, at no cost in time (`Popen.wait` with a limit sleeps and looks); return whether it has ended."""
    descriptor = os.pidfd_open(program.pid)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(int(timeout_s * 1000)):
            return False
    finally:
        os.close(descriptor)
    program.wait()
    return True


def wait_until(condition: Callable[[], object], timeout_s: float, pause_s: float = 0.0005) -> bool:
    """Call `condition` with growing pauses until it is true; return False after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.02)
    return True


def _stat(pid: int) -> list[str]:
    """Return the fields of `/proc/PID/stat` from the third on (the second, the name, may hold anything)."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(")") + 2 :].split()

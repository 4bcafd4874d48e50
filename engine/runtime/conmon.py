"""The monitor of a container: `conmon` keeps its streams and its exit status, whatever happens to us.

It runs in a session and a control group of its own, so neither a signal to our session nor a service manager that stops our
group takes it along. It starts the runtime, writes the log, listens on the attach socket and writes the exit status to
`RUN/exits/ID`. When it tells us the process id over the pipe, the container is created and waits to be started.

Gotchas. conmon 2.1 writes attach output with blocking writes in its only loop: whoever connects to the socket must always
read (`engine.runtime.attach`). It exits when it cannot open a new log after reaching the size limit, and cannot
tell the status when the exit folder is full: that lies on another file system than the logs.
Sources: conmon's src/conmon.c and src/ctr_logging.c (2.1.6).
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import CommandFailed, Unavailable, Unsupported
from engine.linux.cgroup import Cgroups
from engine.linux.process import CLEAN_ENV, ProcessId, process_id, wait_child
from engine.runtime.bundle import Bundle
from engine.runtime.oci_runtime import OciRuntime

CREATE_TIMEOUT_S = 60.0
_MESSAGE_LIMIT = 64 * 1024
_SAID_BY_LIBC = re.compile("No such file or directory|Permission denied|Is a directory|Exec format error")


@dataclass(frozen=True)
class Launch:
    """How to run the monitor. `log` None keeps no log; `log_max_bytes` is where conmon begins a new file by itself."""

    bundle: Bundle
    log: Path | None
    log_max_bytes: int
    tty: bool = False
    stdin_open: bool = False
    stdin_once: bool = False


@dataclass(frozen=True)
class Launched:
    """A created container that waits to be started."""

    init: ProcessId
    monitor: ProcessId | None


class Monitors:
    """Starts monitors."""

    def __init__(
        self,
        runtime: OciRuntime,
        cgroups: Cgroups,
        group: str,
        program: str = "conmon",
        *,
        create_timeout_s: float = CREATE_TIMEOUT_S,
    ) -> None:
        path = shutil.which(program)
        if path is None:
            raise Unsupported("conmon is not installed", hint="install the package conmon")
        self._path = path
        self._timeout_s = create_timeout_s
        self._runtime = runtime
        self._cgroups = cgroups
        self._group = f"{group}/monitors"

    def create(self, launch: Launch, *, inherit: Sequence[int] = ()) -> Launched:
        """Start the monitor, have the runtime create the container, and return its processes.

        The monitor keeps the descriptors `inherit` open for its life: sockets that hold published ports.

        Raises `CommandFailed` with the runtime's message (status 127 or 126 when the program to run is not there or cannot be
        executed), `Unavailable` when it does not answer in time. Then no process is left.
        """
        with ExitStack() as undo:
            answer_read, answer_write = os.pipe()
            undo.callback(os.close, answer_read)
            with ExitStack() as ours:
                ours.callback(os.close, answer_write)
                program = self._spawn(launch, answer_write, inherit)
            undo.callback(_end, program)
            wait_child(program, self._timeout_s)  # conmon forks: this is the launcher, not the monitor
            monitor = self._settle(launch.bundle)
            answer = AnswerPipe(answer_read).line(self._timeout_s)
            undo.pop_all()
            os.close(answer_read)
        try:
            return Launched(_created(answer, self._runtime.name), monitor)
        except (CommandFailed, Unavailable):
            self.end(monitor)
            raise

    def end(self, monitor: ProcessId | None, timeout_s: float = 2.0) -> None:
        """See that a monitor is gone: it ends by itself soon after its container; else it is killed. Idempotent."""
        if monitor is not None and monitor.alive and not monitor.wait(timeout_s):
            monitor.send(9)
            monitor.wait(timeout_s)

    def end_strays(self, bundle: Bundle, timeout_s: float = 5.0) -> None:
        """Kill monitors and runtimes at work on a bundle that nobody has on record: whoever started them was killed.

        Looks through all processes of the host, so it is for that case alone.
        """
        deadline = time.monotonic() + timeout_s
        while (found := _at_work_on(bundle.folder)) and time.monotonic() < deadline:
            for process in found:
                process.send(9)
            for process in found:
                process.wait(0.5)

    def settled(self, monitor: ProcessId) -> bool:
        """Tell whether a monitor is in the group of the monitors, out of reach of whoever stops our services."""
        return monitor.pid in self._cgroups.processes(self._group)

    def _spawn(self, launch: Launch, answer: int, inherit: Sequence[int]) -> subprocess.Popen[bytes]:
        bundle = launch.bundle
        argv = [
            self._path, "--api-version", "1", "--cid", bundle.id, "--cuuid", bundle.id, "--name", bundle.id,
            "--runtime", self._runtime.path, "--bundle", str(bundle.folder),
            "--container-pidfile", str(bundle.pid_file), "--conmon-pidfile", str(bundle.monitor_pid_file),
            "--exit-dir", str(bundle.exits), "--socket-dir-path", str(bundle.sockets),
            "--log-level", "error", "--no-sync-log",
        ]  # fmt: skip
        for argument in ("--root", str(self._runtime.root)):
            argv += ["--runtime-arg", argument]
        if launch.log is None:
            argv += ["--log-path", "none"]
        else:
            argv += ["--log-path", f"k8s-file:{launch.log}", "--log-size-max", str(launch.log_max_bytes)]
        if launch.tty:
            argv.append("--terminal")
        if launch.stdin_open:
            argv.append("--stdin")
            if not launch.stdin_once:
                argv.append("--leave-stdin-open")
        environment = {**CLEAN_ENV, "_OCI_SYNCPIPE": str(answer)}
        return self._runtime.spawn(
            argv, env=environment, pass_fds=(answer, *inherit), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, cwd=bundle.folder,
        )  # fmt: skip

    def _settle(self, bundle: Bundle) -> ProcessId | None:
        """Move the monitor into its own group while the runtime is at work: the kernel takes 10 ms for the first move."""
        monitor = process_id(bundle.read_pid(bundle.monitor_pid_file))
        if monitor is not None:
            with suppress(ProcessLookupError):
                self._cgroups.move(self._group, monitor.pid)
        return monitor


def _at_work_on(folder: Path) -> list[ProcessId]:
    """Return the processes that have the folder of a bundle among their arguments."""
    wanted, found = os.fsencode(folder), []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            arguments = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in arguments and (process := process_id(int(name))) is not None and process.alive:
            found.append(process)
    return found


def _end(program: subprocess.Popen[bytes]) -> None:
    if program.poll() is None:
        program.kill()
        program.wait()


class AnswerPipe:
    """The pipe on which a monitor answers, a JSON line at a time: the process id first, an exec's exit status later."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._data = b""

    def line(self, timeout_s: float) -> bytes:
        """Return the next line, empty when the monitor has ended; raises `Unavailable` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        poller = select.poll()
        poller.register(self._fd, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._data and len(self._data) < _MESSAGE_LIMIT:
            if not poller.poll(max(0, int((deadline - time.monotonic()) * 1000))):
                raise Unavailable(f"the container monitor did not answer within {timeout_s:g} s")
            part = os.read(self._fd, 4096)
            if not part:
                break
            self._data += part
        line, _, self._data = self._data.partition(b"\n")
        return line

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _created(answer: bytes, runtime: str) -> ProcessId:
    try:
        told = json.loads(answer)
        pid = int(told.get("data", told.get("pid", -1)))
    except (ValueError, AttributeError) as error:
        raise CommandFailed(
            "the container monitor ended without an answer", argv=["conmon"], status=1
        ) from error
    if pid <= 0:
        message = readable(str(told.get("message", "")))
        raise CommandFailed(
            message or f"{runtime} failed",
            argv=[runtime, "create"],
            status=start_status(message),
            stderr=message,
        )
    found = process_id(pid)
    if found is None:
        raise CommandFailed("the container died before it was started", argv=[runtime, "create"], status=1)
    return found


def start_status(message: str) -> int:
    """Return the exit status by which shells and Docker tell why a program could not be run."""
    if re.search(r"executable file not found|no such file or directory|not found in \$PATH", message, re.I):
        return 127
    if re.search(r"permission denied|is a directory|exec format error", message, re.I):
        return 126
    return 125


def readable(message: str) -> str:
    """Take the sentence out of a runtime's log lines (`time=... level=error msg="..."` or JSON), in the words of runc.

    The docker command tells by these words, in lower case, whether a program was missing (127) or not executable (126).
    """
    found = re.findall(r'level=(?:error|fatal) msg=("(?:[^"\\]|\\.)*"|\S+)', message)
    if found:
        text = found[-1]
        with suppress(ValueError):
            return str(json.loads(text)) if text.startswith('"') else text
    text = re.sub(
        r"executable file `(.*?)` not found in \$PATH.*",
        r'exec: "\1": executable file not found in $PATH',
        message.strip()[-2000:],
    )
    # crun's answer for a folder
    text = text.replace("open executable: Operation not permitted", "open executable: permission denied")
    return _SAID_BY_LIBC.sub(lambda words: words[0].lower(), text)

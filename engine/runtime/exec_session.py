"""One more program in a running container, with a monitor of its own that keeps its streams and exit status.

The monitor waits for us to connect before it begins, so no output is lost, and lives on when we do not. Folder of an exec:
`RUN/bundles/ID/exec/EXEC/` with `process.json`, `pid`, `ctl`, `attach`, and `exits/ID` with the exit status at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.errors import CommandFailed, Unsupported, WrongState
from engine.linux.cgroup import Cgroups
from engine.linux.files import remove_tree
from engine.linux.process import CLEAN_ENV, process_id, wait_child
from engine.runtime import streams
from engine.runtime.bundle import Bundle
from engine.runtime.conmon import AnswerPipe, readable, start_status
from engine.runtime.log_reader import Piece
from engine.runtime.oci_runtime import OciRuntime
from engine.runtime.stdio import Owner, give_pipes

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ExecFolder:
    """The files of one exec; the socket has a short name, since an address holds 107 bytes."""

    bundle: Bundle
    id: str

    @property
    def folder(self) -> Path:
        return self.bundle.folder / "exec" / self.id

    @property
    def as_bundle(self) -> Bundle:
        """The same folder seen as the monitor sees it."""
        return _ExecBundle(self.id, self.bundle.run_root, self.folder)

    @property
    def exits(self) -> Path:
        return self.folder / "exits"

    @property
    def socket(self) -> Path:
        return self.bundle.sockets / self.id / "attach"

    def exit_status(self) -> int | None:
        """Return the exit status that the monitor recorded, None while there is none."""
        with suppress(FileNotFoundError, ValueError):
            return int((self.exits / self.bundle.id).read_text())
        return None

    def pid(self) -> int:
        with suppress(FileNotFoundError, ValueError):
            return int((self.folder / "pid").read_text())
        return 0

    def monitor_alive(self) -> bool:
        monitor = process_id(self.as_bundle.read_pid(self.folder / "conmon.pid"))
        return monitor is not None and monitor.alive

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            (self.bundle.sockets / self.id).unlink()
        remove_tree(self.folder)


@dataclass(frozen=True)
class _ExecBundle(Bundle):
    place: Path = Path()

    @cached_property
    def folder(self) -> Path:
        return self.place


class ExecSession:
    """A started program: read its output, write its input, change its terminal, learn its exit status."""

    def __init__(self, files: ExecFolder, client: socket.socket, pid: int, answer: AnswerPipe) -> None:
        self._files = files
        self._client = client
        self._answer = answer
        self.pid = pid
        self._process = process_id(pid)
        self._status: int | None = None

    def fileno(self) -> int:
        """The descriptor that becomes readable with output."""
        return self._client.fileno()

    def read(self) -> Piece | None:
        """Return the next output, waiting for it; None at its end."""
        return streams.receive(self._client)

    def output(self) -> Iterator[Piece]:
        while (piece := self.read()) is not None:
            yield piece

    def write(self, data: bytes) -> None:
        streams.send(self._client, data)

    def end_input(self) -> None:
        streams.end_input(self._client)

    def resize(self, rows: int, columns: int) -> None:
        rows, columns = streams.check_size(rows, columns)
        self._files.as_bundle.send_control(f"1 {rows} {columns}\n")

    def wait(self, timeout_s: float = 30.0) -> int:
        """Return the exit status, which comes right after the end of the output; raises `Unavailable` without one."""
        if self._status is None:
            told = _parse(self._answer.line(timeout_s))
            status = self._files.exit_status() if told is None else told
            self._status = -1 if status is None else status
        return self._status

    def kill(self) -> None:
        """Kill the program; its monitor then ends too."""
        if self._process is not None:
            self._process.send(9)

    def close(self) -> None:
        """Let go of the streams; the program goes on."""
        self._answer.close()
        self._client.close()


class ExecStarter:
    """Starts programs in running containers."""

    def __init__(self, runtime: OciRuntime, cgroups: Cgroups, group: str, program: str = "conmon") -> None:
        path = shutil.which(program)
        if path is None:
            raise Unsupported("conmon is not installed", hint="install the package conmon")
        self._path = path
        self._runtime = runtime
        self._cgroups = cgroups
        self._base = group
        self._group = f"{group}/monitors"

    def start(
        self, files: ExecFolder, process: dict[str, Any], *, tty: bool, stdin: bool, owner: Owner
    ) -> ExecSession:
        """Start `process` (an OCI process object) and return its session; `owner` is its user as this host counts.

        Raises `CommandFailed` with status 127 or 126 when the program is not there or cannot be executed.
        """
        try:
            (files.bundle.folder / "exec").mkdir(mode=0o700, exist_ok=True)
            for folder in (files.folder, files.exits):
                folder.mkdir(mode=0o700)
        except FileNotFoundError as error:
            raise WrongState("the container has ended") from error
        descriptor = os.open(
            files.folder / "process.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        with open(descriptor, "w") as file:
            file.write(json.dumps(process))
        with ExitStack() as undo:
            undo.callback(files.remove)
            answer_read, answer_write = os.pipe()
            answer = AnswerPipe(answer_read)
            undo.callback(answer.close)
            attach, attach_write = os.pipe()
            start_read, start = os.pipe()
            with ExitStack() as pipes:
                for descriptor in (attach, start):
                    pipes.callback(os.close, descriptor)
                with ExitStack() as theirs:
                    for descriptor in (answer_write, attach_write, start_read):
                        theirs.callback(os.close, descriptor)
                    program = self._spawn(files, (answer_write, start_read, attach_write), tty, stdin)
                os.write(start, b"0")
                wait_child(program, START_TIMEOUT_S)  # the launcher; the monitor goes on
                AnswerPipe(attach).line(START_TIMEOUT_S)
                client = streams.connect(files.socket)
                undo.callback(client.close)
                give_pipes(files.as_bundle.read_pid(files.folder / "conmon.pid"), owner)
                os.write(start, b"0")
            self._settle(files)
            pid = self._started(answer.line(START_TIMEOUT_S))
            self._cgroups.complete(f"{self._base}/{files.bundle.id}", pid)
            undo.pop_all()
            return ExecSession(files, client, pid, answer)

    def _spawn(
        self, files: ExecFolder, pipes: tuple[int, int, int], tty: bool, stdin: bool
    ) -> subprocess.Popen[bytes]:
        bundle = files.bundle
        argv = [
            self._path, "--api-version", "1", "--cid", bundle.id, "--cuuid", files.id, "--name", files.id,
            "--runtime", self._runtime.path, "--runtime-arg", "--root", "--runtime-arg", str(self._runtime.root),
            "--bundle", str(files.folder), "--container-pidfile", str(files.folder / "pid"),
            "--conmon-pidfile", str(files.folder / "conmon.pid"), "--exit-dir", str(files.exits),
            "--socket-dir-path", str(bundle.sockets), "--log-path", "none", "--log-level", "error", "--no-sync-log",
            "--exec", "--exec-attach", "--exec-process-spec", str(files.folder / "process.json"),
        ]  # fmt: skip
        argv += ["--terminal"] if tty else []
        argv += ["--stdin"] if stdin else []
        names = ("_OCI_SYNCPIPE", "_OCI_STARTPIPE", "_OCI_ATTACHPIPE")
        environment = {**CLEAN_ENV, **{name: str(pipe) for name, pipe in zip(names, pipes, strict=True)}}
        return self._runtime.spawn(
            argv, env=environment, pass_fds=pipes, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, cwd=files.folder,
        )  # fmt: skip

    def _settle(self, files: ExecFolder) -> None:
        monitor = files.as_bundle.read_pid(files.folder / "conmon.pid")
        if monitor:
            with suppress(ProcessLookupError):
                self._cgroups.move(self._group, monitor)

    def _started(self, answer: bytes) -> int:
        told = json.loads(answer or b"{}")
        pid = int(told.get("data", -1))
        if pid > 0:
            return pid
        message = readable(str(told.get("message", ""))) or "the program could not be started"
        raise CommandFailed(
            message, argv=[self._runtime.name, "exec"], status=start_status(message), stderr=message
        )


def _parse(answer: bytes) -> int | None:
    with suppress(ValueError, AttributeError):
        return int(json.loads(answer).get("data"))
    return None

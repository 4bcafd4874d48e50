"""The OCI runtime of this host: `crun` where it works, else `runc`, found by a probe whose answer is kept.

crun refuses the hybrid layout of control groups, so there runc is taken. The state folder (`--root`) lies in our own
run root: another engine's containers are never seen. Source: OCI runtime specification, runtime.md "Operations".
"""

from __future__ import annotations

import json
import os
import select
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.errors import CommandFailed, Unavailable, Unsupported
from engine.linux.cgroup import Mode, detect
from engine.linux.process import ProcessId, run

_START_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class OciRuntime:
    """A runtime program: `name` is `crun` or `runc`, `root` its state folder."""

    name: str
    path: str
    version: str
    root: Path

    def argv(self, *arguments: str) -> list[str]:
        return [self.path, "--root", str(self.root), *arguments]

    def start(self, container_id: str, init: ProcessId) -> None:
        """Let a created container run.

        A created container waits at its `exec.fifo`: with runc until somebody reads from it, with crun until somebody
        writes to it. Doing just that saves the 8-10 ms of starting the runtime for it; a runtime without such a FIFO is
        asked in the regular way. Raises `CommandFailed` when the container died before.
        """
        fifo = self.root / container_id / "exec.fifo"
        if not fifo.exists():
            run(self.argv("start", container_id), timeout_s=_START_TIMEOUT_S)
            return
        side = os.O_WRONLY if self.name == "crun" else os.O_RDONLY
        try:
            descriptor = os.open(fifo, side | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:  # nobody waits at the other end
            raise _died(container_id) from error
        try:
            if side == os.O_WRONLY:
                os.write(descriptor, b"\0")
            else:
                self._await_go(descriptor, container_id, init)
        except BrokenPipeError as error:
            raise _died(container_id) from error
        finally:
            os.close(descriptor)
        fifo.unlink(
            missing_ok=True
        )  # its absence is how the runtime knows that the container has been started

    def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Change the limits of a living container."""
        run(self.argv("update", "--resources", "-", container_id), stdin=json.dumps(resources).encode())

    def state(self, container_id: str) -> dict[str, Any] | None:
        """Return what the runtime says of a container, None when it knows none of that id."""
        done = run(self.argv("state", container_id), check=False)
        if done.returncode != 0:
            return None
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def forget(self, container_id: str) -> None:
        """Remove the state of a container whose processes and control groups are gone. Idempotent.

        This is what `delete` does at its end; without starting a program.
        """
        shutil.rmtree(self.root / container_id, ignore_errors=True)

    def delete(self, container_id: str) -> None:
        """Have the runtime kill and forget a container by force. Idempotent."""
        with suppress(CommandFailed):
            run(self.argv("delete", "--force", container_id))

    def ids(self) -> list[str]:
        """Return the containers that have a state folder."""
        with suppress(FileNotFoundError):
            return sorted(os.listdir(self.root))
        return []

    def _await_go(self, descriptor: int, container_id: str, init: ProcessId) -> None:
        """Read the byte that the waiting process writes once we have opened the other end."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        while time.monotonic() < deadline:
            # a reader sees "hung up" while no writer has come yet: only what can be read counts
            if any(event & select.POLLIN for _, event in poller.poll(1)) and os.read(descriptor, 1):
                return
            if not init.alive:
                raise _died(container_id)
            time.sleep(0.0002)
        raise Unavailable(f"container {container_id[:12]} did not start within {_START_TIMEOUT_S:g} s")


def _died(container_id: str) -> CommandFailed:
    return CommandFailed(
        f"container {container_id[:12]} died before it was started", argv=["start"], status=1
    )


def probe(config: EngineConfig, candidates: Sequence[str] = ("crun", "runc")) -> OciRuntime:
    """Find the runtime to use; raises `Unsupported` with the reason for each candidate that does not do."""
    reasons: list[str] = []
    for name in [config.runtime] if config.runtime else candidates:
        path = shutil.which(name)
        if path is None:
            reasons.append(f"{name} is not installed")
        elif reason := _unfit(path):
            reasons.append(reason)
        else:
            kind = "crun" if "crun" in os.path.basename(path) else "runc"
            root = config.run_root / "runtime"
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            return OciRuntime(kind, path, _version(path, config), root)
    raise Unsupported(
        f"no OCI runtime works here: {'; '.join(reasons)}", hint="install the package runc or crun"
    )


def _unfit(path: str) -> str:
    if "crun" in os.path.basename(path) and detect().mode is Mode.HYBRID:
        return "crun does not work with control groups of versions 1 and 2 mounted together"
    return ""


def _version(path: str, config: EngineConfig) -> str:
    """Return the version that the program tells, remembered until the program changes."""
    status = os.stat(path)
    key = f"{os.path.realpath(path)} {status.st_mtime_ns} {status.st_size}"
    cache = config.run_root / "runtime-version.json"
    with suppress(FileNotFoundError, ValueError):
        known = json.loads(cache.read_text())
        if isinstance(known, dict) and known.get("key") == key:
            return str(known["version"])
    first = run([path, "--version"]).stdout.decode(errors="replace").splitlines()[:1]
    version = first[0].split()[-1] if first else "unknown"
    staging = cache.with_suffix(f".{os.getpid()}")
    staging.write_text(json.dumps({"key": key, "version": version}))
    staging.replace(cache)
    return version

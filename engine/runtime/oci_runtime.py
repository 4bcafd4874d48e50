"""The OCI runtime of this host: `crun` where it works, else `runc`, found by a probe whose answer is kept.

crun refuses the hybrid layout of control groups; there it, and the monitor that calls it, is started in a mount namespace where
the hierarchy of version 2 is not mounted. It needs a third of runc's time. A container is only ever touched by the runtime that
made it: while one of the other's is there, no change is made. The state folder (`--root`) lies in our own run root: another
engine's containers are never seen. Source: OCI runtime specification, runtime.md "Operations".
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.errors import CommandFailed, Unavailable, Unsupported
from engine.linux.cgroup import UNIFIED, Hierarchies, Mode, detect
from engine.linux.mountns import MountNamespace, share
from engine.linux.process import ProcessId, run
from engine.runtime.filters import Filters

_START_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class OciRuntime:
    """A runtime program: `name` is `crun` or `runc`, `root` its state folder.

    `namespace` is where it works if not everywhere, `filters` are the seccomp programs that need not be made again.
    """

    name: str
    path: str
    version: str
    root: Path
    namespace: MountNamespace | None = None
    filters: Filters | None = None

    def argv(self, *arguments: str) -> list[str]:
        return [self.path, "--root", str(self.root), *arguments]

    def spawn(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # options of Popen
        """Start the runtime, or a program that will call it, where the runtime works."""
        start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
        return (
            start(argv, **options) if self.namespace is None else self.namespace.call(start, argv, **options)
        )

    def prepare(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return an OCI configuration with what is known of it already, so that the runtime need not work it out."""
        return config if self.filters is None else self.filters.prepare(config)

    def learn(self, config: dict[str, Any], container_id: str) -> None:
        """Keep what the runtime has worked out for a configuration of which it has just made a container."""
        state = self.root / container_id
        if self.filters is not None and (state / "status").exists():  # written when all else is
            self.filters.learn(config, state / "seccomp.bpf")

    def start(self, container_id: str, init: ProcessId) -> None:
        """Let a created container run.

        A created container waits at its `exec.fifo`: with runc until somebody reads from it, with crun until somebody
        writes to it. Doing just that saves the 8-10 ms of starting the runtime for it; a runtime without such a FIFO is
        asked in the regular way. Raises `CommandFailed` when the container died before.
        """
        fifo = self.root / container_id / "exec.fifo"
        if not fifo.exists():
            self._run("start", container_id, timeout_s=_START_TIMEOUT_S)
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
        self._run("update", "--resources", "-", container_id, stdin=json.dumps(resources).encode())

    def state(self, container_id: str) -> dict[str, Any] | None:
        """Return what the runtime says of a container, None when it knows none of that id."""
        done = self._run("state", container_id, check=False)
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
            self._run("delete", "--force", container_id)

    def ids(self) -> list[str]:
        """Return the containers that have a state folder."""
        with suppress(FileNotFoundError):
            return sorted(os.listdir(self.root))
        return []

    def _run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:  # options of `run`
        argv = self.argv(*arguments)
        if self.namespace is None:
            return run(argv, **options)
        return self.namespace.call(run, argv, **options)

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
    root = config.run_root / "runtime"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    reasons: list[str] = []
    for name in (
        [config.runtime] if config.runtime else sorted(candidates, key=lambda name: name not in _makers(root))
    ):
        path = shutil.which(name)
        if path is None:
            reasons.append(f"{name} is not installed")
            continue
        kind = "crun" if "crun" in os.path.basename(path) else "runc"
        try:
            namespace = _namespace(config, detect()) if kind == "crun" else None
        except OSError as error:
            reasons.append(
                f"crun does not work with control groups of versions 1 and 2 mounted together ({error})"
            )
            continue
        version = _version(path, config)
        filters = Filters(config.run_root / "filters", f"{path} {version}") if kind == "crun" else None
        return OciRuntime(kind, path, version, root, namespace, filters)
    raise Unsupported(
        f"no OCI runtime works here: {'; '.join(reasons)}", hint="install the package runc or crun"
    )


def _makers(root: Path) -> set[str]:
    """Return the runtimes that made the containers which are there, known by the file in which they keep their state."""
    files = {"state.json": "runc", "status": "crun"}
    return {files[path.name] for path in root.glob("*/*") if path.name in files}


def _namespace(config: EngineConfig, found: Hierarchies) -> MountNamespace | None:
    """Return where crun works; raises `OSError` where that cannot be made."""
    if found.mode is not Mode.HYBRID:
        return None
    share(config.run_root)
    namespace = MountNamespace(without=[str(found.mounts[UNIFIED])])
    try:
        namespace.call(os.getpid)  # a kernel that refuses does so now
    except BrokenExecutor as error:
        raise OSError("a mount namespace cannot be made") from error
    return namespace


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

"""The bundle of a container: the folder in the run root that runtime and monitor work in, and where their things lie.

```text
RUN/bundles/ID/     config.json, pid, conmon.pid, attach (socket), ctl and winsz (FIFOs), oom (appears when memory ran out)
RUN/roots/ID/       the mounted root, and the files bound into it (see `engine.runtime.roots`)
RUN/ns/ID/          the pinned user and network namespaces
RUN/exits/ID        the exit status, written by the monitor
RUN/sockets/ID      a short path to the bundle, for socket addresses (made by the monitor)
```
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.linux.files import atomic_write, remove_tree


@dataclass(frozen=True)
class Bundle:
    """Names of the files of one container; makes and removes the folder."""

    id: str
    run_root: Path

    @cached_property
    def folder(self) -> Path:
        return self.run_root / "bundles" / self.id

    @cached_property
    def config(self) -> Path:
        return self.folder / "config.json"

    @cached_property
    def pid_file(self) -> Path:
        return self.folder / "pid"

    @cached_property
    def monitor_pid_file(self) -> Path:
        return self.folder / "conmon.pid"

    @cached_property
    def attach_socket(self) -> Path:
        """The monitor's socket by its short name: a socket address holds 107 bytes."""
        return self.sockets / self.id / "attach"

    @cached_property
    def control(self) -> Path:
        return self.folder / "ctl"

    @cached_property
    def oom_file(self) -> Path:
        return self.folder / "oom"

    @cached_property
    def exits(self) -> Path:
        return self.run_root / "exits"

    @cached_property
    def exit_file(self) -> Path:
        return self.exits / self.id

    @cached_property
    def sockets(self) -> Path:
        return self.run_root / "sockets"

    @cached_property
    def userns(self) -> Path:
        return self.run_root / "ns" / self.id / "user"

    @cached_property
    def netns(self) -> Path:
        return self.run_root / "ns" / self.id / "net"

    def make(self, config: dict[str, Any]) -> None:
        """Write the bundle; whatever an earlier run left there is removed first."""
        self.remove()
        for folder in (self.folder.parent, self.exits, self.sockets, self.folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.write_config(config)

    def write_config(self, config: dict[str, Any]) -> None:
        descriptor = os.open(self.config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w") as file:
            file.write(json.dumps(config))

    def read_config(self) -> dict[str, Any] | None:
        """Return the configuration that the container was started with, None when there is none."""
        with suppress(FileNotFoundError, ValueError):
            found = json.loads(self.config.read_text())
            return found if isinstance(found, dict) else None
        return None

    def remove(self) -> None:
        """Remove the bundle, the exit status and the socket's short path. Idempotent."""
        with suppress(FileNotFoundError):
            (self.sockets / self.id).unlink()
        self.exit_file.unlink(missing_ok=True)
        remove_tree(self.folder)

    def read_exit_status(self) -> int | None:
        """Return what the monitor recorded, None while it has recorded nothing."""
        with suppress(FileNotFoundError, ValueError):
            return int(self.exit_file.read_text())
        return None

    def note_exit(self, status: int) -> None:
        """Record an exit status that the monitor could not, as it would have."""
        self.exits.mkdir(mode=0o700, exist_ok=True)
        atomic_write(self.exit_file, str(status).encode(), sync=False)

    def note_oom(self) -> None:
        """Record that memory ran out, where the monitor does it when it notices."""
        with suppress(FileNotFoundError):
            self.oom_file.touch()

    def read_pid(self, file: Path) -> int:
        with suppress(FileNotFoundError, ValueError):
            return int(file.read_text())
        return 0

    def send_control(self, line: str) -> bool:
        """Send a line to the monitor; return False when no monitor listens."""
        try:
            descriptor = os.open(self.control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return stat.S_ISFIFO(os.fstat(descriptor).st_mode) and os.write(descriptor, line.encode()) > 0
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)


def bundles(config: EngineConfig) -> list[str]:
    """Return the ids that have a bundle."""
    with suppress(FileNotFoundError):
        return sorted(os.listdir(config.run_root / "bundles"))
    return []

"""Control groups of version 1, version 2 and the hybrid of both, without systemd.

A *group* is a path like `wharfinger-1a2b3c4d/ID`, the same in every hierarchy. The runtime makes the group of a container and
sets its limits; here is what the engine does itself: find its processes, freeze, kill, read, move a monitor, remove.
Sources: cgroups(7), the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/*.rst.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from engine.errors import Unavailable, Unsupported
from engine.linux.mount import MountEntry, parse_mountinfo

UNIFIED = ""  # the key of the version 2 hierarchy
_CONTROLLERS = {
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "net_cls", "net_prio", "perf_event",
    "hugetlb", "rdma", "misc",
}  # fmt: skip


class Mode(StrEnum):
    V1 = "v1"
    V2 = "v2"
    HYBRID = "hybrid"


@dataclass(frozen=True)
class Hierarchies:
    """Where each controller is mounted; `""` is version 2, `name=systemd` a named hierarchy."""

    mode: Mode
    mounts: dict[str, Path]


def detect(entries: list[MountEntry] | None = None) -> Hierarchies:
    """Find the hierarchies of this host; raises `Unsupported` where there are none."""
    if entries is None:
        entries = parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    mounts: dict[str, Path] = {}
    for entry in entries:
        if not entry.target.startswith("/sys/fs/cgroup"):
            continue
        if entry.fstype == "cgroup2":
            mounts.setdefault(UNIFIED, Path(entry.target))
        elif entry.fstype == "cgroup":
            for option in entry.super_options.split(","):
                if option in _CONTROLLERS or option.startswith("name="):
                    mounts.setdefault(option, Path(entry.target))
    if not mounts:
        raise Unsupported(
            "no control groups are mounted on this host", hint="mount cgroup2 on /sys/fs/cgroup"
        )
    if UNIFIED not in mounts:
        return Hierarchies(Mode.V1, mounts)
    return Hierarchies(Mode.V2 if len(mounts) == 1 else Mode.HYBRID, mounts)


class Cgroups:
    """The groups of this host."""

    def __init__(self, hierarchies: Hierarchies | None = None) -> None:
        self._found = hierarchies or detect()
        self._roots = [str(mount) for mount in dict.fromkeys(self._found.mounts.values())]
        self.mode = self._found.mode

    def folder(self, controller: str, group: str) -> Path | None:
        """Return where `group` lies in the hierarchy that has `controller`, None when the host has no such hierarchy."""
        mount = self._found.mounts.get(UNIFIED if self.mode is Mode.V2 else controller)
        return None if mount is None else mount / group

    def folders(self, group: str) -> list[Path]:
        """Return the folder of `group` in every hierarchy, whether it exists or not."""
        return [Path(root, group) for root in self._roots]

    def controllers(self) -> set[str]:
        """Return the names of the controllers that can limit something here (version 2 names: `io` for `blkio`)."""
        if self.mode is not Mode.V2:
            return {name for name in self._found.mounts if name in _CONTROLLERS}
        return set((self._found.mounts[UNIFIED] / "cgroup.controllers").read_text().split())

    def has_file(self, controller: str, name: str) -> bool:
        """Tell whether the root of a version 1 hierarchy has the file `name`: which features the kernel was built with."""
        mount = self._found.mounts.get(controller)
        return mount is not None and (mount / name).exists()

    def exists(self, group: str) -> bool:
        return any(os.path.isdir(f"{root}/{group}") for root in self._roots)

    def children(self, group: str) -> set[str]:
        """Return the names of the groups right below `group`, over all hierarchies."""
        found: set[str] = set()
        for root in self._roots:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{root}/{group}") as items:
                found.update(item.name for item in items if item.is_dir(follow_symlinks=False))
        return found

    def processes(self, group: str) -> set[int]:
        """Return the processes in `group` and below, over all hierarchies."""
        found: set[int] = set()
        for root in self._roots:
            for folder in _tree(f"{root}/{group}"):
                with suppress(OSError):
                    found.update(int(line) for line in _read(f"{folder}/cgroup.procs").split())
        found.discard(0)  # a process of another pid namespace
        return found

    def move(self, group: str, pid: int) -> None:
        """Put a process into `group` in every hierarchy, making the group where it is missing."""
        for root in self._roots:
            try:
                _write(f"{root}/{group}/cgroup.procs", str(pid))
            except OSError:  # not there, or a cpuset without processors
                self._make(root, group)
                _write(f"{root}/{group}/cgroup.procs", str(pid))

    def complete(self, group: str, pid: int) -> None:
        """Put a process into `group` of a hybrid's version 2 hierarchy, where a runtime that does not see it has left it outside.

        A service manager keeps account of processes there: outside, ending our services would end the container. Elsewhere
        there is nothing to do.
        """
        if self.mode is not Mode.HYBRID:
            return
        root = str(self._found.mounts[UNIFIED])
        with suppress(ProcessLookupError):
            try:
                _write(f"{root}/{group}/cgroup.procs", str(pid))
            except FileNotFoundError:
                self._make(root, group)
                _write(f"{root}/{group}/cgroup.procs", str(pid))

    def _make(self, root: str, group: str) -> None:
        folder = root
        for part in group.split("/"):
            folder = f"{folder}/{part}"
            with suppress(FileExistsError):
                Path(folder).mkdir(0o755)
            _prepare_cpuset(Path(folder))

    def freeze(self, group: str, frozen: bool, timeout_s: float = 10.0) -> None:
        """Stop or go on with all processes of `group`, and wait until it is so. Idempotent."""
        unified = self._found.mounts.get(UNIFIED)
        folder = self.folder("freezer", group)
        if self.mode is not Mode.V2 and folder is not None and folder.is_dir():
            self._freeze_v1(folder, frozen, timeout_s)
        elif unified is not None and (unified / group / "cgroup.freeze").exists():
            (unified / group / "cgroup.freeze").write_text("1" if frozen else "0")
            _await(
                lambda: _flag(unified / group / "cgroup.events", "frozen") == int(frozen), group, timeout_s
            )
        else:
            raise Unavailable(f"the processes of {group} cannot be frozen", hint="they may have ended")

    def is_frozen(self, group: str) -> bool:
        folder = self.folder("freezer", group)
        with suppress(FileNotFoundError):
            if self.mode is not Mode.V2 and folder is not None:
                return (folder / "freezer.state").read_text().strip() != "THAWED"
            if folder is not None:
                return _flag(folder / "cgroup.events", "frozen") == 1
        return False

    def kill(self, group: str, timeout_s: float = 10.0) -> None:
        """Kill every process in `group` and below and wait until none is left. Idempotent, stands a fork bomb.

        Raises `Unavailable` when some process does not die (it waits in the kernel, for a dead disk for instance).
        """
        deadline = time.monotonic() + timeout_s
        pause = 0.0005
        while pids := self.processes(group):
            self._kill_once(group, pids)
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{len(pids)} processes of {group} do not die", hint="they may wait for a device"
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def remove(self, group: str, timeout_s: float = 2.0) -> None:
        """Remove `group` with the groups below it; its processes must be gone. Idempotent."""
        deadline = time.monotonic() + timeout_s
        for root in self._roots:
            for folder in reversed(list(_tree(f"{root}/{group}"))):
                _remove_folder(folder, deadline)

    def oom_kills(self, group: str) -> int:
        """Return how many processes of `group` the kernel killed for want of memory."""
        folder = self.folder("memory", group)
        if folder is None:
            return 0
        return _flag(folder / ("memory.events" if self.mode is Mode.V2 else "memory.oom_control"), "oom_kill")

    def _kill_once(self, group: str, pids: set[int]) -> None:
        unified = self._found.mounts.get(UNIFIED)
        if unified is not None:
            with suppress(OSError):  # an older kernel has no such file
                _write(f"{unified}/{group}/cgroup.kill", "1")
        folder = self.folder("freezer", group)
        if self.mode is Mode.V2:
            folder = None
        frozen = folder is not None and len(pids) > 1 and folder.is_dir()
        if frozen and folder is not None:  # so that nobody forks between the reading and the killing
            with suppress(OSError, Unavailable):
                self._freeze_v1(folder, True, 0.5)
        for pid in self.processes(group) | pids if frozen else pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if folder is not None:  # a frozen process does not die
            with suppress(OSError):
                (folder / "freezer.state").write_text("THAWED")

    def _freeze_v1(self, folder: Path, frozen: bool, timeout_s: float) -> None:
        """Freeze or thaw with version 1. Freezing may stay half done while processes fork: letting go and trying again helps.

        (Linux, cgroup-v1/freezer-subsystem.rst; runc does the same.)
        """
        state, wanted = folder / "freezer.state", "FROZEN" if frozen else "THAWED"
        deadline, turn = time.monotonic() + timeout_s, 0
        state.write_text(wanted)
        while state.read_text().strip() != wanted:
            turn += 1
            if time.monotonic() > deadline:
                state.write_text("THAWED")
                raise _not_frozen(folder.name, timeout_s)
            if turn % 20 == 0:
                state.write_text("THAWED")
                time.sleep(0.002)
            state.write_text(wanted)
            time.sleep(0.0005)


def _await(condition: Callable[[], bool], group: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise _not_frozen(group, timeout_s)
        time.sleep(0.001)


def _not_frozen(group: str, timeout_s: float) -> Unavailable:
    return Unavailable(
        f"{group} did not freeze or thaw within {timeout_s:g} s", hint="a process may wait for a device"
    )


def _tree(folder: str) -> Iterator[str]:
    """Yield `folder` and the groups below it, parents first; nothing when it is not there."""
    try:
        with os.scandir(folder) as items:
            below = [item.path for item in items if item.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return
    yield folder
    for path in below:
        yield from _tree(path)


def _read(file: str) -> str:
    with open(file) as opened:
        return opened.read()


def _write(file: str, text: str) -> None:
    """Write to a file that is there: a group's files cannot be made."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _remove_folder(folder: str, deadline: float) -> None:
    while True:
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            return
        except OSError:  # EBUSY for a moment after the last process has died
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


def _prepare_cpuset(folder: Path) -> None:
    """Give a new version 1 cpuset the processors of its parent: without any, no process may enter it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = folder / name
        with suppress(FileNotFoundError):
            if not file.read_text().strip():
                file.write_text((folder.parent / name).read_text())


def _flag(file: Path, key: str) -> int:
    """Return the number after `key` in a flat keyed file, 0 when file or key is not there."""
    try:
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (FileNotFoundError, OSError):
        return 0
    return 0

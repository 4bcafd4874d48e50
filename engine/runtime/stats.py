"""Live figures of a container, read from its control groups and its network namespace without starting a program.

Numbers are counters since the start unless they say otherwise; a rate needs two samples (`cpu_percent`).
Sources: the kernel's admin-guide/cgroup-v1/{memory,cpuacct,blkio-controller}.rst and cgroup-v2.rst; proc_pid_net(5).
"""

from __future__ import annotations

import os
import re
import resource
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from engine.linux.cgroup import Cgroups, Mode

_SELDOM_S = 3.0
_MOST_KEPT = 10_000
_OPEN_S = 10.0
_MOST_OPEN = 4096
_HOST_KEPT_S = 0.02
_MOST_BYTES = 64 * 1024
_OPERATION = re.compile(rb"^\S+ (Read|Write) (\d+)$", re.M)


@dataclass(frozen=True)
class NetworkFigures:
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True)
class Stats:
    """One sample. `memory_bytes` is what is in use without reclaimable file cache; a limit of 0 means the host's memory.

    Times of processors are nanoseconds; `online_cpus` is how many the container may use at once.
    """

    time_ns: int
    cpu_ns: int
    cpu_user_ns: int
    cpu_system_ns: int
    system_cpu_ns: int
    online_cpus: int
    throttled_periods: int
    throttled_ns: int
    memory_bytes: int
    memory_total_bytes: int
    memory_limit_bytes: int
    memory_peak_bytes: int
    memory_cache_bytes: int
    oom_kills: int
    pids: int
    pids_limit: int
    block_read_bytes: int
    block_write_bytes: int
    block_reads: int
    block_writes: int
    networks: dict[str, NetworkFigures] = field(default_factory=dict)


def cpu_percent(before: Stats, after: Stats) -> float:
    """Return the use of processors between two samples; 100 is one processor."""
    elapsed = after.time_ns - before.time_ns
    return 100.0 * (after.cpu_ns - before.cpu_ns) / elapsed if elapsed > 0 else 0.0


class Sampler:
    """Takes samples of one host's containers; keeps what does not change between two."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._host_memory = _host_memory()
        self._cpus = os.cpu_count() or 1
        self._folders: dict[str, str] = {}
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._files = _Files()
        self._host_cpu = (float("-inf"), 0)

    def sample(self, group: str, pid: int = 0) -> Stats:
        """Return figures of the control group `group` and, by its process `pid`, of its network. Missing files count as 0."""
        v2 = self._cgroups.mode is Mode.V2
        cpu = self._cpu_v2(group) if v2 else self._cpu_v1(group)
        memory = self._memory_v2(group) if v2 else self._memory_v1(group)
        block = self._block_v2(group) if v2 else self._block_v1(group)
        return Stats(
            time_ns=time.time_ns(), system_cpu_ns=self._system_cpu_ns(), online_cpus=self._cpus, **cpu, **memory, **block,
            pids=self._number("pids", group, "pids.current"), pids_limit=self._limit("pids", group, "pids.max"),
            networks=read_networks(pid) if pid else {},
        )  # fmt: skip

    def _file(self, controller: str, group: str, name: str) -> str:
        folder = self._folders.get(controller)
        if folder is None:
            folder = self._folders[controller] = str(self._cgroups.folder(controller, "") or "/nonexistent")
        return f"{folder}/{group}/{name}"

    def _read(self, controller: str, group: str, name: str) -> bytes:
        return self._files.read(self._file(controller, group, name))

    def _number(self, controller: str, group: str, name: str) -> int:
        """Return the number in a file, 0 where there is none."""
        text = self._read(controller, group, name).strip()
        return int(text) if text.isdigit() else 0

    def _limit(self, controller: str, group: str, name: str) -> int:
        """Return a limit, 0 for `max`."""
        text = self._seldom(controller, group, name).strip()
        return int(text) if text.isdigit() else 0

    def _seldom(self, controller: str, group: str, name: str) -> bytes:
        """Return a file that hardly ever changes (limits, peaks, what befell a group); it is read every few seconds only."""
        path, now = self._file(controller, group, name), time.monotonic()
        known = self._kept.get(path)
        if known is None or now - known[0] > _SELDOM_S:
            if len(self._kept) > _MOST_KEPT:
                self._kept.clear()
            known = self._kept[path] = (now, _read(path))
        return known[1]

    def _cpu_v1(self, group: str) -> dict[str, int]:
        throttled = self._seldom("cpu", group, "cpu.stat")
        user = self._number("cpuacct", group, "cpuacct.usage_user")
        system = self._number("cpuacct", group, "cpuacct.usage_sys")
        return {
            "cpu_ns": self._number(
                "cpuacct", group, "cpuacct.usage"
            ),  # exact, where the two are counted in ticks
            "cpu_user_ns": user,
            "cpu_system_ns": system,
            "throttled_periods": _value(throttled, b"nr_throttled"),
            "throttled_ns": _value(throttled, b"throttled_time"),
        }

    def _cpu_v2(self, group: str) -> dict[str, int]:
        found = self._read("cpu", group, "cpu.stat")
        return {
            "cpu_ns": _value(found, b"usage_usec") * 1000,
            "cpu_user_ns": _value(found, b"user_usec") * 1000,
            "cpu_system_ns": _value(found, b"system_usec") * 1000,
            "throttled_periods": _value(found, b"nr_throttled"),
            "throttled_ns": _value(found, b"throttled_usec") * 1000,
        }

    def _memory_v1(self, group: str) -> dict[str, int]:
        table = self._read("memory", group, "memory.stat")
        total = self._number("memory", group, "memory.usage_in_bytes")
        return {
            **self._used(
                total,
                _value(table, b"total_inactive_file"),
                self._limit("memory", group, "memory.limit_in_bytes"),
            ),
            "memory_peak_bytes": max(total, self._limit("memory", group, "memory.max_usage_in_bytes")),
            "memory_cache_bytes": _value(table, b"total_cache"),
            "oom_kills": _value(self._seldom("memory", group, "memory.oom_control"), b"oom_kill"),
        }

    def _memory_v2(self, group: str) -> dict[str, int]:
        table = self._read("memory", group, "memory.stat")
        total = self._number("memory", group, "memory.current")
        return {
            **self._used(total, _value(table, b"inactive_file"), self._limit("memory", group, "memory.max")),
            "memory_peak_bytes": max(total, self._limit("memory", group, "memory.peak")),
            "memory_cache_bytes": _value(table, b"file"),
            "oom_kills": _value(self._seldom("memory", group, "memory.events"), b"oom_kill"),
        }

    def _used(self, total: int, inactive: int, limit: int) -> dict[str, int]:
        """What can be reclaimed at once does not count as used, as in Docker's and Podman's figures."""
        return {
            "memory_bytes": total - inactive if inactive < total else total,
            "memory_total_bytes": total,
            "memory_limit_bytes": limit if 0 < limit < self._host_memory else 0,
        }

    def _block_v1(self, group: str) -> dict[str, int]:
        size = _operations(self._read("blkio", group, "blkio.throttle.io_service_bytes_recursive"))
        count = _operations(self._read("blkio", group, "blkio.throttle.io_serviced_recursive"))
        return {
            "block_read_bytes": size["read"], "block_write_bytes": size["write"],
            "block_reads": count["read"], "block_writes": count["write"],
        }  # fmt: skip

    def _block_v2(self, group: str) -> dict[str, int]:
        sums = {"rbytes": 0, "wbytes": 0, "rios": 0, "wios": 0}
        for item in self._read("io", group, "io.stat").decode().split():
            key, _, value = item.partition("=")
            if key in sums and value.isdigit():
                sums[key] += int(value)
        return {
            "block_read_bytes": sums["rbytes"], "block_write_bytes": sums["wbytes"],
            "block_reads": sums["rios"], "block_writes": sums["wios"],
        }  # fmt: skip

    def _system_cpu_ns(self) -> int:
        """Return the time that all processors of the host have spent at work and idle, as Docker's `system_cpu_usage`."""
        now = time.monotonic()
        if now - self._host_cpu[0] > _HOST_KEPT_S:
            ticks = sum(int(item) for item in _read("/proc/stat").split(b"\n", 1)[0].split()[1:9])
            self._host_cpu = (now, ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK"))
        return self._host_cpu[1]


class _Files:
    """Files of control groups, kept open between two samples: opening costs more than reading. Safe for threads.

    What was not read for a while is closed; a group that was removed answers ENODEV, and may have been made anew.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[int, float]] = OrderedDict()  # least recently read first
        self._most = min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._lock = threading.Lock()

    def read(self, path: str) -> bytes:
        """Return what is in a file now, empty where there is none."""
        now = time.monotonic()
        with self._lock:
            held = self._held.pop(path, None)
            data = _pread(held[0]) if held is not None else None
            if data is None and held is not None:
                os.close(held[0])
                held = None
            if held is None:
                try:
                    held = os.open(path, os.O_RDONLY | os.O_CLOEXEC), now
                except OSError:
                    return b""
                data = _pread(held[0])
            self._held[path] = held[0], now
            self._close_old(now)
            return data or b""

    def _close_old(self, now: float) -> None:
        while self._held:
            path, (descriptor, read_at) = next(iter(self._held.items()))
            if len(self._held) <= self._most and now - read_at < _OPEN_S:
                return
            del self._held[path]
            os.close(descriptor)


def _pread(descriptor: int) -> bytes | None:
    try:
        return os.pread(descriptor, _MOST_BYTES, 0)
    except OSError:
        return None


def read_networks(pid: int) -> dict[str, NetworkFigures]:
    """Return the figures of each interface but the loopback in the network namespace of `pid`."""
    found = {}
    for line in _read(f"/proc/{pid}/net/dev").decode().splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(item) for item in rest.split()]
        if name.strip() != "lo" and len(numbers) >= 12:
            found[name.strip()] = NetworkFigures(*numbers[0:4], *numbers[8:12])
    return found


def _read(path: str) -> bytes:
    """Return a file of the kernel's, empty where there is none. Two hundred containers have thousands of them: no detours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _MOST_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _value(table: bytes, key: bytes) -> int:
    """Return the number on the line `KEY NUMBER` of a table, 0 where there is none."""
    start = 0 if table.startswith(key + b" ") else table.find(b"\n" + key + b" ") + 1
    if start == 0 and not table.startswith(key + b" "):
        return 0
    text = table[start + len(key) + 1 :].split(b"\n", 1)[0]
    return int(text) if text.isdigit() else 0


def _operations(table: bytes) -> dict[str, int]:
    """Sum `MAJOR:MINOR Read N` and `... Write N` lines over all disks."""
    sums = {b"Read": 0, b"Write": 0}
    for kind, number in _OPERATION.findall(table):
        sums[kind] += int(number)
    return {"read": sums[b"Read"], "write": sums[b"Write"]}


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

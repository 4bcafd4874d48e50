"""Live figures of a container, read from its control groups and its network namespace without starting a program.

Numbers are counters since the start unless they say otherwise; a rate needs two samples (`cpu_percent`).
Sources: the kernel's admin-guide/cgroup-v1/{memory,cpuacct,blkio-controller}.rst and cgroup-v2.rst; proc_pid_net(5).
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine.linux.cgroup import Cgroups, Mode


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

    def sample(self, group: str, pid: int = 0) -> Stats:
        """Return figures of the control group `group` and, by its process `pid`, of its network. Missing files count as 0."""
        v2 = self._cgroups.mode is Mode.V2
        cpu = self._cpu_v2(group) if v2 else self._cpu_v1(group)
        memory = self._memory_v2(group) if v2 else self._memory_v1(group)
        block = self._block_v2(group) if v2 else self._block_v1(group)
        pids = self._folder("pids", group)
        return Stats(
            time_ns=time.time_ns(), system_cpu_ns=_system_cpu_ns(), online_cpus=self._cpus, **cpu, **memory, **block,
            oom_kills=self._cgroups.oom_kills(group), pids=_number(pids / "pids.current"), pids_limit=_limit(pids / "pids.max"),
            networks=read_networks(pid) if pid else {},
        )  # fmt: skip

    def _folder(self, controller: str, group: str) -> Path:
        return self._cgroups.folder(controller, group) or Path("/nonexistent")

    def _cpu_v1(self, group: str) -> dict[str, int]:
        account, cpu = self._folder("cpuacct", group), self._folder("cpu", group)
        throttled = _table(cpu / "cpu.stat")
        return {
            "cpu_ns": _number(account / "cpuacct.usage"),
            "cpu_user_ns": _number(account / "cpuacct.usage_user"),
            "cpu_system_ns": _number(account / "cpuacct.usage_sys"),
            "throttled_periods": throttled.get("nr_throttled", 0),
            "throttled_ns": throttled.get("throttled_time", 0),
        }

    def _cpu_v2(self, group: str) -> dict[str, int]:
        found = _table(self._folder("cpu", group) / "cpu.stat")
        return {
            "cpu_ns": found.get("usage_usec", 0) * 1000,
            "cpu_user_ns": found.get("user_usec", 0) * 1000,
            "cpu_system_ns": found.get("system_usec", 0) * 1000,
            "throttled_periods": found.get("nr_throttled", 0),
            "throttled_ns": found.get("throttled_usec", 0) * 1000,
        }

    def _memory_v1(self, group: str) -> dict[str, int]:
        folder = self._folder("memory", group)
        table = _table(folder / "memory.stat")
        total = _number(folder / "memory.usage_in_bytes")
        limit = _number(folder / "memory.limit_in_bytes")
        return self._memory(
            total, table.get("total_inactive_file", 0), limit, _number(folder / "memory.max_usage_in_bytes"),
            table.get("total_cache", 0),
        )  # fmt: skip

    def _memory_v2(self, group: str) -> dict[str, int]:
        folder = self._folder("memory", group)
        table = _table(folder / "memory.stat")
        return self._memory(
            _number(folder / "memory.current"), table.get("inactive_file", 0), _limit(folder / "memory.max"),
            _number(folder / "memory.peak"), table.get("file", 0),
        )  # fmt: skip

    def _memory(self, total: int, inactive: int, limit: int, peak: int, cache: int) -> dict[str, int]:
        """What can be reclaimed at once does not count as used, as in Docker's and Podman's figures."""
        return {
            "memory_bytes": total - inactive if inactive < total else total,
            "memory_total_bytes": total,
            "memory_limit_bytes": limit if 0 < limit < self._host_memory else 0,
            "memory_peak_bytes": peak,
            "memory_cache_bytes": cache,
        }

    def _block_v1(self, group: str) -> dict[str, int]:
        folder = self._folder("blkio", group)
        size = _operations(folder / "blkio.throttle.io_service_bytes_recursive")
        count = _operations(folder / "blkio.throttle.io_serviced_recursive")
        return {
            "block_read_bytes": size.get("read", 0), "block_write_bytes": size.get("write", 0),
            "block_reads": count.get("read", 0), "block_writes": count.get("write", 0),
        }  # fmt: skip

    def _block_v2(self, group: str) -> dict[str, int]:
        sums = {"rbytes": 0, "wbytes": 0, "rios": 0, "wios": 0}
        for line in _lines(self._folder("io", group) / "io.stat"):
            for item in line.split()[1:]:
                key, _, value = item.partition("=")
                if key in sums and value.isdigit():
                    sums[key] += int(value)
        return {
            "block_read_bytes": sums["rbytes"], "block_write_bytes": sums["wbytes"],
            "block_reads": sums["rios"], "block_writes": sums["wios"],
        }  # fmt: skip


def read_networks(pid: int) -> dict[str, NetworkFigures]:
    """Return the figures of each interface but the loopback in the network namespace of `pid`."""
    found = {}
    for line in _lines(Path(f"/proc/{pid}/net/dev"))[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(item) for item in rest.split()]
        if name.strip() != "lo" and len(numbers) >= 12:
            found[name.strip()] = NetworkFigures(*numbers[0:4], *numbers[8:12])
    return found


def _lines(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text().splitlines()
    return []


def _number(file: Path) -> int:
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].isdigit() else 0


def _limit(file: Path) -> int:
    """Return a limit, 0 for `max`."""
    return _number(file)


def _table(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in _lines(file))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _operations(file: Path) -> dict[str, int]:
    """Sum `MAJOR:MINOR Read N` lines over all disks."""
    sums: dict[str, int] = {}
    for line in _lines(file):
        fields = line.split()
        if len(fields) == 3 and fields[2].isdigit():
            sums[fields[1].lower()] = sums.get(fields[1].lower(), 0) + int(fields[2])
    return sums


def _system_cpu_ns() -> int:
    """Return the time that all processors of the host have spent at work and idle, as Docker's `system_cpu_usage`."""
    for line in _lines(Path("/proc/stat"))[:1]:
        ticks = sum(int(item) for item in line.split()[1:9])
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return 0


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

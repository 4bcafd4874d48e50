"""What processes cost: memory by its fair share (PSS), processor time, and what the kernel keeps for containers.

Sources: proc_pid_smaps(5), proc_pid_stat(5), proc_meminfo(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_KERNEL = ("Slab", "KernelStack", "PageTables", "Percpu")
_PLATFORM = ("redis-server", "workers.agent", "celery", "manage.py", "webapp.server", "serve.py")


def processes() -> Iterator[tuple[int, str]]:
    """Yield the number and command line of every process."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                line = (
                    Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if line:
                    yield int(name), line


def platform_processes(home: Path) -> dict[int, str]:
    """Return the processes of the server with that home, each with the part that it plays."""
    mark, found = f"WHARFINGER_HOME={home}\0".encode(), {}
    for pid, line in processes():
        part = next((word for word in _PLATFORM if word in line), "")
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes() if part else b""
            if part and (mark in environment + b"\0" or str(home) in line):
                found[pid] = part if part != "celery" else f"worker {line.partition(' -Q ')[2].split(' ')[0]}"
    return found


def pss_bytes(pid: int) -> int:
    """Return a process's memory, pages that it shares with others divided among them; 0 when it is gone."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return sum(int(number) * 1024 for number in re.findall(r"^Pss:\s+(\d+) kB", text, re.M))
    return 0


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def kernel_bytes() -> int:
    """Return what the kernel uses for its own objects on the whole machine: a difference means something on a quiet one."""
    text = Path("/proc/meminfo").read_text()
    return sum(
        int(number) * 1024
        for name, number in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)
        if name in _KERNEL
    )

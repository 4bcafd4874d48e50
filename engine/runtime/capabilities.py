"""Capabilities: the names, the default set and how requests change it (capabilities(7))."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import BadSpec

# In the kernel's order: the index is the bit in /proc/PID/status.
NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

# What people expect: the 14 that Docker gives.
DEFAULT = frozenset({
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
})  # fmt: skip


def resolve(add: Sequence[str] = (), drop: Sequence[str] = (), *, privileged: bool = False) -> frozenset[str]:
    """Return the set that a container gets: defaults without `drop`, then with `add` (`ALL` stands for every one).

    A privileged container gets all that we have ourselves. Unknown names, and additions that this process does not
    have itself, are refused with `BadSpec`.
    """
    ours = available()
    if privileged:
        return ours
    added, dropped = {parse(name) for name in add}, {parse(name) for name in drop}
    base = set(ours) if "ALL" in added else set(DEFAULT)
    if "ALL" in dropped:
        base = set()
    result = (base - dropped) | (added - {"ALL"})
    if missing := sorted((added - {"ALL"}) - ours):
        raise BadSpec(
            f"this host cannot give {', '.join(missing)}", hint="the engine itself does not have it"
        )
    return frozenset(result & ours)


def parse(name: str) -> str:
    """Return the full name of a capability, with or without `CAP_`, in any case; `ALL` stays `ALL`."""
    upper = name.upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else "CAP_" + upper
    if full not in NAMES:
        raise BadSpec(f"unknown capability {name[:64]!r}", hint="capabilities(7) lists the names")
    return full


def available() -> frozenset[str]:
    """Return what this process may give: the bounding set, as far as we know the names."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return decode(int(line.split()[1], 16))
    return frozenset()


def decode(mask: int) -> frozenset[str]:
    """Return the names of the bits set in a mask of `/proc/PID/status`."""
    return frozenset(name for bit, name in enumerate(NAMES) if mask >> bit & 1)

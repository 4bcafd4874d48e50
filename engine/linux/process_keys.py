"""Names that say which process made them, so that what a dead process left behind is known as such."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def process_key(what: str) -> str:
    """Return a new name that carries this process's id and start time."""
    return f"{what}@{os.getpid()}.{_start_time(os.getpid())}.{secrets.token_hex(6)}"


def is_orphan(key: str) -> bool:
    """Tell whether `key` was made by `process_key` in a process that is no more."""
    _, at, owner = key.rpartition("@")
    pid, _, rest = owner.partition(".")
    return bool(at) and pid.isdigit() and _start_time(int(pid)) != rest.partition(".")[0]


def _start_time(pid: int) -> str:
    """Return when a process started, in the kernel's ticks (proc_pid_stat(5), field 22); empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""

"""Which boot of the machine this is: what one boot did not sync, the next cannot trust."""

from __future__ import annotations

from pathlib import Path


def boot_id() -> str:
    """Return the kernel's random name for this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

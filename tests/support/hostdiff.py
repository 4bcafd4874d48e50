"""What a test must not leave on the host: mounts, links, namespaces, cgroups, rules, processes of ours (H9)."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HostState:
    """Names of kernel objects that carry an engine's instance, each prefixed by its kind."""

    objects: frozenset[str]


def host_state(instance: str) -> HostState:
    """Return everything on the host that belongs to the engine `instance` (8 hex digits)."""
    found = {
        f"mount {line.split()[4]}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if instance in line
    }
    found |= {f"link {name}" for name in os.listdir("/sys/class/net") if instance[:6] in name}
    found |= {f"cgroup {path}" for path in _cgroups(instance)}
    found |= {f"process {pid}" for pid in _processes(instance)}
    found |= {f"table {name}" for name in _tables(instance)}
    return HostState(frozenset(found))


def assert_nothing_left(instance: str, *, within_s: float = 5.0, allow: tuple[str, ...] = ()) -> None:
    """Fail if objects of `instance` are still there after `within_s` (removal may be asynchronous)."""
    deadline = time.monotonic() + within_s
    while True:
        left = (
            {item for item in host_state(instance).objects if not item.startswith(allow)}
            if allow
            else host_state(instance).objects
        )
        if not left:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"left on the host: {sorted(left)}")
        time.sleep(0.05)


def _cgroups(instance: str) -> list[str]:
    found = []
    for root, folders, _ in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(root, name) for name in folders if instance in name]
    return found


def _processes(instance: str) -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and entry != str(os.getpid()):
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if instance.encode() in line and (b"conmon" in line or b"runc" in line or b"crun" in line):
                found.append(f"{entry} {line[:80]!r}")
    return found


def _tables(instance: str) -> list[str]:
    result = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, text=True, check=False)
    if result.returncode != 0 or not result.stdout:
        return []
    items = json.loads(result.stdout)["nftables"]
    return [item["table"]["name"] for item in items if "table" in item and instance in item["table"]["name"]]

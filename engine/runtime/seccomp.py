"""Seccomp: from the profile format of Docker and Podman (conditions by capability, architecture, kernel) to the OCI form.

The default profile is Debian's, of the package `golang-github-containers-common`, made stricter where it trusts that the
engine has no root of its own: mounts, new namespaces and `setns` need CAP_SYS_ADMIN; `clone` may not make namespaces and
`clone3`, whose flags a filter cannot see, answers ENOSYS, so that the C library falls back to `clone`; keyrings, io_uring and
userfaultfd are off; sockets of AF_ALG (its page-cache bugs reach other containers of the image) and of AF_VSOCK (the way
to the hypervisor) are refused. `socketcall` stays, or 32-bit programs would have no network.
Source: OCI runtime specification, config-linux.md "Seccomp"; seccomp_rule_add(3).
"""

from __future__ import annotations

import errno
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import BadSpec, Unsupported
from engine.platform import host_platform

DEFAULT_PROFILE = Path("/usr/share/containers/seccomp.json")
AF_NETLINK, AF_ALG, AF_VSOCK, NETLINK_AUDIT = 16, 38, 40, 9
NEW_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET
_NAMESPACE_BITS = [1 << bit for bit in range(32) if NEW_NAMESPACE_FLAGS >> bit & 1]

_ADMIN_ONLY = (
    "mount", "umount", "umount2", "mount_setattr", "move_mount", "open_tree", "fsconfig", "fsmount", "fsopen", "fspick",
    "pivot_root", "setns", "unshare",
)  # fmt: skip
_NEVER = (
    "add_key", "keyctl", "request_key", "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd",
    "kexec_load", "kexec_file_load",
)  # fmt: skip
_ARCHITECTURES = {
    "amd64": "SCMP_ARCH_X86_64", "386": "SCMP_ARCH_X86", "arm64": "SCMP_ARCH_AARCH64", "arm": "SCMP_ARCH_ARM",
    "ppc64le": "SCMP_ARCH_PPC64LE", "s390x": "SCMP_ARCH_S390X", "riscv64": "SCMP_ARCH_RISCV64",
}  # fmt: skip
_ACTIONS = {
    "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO",
    "SCMP_ACT_ALLOW", "SCMP_ACT_LOG",
}  # fmt: skip
# Each architecture costs the runtime 6-9 ms a start, and kernels have x32 off: its programs are killed, not filtered.
_LEFT_OUT = {"SCMP_ARCH_X32"}
_MAX_PROFILE_BYTES = 1024 * 1024


@lru_cache(maxsize=64)
def default_seccomp(capabilities: frozenset[str], architecture: str = "") -> dict[str, Any]:
    """Return the `linux.seccomp` object of the default profile. It is cached and shared: do not change it.

    Raises `Unsupported` where Debian's profile is not installed: the engine does not run containers without one.
    """
    try:
        profile = json.loads(DEFAULT_PROFILE.read_text())
    except FileNotFoundError as error:
        raise Unsupported(
            f"the default seccomp profile {DEFAULT_PROFILE} is missing",
            hint="install the package golang-github-containers-common",
        ) from error
    ours = {*_ADMIN_ONLY, *_NEVER, "clone", "clone3", "socket"}
    groups = [
        {**group, "names": [name for name in group["names"] if name not in ours]}
        for group in profile["syscalls"]
    ]
    return convert(
        {**profile, "syscalls": [*groups, *_own_rules(capabilities, architecture)]},
        capabilities,
        architecture,
    )


def parse_profile(text: str, capabilities: frozenset[str]) -> dict[str, Any]:
    """Turn a profile that came with a request into the OCI form; raises `BadSpec` for what is none."""
    if len(text) > _MAX_PROFILE_BYTES:
        raise BadSpec("the seccomp profile is larger than 1 MiB")
    try:
        profile = json.loads(text)
        if not isinstance(profile, dict):
            raise BadSpec("the seccomp profile must be a JSON object")
        return convert(profile, capabilities)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadSpec(f"the seccomp profile cannot be read: {error}") from error


def convert(profile: dict[str, Any], capabilities: frozenset[str], architecture: str = "") -> dict[str, Any]:
    """Apply the conditions of a profile for a container with these capabilities on this kernel."""
    architecture = architecture or host_platform().architecture
    result: dict[str, Any] = {
        "defaultAction": _action(profile["defaultAction"]),
        "architectures": _architectures(profile, architecture),
        "syscalls": [],
    }
    if profile.get("defaultErrnoRet") is not None:
        result["defaultErrnoRet"] = int(profile["defaultErrnoRet"])
    for group in profile.get("syscalls") or []:
        names = [str(name) for name in group.get("names") or ([group["name"]] if "name" in group else [])]
        if names and _applies(group, capabilities, architecture):
            result["syscalls"].append(_rule(group, names))
    return result


def _own_rules(capabilities: frozenset[str], architecture: str) -> list[dict[str, Any]]:
    allow, refuse = {"action": "SCMP_ACT_ALLOW"}, {"action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}
    rules: list[dict[str, Any]] = [{"names": list(_NEVER), **refuse}]
    if "CAP_SYS_ADMIN" in capabilities:
        rules.append({"names": [*_ADMIN_ONLY, "clone", "clone3"], **allow})
    else:
        flags = 1 if (architecture or host_platform().architecture) == "s390x" else 0
        masked = {"index": flags, "value": NEW_NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        rules += [
            {"names": list(_ADMIN_ONLY), **refuse},
            {"names": ["clone"], **allow, "args": [masked]},
            *({"names": ["clone"], **refuse, "args": [_bit(flags, bit)]} for bit in _NAMESPACE_BITS),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
        ]
    return rules + _socket_rules("CAP_AUDIT_WRITE" in capabilities)


def _bit(index: int, bit: int) -> dict[str, Any]:
    return {"index": index, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}


def _socket_rules(audit: bool) -> list[dict[str, Any]]:
    """Refuse two families by ranges: two "not equal" rules would allow each what the other refuses."""

    def rule(action: str, *arguments: tuple[int, str, int]) -> dict[str, Any]:
        args = [
            {"index": index, "op": f"SCMP_CMP_{operator}", "value": value}
            for index, operator, value in arguments
        ]
        return {"names": ["socket"], "action": action, "args": args}

    rules = [
        {**rule("SCMP_ACT_ERRNO", (0, "EQ", family)), "errnoRet": errno.EPERM}
        for family in (AF_ALG, AF_VSOCK)
    ]
    rules += [rule("SCMP_ACT_ALLOW", (0, "GT", AF_VSOCK)), rule("SCMP_ACT_ALLOW", (0, "EQ", AF_ALG + 1))]
    if audit:
        return [*rules, rule("SCMP_ACT_ALLOW", (0, "LT", AF_ALG))]
    rules.append(
        {**rule("SCMP_ACT_ERRNO", (0, "EQ", AF_NETLINK), (2, "EQ", NETLINK_AUDIT)), "errnoRet": errno.EINVAL}
    )
    rules += [
        rule("SCMP_ACT_ALLOW", (0, "LT", AF_NETLINK)),
        rule("SCMP_ACT_ALLOW", (0, "EQ", AF_NETLINK), (2, "NE", NETLINK_AUDIT)),
    ]
    # one rule a family: a rule may not test the same argument twice
    return rules + [rule("SCMP_ACT_ALLOW", (0, "EQ", family)) for family in range(AF_NETLINK + 1, AF_ALG)]


def _applies(group: dict[str, Any], capabilities: frozenset[str], architecture: str) -> bool:
    includes, excludes = group.get("includes") or {}, group.get("excludes") or {}
    if not all(name in capabilities for name in includes.get("caps") or []):
        return False
    if any(name in capabilities for name in excludes.get("caps") or []):
        return False
    wanted, unwanted = includes.get("arches") or [], excludes.get("arches") or []
    if (wanted and architecture not in wanted) or architecture in unwanted:
        return False
    if (minimum := includes.get("minKernel")) and kernel_version() < _version(minimum):
        return False
    return not ((minimum := excludes.get("minKernel")) and kernel_version() >= _version(minimum))


def _rule(group: dict[str, Any], names: list[str]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": _action(group["action"])}
    if group.get("errnoRet") is not None:
        rule["errnoRet"] = int(group["errnoRet"])
    if group.get("args"):
        rule["args"] = [
            {key: arg[key] for key in ("index", "value", "valueTwo", "op") if key in arg}
            for arg in group["args"]
        ]
    return rule


def _architectures(profile: dict[str, Any], architecture: str) -> list[str]:
    native = _ARCHITECTURES.get(architecture, "")
    for entry in profile.get("archMap") or []:
        if entry["architecture"] == native:
            return [native, *(name for name in entry.get("subArchitectures", []) if name not in _LEFT_OUT)]
    return [str(name) for name in profile.get("architectures") or []] or ([native] if native else [])


def _action(name: str) -> str:
    if name not in _ACTIONS:
        raise BadSpec(f"seccomp action {str(name)[:64]!r} is not supported")
    return name


def kernel_version() -> tuple[int, int]:
    return _version(os.uname().release)


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    if not found:
        raise BadSpec(f"not a kernel version: {text[:64]!r}")
    return int(found[1]), int(found[2])

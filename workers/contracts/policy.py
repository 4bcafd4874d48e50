"""Which risky rights a request needs. Judged by the web site's services before anything is written, and again on the node.

One function for every door: REST, Docker API, pages, Compose and builds all end in the spec that is judged here. What is not
understood counts as risky; whether it is well-formed is for the engine to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

HOST_MOUNTS = "host_mounts"
PRIVILEGED = "privileged"
HOST_NAMESPACES = "host_namespaces"
DEVICES = "devices"
RIGHTS = (HOST_MOUNTS, PRIVILEGED, HOST_NAMESPACES, DEVICES)

_NAMESPACES = ("network_mode", "pid_mode", "ipc_mode", "uts_mode", "userns_mode", "cgroupns_mode")
_HARMLESS_SECURITY = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")


def rights_of_spec(spec: dict[str, Any]) -> dict[str, str]:
    """Return the rights that a container's spec needs, each with the reason in words for people."""
    needed: dict[str, str] = {}
    for mount in _list(spec.get("mounts")):
        if (
            not isinstance(mount, dict)
            or mount.get("type") not in ("volume", "tmpfs")
            or "/" in str(mount.get("source", ""))
        ):
            where = mount.get("source", "") if isinstance(mount, dict) else mount
            needed.setdefault(HOST_MOUNTS, f"mounts {str(where)[:200]!r} of the host")
    if spec.get("privileged"):
        needed.setdefault(PRIVILEGED, "is privileged")
    if spec.get("cap_add"):
        needed.setdefault(PRIVILEGED, f"adds capabilities {spec['cap_add']}")
    for option in _list(spec.get("security_opt")):
        if option not in _HARMLESS_SECURITY:
            needed.setdefault(PRIVILEGED, f"asks for security option {str(option)[:100]!r}")
    if spec.get("cgroup_parent"):
        needed.setdefault(PRIVILEGED, "chooses its cgroup")
    resources = spec.get("resources")
    needed.update(rights_of_resources(resources) if isinstance(resources, dict) else {})
    for name in _NAMESPACES:
        if spec.get(name) == "host":
            needed.setdefault(HOST_NAMESPACES, f"shares the host's {name.removesuffix('_mode')} namespace")
    if spec.get("devices"):
        needed.setdefault(DEVICES, "uses devices of the host")
    return needed


def rights_of_resources(resources: dict[str, Any]) -> dict[str, str]:
    """Return the rights that limits need."""
    score = resources.get("oom_score_adj", 0)
    if not isinstance(score, int) or score < 0:
        return {PRIVILEGED: "asks to be spared when memory runs out"}
    if resources.get("oom_kill_disable"):
        return {PRIVILEGED: "turns off the out-of-memory killer"}
    return {}


def rights_of_exec(privileged: bool) -> dict[str, str]:
    """Return the rights that a command in a container needs."""
    return {PRIVILEGED: "runs a privileged command"} if privileged else {}


def rights_of_volume(options: dict[str, Any]) -> dict[str, str]:
    """Return the rights that a volume needs: one with a device or a path of the host is a mount of the host."""
    kind = str(options.get("type", ""))
    if options.get("device") and kind != "tmpfs":
        return {HOST_MOUNTS: f"volume mounts {str(options['device'])[:200]!r} of the host"}
    return {HOST_MOUNTS: "volume is bound to the host"} if "bind" in str(options.get("o", "")) else {}


def rights_of_build(network_mode: str, dockerfile: str = "") -> dict[str, str]:
    """Return the rights that a build needs."""
    if network_mode == "host":
        return {HOST_NAMESPACES: "build steps share the host's network"}
    if "--security=insecure" in dockerfile:
        return {PRIVILEGED: "a build step asks for --security=insecure"}
    return (
        {"host_namespaces": "a build step asks for --network=host"} if "--network=host" in dockerfile else {}
    )


def missing(needed: dict[str, str], granted: Iterable[str]) -> dict[str, str]:
    """Return what is needed and not granted."""
    have = set(granted)
    return {right: reason for right, reason in needed.items() if right not in have}


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]

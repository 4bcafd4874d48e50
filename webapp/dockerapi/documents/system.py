"""The engine itself: SystemVersion and SystemInfo, from what a node says of itself (query `system.info`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from webapp.core.version import VERSION

API_VERSION = "1.44"
MIN_API_VERSION = "1.24"

Facts = Mapping[str, Any]  # JSON
Document = dict[str, Any]


def version(facts: Facts) -> Document:
    """Return SystemVersion; the components are the programs that really run below."""
    kernel, architecture = facts.get("kernel", ""), facts.get("architecture", "")
    details = {
        "ApiVersion": API_VERSION,
        "Arch": architecture,
        "Experimental": "false",
        "KernelVersion": kernel,
        "MinAPIVersion": MIN_API_VERSION,
        "Os": "linux",
    }
    components = [{"Name": "Engine", "Version": VERSION, "Details": details}]
    for name, key in ((facts.get("runtime", ""), "runtime_version"), ("conmon", "conmon_version")):
        if name and facts.get(key):
            components.append({"Name": name, "Version": facts[key], "Details": {}})
    return {
        "Platform": {"Name": "Wharfinger"},
        "Components": components,
        "Version": VERSION,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture,
        "KernelVersion": kernel,
        "BuildTime": "",
    }


def info(facts: Facts, counts: Mapping[str, int]) -> Document:
    """Return SystemInfo; `counts` holds containers by status and images."""
    cgroup = str(facts.get("cgroup_version") or facts.get("cgroup") or "1")
    return {
        "ID": facts.get("epoch") or facts.get("node", ""),
        "Containers": counts["containers"],
        "ContainersRunning": counts["running"],
        "ContainersPaused": counts["paused"],
        "ContainersStopped": counts["stopped"],
        "Images": counts["images"],
        "Driver": facts.get("storage_driver", "overlay"),
        "DriverStatus": [["Backing Filesystem", facts.get("filesystem", "")], ["Supports d_type", "true"]],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": None,
            "Log": ["json-file"],
        },
        "MemoryLimit": True,
        "SwapLimit": bool(facts.get("swap_limit", True)),
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "OomKillDisable": cgroup.startswith("1"),
        "IPv4Forwarding": True,
        "BridgeNfIptables": False,
        "BridgeNfIp6tables": False,
        "Debug": False,
        "NFd": 0,
        "NGoroutines": 0,
        "SystemTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if cgroup.startswith("2") else "1",
        "NEventsListener": 0,
        "KernelVersion": facts.get("kernel", ""),
        "OperatingSystem": facts.get("operating_system", "Linux"),
        "OSVersion": facts.get("os_version", ""),
        "OSType": "linux",
        "Architecture": facts.get("machine") or facts.get("architecture", ""),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8"],
            "IndexConfigs": {
                "docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True}
            },
            "Mirrors": [],
        },
        "NCPU": facts.get("cpus", 0),
        "MemTotal": facts.get("memory_bytes", 0),
        "GenericResources": None,
        "DockerRootDir": facts.get("data_root", ""),
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": facts.get("hostname") or facts.get("node", ""),
        "Labels": [],
        "ExperimentalBuild": False,
        "ServerVersion": VERSION,
        "Runtimes": {facts.get("runtime", "runc"): {"path": facts.get("runtime", "runc")}},
        "DefaultRuntime": facts.get("runtime", "runc"),
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "catatonit",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": {"ID": facts.get("runtime_version", ""), "Expected": facts.get("runtime_version", "")},
        "InitCommit": {"ID": "", "Expected": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=userns", "name=cgroupns"],
        "Warnings": list(facts.get("warnings") or []) or None,
    }

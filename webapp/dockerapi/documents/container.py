"""Containers: ContainerInspectResponse, ContainerSummary, and the HostConfig that a spec stands for."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from webapp.dockerapi.values import human_duration, nanoseconds, rfc3339

Record = Mapping[str, Any]  # JSON
Document = dict[str, Any]

MASKED_PATHS = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
DEFAULT_SHM_BYTES = 64 * 1024 * 1024


def inspect(record: Record, *, size: bool = False) -> Document:
    """Return what `GET /containers/{id}/json` answers."""
    spec = record["spec"]
    document: Document = {
        "Id": record["id"],
        "Created": rfc3339(record["created_at"]),
        "Path": record["path"],
        "Args": list(record["args"]),
        "State": state(record),
        "Image": record["image_id"],
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": "",
        "Name": "/" + record["name"],
        "RestartCount": record["restart_count"],
        "Driver": record["driver"],
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": record.get("exec_ids") or None,
        "HostConfig": host_config(spec),
        "GraphDriver": {"Name": record["driver"], "Data": {}},
        "Mounts": [mount(item) for item in record["mounts"]],
        "Config": config(record),
        "NetworkSettings": network_settings(record),
    }
    if size:
        document["SizeRw"] = record.get("size_rw_bytes", 0)
        document["SizeRootFs"] = record.get("size_root_bytes", 0)
    return document


def state(record: Record) -> Document:
    """Return ContainerState; `Health` only where there is a check."""
    status = record["status"]
    document: Document = {
        "Status": "created" if status == "creating" else status,
        "Running": status in ("running", "paused", "restarting"),
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": record["oom_killed"],
        "Dead": status == "dead",
        "Pid": record["pid"] if status in ("running", "paused") else 0,
        "ExitCode": record["exit_code"],
        "Error": record["error"],
        "StartedAt": rfc3339(record["started_at"]),
        "FinishedAt": rfc3339(record["finished_at"]),
    }
    health = record["health"]
    if health["status"] != "none":
        document["Health"] = {
            "Status": health["status"],
            "FailingStreak": health["failing_streak"],
            "Log": [
                {
                    "Start": rfc3339(result["started_at"]),
                    "End": rfc3339(result["finished_at"]),
                    "ExitCode": result["exit_code"],
                    "Output": result["output"],
                }
                for result in health["log"]
            ],
        }
    return document


def status_text(record: Record, now: float | None = None) -> str:
    """Return the STATUS column of `docker ps`: "Up 3 days (healthy)", "Exited (137) 3 days ago"."""
    moment = time.time() if now is None else now
    status = record["status"]
    up = human_duration(max(0.0, moment - record["started_at"]))
    ago = human_duration(max(0.0, moment - record["finished_at"]))
    if status == "running":
        health = record["health"]["status"]
        note = {"none": "", "starting": " (health: starting)"}.get(health, f" ({health})")
        return f"Up {up}{note}"
    if status == "exited" and not record["finished_at"]:
        return ""
    return {
        "paused": f"Up {up} (Paused)",
        "restarting": f"Restarting ({record['exit_code']}) {ago} ago",
        "exited": f"Exited ({record['exit_code']}) {ago} ago",
        "removing": "Removal In Progress",
        "dead": "Dead",
    }.get(status, "Created")


def summary(record: Record, *, size: bool = False, now: float | None = None) -> Document:
    """Return one entry of `GET /containers/json`."""
    command = " ".join(shlex.quote(part) for part in [record["path"], *record["args"]] if part)
    document: Document = {
        "Id": record["id"],
        "Names": ["/" + record["name"]],
        "Image": record["image"],
        "ImageID": record["image_id"],
        "Command": command,
        "Created": int(record["created_at"]),
        "Ports": ports_list(record),
        "Labels": labels(record),
        "State": "created" if record["status"] == "creating" else record["status"],
        "Status": status_text(record, now),
        "HostConfig": {"NetworkMode": network_mode(record["spec"])},
        "NetworkSettings": {"Networks": networks(record)},
        "Mounts": [mount(item) for item in record["mounts"]],
    }
    if size:
        document["SizeRw"] = record.get("size_rw_bytes", 0)
        document["SizeRootFs"] = record.get("size_root_bytes", 0)
    return document


def labels(record: Record) -> dict[str, str]:
    return dict(record["config"].get("Labels") or {})


def network_mode(spec: Record) -> str:
    mode = spec["network_mode"]
    return "default" if mode == "bridge" else mode


def config(record: Record) -> Document:
    """Return ContainerConfig: the image's configuration with the wishes of the create call merged in."""
    spec, merged = record["spec"], record["config"]
    document: Document = {
        "Hostname": spec["hostname"] or record["id"][:12],
        "Domainname": spec["domainname"],
        "User": merged.get("User") or "",
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": spec["tty"],
        "OpenStdin": spec["stdin_open"],
        "StdinOnce": spec["stdin_once"],
        "Env": list(merged.get("Env") or []),
        "Cmd": merged.get("Cmd") or None,
        "Image": spec["image"],
        "Volumes": merged.get("Volumes") or None,
        "WorkingDir": merged.get("WorkingDir") or "",
        "Entrypoint": merged.get("Entrypoint") or None,
        "OnBuild": None,
        "Labels": labels(record),
    }
    if exposed := merged.get("ExposedPorts"):
        document["ExposedPorts"] = exposed
    if health := merged.get("Healthcheck"):
        document["Healthcheck"] = health
    if merged.get("StopSignal"):
        document["StopSignal"] = merged["StopSignal"]
    if spec["stop_timeout_s"] is not None:
        document["StopTimeout"] = spec["stop_timeout_s"]
    if merged.get("Shell"):
        document["Shell"] = merged["Shell"]
    return document


def host_config(spec: Record) -> Document:
    """Return HostConfig as it was asked for."""
    resources, restart = spec["resources"], spec["restart"]
    return {
        "Binds": _binds(spec) or None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": spec["log_driver"] or "json-file", "Config": dict(spec["log_options"])},
        "NetworkMode": network_mode(spec),
        "PortBindings": _port_bindings(spec),
        "RestartPolicy": {"Name": restart["name"], "MaximumRetryCount": restart["maximum_retry_count"]},
        "AutoRemove": spec["auto_remove"],
        "VolumeDriver": "",
        "VolumesFrom": spec["volumes_from"] or None,
        "ConsoleSize": [0, 0],
        "CapAdd": spec["cap_add"] or None,
        "CapDrop": spec["cap_drop"] or None,
        "CgroupnsMode": spec["cgroupns_mode"] or "private",
        "Dns": spec["dns"],
        "DnsOptions": spec["dns_options"],
        "DnsSearch": spec["dns_search"],
        "ExtraHosts": spec["extra_hosts"] or None,
        "GroupAdd": spec["groups"] or None,
        "IpcMode": spec["ipc_mode"] or "private",
        "Cgroup": "",
        "Links": spec["links"] or None,
        "OomScoreAdj": resources["oom_score_adj"],
        "PidMode": spec["pid_mode"],
        "Privileged": spec["privileged"],
        "PublishAllPorts": spec["publish_all"],
        "ReadonlyRootfs": spec["read_only"],
        "SecurityOpt": spec["security_opt"] or None,
        "UTSMode": spec["uts_mode"],
        "UsernsMode": spec["userns_mode"],
        "ShmSize": spec["shm_size_bytes"] or DEFAULT_SHM_BYTES,
        "Runtime": "runc",
        "Isolation": "",
        "Init": spec["init"],
        "Sysctls": dict(spec["sysctls"]),
        "Tmpfs": {
            item["target"]: ",".join(item["tmpfs_options"])
            for item in spec["mounts"]
            if _is_plain_tmpfs(item)
        },
        "Mounts": [
            _mount_asked(item)
            for item in spec["mounts"]
            if not _is_bind_text(item) and not _is_plain_tmpfs(item)
        ],
        "Annotations": dict(spec["annotations"]),
        "MaskedPaths": None if spec["privileged"] else MASKED_PATHS,
        "ReadonlyPaths": None if spec["privileged"] else READONLY_PATHS,
        **limits(resources),
        "CgroupParent": spec["cgroup_parent"],
        "Devices": [
            {
                "PathOnHost": device["path_on_host"],
                "PathInContainer": device["path_in_container"] or device["path_on_host"],
                "CgroupPermissions": device["permissions"],
            }
            for device in spec["devices"]
        ],
    }


def limits(resources: Record) -> Document:
    """Return the Resources part of a HostConfig."""
    return {
        "CpuShares": resources["cpu_shares"],
        "Memory": resources["memory_bytes"],
        "NanoCpus": nanoseconds(resources["cpus"]),
        "BlkioWeight": resources["blkio_weight"],
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [],
        "CpuPeriod": resources["cpu_period"],
        "CpuQuota": resources["cpu_quota"],
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": resources["cpuset_cpus"],
        "CpusetMems": resources["cpuset_mems"],
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "MemoryReservation": resources["memory_reservation_bytes"],
        "MemorySwap": resources["memory_swap_bytes"],
        "MemorySwappiness": None,
        "OomKillDisable": resources["oom_kill_disable"],
        "PidsLimit": resources["pids_limit"] or None,
        "Ulimits": [
            {"Name": item["name"], "Soft": item["soft"], "Hard": item["hard"]}
            for item in resources["ulimits"]
        ],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    }


def mount(item: Record) -> Document:
    """Return a MountPoint."""
    document: Document = {
        "Type": item["type"],
        "Source": item["source"],
        "Destination": item["target"],
        "Mode": "ro" if item["read_only"] else "",
        "RW": not item["read_only"],
        "Propagation": "rprivate" if item["type"] == "bind" else "",
    }
    if item["type"] == "volume":
        document |= {"Name": item["name"], "Driver": "local", "Mode": "ro" if item["read_only"] else "z"}
    return document


def network_settings(record: Record) -> Document:
    """Return NetworkSettings; the old top-level fields repeat the default bridge."""
    joined = networks(record)
    default = joined.get("bridge") or {}
    return {
        "Bridge": "",
        "SandboxID": record["id"] if record["status"] in ("running", "paused") else "",
        "SandboxKey": "",
        "Ports": ports_map(record),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": default.get("EndpointID", ""),
        "Gateway": default.get("Gateway", ""),
        "GlobalIPv6Address": default.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": default.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": default.get("IPAddress", ""),
        "IPPrefixLen": default.get("IPPrefixLen", 0),
        "IPv6Gateway": default.get("IPv6Gateway", ""),
        "MacAddress": default.get("MacAddress", ""),
        "Networks": joined,
    }


def networks(record: Record) -> Document:
    """Return the endpoints by network name; `host` and `none` have one each, without addresses."""
    if record["endpoints"]:
        return {item["network"]: endpoint(item, record) for item in record["endpoints"]}
    mode = record["spec"]["network_mode"]
    if mode in ("host", "none"):
        empty = dict.fromkeys(
            ("network_id", "ipv4_address", "gateway", "ipv6_address", "ipv6_gateway", "mac_address"), ""
        )
        return {mode: endpoint({**empty, "ipv4_prefix": 0, "ipv6_prefix": 0, "aliases": []}, record)}
    return {}


def endpoint(item: Record, record: Record) -> Document:
    """Return EndpointSettings."""
    asked = next(
        (
            wish
            for wish in record["spec"]["networks"]
            if wish["name"] in (item.get("network"), item["network_id"])
        ),
        None,
    )
    ipam = None
    if asked and (asked["ipv4_address"] or asked["ipv6_address"]):
        ipam = {
            key: asked[ours]
            for key, ours in (("IPv4Address", "ipv4_address"), ("IPv6Address", "ipv6_address"))
            if asked[ours]
        }
    names = [record["name"], *item["aliases"], record["id"][:12]]
    return {
        "IPAMConfig": ipam,
        "Links": None,
        "Aliases": item["aliases"] or None,
        "MacAddress": item["mac_address"],
        "DriverOpts": (asked or {}).get("driver_opts") or None,
        "NetworkID": item["network_id"],
        "EndpointID": _endpoint_id(item["network_id"], record["id"]) if item["ipv4_address"] else "",
        "Gateway": item["gateway"],
        "IPAddress": item["ipv4_address"],
        "IPPrefixLen": item["ipv4_prefix"],
        "IPv6Gateway": item["ipv6_gateway"],
        "GlobalIPv6Address": item["ipv6_address"],
        "GlobalIPv6PrefixLen": item["ipv6_prefix"],
        "DNSNames": None if item.get("network") in (None, "bridge") else list(dict.fromkeys(names)),
    }


def ports_map(record: Record) -> Document:
    """Return NetworkSettings.Ports: each exposed port with what it is published on, null where it is not."""
    ports: Document = dict.fromkeys(record["config"].get("ExposedPorts") or {})
    for item in record["ports"]:
        key = f"{item['container_port']}/{item['protocol']}"
        ports[key] = [
            *(ports.get(key) or []),
            {"HostIp": item["host_ip"], "HostPort": str(item["host_port"])},
        ]
    return ports if record["status"] in ("running", "paused") else {}


def ports_list(record: Record) -> list[Document]:
    """Return ContainerSummary.Ports."""
    if record["status"] not in ("running", "paused"):
        return []
    listed: list[Document] = []
    for key, bindings in ports_map(record).items():
        number, _, protocol = key.partition("/")
        port = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        if not bindings:
            listed.append(port)
        for item in bindings or []:
            listed.append({"IP": item["HostIp"], **port, "PublicPort": int(item["HostPort"])})
    return listed


def _endpoint_id(network_id: str, container_id: str) -> str:
    return (network_id[:32] + container_id[:32]).ljust(64, "0")


def _is_bind_text(item: Record) -> bool:
    """Tell whether a mount can be written as `source:target:mode`, the form that the command reads back."""
    return (
        item["type"] in ("bind", "volume")
        and bool(item["source"])
        and not item["subpath"]
        and not item["labels"]
    )


def _is_plain_tmpfs(item: Record) -> bool:
    return bool(item["type"] == "tmpfs" and not item["tmpfs_size_bytes"] and not item["tmpfs_mode"])


def _binds(spec: Record) -> list[str]:
    binds = []
    for item in spec["mounts"]:
        if _is_bind_text(item):
            modes = [mode for mode, on in (("ro", item["read_only"]), ("nocopy", item["nocopy"])) if on]
            modes += [item["propagation"]] if item["propagation"] else []
            binds.append(":".join([item["source"], item["target"], *([",".join(modes)] if modes else [])]))
    return binds


def _mount_asked(item: Record) -> Document:
    document: Document = {
        "Type": item["type"],
        "Source": item["source"],
        "Target": item["target"],
        "ReadOnly": item["read_only"],
    }
    if item["type"] == "tmpfs":
        document["TmpfsOptions"] = {"SizeBytes": item["tmpfs_size_bytes"], "Mode": item["tmpfs_mode"]}
    if item["type"] == "volume" and (item["labels"] or item["subpath"]):
        document["VolumeOptions"] = {"Labels": dict(item["labels"]), "Subpath": item["subpath"]}
    return document


def _port_bindings(spec: Record) -> Document:
    bindings: dict[str, list[Document]] = {}
    for item in spec["ports"]:
        host_port = str(item["host_port"] or "")
        if item["host_port_end"]:
            host_port += f"-{item['host_port_end']}"
        key = f"{item['container_port']}/{item['protocol']}"
        bindings.setdefault(key, []).append({"HostIp": item["host_ip"], "HostPort": host_port})
    return bindings

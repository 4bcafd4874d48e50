"""A create body of the Docker Engine API becomes the one canonical container spec (JSON with the REST API's names).

Nothing is decided here: policy judges the result, as it does for every other front door. A field that this engine has
no counterpart for is refused when it asks for something, and passed over when it holds the client's "nothing"
(null, empty, 0 or the value that the command always sends).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from webapp.dockerapi.errors import BadParameter

Spec = dict[str, Any]  # JSON

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?\Z")
_RESTART = ("", "no", "always", "on-failure", "unless-stopped")
_BIND_MODES = {
    "ro",
    "rw",
    "z",
    "Z",
    "nocopy",
    "copy",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
}
_MAXIMUM_DEPTH = 64

_HOST_TEXT = {
    "PidMode": "pid_mode",
    "UTSMode": "uts_mode",
    "UsernsMode": "userns_mode",
    "CgroupnsMode": "cgroupns_mode",
    "CgroupParent": "cgroup_parent",
}
_HOST_LISTS = {
    "CapAdd": "cap_add",
    "CapDrop": "cap_drop",
    "SecurityOpt": "security_opt",
    "Dns": "dns",
    "DnsSearch": "dns_search",
    "DnsOptions": "dns_options",
    "ExtraHosts": "extra_hosts",
    "GroupAdd": "groups",
    "VolumesFrom": "volumes_from",
    "Links": "links",
}
_HOST_TRUTHS = {
    "Privileged": "privileged",
    "ReadonlyRootfs": "read_only",
    "AutoRemove": "auto_remove",
    "PublishAllPorts": "publish_all",
}
_RESOURCES = {
    "Memory": "memory_bytes",
    "MemorySwap": "memory_swap_bytes",
    "MemoryReservation": "memory_reservation_bytes",
    "CpuShares": "cpu_shares",
    "CpuQuota": "cpu_quota",
    "CpuPeriod": "cpu_period",
    "BlkioWeight": "blkio_weight",
    "OomScoreAdj": "oom_score_adj",
}
# what this engine cannot do: asked for, it is refused, never ignored in silence
_REFUSED = (
    "BlkioWeightDevice",
    "BlkioDeviceReadBps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteIOps",
    "DeviceCgroupRules",
    "DeviceRequests",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "VolumeDriver",
    "StorageOpt",
    "KernelMemory",
)


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a request body once and strictly (AP-02): an object, no key twice, no key in another case of a known one.

    Raises `BadParameter`.
    """
    if not body:
        return {}

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key.lower() for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise BadParameter("invalid JSON: a key stands twice")
        return dict(pairs)

    try:
        data = json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise BadParameter("invalid JSON: cannot be read") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise BadParameter("invalid JSON: an object is expected")
    return data


def spec_of(body: dict[str, Any], name: str = "", platform: str = "") -> Spec:
    """Return the canonical spec that a `POST /containers/create` body asks for. Raises `BadParameter`."""
    check_keys(body, _KNOWN_CONFIG)
    host = _object(body, "HostConfig")
    check_keys(host, _KNOWN_HOST)
    _refuse(host)
    spec: Spec = {"image": _text(body, "Image"), "name": name.removeprefix("/")}
    if not spec["image"]:
        raise BadParameter("no image specified")
    spec.update(_config(body))
    spec.update(_host(host))
    spec["resources"] = resources_of(host)
    spec["mounts"] = _mounts(body, host)
    spec["ports"] = _port_bindings(host)
    spec["restart"] = restart_of(_object(host, "RestartPolicy"))
    spec.update(_networks(body, host))
    return {
        key: value for key, value in spec.items() if value not in (None, "", [], {}, False) or key == "image"
    }


def check_keys(data: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse a key that is a known one in another case: it would be judged as absent and meant as present."""
    by_lower = {key.lower(): key for key in known}
    for key in data:
        proper = by_lower.get(key.lower())
        if proper is not None and proper != key:
            raise BadParameter(f"unknown field {key!r} (meant {proper!r}?)")


def _config(body: dict[str, Any]) -> Spec:
    spec: Spec = {
        "command": _command(body, "Cmd"),
        "entrypoint": _command(body, "Entrypoint"),
        "env": environment_of(_texts(body, "Env")),
        "user": _text(body, "User"),
        "workdir": _text(body, "WorkingDir"),
        "hostname": _text(body, "Hostname"),
        "domainname": _text(body, "Domainname"),
        "labels": _labels(body),
        "tty": _truth(body, "Tty"),
        "stdin_open": _truth(body, "OpenStdin"),
        "stdin_once": _truth(body, "StdinOnce"),
        "stop_signal": _text(body, "StopSignal"),
        "exposed_ports": [_exposed(port) for port in _object(body, "ExposedPorts")],
        "mac_address": _text(body, "MacAddress"),
    }
    if body.get("StopTimeout") is not None:
        spec["stop_timeout_s"] = _number(body, "StopTimeout")
    if health := healthcheck_of(_object(body, "Healthcheck")):
        spec["healthcheck"] = health
    return spec


def _host(host: dict[str, Any]) -> Spec:
    spec: Spec = {ours: _text(host, theirs) for theirs, ours in _HOST_TEXT.items()}
    spec.update({ours: _texts(host, theirs) for theirs, ours in _HOST_LISTS.items()})
    spec.update({ours: _truth(host, theirs) for theirs, ours in _HOST_TRUTHS.items()})
    spec["init"] = _truth(host, "Init")
    spec["shm_size_bytes"] = _number(host, "ShmSize")
    ipc = _text(host, "IpcMode")
    spec["ipc_mode"] = "" if ipc == "private" else ipc
    if spec["cgroupns_mode"] == "private":
        spec["cgroupns_mode"] = ""
    spec["sysctls"] = {key: str(value) for key, value in _object(host, "Sysctls").items()}
    spec["annotations"] = {key: str(value) for key, value in _object(host, "Annotations").items()}
    spec["devices"] = [
        {
            "path_on_host": _text(device, "PathOnHost"),
            "path_in_container": _text(device, "PathInContainer"),
            "permissions": _text(device, "CgroupPermissions") or "rwm",
        }
        for device in _objects(host, "Devices")
    ]
    log = _object(host, "LogConfig")
    driver = _text(log, "Type")
    if driver not in ("", "json-file", "local", "none"):
        raise BadParameter(f"logger: no log driver named '{driver}' is registered")
    spec["log_driver"] = "none" if driver == "none" else ""
    spec["log_options"] = {key: str(value) for key, value in _object(log, "Config").items()}
    return spec


def resources_of(host: dict[str, Any]) -> Spec:
    """Return the limits in a HostConfig, or in the body of an update."""
    resources: Spec = {ours: _number(host, theirs) for theirs, ours in _RESOURCES.items()}
    resources["cpus"] = _number(host, "NanoCpus") / 10**9
    resources["cpuset_cpus"] = _text(host, "CpusetCpus")
    resources["cpuset_mems"] = _text(host, "CpusetMems")
    resources["oom_kill_disable"] = _truth(host, "OomKillDisable")
    resources["pids_limit"] = _number(host, "PidsLimit")
    resources["ulimits"] = [
        {"name": _text(limit, "Name"), "soft": _number(limit, "Soft"), "hard": _number(limit, "Hard")}
        for limit in _objects(host, "Ulimits")
    ]
    return {key: value for key, value in resources.items() if value}


def restart_of(policy: dict[str, Any]) -> Spec:
    """Return a restart policy, checked with the engine's own words. Raises `BadParameter`."""
    name, count = _text(policy, "Name"), _number(policy, "MaximumRetryCount")
    if name not in _RESTART:
        raise BadParameter(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if name in ("no", "always", "unless-stopped") and count != 0:
        tail = " and cannot be negative" if count < 0 else ""
        raise BadParameter(
            f"invalid restart policy: maximum retry count can only be used with 'on-failure'{tail}"
        )
    if name == "on-failure" and count < 0:
        raise BadParameter("invalid restart policy: maximum retry count cannot be negative")
    return {} if name in ("", "no") else {"name": name, "maximum_retry_count": count}


def healthcheck_of(health: dict[str, Any]) -> Spec:
    """Return a health check; the API gives times in nanoseconds."""
    test = _texts(health, "Test")
    times = {
        "interval_s": "Interval",
        "timeout_s": "Timeout",
        "start_period_s": "StartPeriod",
        "start_interval_s": "StartInterval",
    }
    spec: Spec = {ours: _number(health, theirs) / 10**9 for ours, theirs in times.items()}
    spec |= {"test": test, "retries": _number(health, "Retries")}
    for ours in times:
        if spec[ours] and spec[ours] < 0.001:
            raise BadParameter(f"{times[ours]} in Healthcheck cannot be less than 1ms")
    return {key: value for key, value in spec.items() if value}


def _refuse(host: dict[str, Any]) -> None:
    for key in _REFUSED:
        if host.get(key) not in (None, "", 0, [], {}, False):
            raise BadParameter(f"{key} is not supported by this engine")
    for key in ("MaskedPaths", "ReadonlyPaths"):
        if host.get(key) is not None:
            raise BadParameter(f"{key} cannot be changed: the kernel's paths stay masked")
    if host.get("MemorySwappiness") not in (None, -1):
        raise BadParameter("MemorySwappiness is not supported by this engine")
    if (runtime := _text(host, "Runtime")) not in ("", "runc", "crun", "io.containerd.runc.v2"):
        raise BadParameter(f"unknown or invalid runtime name: {runtime}")
    if _text(host, "Isolation") not in ("", "default"):
        raise BadParameter("invalid isolation: only 'default' exists on Linux")


def _mounts(body: dict[str, Any], host: dict[str, Any]) -> list[Spec]:
    mounts = [_bind(text) for text in _texts(host, "Binds")]
    mounts += [_mount(mount) for mount in _objects(host, "Mounts")]
    for target, options in _object(host, "Tmpfs").items():
        mounts.append(
            {
                "type": "tmpfs",
                "target": target,
                "tmpfs_options": [part for part in str(options).split(",") if part],
            }
        )
    taken = {mount["target"].rstrip("/") for mount in mounts}
    anonymous = [
        {"type": "volume", "target": target}
        for target in _object(body, "Volumes")
        if target.rstrip("/") not in taken
    ]
    return mounts + anonymous


def _bind(text: str) -> Spec:
    """Parse a `Binds` entry: `source:target[:mode]`, or `target` alone for an anonymous volume."""
    parts = text.split(":")
    if len(parts) == 1:
        return {"type": "volume", "target": parts[0]}
    if len(parts) > 3 or not parts[0] or not parts[1]:
        raise BadParameter(f"invalid volume specification: '{text}'")
    source, target, modes = parts[0], parts[1], parts[2].split(",") if len(parts) == 3 else []
    if not target.startswith("/"):
        raise BadParameter(
            f"invalid volume specification: '{text}': invalid mount path: '{target}' mount path must be absolute"
        )
    if not set(modes) <= _BIND_MODES or {"ro", "rw"} <= set(modes):
        raise BadParameter(f"invalid volume specification: '{text}': invalid mode: {parts[2]}")
    mount: Spec = {"type": "bind" if source.startswith("/") else "volume", "source": source, "target": target}
    if mount["type"] == "bind":
        mount["create_source"] = True
    if "ro" in modes:
        mount["read_only"] = True
    if "nocopy" in modes:
        mount["nocopy"] = True
    if spread := next(
        (mode for mode in modes if mode.removeprefix("r") in ("private", "shared", "slave")), ""
    ):
        mount["propagation"] = spread
    return mount


def _mount(mount: dict[str, Any]) -> Spec:
    kind, target = _text(mount, "Type"), _text(mount, "Target")
    if kind not in ("bind", "volume", "tmpfs"):
        raise BadParameter(f"invalid mount config for type {kind!r}: mount type unknown")
    if not target:
        raise BadParameter(f'invalid mount config for type "{kind}": field Target must not be empty')
    spec: Spec = {
        "type": kind,
        "target": target,
        "source": _text(mount, "Source"),
        "read_only": _truth(mount, "ReadOnly"),
    }
    if kind == "bind":
        options = _object(mount, "BindOptions")
        spec |= {
            "propagation": _text(options, "Propagation"),
            "create_source": _truth(options, "CreateMountpoint"),
        }
    elif kind == "volume":
        options = _object(mount, "VolumeOptions")
        spec |= {
            "nocopy": _truth(options, "NoCopy"),
            "labels": _labels(options),
            "subpath": _text(options, "Subpath"),
        }
        driver = _object(options, "DriverConfig")
        if _text(driver, "Name") not in ("", "local") or _object(driver, "Options"):
            raise BadParameter(
                "volume drivers and driver options are not supported at create: make the volume first"
            )
    else:
        options = _object(mount, "TmpfsOptions")
        spec |= {"tmpfs_size_bytes": _number(options, "SizeBytes"), "tmpfs_mode": _number(options, "Mode")}
    return {key: value for key, value in spec.items() if value}


def _port_bindings(host: dict[str, Any]) -> list[Spec]:
    ports = []
    for text, bindings in _object(host, "PortBindings").items():
        number, protocol = parse_port(text)
        if bindings is not None and not isinstance(bindings, list):
            raise BadParameter(f"invalid port binding for {text!r}")
        for binding in bindings or [{}]:
            if not isinstance(binding, dict):
                raise BadParameter(f"invalid port binding for {text!r}")
            low, high = _host_ports(_text(binding, "HostPort"))
            port = {"container_port": number, "protocol": protocol, "host_ip": _text(binding, "HostIp")}
            ports.append(port | {"host_port": low, "host_port_end": high})
    return ports


def parse_port(text: str) -> tuple[int, str]:
    """Return number and protocol of `80/tcp`. Raises `BadParameter`."""
    found = _PORT.match(text)
    if not found or found[2] or not 0 < int(found[1]) < 65536:
        raise BadParameter(f"invalid port specification: {text!r}")
    return int(found[1]), found[3] or "tcp"


def _exposed(text: str) -> str:
    number, protocol = parse_port(text)
    return f"{number}/{protocol}"


def _host_ports(text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    found = _PORT.match(text)
    if not found or found[3] or int(found[1]) > 65535 or int(found[2] or 0) > 65535:
        raise BadParameter(f"invalid port specification: {text!r}")
    low, high = int(found[1]), int(found[2] or 0)
    if high and high < low:
        raise BadParameter(f"invalid port range: {text!r}")
    return low, high if high != low else 0


def _networks(body: dict[str, Any], host: dict[str, Any]) -> Spec:
    mode = _text(host, "NetworkMode")
    mode = "bridge" if mode in ("", "default") else mode
    endpoints = _object(_object(body, "NetworkingConfig"), "EndpointsConfig")
    if mode in ("none", "host") or mode.startswith("container:"):
        return {"network_mode": mode}
    networks = []
    for name, settings in endpoints.items():
        networks.append(endpoint_of("bridge" if name == "default" else name, settings or {}))
    if mode not in {network["name"] for network in networks}:
        networks.insert(0, {"name": mode})
    return {"network_mode": mode, "networks": networks}


def endpoint_of(name: str, settings: dict[str, Any]) -> Spec:
    """Return the membership that an EndpointSettings object asks for."""
    if not isinstance(settings, dict):
        raise BadParameter("invalid endpoint settings")
    ipam = _object(settings, "IPAMConfig")
    endpoint: Spec = {
        "name": name,
        "aliases": _texts(settings, "Aliases"),
        "ipv4_address": _text(ipam, "IPv4Address"),
        "ipv6_address": _text(ipam, "IPv6Address"),
        "mac_address": _text(settings, "MacAddress"),
        "driver_opts": {key: str(value) for key, value in _object(settings, "DriverOpts").items()},
    }
    return {key: value for key, value in endpoint.items() if value}


def environment_of(lines: list[str]) -> dict[str, str | None]:
    values: dict[str, str | None] = {}
    for line in lines:
        key, has_value, value = line.partition("=")
        if not key:
            raise BadParameter(f"invalid environment variable: {line}")
        values[key] = value if has_value else None
    return values


def _command(data: dict[str, Any], key: str) -> list[str] | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        return [value]
    return _texts(data, key)


def _labels(data: dict[str, Any]) -> dict[str, str]:
    return {key: "" if value is None else str(value) for key, value in _object(data, "Labels").items()}


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadParameter(f"invalid {key}: an object is expected")
    return value


def _objects(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadParameter(f"invalid {key}: a list of objects is expected")
    return value


def _texts(data: dict[str, Any], key: str) -> list[str]:
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadParameter(f"invalid {key}: a list of text is expected")
    return value


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadParameter(f"invalid {key}: text is expected")
    return value


def _truth(data: dict[str, Any], key: str) -> bool:
    value = data.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadParameter(f"invalid {key}: true or false is expected")
    return value


def _number(data: dict[str, Any], key: str) -> int:
    value = data.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadParameter(f"invalid {key}: a whole number is expected")
    return value


_KNOWN_CONFIG = frozenset(
    "Image Cmd Entrypoint Env User WorkingDir Hostname Domainname Labels Tty OpenStdin StdinOnce StopSignal StopTimeout "
    "ExposedPorts MacAddress Healthcheck HostConfig NetworkingConfig Volumes Shell OnBuild AttachStdin AttachStdout "
    "AttachStderr NetworkDisabled ArgsEscaped".split()
)
_KNOWN_HOST = frozenset(
    {*_HOST_TEXT, *_HOST_LISTS, *_HOST_TRUTHS, *_RESOURCES, *_REFUSED}.union(
        "Binds Mounts Tmpfs PortBindings RestartPolicy NetworkMode IpcMode Init ShmSize Sysctls Annotations Devices "
        "LogConfig NanoCpus CpusetCpus CpusetMems OomKillDisable PidsLimit Ulimits Runtime Isolation MemorySwappiness "
        "MaskedPaths ReadonlyPaths".split()
    )
)

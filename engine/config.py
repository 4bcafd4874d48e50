"""Where the engine keeps its things on one node, and the limits that it holds to."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_HOME = Path("/var/lib/wharfinger")


@dataclass(frozen=True)
class EngineConfig:
    """Folders and limits of one engine. All folders are root's own (0700, the run root 0711: see `make_folders`).

    `data_root` lives on a real disk (content, layers, containers, volumes, `engine.db`); `run_root` on a tmpfs
    (bundles, namespaces, sockets, exit files): what is in it is gone after a reboot, and so are the containers.
    `instance` is 8 hex digits that mark this engine's kernel objects (cgroups, bridges, nftables table), so two
    engines on one machine never touch each other's.
    """

    data_root: Path
    run_root: Path
    instance: str
    node: str = "local"
    runtime: str = ""  # "crun", "runc" or a path; empty: probed
    allowed_bind_roots: tuple[str, ...] = ()
    default_publish_address: str = "127.0.0.1"
    subnet_pool: str = "10.201.0.0/16"
    subuid_base: int = 0x10000000  # first host id of the ranges given to containers, 65,536 each
    subuid_count: int = 32768  # how many ranges there are
    default_pids_limit: int = 4096
    log_max_bytes: int = 256 * 1024 * 1024  # per container, all its log files together
    insecure_registries: tuple[str, ...] = ("127.0.0.1", "localhost", "::1")
    https_proxy: str = field(default="", repr=False)  # to registries; see `engine.registry.proxy`
    http_proxy: str = field(default="", repr=False)
    no_proxy: str = ""
    denied_host_ports: tuple[int, ...] = ()  # never published: the panel's, and what the environment names
    publish_range: tuple[int, int] = (1, 65535)  # the host ports that may be published at all
    container_host_ports: tuple[int, ...] = ()  # TCP ports of the host itself that containers may reach
    dns_upstreams: tuple[str, ...] = field(default=())  # empty: the host's resolv.conf

    @classmethod
    def from_home(cls, home: Path | str = "", **changes: object) -> EngineConfig:
        """Return the configuration for `WHARFINGER_HOME` (argument, else environment, else /var/lib/wharfinger)."""
        root = Path(home or os.environ.get("WHARFINGER_HOME") or DEFAULT_HOME).resolve()
        instance = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        run_root = Path("/run") / f"wharfinger-{instance}"
        values: dict[str, object] = {"data_root": root / "engine", "run_root": run_root, "instance": instance}
        bind_roots = os.environ.get("WHARFINGER_BIND_ROOTS", "")
        values["allowed_bind_roots"] = tuple(part for part in bind_roots.split(":") if part)
        values["node"] = os.environ.get("WHARFINGER_NODE", "local")
        values["runtime"] = os.environ.get("WHARFINGER_RUNTIME", "")
        if address := os.environ.get("WHARFINGER_PUBLISH_ADDRESS"):
            values["default_publish_address"] = address
        for name in ("https_proxy", "http_proxy", "no_proxy"):
            values[name] = os.environ.get(name) or os.environ.get(name.upper(), "")
        denied = [
            os.environ.get("WHARFINGER_PORT", ""),
            *os.environ.get("WHARFINGER_DENIED_PORTS", "22").split(","),
        ]
        values["denied_host_ports"] = tuple(int(part) for part in denied if part.strip().isdecimal())
        if ports := os.environ.get("WHARFINGER_PUBLISH_PORTS", ""):
            values["publish_range"] = _port_range(ports)
        values.update(changes)
        return cls(**values)  # type: ignore[arg-type]

    @property
    def database(self) -> Path:
        return self.data_root / "engine.db"

    @property
    def wake_socket(self) -> Path:
        """A datagram socket that the agent listens on: one byte means "the journal has grown"."""
        return self.run_root / "journal.sock"

    def make_folders(self) -> None:
        """Make both roots, closed to everybody but root.

        The run root may be passed through but not listed: below it the root of each container lies in a folder that
        belongs to that container's mapped root alone (`engine.runtime.roots`); everything else in it is 0700 or 0600.
        """
        for folder, mode in ((self.data_root, 0o700), (self.run_root, 0o711)):
            folder.mkdir(parents=True, exist_ok=True, mode=mode)
            folder.chmod(mode)


def _port_range(text: str) -> tuple[int, int]:
    """Return the ports of a range like `1024-65535`; raise `ValueError` for what is none."""
    first, dash, last = (part.strip() for part in text.partition("-"))
    if dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 65535:
        return int(first), int(last)
    raise ValueError(f"WHARFINGER_PUBLISH_PORTS must be a range of ports like 1024-65535, not {text[:40]!r}")

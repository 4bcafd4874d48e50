"""Building images, and the cache of builds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workers.contracts.base import BULK, SECRET, Contract
from workers.contracts.images import RegistryAccess


@dataclass(frozen=True)
class BuildRun(Contract):
    """Build an image. Result: `{"image_id", "tags", "image": record | None, "steps": [...], "advice": [...]}`.

    `context` is the id of a spooled archive (tar, tar.gz, tar.zst, zip ...) or empty; `remote` an address to take it from;
    `disk_bytes` bounds what context and layers take together. `dockerfile` is its text, or empty
    to take `dockerfile_path` from the context. `secrets` maps an id to base64. `rights` are the risky rights of who asks.
    """

    KIND = "build.run"
    LANE = BULK
    DEADLINE_S = 2 * 3600.0

    context: str = ""
    remote: str = ""
    dockerfile: str = ""
    dockerfile_path: str = "Dockerfile"
    tags: list[str] = field(default_factory=list)
    build_args: dict[str, str | None] = field(default_factory=dict)
    target: str = ""
    platform: str = ""
    no_cache: bool = False
    no_cache_filter: list[str] = field(default_factory=list)
    cache_from: list[str] = field(default_factory=list)
    pull: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    network_mode: str = ""
    extra_hosts: list[str] = field(default_factory=list)
    shm_size_bytes: int = 0
    ulimits: list[Any] = field(default_factory=list)  # as in a container's spec, judged by the engine
    memory_bytes: int = 0
    cpus: float = 0.0
    pids_limit: int = 0
    disk_bytes: int = 0
    squash: bool = False
    rights: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict, metadata=SECRET)
    registries: list[RegistryAccess] = field(default_factory=list, metadata=SECRET)


@dataclass(frozen=True)
class BuildCachePrune(Contract):
    """Forget cached build steps. Result: `{"removed": [...], "freed_bytes"}`."""

    KIND = "build_cache.prune"
    DEADLINE_S = 1800.0

    keep_bytes: int = 0
    older_than_s: float = 0.0
    all: bool = False

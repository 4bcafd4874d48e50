"""Work on the node as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.contracts.base import BULK, Contract


@dataclass(frozen=True)
class SystemPrune(Contract):
    """Remove what nobody uses. `images`: empty, `dangling`, `unused` or `all`. Result: one entry a part, `freed_bytes`."""

    KIND = "system.prune"
    LANE = BULK
    DEADLINE_S = 1800.0

    images: str = ""
    containers: bool = False
    volumes: bool = False
    networks: bool = False
    build_cache: bool = False
    older_than_s: float = 0.0
    labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SystemCheck(Contract):
    """Compare disk, database and kernel. Result: `{"problems": [...]}`; `deep` reads every blob."""

    KIND = "system.check"
    LANE = BULK
    DEADLINE_S = 4 * 3600.0

    deep: bool = False


@dataclass(frozen=True)
class SystemRepair(Contract):
    """Mend what `system.check` finds; only the `problems` with these ids if given. Result: `{"repaired", "left"}`."""

    KIND = "system.repair"
    LANE = BULK
    DEADLINE_S = 4 * 3600.0

    problems: list[str] = field(default_factory=list)

"""What a volume is, and who uses it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from engine.errors import BadSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")
_ANONYMOUS = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class VolumeUse:
    """A container that has the volume among its mounts, running or not."""

    container_id: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Volume:
    """A volume as it is. `path` is the folder of its files; times are seconds since the epoch, 0 means never.

    `device` is the host path of a volume that is a bind mount by another name (options type=none, o=bind).
    """

    name: str
    driver: str
    path: str
    labels: dict[str, str]
    options: dict[str, str]
    created_at: float
    anonymous: bool = False
    last_used_at: float = 0.0
    uses: list[VolumeUse] = field(default_factory=list)

    @property
    def device(self) -> str:
        return self.options.get("device", "")


def check_name(name: str) -> str:
    """Return `name` if a volume can have it: it becomes the name of a folder, so nothing else may pass."""
    if not _NAME.match(name):
        raise BadSpec(
            f"not a name for a volume: {name[:64]!r}",
            hint="a name begins with a letter or digit and goes on with letters, digits, _ . or -; a host path begins with /",
        )
    return name


def is_anonymous(name: str) -> bool:
    return bool(_ANONYMOUS.match(name))

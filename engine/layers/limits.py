"""How much an archive may ask for before it counts as a bomb."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import BadArchive

GIB = 1024**3


@dataclass(frozen=True)
class Limits:
    """Bounds of one archive; passing one raises `BadArchive`.

    `max_ratio` is unpacked bytes for one packed byte, looked at only after `ratio_floor` unpacked bytes (short runs of
    zeros compress a thousandfold and are harmless). `deadline_s` is wall-clock time from the first byte.
    """

    max_bytes: int
    max_entries: int
    max_depth: int = 256
    max_ratio: int = 400
    ratio_floor: int = 256 * 1024 * 1024
    max_window: int = 128 * 1024 * 1024  # memory that a decompressor may take for its window
    deadline_s: float = 3600.0


LAYER = Limits(max_bytes=128 * GIB, max_entries=5_000_000)
UPLOAD = Limits(max_bytes=16 * GIB, max_entries=500_000, max_ratio=200, ratio_floor=64 * 1024 * 1024)


def too_big(what: str, limit: object, entry: str = "") -> BadArchive:
    """Return the error for an archive that passes a limit."""
    return BadArchive(
        f"the archive has {what}, more than the {limit} allowed",
        entry=entry,
        hint="if it is no bomb, leave out what is not needed",
    )

"""How much a volume's archive may hold. Volumes are large and full of zeros (databases reserve space), so the ratio is
that of gzip at its best; what really bounds a restore is the free space of the disk, see `engine.volumes.restore`."""

from __future__ import annotations

from engine.layers.limits import GIB, Limits

VOLUME = Limits(
    max_bytes=16 * 1024 * GIB, max_entries=5_000_000, max_ratio=1100, ratio_floor=GIB, deadline_s=4 * 3600.0
)

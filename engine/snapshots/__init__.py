"""Snapshots: layers on disk and what can be mounted from them."""

from engine.snapshots.folders import Snapshotter
from engine.snapshots.model import SCHEMA, Snapshot, SnapshotInfo, Usage
from engine.snapshots.overlay import OverlaySnapshotter
from engine.snapshots.plain import PlainSnapshotter

__all__ = [
    "SCHEMA",
    "OverlaySnapshotter",
    "PlainSnapshotter",
    "Snapshot",
    "SnapshotInfo",
    "Snapshotter",
    "Usage",
]

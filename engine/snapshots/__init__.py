"""Snapshots: layers on disk and what can be mounted from them."""

from engine.snapshots.overlay import SCHEMA, OverlaySnapshotter, Snapshot, SnapshotInfo, Usage

__all__ = ["SCHEMA", "OverlaySnapshotter", "Snapshot", "SnapshotInfo", "Usage"]

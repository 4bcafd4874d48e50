"""Volumes and the mounts of containers. `VolumeManager` is the way in."""

from __future__ import annotations

from engine.volumes.manager import VolumeManager
from engine.volumes.model import Volume, VolumeUse
from engine.volumes.records import SCHEMA

__all__ = ["SCHEMA", "Volume", "VolumeManager", "VolumeUse"]

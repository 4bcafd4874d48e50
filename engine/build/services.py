"""What a build needs of the rest of the engine, in one value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.build.cache import BuildCache
from engine.build.cachemounts import CacheMounts
from engine.build.ops.download import Downloader
from engine.config import EngineConfig
from engine.content.store import ContentStore
from engine.db import Database
from engine.images.model import Image
from engine.images.store import ImageStore
from engine.network.manager import NetworkManager
from engine.platform import Platform
from engine.progress import CancelToken, Reporter
from engine.runtime.step import StepRunner
from engine.snapshots.overlay import OverlaySnapshotter

Pull = Callable[[str, Platform, Reporter, CancelToken], Image]
"""Fetch an image from its registry: (reference, platform, report, cancel)."""


@dataclass(frozen=True)
class Services:
    """The parts of the engine that builds use. `pull` None: only images of this node can be bases."""

    config: EngineConfig
    db: Database
    images: ImageStore
    content: ContentStore
    snapshots: OverlaySnapshotter
    steps: StepRunner
    network: NetworkManager
    cache: BuildCache
    caches: CacheMounts
    downloader: Downloader
    host: Platform
    nameservers: Callable[[], Sequence[str]]
    pull: Pull | None = None

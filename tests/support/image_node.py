"""The stores of one node with all that moves images, for tests: real content store, overlay snapshots and database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.content.store import ContentStore
from engine.db import Database
from engine.images.pull import Puller
from engine.images.push import SCHEMA as PACKED_SCHEMA
from engine.images.push import Pusher
from engine.images.store import SCHEMA as IMAGES_SCHEMA
from engine.images.store import ImageStore
from engine.linux.mount import LinuxMounts
from engine.registry import Registries, RetryPolicy, Timeouts
from engine.registry.proxy import Proxies
from engine.snapshots.overlay import SCHEMA as SNAPSHOTS_SCHEMA
from engine.snapshots.overlay import OverlaySnapshotter

LOOPBACK = ("127.0.0.1", "localhost")
QUICK = RetryPolicy(attempts=4, base_s=0.01, cap_s=0.02, progress_bytes=64 * 1024)
SHORT = Timeouts(connect_s=2, read_s=1, min_bytes_per_s=2048, rate_window_s=1)


@dataclass(frozen=True)
class ImageNode:
    """One node's stores. `layers()` names what is unpacked, `blobs()` what is stored."""

    db: Database
    content: ContentStore
    snapshots: OverlaySnapshotter
    images: ImageStore
    puller: Puller
    pusher: Pusher

    def layers(self) -> set[str]:
        return {info.name for info in self.snapshots.walk() if info.kind == "layer"}

    def active(self) -> set[str]:
        return {info.name for info in self.snapshots.walk() if info.kind == "active"}

    def blobs(self) -> set[str]:
        return {blob.digest for blob in self.content.walk()}

    def files(self, chain: str) -> dict[str, bytes]:
        """Return the regular files of one unpacked layer."""
        root = self.snapshots.lowers(chain)[0]  # type: ignore[arg-type]
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def image_node(
    home: Path,
    *,
    retry: RetryPolicy = QUICK,
    timeouts: Timeouts = SHORT,
    insecure: tuple[str, ...] = LOOPBACK,
    proxies: Proxies | None = None,
) -> ImageNode:
    """Open (or make) the stores below `home`."""
    db = Database(home / "engine.db", [SNAPSHOTS_SCHEMA, IMAGES_SCHEMA, PACKED_SCHEMA])
    content = ContentStore(home / "content")
    snapshots = OverlaySnapshotter(home / "snapshots", db, LinuxMounts())
    images = ImageStore(db, content, snapshots)
    registries = Registries(insecure=insecure, retry=retry, timeouts=timeouts, proxies=proxies)
    pusher = Pusher(images, content, registries, db)
    images.roots.append(pusher.roots)
    return ImageNode(db, content, snapshots, images, Puller(images, content, snapshots, registries), pusher)

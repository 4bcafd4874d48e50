"""What the engine says about an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engine.digest import Digest
from engine.oci.descriptor import Descriptor
from engine.oci.image_config import ImageConfig
from engine.reference import parse_exact


@dataclass(frozen=True)
class ImageLayer:
    """A layer of an image: its blob as it travels, and its unpacked form (`diff_id`, `chain`, `size`).

    `size` is the bytes of the files in it, 0 while it is not unpacked.
    """

    descriptor: Descriptor
    diff_id: Digest
    chain: Digest
    size: int = 0


@dataclass(frozen=True)
class Image:
    """An image of this node. `names` and `repo_digests` are complete references (`docker.io/library/nginx:latest`).

    `size` is the bytes of all files in its layers; `created` the text in its config; `added` seconds since the epoch.
    """

    id: Digest
    manifest: Descriptor
    config: ImageConfig
    layers: tuple[ImageLayer, ...]
    names: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    size: int = 0
    added: float = 0.0

    @property
    def created(self) -> str:
        return self.config.created

    @property
    def chain(self) -> Digest | None:
        """The name of the whole stack of layers; None for an image without any."""
        return self.layers[-1].chain if self.layers else None

    @property
    def is_dangling(self) -> bool:
        """Nothing names it any more (a digest of a repository is no name)."""
        return not self.names

    def familiar_names(self) -> list[str]:
        """Return the names as people write them."""
        return [parse_exact(name).familiar() for name in self.names]

    def familiar_digests(self) -> list[str]:
        return [parse_exact(name).familiar() for name in self.repo_digests]

    @property
    def title(self) -> str:
        """The first name, else the short id."""
        return self.familiar_names()[0] if self.names else self.id[7:19]

    def to_json(self) -> dict[str, Any]:
        return image_to_json(self)


def created_at(text: str) -> float:
    """Return RFC 3339 text as seconds since the epoch, 0 where it is none."""
    try:
        head, dot, rest = text.replace("Z", "+00:00").partition(".")
        if dot:
            digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
            head += "." + digits[:6].ljust(6, "0") + rest[len(digits) :]
        return datetime.fromisoformat(head).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def image_to_json(image: Image) -> dict[str, Any]:
    """Return an image as the public record that events and interfaces carry: full names, the whole config."""
    return {
        "id": image.id,
        "names": list(image.names),
        "repo_digests": list(image.repo_digests),
        "created": image.created,
        "created_at": created_at(image.created),
        "added_at": image.added,
        "size_bytes": image.size,
        "os": image.config.os,
        "architecture": image.config.architecture,
        "variant": image.config.variant,
        "author": image.config.author,
        "manifest": image.manifest.to_json(),
        "config": image.config.to_json(),
        "layers": [
            {
                "digest": layer.descriptor.digest,
                "media_type": layer.descriptor.media_type,
                "packed_bytes": layer.descriptor.size,
                "diff_id": layer.diff_id,
                "size_bytes": layer.size,
            }
            for layer in image.layers
        ],
    }


@dataclass(frozen=True)
class HistoryEntry:
    """One line of an image's history. `size` is the bytes of its layer's files; `layer` is -1 where it made none."""

    created: str
    created_by: str
    comment: str
    author: str
    empty_layer: bool
    size: int
    layer: int


@dataclass(frozen=True)
class LayerInfo:
    """A layer as its image sees it. `shared_with` are the other images of this node that have it."""

    index: int
    layer: ImageLayer
    created_by: str
    unpacked: bool
    shared_with: tuple[Digest, ...] = ()


@dataclass(frozen=True)
class LayerFile:
    """A file of one layer. `change` is `added`, `changed` or `removed`; `hidden` says that a later layer covers it.

    `kind` is `file`, `hardlink` (a further name of the file at `link`), `directory`, `symlink`, `fifo` or `other`; `size` is 0 for
    everything but files, so sizes can be added up.
    """

    path: str
    kind: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime: float
    change: str
    link: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class ImageUsage:
    """`size`: all its layers; `shared`: of layers that other images have too; `own`: what removing it would free."""

    id: Digest
    size: int
    shared: int
    own: int
    packed: int
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class DiskUsage:
    """What images take. `layers` are bytes of unpacked layers, each counted once; `packed` bytes of blobs on disk."""

    images: tuple[ImageUsage, ...]
    layers: int
    packed: int
    reclaimable: int


@dataclass(frozen=True)
class PruneResult:
    """`removed`: what was done, as lines of `remove`; `reclaimed`: bytes of layers and blobs freed."""

    removed: list[dict[str, str]] = field(default_factory=list)
    reclaimed: int = 0

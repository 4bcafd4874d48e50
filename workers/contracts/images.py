"""Work on images. A `source` or `target` is the id of a spooled file (see `names.spool_path`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.contracts.base import BULK, SECRET, Contract


@dataclass(frozen=True)
class RegistryAccess:
    """How to reach one registry: `host` as in references (`docker.io`, `127.0.0.1:5000`); empty fields mean none.

    `insecure` allows plain HTTP and unknown certificates, `ca_pem` trusts a private authority. `registered`: an administrator
    entered this registry, so that it may lie in a private network; False for credentials that came with a request.
    """

    host: str
    username: str = ""
    password: str = ""
    identity_token: str = ""
    insecure: bool = False
    ca_pem: str = ""
    registered: bool = True


@dataclass(frozen=True)
class ImagePull(Contract):
    """Fetch `reference`, or each tag of its repository (`all_tags`). Result: `{"image", "changed"}`: the (last)
    image's record, and whether the name led to another image before, or to none.
    """

    KIND = "image.pull"
    LANE = BULK
    DEADLINE_S = 4 * 3600.0

    reference: str
    platform: str = ""
    all_tags: bool = False
    registries: list[RegistryAccess] = field(default_factory=list, metadata=SECRET)


@dataclass(frozen=True)
class ImagePush(Contract):
    """Send `image` as `reference` (empty: its own name). Result: `{"reference", "digest", "size_bytes"}`."""

    KIND = "image.push"
    LANE = BULK
    DEADLINE_S = 4 * 3600.0

    image: str
    reference: str = ""
    compression: str = "gzip"  # or "zstd"
    all_platforms: bool = False  # the index that it was pulled from, with every image of it
    registries: list[RegistryAccess] = field(default_factory=list, metadata=SECRET)


@dataclass(frozen=True)
class ImageTag(Contract):
    """Give `image` the further name `reference`. Result: `{"image": record}`."""

    KIND = "image.tag"

    image: str
    reference: str


@dataclass(frozen=True)
class ImageUntag(Contract):
    """Take the name `reference` away; the image stays. Result: `{"reference"}`."""

    KIND = "image.untag"

    reference: str


@dataclass(frozen=True)
class NamesProtect(Contract):
    """Hold to these protected names, unless a list of a higher `revision` came before. Result: `{"patterns"}` in force."""

    KIND = "image.names_protect"

    patterns: list[str]
    revision: int


@dataclass(frozen=True)
class ImageRemove(Contract):
    """Remove an image as `docker image rm` does. Result: `{"removed": [{"untagged"|"deleted": text}]}`."""

    KIND = "image.remove"

    image: str
    force: bool = False
    keep_parents: bool = False


@dataclass(frozen=True)
class ImageLoad(Contract):
    """Load an archive made by `save` (OCI layout or docker-archive). Result: `{"images": [record]}`."""

    KIND = "image.load"
    LANE = BULK
    DEADLINE_S = 3600.0

    source: str


@dataclass(frozen=True)
class ImageImport(Contract):
    """Make an image of a root file system tar. `changes` are Dockerfile lines. Result: `{"image": record}`."""

    KIND = "image.import"
    LANE = BULK
    DEADLINE_S = 3600.0

    source: str
    reference: str = ""
    message: str = ""
    changes: list[str] = field(default_factory=list)
    platform: str = ""


@dataclass(frozen=True)
class ImageSave(Contract):
    """Write images into the spooled file `target`. Result: `{"target", "size_bytes"}`."""

    KIND = "image.save"
    LANE = BULK
    DEADLINE_S = 3600.0

    images: list[str]
    target: str


@dataclass(frozen=True)
class ImagePrune(Contract):
    """Remove images nobody uses. `mode`: `dangling`, `unused` or `all`. Result: `{"removed": [...], "freed_bytes"}`."""

    KIND = "image.prune"
    DEADLINE_S = 1800.0

    mode: str = "dangling"
    older_than_s: float = 0.0
    labels: list[str] = field(default_factory=list)  # "key" or "key=value": only with all of these
    without_labels: list[str] = field(default_factory=list)

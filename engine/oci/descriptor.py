"""Descriptors: what a document says about another blob (OCI image specification, descriptor.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.digest import Digest, parse_digest
from engine.errors import InvalidInput
from engine.oci.fields import Fields
from engine.platform import Platform


@dataclass(frozen=True)
class Descriptor:
    """Type, name and size in bytes of a blob. `platform` only stands in an index."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the specification."""
        values: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            values["annotations"] = self.annotations
        if self.platform is not None:
            values["platform"] = _platform_to_json(self.platform)
        if self.urls:
            values["urls"] = list(self.urls)
        if self.artifact_type:
            values["artifactType"] = self.artifact_type
        return values


def read_descriptor(fields: Fields) -> Descriptor:
    """Read a descriptor; raises `InvalidInput` or `BadDigest`."""
    size = fields.number("size", -1)
    if size < 0:
        raise InvalidInput(f"{fields.where}.size must be a positive number")
    platform = fields.child("platform")
    return Descriptor(
        media_type=fields.text("mediaType"),
        digest=parse_digest(fields.text("digest")),
        size=size,
        annotations=fields.mapping("annotations"),
        platform=None if platform is None else _read_platform(platform),
        urls=fields.texts("urls") or (),
        artifact_type=fields.text("artifactType"),
    )


def _read_platform(fields: Fields) -> Platform:
    return Platform(fields.text("os"), fields.text("architecture"), fields.text("variant"))


def _platform_to_json(platform: Platform) -> dict[str, str]:
    values = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        values["variant"] = platform.variant
    return values

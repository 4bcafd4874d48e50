"""Manifests and indexes, OCI's and Docker's (version 2, schema 2), read strictly and written canonically.

A document that could be read as a manifest and as an index is refused (CVE-2021-41190), and so is one whose own
`mediaType` is not the type under which it was served. Sources: OCI image specification, manifest.md, image-index.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidInput, Unsupported
from engine.oci import media_types as mt
from engine.oci.descriptor import Descriptor, read_descriptor
from engine.oci.fields import Fields
from engine.oci.strict_json import canonical_json, parse_object

LAYER_LIMIT = 1000
MANIFEST_LIMIT = 1000


@dataclass(frozen=True)
class Manifest:
    """One image for one platform: its config and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = mt.OCI_MANIFEST
    annotations: dict[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    subject: Descriptor | None = None

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        return _with_extras(values, self.annotations, self.artifact_type, self.subject)

    def to_bytes(self) -> bytes:
        """Return the document as we write it."""
        return canonical_json(self.to_json())


@dataclass(frozen=True)
class Index:
    """Several manifests, usually one a platform."""

    manifests: tuple[Descriptor, ...]
    media_type: str = mt.OCI_INDEX
    annotations: dict[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    subject: Descriptor | None = None

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [item.to_json() for item in self.manifests],
        }
        return _with_extras(values, self.annotations, self.artifact_type, self.subject)

    def to_bytes(self) -> bytes:
        """Return the document as we write it."""
        return canonical_json(self.to_json())


def parse_manifest(data: bytes, media_type: str = "") -> Manifest:
    """Return the image manifest in `data`; `media_type` is the type it was announced with, where there was one."""
    document = parse_document(data, media_type)
    if isinstance(document, Index):
        raise InvalidInput("a manifest of one image was expected, this is an index of several")
    return document


def parse_index(data: bytes, media_type: str = "") -> Index:
    """Return the index in `data`; `media_type` is the type it was announced with, where there was one."""
    document = parse_document(data, media_type)
    if isinstance(document, Manifest):
        raise InvalidInput("an index was expected, this is the manifest of one image")
    return document


def parse_document(data: bytes, media_type: str = "") -> Manifest | Index:
    """Return whichever of the two `data` is; raises `InvalidInput`, for schema 1 `Unsupported`."""
    fields = Fields(parse_object(data, "manifest"), "manifest")
    kind = _kind(fields, media_type.partition(";")[0].strip().lower())
    return _read_index(fields, kind) if kind in mt.INDEXES else _read_manifest(fields, kind)


def _kind(fields: Fields, announced: str) -> str:
    if fields.values.get("schemaVersion") == 1 or announced in (mt.DOCKER_SCHEMA1, mt.DOCKER_SCHEMA1_SIGNED):
        raise Unsupported(
            "the image has a schema 1 manifest, which no registry should serve since 2019",
            hint="push the image again with a current tool",
        )
    if fields.values.get("schemaVersion") != 2 or isinstance(fields.values["schemaVersion"], bool):
        raise InvalidInput("manifest.schemaVersion must be 2")
    own = fields.text("mediaType")
    known = announced in mt.INDEXES | mt.MANIFESTS
    if own and known and own != announced:
        raise InvalidInput(f"the manifest says it is {own[:100]!r} but was served as {announced!r}")
    has_layers, has_manifests = (
        "layers" in fields.values or "config" in fields.values,
        "manifests" in fields.values,
    )
    if has_layers and has_manifests:
        raise InvalidInput("the document has layers and manifests both: it is ambiguous")
    kind = own or (announced if known else (mt.OCI_INDEX if has_manifests else mt.OCI_MANIFEST))
    if kind not in mt.INDEXES | mt.MANIFESTS:
        raise InvalidInput(f"not an image manifest: {kind[:100]!r}")
    if (kind in mt.INDEXES) != has_manifests:
        raise InvalidInput(f"the document says it is {kind!r} but has not its content")
    return kind


def _read_manifest(fields: Fields, kind: str) -> Manifest:
    config = fields.child("config")
    if config is None or "layers" not in fields.values:
        raise InvalidInput("the manifest lacks a config or layers")
    subject = fields.child("subject")
    return Manifest(
        config=read_descriptor(config),
        layers=fields.children("layers", read_descriptor, limit=LAYER_LIMIT),
        media_type=kind,
        annotations=fields.mapping("annotations"),
        artifact_type=fields.text("artifactType"),
        subject=None if subject is None else read_descriptor(subject),
    )


def _read_index(fields: Fields, kind: str) -> Index:
    subject = fields.child("subject")
    return Index(
        manifests=fields.children("manifests", read_descriptor, limit=MANIFEST_LIMIT),
        media_type=kind,
        annotations=fields.mapping("annotations"),
        artifact_type=fields.text("artifactType"),
        subject=None if subject is None else read_descriptor(subject),
    )


def _with_extras(
    values: dict[str, Any], annotations: dict[str, str], artifact_type: str, subject: Descriptor | None
) -> dict[str, Any]:
    if annotations:
        values["annotations"] = annotations
    if artifact_type:
        values["artifactType"] = artifact_type
    if subject is not None:
        values["subject"] = subject.to_json()
    return values

"""Documents of the OCI and Docker image formats as data: no files, no network."""

from engine.oci.descriptor import Descriptor
from engine.oci.image_config import ContainerConfig, Healthcheck, History, ImageConfig, parse_config
from engine.oci.manifest import Index, Manifest, parse_document, parse_index, parse_manifest

__all__ = [
    "ContainerConfig",
    "Descriptor",
    "Healthcheck",
    "History",
    "ImageConfig",
    "Index",
    "Manifest",
    "parse_config",
    "parse_document",
    "parse_index",
    "parse_manifest",
]

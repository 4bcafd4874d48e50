"""Blobs by digest, and the leases that protect them."""

from engine.content.leases import Lease, Leases
from engine.content.store import Blob, BlobWriter, ContentStore, VerifyingReader

__all__ = ["Blob", "BlobWriter", "ContentStore", "Lease", "Leases", "VerifyingReader"]

"""Digests: the names of content.

Only `parse_digest` and the functions here make a `Digest`, so whoever holds one may put it into a path.
Rule: OCI image specification, descriptor.md, "Digests"; of the registered algorithms only sha256 is accepted.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from engine.errors import BadDigest

Digest = NewType("Digest", str)

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}\Z")


def parse_digest(text: str) -> Digest:
    """Return `text` as a checked digest (`sha256:` and 64 lower-case hex digits), else raise `BadDigest`."""
    if not isinstance(text, str) or not _SHA256.match(text):
        raise BadDigest(
            f"not a sha256 digest: {str(text)[:100]!r}", hint="a digest is sha256: and 64 hex digits"
        )
    return Digest(text)


def digest_bytes(data: bytes) -> Digest:
    """Return the digest of `data`."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def hex_of(digest: Digest) -> str:
    """Return the 64 hex digits, the part that file names are made of."""
    return digest.removeprefix("sha256:")


def short(digest: str) -> str:
    """Return the 12 hex digits that people read."""
    return digest.removeprefix("sha256:")[:12]


def chain_id(parent: Digest | None, diff_id: Digest) -> Digest:
    """Return the name of a stack of layers (OCI image specification, config.md, "Layer ChainID")."""
    return diff_id if parent is None else digest_bytes(f"{parent} {diff_id}".encode())


def chain_ids(diff_ids: list[Digest]) -> list[Digest]:
    """Return the chain id after each layer, bottom first."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return chain

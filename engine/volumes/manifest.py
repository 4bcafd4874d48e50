"""The list of what a backup holds, kept in it as its last entry: each file with its size and sha256.

A backup is an ordinary tar that any tool unpacks; the list makes it one that can be proven. JSON lines: the first says
what it is, each other one is an entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from engine.errors import BadArchive
from engine.layers.tar import Kind

NAME = ".wharfinger-manifest.jsonl"
FORMAT = "wharfinger-volume-backup-1"
LIMIT = 1024 * 1024 * 1024


@dataclass(frozen=True)
class Listed:
    """An entry of a backup. `sha256` is that of a file's content; `changed` that it was written to while we read it."""

    path: str
    kind: str = Kind.FILE.value
    size: int = 0
    sha256: str = ""
    changed: bool = False


@dataclass
class Manifest:
    """What a backup holds; `skipped` are sockets and devices, which no archive can hold."""

    volume: str
    created_at: float
    entries: list[Listed] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        head = {
            "format": FORMAT,
            "volume": self.volume,
            "created_at": self.created_at,
            "skipped": self.skipped,
        }
        return b"".join(_lines(head, self.entries))


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in `data`; raise `BadArchive` for what is none."""
    try:
        head, *lines = [json.loads(line) for line in data.splitlines()]
        if head["format"] != FORMAT:
            raise BadArchive("a manifest of another format", entry=NAME)
        entries = [
            Listed(line["path"], line["kind"], line["size"], line["sha256"], line["changed"])
            for line in lines
        ]
        return Manifest(str(head["volume"]), float(head["created_at"]), entries, list(head["skipped"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadArchive("a manifest that cannot be read", entry=NAME) from error


def differences(manifest: Manifest, found: dict[str, tuple[int, str]]) -> list[str]:
    """Return in words where the files found (path → size, sha256) are not those of the manifest."""
    listed = {entry.path: entry for entry in manifest.entries if entry.kind == Kind.FILE}
    wrong = [f"{path} is missing" for path in listed if path not in found]
    for path, (size, digest) in found.items():
        entry = listed.get(path)
        if entry is None:
            wrong.append(f"{path} is not in the list")
        elif (entry.size, entry.sha256) != (size, digest):
            wrong.append(f"{path} has other content than the list says")
    return wrong


def _lines(head: dict[str, object], entries: Iterable[Listed]) -> Iterator[bytes]:
    yield json.dumps(head).encode() + b"\n"
    for entry in entries:
        line = {
            "path": entry.path, "kind": entry.kind, "size": entry.size, "sha256": entry.sha256, "changed": entry.changed,
        }  # fmt: skip
        yield json.dumps(line).encode() + b"\n"

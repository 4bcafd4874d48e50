"""The build cache: which step, done to what, gave which layer; and why a step had to run again.

A step's key is the hash of its *meaning*: what it does, the state it starts from (`lineage`), the arguments that it sees, the bytes,
modes, owners and links of what it copies. No times, no text that makes no difference. A record keeps the parts of the meaning
as hashes too, so that a miss can be explained by comparing with the nearest earlier record: which file changed, which argument, or that the step
before changed. Nothing of a secret is ever part of a key; values of arguments are kept as hashes only.

Records live in `engine.db` and keep their layers from being collected (`roots`). They survive restarts, are shared by all builds
of the node; the least recently used go when the cache is over its bounds.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.db import Database, Schema
from engine.digest import Digest, parse_digest
from engine.oci.descriptor import Descriptor
from engine.snapshots.overlay import OverlaySnapshotter

VERSION = 1
DEFAULT_BYTES = 20 * 1024**3
DEFAULT_RECORDS = 10_000
MAX_FILES_KEPT = 100_000
_NAMED = 3  # changed files that a reason names

SCHEMA = Schema(
    "build_cache",
    (
        """CREATE TABLE build_steps (
            key TEXT PRIMARY KEY, kind TEXT NOT NULL, text TEXT NOT NULL, place TEXT NOT NULL, lineage TEXT NOT NULL,
            what TEXT NOT NULL, arguments TEXT NOT NULL, files BLOB, chain TEXT, diff_id TEXT NOT NULL, layer TEXT NOT NULL,
            size INTEGER NOT NULL, created TEXT NOT NULL, made REAL NOT NULL, used REAL NOT NULL,
            uses INTEGER NOT NULL) STRICT""",
        "CREATE INDEX build_steps_what ON build_steps (what)",
        "CREATE INDEX build_steps_place ON build_steps (place)",
        "CREATE INDEX build_steps_used ON build_steps (used)",
        """CREATE TABLE build_aliases (
            alias TEXT PRIMARY KEY, key TEXT NOT NULL REFERENCES build_steps (key) ON DELETE CASCADE) STRICT""",
    ),
)


@dataclass(frozen=True)
class Meaning:
    """What a step is, for the cache.

    `what` are the parts that make the instruction itself (command, destination, user ...), `arguments` the variables it sees,
    `fingerprint` the hash of what it copies and `files` the short hash of each file of that. `place` says where in a build the
    step stands (stage and position), `text` is the instruction for people.
    """

    kind: str
    text: str
    place: str
    lineage: str
    what: Mapping[str, Any]
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    fingerprint: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def key(self) -> str:
        """Return the cache key."""
        parts = [
            VERSION,
            self.kind,
            self.lineage,
            dict(self.what),
            sorted(self.arguments.items()),
            self.fingerprint,
        ]
        return _hash(parts)

    def what_hash(self) -> str:
        return _hash([self.kind, dict(self.what)])

    def argument_hashes(self) -> dict[str, str]:
        return {name: _hash([name, value])[:16] for name, value in self.arguments.items()}


@dataclass(frozen=True)
class StepLayer:
    """What a step gave: a layer, or nothing (`chain` None: it changed no file). `created` is RFC 3339 text."""

    chain: Digest | None
    diff_id: str
    layer: Descriptor | None
    size: int
    created: str


@dataclass(frozen=True)
class CacheRecord:
    """A record as it is shown: sizes in bytes, times in seconds since the epoch."""

    key: str
    kind: str
    text: str
    size: int
    made: float
    used: float
    uses: int
    chain: str


class BuildCache:
    """The cache of one node; safe for any number of builds at once."""

    def __init__(
        self,
        db: Database,
        snapshots: OverlaySnapshotter,
        *,
        max_bytes: int = DEFAULT_BYTES,
        max_records: int = DEFAULT_RECORDS,
    ) -> None:
        self._db = db
        self._snapshots = snapshots
        self._max_bytes = max_bytes
        self._max_records = max_records

    def find(self, key: str) -> StepLayer | None:
        """Return what a step with this key gave, if its layer is still here."""
        row = self._db.read().execute("SELECT * FROM build_steps WHERE key = ?", (key,)).fetchone()
        if row is None or (row["chain"] and not self._snapshots.exists(Digest(row["chain"]))):
            return None
        return StepLayer(
            Digest(row["chain"]) if row["chain"] else None,
            row["diff_id"],
            _descriptor(row["layer"]),
            row["size"],
            row["created"],
        )

    def find_alias(self, alias: str) -> tuple[str, StepLayer] | None:
        """Return key and result of the step that a quicker key led to before."""
        row = self._db.read().execute("SELECT key FROM build_aliases WHERE alias = ?", (alias,)).fetchone()
        found = self.find(row["key"]) if row is not None else None
        return None if found is None else (row["key"], found)

    def touch(self, keys: Iterable[str]) -> None:
        """Note that records were used."""
        now = time.time()
        with self._db.transaction() as connection:
            connection.executemany(
                "UPDATE build_steps SET used = ?, uses = uses + 1 WHERE key = ?", [(now, key) for key in keys]
            )

    def add(self, steps: Iterable[tuple[Meaning, StepLayer]], aliases: Mapping[str, str]) -> None:
        """Record steps that were done; their layers must be durable by now. `aliases` are quicker keys for them."""
        now = time.time()
        rows = [_row(meaning, layer, now) for meaning, layer in steps]
        with self._db.transaction() as connection:
            marks = ", ".join("?" * 16)
            connection.executemany(f"INSERT OR REPLACE INTO build_steps VALUES ({marks})", rows)
            connection.executemany(
                "INSERT OR REPLACE INTO build_aliases SELECT ?, key FROM build_steps WHERE key = ?",
                [*aliases.items()],
            )

    def reason(self, meaning: Meaning) -> str:
        """Say why there is no usable record of a step, by the nearest one there is."""
        connection = self._db.read()
        if connection.execute("SELECT 1 FROM build_steps WHERE key = ?", (meaning.key(),)).fetchone():
            return "its layer is no longer kept"
        query = "SELECT * FROM build_steps WHERE what = ? ORDER BY lineage = ? DESC, place = ? DESC, used DESC LIMIT 1"
        row = connection.execute(query, (meaning.what_hash(), meaning.lineage, meaning.place)).fetchone()
        if row is not None:
            return _difference(meaning, row)
        query = "SELECT text, kind FROM build_steps WHERE place = ? ORDER BY used DESC LIMIT 1"
        row = connection.execute(query, (meaning.place,)).fetchone()
        if row is not None and row["text"] != meaning.text:
            return f"the instruction changed, it was: {_shortened(row['text'])}"
        return (
            "not built on this node before"
            if row is None
            else "its user, folder, shell or environment changed"
        )

    def keep_layers(self, roots: list[Callable[[], Iterable[Digest]]]) -> None:
        """Let the collector with these roots spare the cache's layers; done once, however often it is asked."""
        if not any(isinstance(getattr(root, "__self__", None), BuildCache) for root in roots):
            roots.append(self.roots)

    def roots(self) -> list[Digest]:
        """Return the chains and blobs that the cache still needs, for garbage collection."""
        names: set[Digest] = set()
        for row in self._db.read().execute("SELECT chain, layer FROM build_steps WHERE chain IS NOT NULL"):
            names.add(Digest(row["chain"]))
            descriptor = _descriptor(row["layer"])
            if descriptor is not None:
                names.add(descriptor.digest)
        return [*names]

    # what people see and do ------------------------------------------------------------------------------------

    def records(self) -> list[CacheRecord]:
        """Return all records, those used last first."""
        rows = self._db.read().execute("SELECT * FROM build_steps ORDER BY used DESC, key")
        return [
            CacheRecord(
                row["key"],
                row["kind"],
                row["text"],
                row["size"],
                row["made"],
                row["used"],
                row["uses"],
                row["chain"] or "",
            )
            for row in rows
        ]

    def usage(self) -> tuple[int, int]:
        """Return the number of records and the bytes of their layers, each layer counted once."""
        connection = self._db.read()
        count = connection.execute("SELECT count(*) FROM build_steps").fetchone()[0]
        query = "SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT chain, size FROM build_steps WHERE chain IS NOT NULL)"
        return int(count), int(connection.execute(query).fetchone()[0])

    def prune(self, *, older_than_s: float = 0.0, keep_bytes: int = 0) -> list[CacheRecord]:
        """Forget records not used for `older_than_s`, oldest first, until no more than `keep_bytes` remain.

        With neither everything is forgotten. Their layers go with the next collection of the image store.
        """
        limit = time.time() - older_than_s
        records = self.records()
        left = self.usage()[1]
        gone: list[CacheRecord] = []
        for record in reversed(records):
            if left <= keep_bytes and keep_bytes:
                break
            if record.used <= limit:
                gone.append(record)
                left -= record.size
        self._forget(record.key for record in gone)
        return gone

    def trim(self) -> int:
        """Bring the cache back into its bounds, least recently used first; return how many records went."""
        count, size = self.usage()
        if count <= self._max_records and size <= self._max_bytes:
            return 0
        gone = []
        for record in reversed(self.records()):
            if count <= self._max_records and size <= self._max_bytes:
                break
            gone.append(record.key)
            count -= 1
            size -= record.size
        self._forget(gone)
        return len(gone)

    def _forget(self, keys: Iterable[str]) -> None:
        with self._db.transaction() as connection:
            connection.executemany("DELETE FROM build_steps WHERE key = ?", [(key,) for key in keys])


def next_lineage(lineage: str, key: str, layer: StepLayer) -> str:
    """Return the state after a step: the chain of its layer, or for a step without one, the step on the state before."""
    return layer.chain if layer.chain else _hash([lineage, key])


def _row(meaning: Meaning, layer: StepLayer, now: float) -> tuple[object, ...]:
    files = None
    if meaning.files and len(meaning.files) <= MAX_FILES_KEPT:
        files = zlib.compress(json.dumps(meaning.files, separators=(",", ":")).encode(), 1)
    descriptor = json.dumps(layer.layer.to_json()) if layer.layer else ""
    return (
        meaning.key(), meaning.kind, meaning.text, meaning.place, meaning.lineage, meaning.what_hash(),
        json.dumps(meaning.argument_hashes()), files, layer.chain, layer.diff_id, descriptor, layer.size, layer.created,
        now, now, 1,
    )  # fmt: skip


def _difference(meaning: Meaning, row: Any) -> str:  # a sqlite3.Row
    """Say what differs between a step and the record of the same instruction."""
    before = json.loads(row["arguments"])
    now = meaning.argument_hashes()
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        return f"{', '.join(changed)} changed"
    if row["lineage"] == meaning.lineage or meaning.files:
        files = _changed_files(meaning.files, row["files"])
        if files:
            return files
    if row["lineage"] != meaning.lineage:
        return "the step before it changed"
    return "what it copies changed"


def _changed_files(now: Mapping[str, str], stored: bytes | None) -> str:
    if stored is None or not now:
        return ""
    before: dict[str, str] = json.loads(zlib.decompress(stored))
    parts = []
    for verb, names in (
        ("changed", [name for name in now if name in before and before[name] != now[name]]),
        ("added", [name for name in now if name not in before]),
        ("removed", [name for name in before if name not in now]),
    ):
        if names:
            shown = ", ".join(sorted(names)[:_NAMED])
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{verb}: {shown}{more}")
    return "; ".join(parts)


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _descriptor(text: str) -> Descriptor | None:
    if not text:
        return None
    values = json.loads(text)
    return Descriptor(values["mediaType"], parse_digest(values["digest"]), values["size"])

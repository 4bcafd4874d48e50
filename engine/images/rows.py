"""The tables of images: which there are, what they are called, what they are made of."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

from engine.db import Schema
from engine.digest import Digest, chain_ids
from engine.images import protection
from engine.images.model import Image, ImageLayer
from engine.oci.descriptor import Descriptor
from engine.oci.image_config import ImageConfig, parse_config

SCHEMA = Schema(
    "images",
    (
        """CREATE TABLE images (
            id TEXT PRIMARY KEY, manifest TEXT NOT NULL, manifest_type TEXT NOT NULL, manifest_size INTEGER NOT NULL,
            config TEXT NOT NULL, added REAL NOT NULL) STRICT""",
        """CREATE TABLE image_layers (
            image TEXT NOT NULL REFERENCES images ON DELETE CASCADE, position INTEGER NOT NULL, digest TEXT NOT NULL,
            media_type TEXT NOT NULL, packed INTEGER NOT NULL, urls TEXT NOT NULL, diff_id TEXT NOT NULL, chain TEXT NOT NULL,
            PRIMARY KEY (image, position)) STRICT""",
        "CREATE INDEX image_layers_digest ON image_layers (digest)",
        "CREATE INDEX image_layers_chain ON image_layers (chain)",
        "CREATE TABLE image_names (name TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images ON DELETE CASCADE) STRICT",
        "CREATE INDEX image_names_image ON image_names (image)",
        """CREATE TABLE image_digests (
            repository TEXT NOT NULL, digest TEXT NOT NULL, image TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
            PRIMARY KEY (repository, digest)) STRICT""",
        "CREATE INDEX image_digests_image ON image_digests (image)",
        *protection.TABLES,
    ),
)


@lru_cache(maxsize=1024)
def _config(text: str) -> ImageConfig:
    return parse_config(text.encode())


def insert(connection: sqlite3.Connection, image: Image, config: bytes) -> None:
    """Write an image and its layers; one that is here gets the manifest and layers of `image`."""
    connection.execute(
        """INSERT INTO images VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
        SET manifest = excluded.manifest, manifest_type = excluded.manifest_type, manifest_size = excluded.manifest_size""",
        (
            image.id,
            image.manifest.digest,
            image.manifest.media_type,
            image.manifest.size,
            config.decode(),
            image.added,
        ),
    )
    connection.execute("DELETE FROM image_layers WHERE image = ?", (image.id,))
    connection.executemany(
        "INSERT INTO image_layers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                image.id,
                position,
                layer.descriptor.digest,
                layer.descriptor.media_type,
                layer.descriptor.size,
                json.dumps(layer.descriptor.urls),
                layer.diff_id,
                layer.chain,
            )
            for position, layer in enumerate(image.layers)
        ],
    )


def load(connection: sqlite3.Connection, ids: Sequence[str] | None = None) -> list[Image]:
    """Read images (all, or those of `ids`), newest added first, with a constant number of queries."""
    where, values = _where("id", ids)
    images = connection.execute(f"SELECT * FROM images{where} ORDER BY added DESC, id", values).fetchall()
    layers = _layers(connection, ids)
    names = _grouped(connection, "SELECT image, name FROM image_names", ids)
    digests = _grouped(connection, "SELECT image, repository || '@' || digest FROM image_digests", ids)
    found = []
    for row in images:
        own = layers.get(row["id"], ())
        found.append(
            Image(
                id=row["id"],
                manifest=Descriptor(row["manifest_type"], row["manifest"], row["manifest_size"]),
                config=_config(row["config"]),
                layers=tuple(own),
                names=tuple(names.get(row["id"], ())),
                repo_digests=tuple(digests.get(row["id"], ())),
                size=sum(layer.size for layer in own),
                added=row["added"],
            )
        )
    return found


def make_layers(descriptors: Sequence[Descriptor], diff_ids: Sequence[Digest]) -> tuple[ImageLayer, ...]:
    """Join what the manifest and what the config say of the layers."""
    chains = chain_ids(list(diff_ids))
    return tuple(ImageLayer(*parts) for parts in zip(descriptors, diff_ids, chains, strict=False))


def _layers(connection: sqlite3.Connection, ids: Sequence[str] | None) -> dict[str, list[ImageLayer]]:
    where, values = _where("image", ids)
    rows = connection.execute(
        f"""SELECT l.*, coalesce(s.size, 0) AS size FROM image_layers l
        LEFT JOIN snapshots s ON s.name = l.chain AND s.kind = 'layer'{where} ORDER BY image, position""",
        values,
    )
    found: dict[str, list[ImageLayer]] = defaultdict(list)
    for row in rows:
        urls = tuple(json.loads(row["urls"]))
        descriptor = Descriptor(row["media_type"], row["digest"], row["packed"], urls=urls)
        found[row["image"]].append(ImageLayer(descriptor, row["diff_id"], row["chain"], row["size"]))
    return found


def _grouped(connection: sqlite3.Connection, query: str, ids: Sequence[str] | None) -> dict[str, list[str]]:
    where, values = _where("image", ids)
    found: dict[str, list[str]] = defaultdict(list)
    for image, text in connection.execute(f"{query}{where} ORDER BY 2", values):
        found[image].append(text)
    return found


def _where(column: str, ids: Iterable[str] | None) -> tuple[str, list[str]]:
    if ids is None:
        return "", []
    values = list(ids)
    return f" WHERE {column} IN ({','.join('?' * len(values))})", values

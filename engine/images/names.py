"""The names of images: which image a text means, giving a name, taking it, and telling the journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from engine.db import Database
from engine.errors import BadReference, ImageNotFound, InvalidInput
from engine.events import Event
from engine.images import rows
from engine.images.model import image_to_json
from engine.images.protection import Protection
from engine.reference import IDENTIFIER, Reference, parse_exact, parse_named, parse_reference


class Names:
    """Names in the tables of images. What changes something takes the running transaction's connection."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.protection = Protection(db)

    def resolve(self, text: str) -> tuple[str, Reference | None]:
        """Return the id of the image that `text` means, and the reference where `text` was a name."""
        connection = self._db.read()
        bare = text.removeprefix("sha256:")
        if IDENTIFIER.fullmatch(bare):
            row = connection.execute(
                "SELECT id FROM images WHERE id = ?1 OR manifest = ?1 ORDER BY id = ?1 DESC",
                (f"sha256:{bare}",),
            ).fetchone()
            if row is None:
                raise missing(text)
            return row["id"], None
        if not text.startswith("sha256:"):
            named = self._by_name(connection, text)
            if named is not None:
                return named
        if bare and not bare.strip("0123456789abcdef"):
            matches = connection.execute(
                "SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2",
                (f"sha256:{bare}", f"sha256:{bare}g"),
            ).fetchall()
            if len(matches) > 1:
                raise InvalidInput(
                    f"{text} is the beginning of several image ids", hint="give more of the id"
                )
            if matches:
                return matches[0]["id"], None
        raise missing(text)

    def _by_name(self, connection: sqlite3.Connection, text: str) -> tuple[str, Reference] | None:
        reference = parse_reference(text)
        if reference.digest is not None:
            query = "SELECT image FROM image_digests WHERE repository = ? AND digest = ?"
            row = connection.execute(query, (reference.name, reference.digest)).fetchone()
        else:
            query = "SELECT image FROM image_names WHERE name = ?"
            row = connection.execute(query, (str(reference),)).fetchone()
        return None if row is None else (row["image"], reference)

    def give(self, connection: sqlite3.Connection, image_id: str, name: Reference) -> None:
        """Let the image have `name`; the image that had it is told of as untagged. Raises `ProtectedName`."""
        text = str(name.without_digest())
        row = connection.execute("SELECT image FROM image_names WHERE name = ?", (text,)).fetchone()
        if row is not None and row["image"] == image_id:
            return
        if row is not None:
            self.protection.refuse(connection, [text], what="moved to another image")
        connection.execute("INSERT OR REPLACE INTO image_names VALUES (?, ?)", (text, image_id))
        if row is not None:
            self.tell(connection, row["image"], "untag", name.familiar())

    def refuse_move(self, names: Iterable[Reference], image_id: str) -> None:
        """Raise `ProtectedName` where giving these names to the image would take a protected one from another.

        Work that is long asks this first; `give` judges again, in the transaction that counts.
        """
        connection = self._db.read()
        for name in names:
            text = str(name.without_digest())
            query = "SELECT 1 FROM image_names WHERE name = ? AND image <> ?"
            if connection.execute(query, (text, image_id)).fetchone():
                self.protection.refuse(connection, [text], what="moved to another image")

    def take(self, connection: sqlite3.Connection, image_id: str, reference: Reference) -> list[str]:
        """Remove a name; with the last tag of a repository its digests go too. Return what went.

        Raises `ProtectedName`.
        """
        if reference.digest is not None:
            connection.execute(
                "DELETE FROM image_digests WHERE repository = ? AND digest = ?",
                (reference.name, reference.digest),
            )
            gone = [reference.familiar()]
        else:
            self.protection.refuse(connection, [str(reference)], what="taken away")
            connection.execute("DELETE FROM image_names WHERE name = ?", (str(reference),))
            gone = [reference.familiar(), *self._take_digests(connection, image_id, reference)]
        for text in gone:
            self.tell(connection, image_id, "untag", text)
        return gone

    def _take_digests(self, connection: sqlite3.Connection, image_id: str, reference: Reference) -> list[str]:
        names = connection.execute("SELECT name FROM image_names WHERE image = ?", (image_id,)).fetchall()
        if any(parse_exact(row["name"]).name == reference.name for row in names):
            return []
        found = connection.execute(
            "DELETE FROM image_digests WHERE image = ? AND repository = ? RETURNING digest",
            (image_id, reference.name),
        )
        return [f"{reference.familiar_name}@{row['digest']}" for row in found.fetchall()]

    def tell(self, connection: sqlite3.Connection, image_id: str, action: str, name: str) -> None:
        """Append an event about an image that is there."""
        image = rows.load(connection, [image_id])[0]
        attributes = {"name": name or image.title, "record": image_to_json(image)}
        self._db.append_event(connection, Event("image", action, image_id, attributes))


def missing(text: str) -> ImageNotFound:
    """Return the error for an image that is not here."""
    try:
        shown = parse_named(text).familiar() if not text.startswith("sha256:") else text
    except BadReference:
        shown = text
    return ImageNotFound(
        f"no such image: {shown}", hint="list images to see their names, or pull it", image=text
    )

"""Protected names: tags that stay where they are, whatever an archive, a registry or a build calls its image.

A pattern is a complete name whose `*` stand for any characters of one part: `docker.io/library/nginx:*`,
`registry.lan:5000/team/*:prod`. A name that fits one may be given where nobody has it, but it is neither moved to
another image nor taken away until an administrator lifts the protection. The list is the whole site's; the node keeps
the newest that it was told of, and judges in the transaction that would change a name, so that no door is left out.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache

from engine.db import Database
from engine.errors import Denied, InvalidInput
from engine.reference import parse_exact

TABLES = (
    "CREATE TABLE protected_names (pattern TEXT PRIMARY KEY) STRICT",
    "CREATE TABLE protected_revision (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL) STRICT",
)
PATTERNS_LIMIT = 1000
_PATTERN = re.compile(r"[a-zA-Z0-9._:/*\[\]-]{1,300}")


class ProtectedName(Denied):
    """The name is protected: it can neither move to another image nor go."""

    code = "name_protected"


class Protection:
    """The patterns that this node holds to."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def replace(self, patterns: Sequence[str], revision: int) -> bool:
        """Hold to these patterns; False where a newer list (a higher `revision`) is here already."""
        if len(patterns) > PATTERNS_LIMIT:
            raise InvalidInput(f"at most {PATTERNS_LIMIT} protected names")
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern):
                raise InvalidInput(f"not a pattern of names: {pattern[:100]!r}")
        with self._db.transaction() as connection:
            row = connection.execute("SELECT revision FROM protected_revision").fetchone()
            if row is not None and row["revision"] >= revision:
                return False
            connection.execute("INSERT OR REPLACE INTO protected_revision VALUES (1, ?)", (revision,))
            connection.execute("DELETE FROM protected_names")
            connection.executemany(
                "INSERT INTO protected_names VALUES (?)", [(text,) for text in dict.fromkeys(patterns)]
            )
        return True

    def patterns(self, connection: sqlite3.Connection | None = None) -> list[str]:
        """Return the patterns, as the running transaction sees them where its connection is given."""
        rows = (connection or self._db.read()).execute("SELECT pattern FROM protected_names ORDER BY pattern")
        return [row["pattern"] for row in rows]

    def protecting(self, name: str, connection: sqlite3.Connection | None = None) -> str:
        """Return the pattern that protects a complete name, or an empty string."""
        return next((pattern for pattern in self.patterns(connection) if fits(pattern, name)), "")

    def refuse(self, connection: sqlite3.Connection, names: Iterable[str], *, what: str) -> None:
        """Raise `ProtectedName` where one of these complete names is protected; `what` is what would happen to it."""
        for name in names:
            if self.protecting(name, connection):
                raise ProtectedName(
                    f"the name {parse_exact(name).familiar()} is protected and cannot be {what}",
                    hint="an administrator can lift the protection on the page of its image",
                    name=name,
                )


def fits(pattern: str, name: str) -> bool:
    """Tell whether a complete name (`docker.io/library/nginx:latest`) fits a pattern."""
    return _expression(pattern).fullmatch(name) is not None


@lru_cache(maxsize=PATTERNS_LIMIT)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile("[^/:]*".join(re.escape(part) for part in pattern.split("*")))

"""Names behind foreign keys, for long lists: one small query instead of an object a row."""

from __future__ import annotations

from typing import Any

from webapp.accounts.models import User
from webapp.nodes.models import Node


class Names:
    """Node and user names by key, read when first asked for."""

    def __init__(self) -> None:
        self._nodes: dict[int, str] | None = None
        self._users: dict[int, str] | None = None

    def node(self, key: int) -> str:
        if self._nodes is None:
            self._nodes = dict(Node.objects.values_list("pk", "name"))
        return self._nodes.get(key, "")

    def user(self, key: int | None) -> str | None:
        if key is None:
            return None
        if self._users is None:
            self._users = dict(User.objects.values_list("pk", "username"))
        return self._users.get(key)


class Related(Names):
    """The names behind one object's own keys, from the objects that came with it."""

    def __init__(self, row: Any) -> None:
        super().__init__()
        self._row = row

    def node(self, key: int) -> str:
        return str(self._row.node.name)

    def user(self, key: int | None) -> str | None:
        return self._row.created_by.username if key is not None and self._row.created_by else None

"""The web site's cast: alice is an admin, bob an operator, vera a viewer; charlie's account is shut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection

from tests.support.web import Api, FakeNode, make_user, token_for
from webapp.accounts.models import User
from webapp.audit import chain
from webapp.audit.services import _throttle
from webapp.nodes.models import Node
from webapp.operations.sender import RecordingSender

TRIGGERS = ("audit_entry_no_update", "audit_entry_no_delete")


@pytest.fixture(autouse=True)
def fresh_site() -> Iterator[None]:
    """Nothing of one test reaches the next: what was sent, the throttle, the witness of the book."""
    RecordingSender.reset()
    _throttle.reset()
    chain.witness_path().unlink(missing_ok=True)
    yield
    RecordingSender.reset()


@pytest.fixture(autouse=True, scope="session")
def book_can_be_emptied() -> Iterator[None]:
    """Let the flush after a transactional test empty the append-only table; the triggers are back before the next test."""
    flush = type(connection.ops).sql_flush

    def sql_flush(self: Any, style: Any, tables: Any, **options: Any) -> list[str]:
        drop, again = _without_triggers()
        return [*drop, *flush(self, style, tables, **options), *again]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(connection.ops), "sql_flush", sql_flush)
        yield


def _without_triggers() -> tuple[list[str], list[str]]:
    if connection.vendor != "sqlite":
        return ["ALTER TABLE audit_entry DISABLE TRIGGER USER"], [
            "ALTER TABLE audit_entry ENABLE TRIGGER USER"
        ]
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = [row for row in cursor.fetchall() if row[0] in TRIGGERS]
    return [f"DROP TRIGGER {name}" for name, _ in triggers], [text for _, text in triggers]


@pytest.fixture
def node(db: None) -> Node:
    return Node.objects.create(name="local", is_default=True)


@pytest.fixture
def voice(node: Node) -> FakeNode:
    return FakeNode(node)


@pytest.fixture
def alice(db: None) -> User:
    return make_user("alice", "admin")


@pytest.fixture
def bob(db: None) -> User:
    return make_user("bob", "operator")


@pytest.fixture
def vera(db: None) -> User:
    return make_user("vera", "viewer")


@pytest.fixture
def charlie(db: None) -> User:
    return make_user("charlie", "operator", is_active=False)


@pytest.fixture
def api(db: None) -> Callable[..., Api]:
    """Return a client for a person: `api(bob)`, `api(bob, scope="read")`, `api()` for nobody."""

    def make(user: User | None = None, scope: str = "admin") -> Api:
        return Api(token_for(user, scope) if user else "")

    return make

"""The book: written before anything happens, never changed, checked as a whole, exported safely."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from tests.support.web import Api, FakeNode, actor_of, container_record, last_sent
from webapp.accounts.models import User
from webapp.audit import chain, selectors, services
from webapp.audit.masking import mask
from webapp.audit.models import Entry, Head
from webapp.containers.models import Container
from webapp.operations.models import Operation
from webapp.operations.sender import RecordingSender

pytestmark = pytest.mark.django_db(transaction=True)
ApiOf = Callable[..., Api]


def write(user: User, count: int = 3, **what: Any) -> None:
    for number in range(count):
        services.record(
            actor_of(user), "container.start", target_type="container", target=f"c{number}", **what
        )


def forge(sql: str, *values: Any) -> None:
    """Change the book as somebody would who owns the database."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_entry'"
            )
            triggers = cursor.fetchall()
            for name, _ in triggers:
                cursor.execute(f"DROP TRIGGER {name}")
            cursor.execute(sql, values)
            for _, text in triggers:
                cursor.execute(text)
        else:
            cursor.execute("GRANT UPDATE, DELETE ON audit_entry TO CURRENT_USER")
            cursor.execute("ALTER TABLE audit_entry DISABLE TRIGGER USER")
            cursor.execute(sql, values)
            cursor.execute("ALTER TABLE audit_entry ENABLE TRIGGER USER")


# --- intent and outcome -------------------------------------------------------------------------------------------


def test_the_intent_stands_before_anything_is_sent(
    voice: FakeNode, bob: User, api: ApiOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AP-13."""
    seen: list[int] = []
    monkeypatch.setattr(
        RecordingSender, "send", lambda self, op: seen.append(Entry.objects.filter(operation=op.id).count())
    )
    api(bob).write("/containers/", {"image": "nginx"})
    assert seen == [1]


def test_the_outcome_is_an_entry_in_the_name_of_who_asked(voice: FakeNode, bob: User, api: ApiOf) -> None:
    """AP-13."""
    api(bob).write("/containers/", {"image": "nginx"})
    voice.fail(last_sent()[0])
    intent, outcome = Entry.objects.filter(action="container.create").order_by("seq")
    assert (intent.outcome, outcome.outcome) == ("accepted", "failed")
    assert (outcome.actor, outcome.token, outcome.operation) == ("bob", intent.token, intent.operation)
    assert outcome.detail == "no such image"
    assert selectors.outcome_of(intent) == outcome


def test_without_the_book_nothing_happens(
    node: object, bob: User, api: ApiOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AP-12, AP-13: audit down means action refused."""

    def broken(entry: Entry) -> Entry:
        raise DatabaseError("disk is full")

    client = api(bob)
    client.raise_request_exception = False
    monkeypatch.setattr(chain, "append", broken)
    assert client.write("/containers/", {"image": "nginx"}).status_code == 500
    assert not RecordingSender.sent
    assert not Operation.objects.exists()
    assert not Container.objects.exists()


def test_the_actor_is_not_what_the_body_says(node: object, bob: User, api: ApiOf) -> None:
    """AP-13."""
    client = api(bob)
    assert (
        client.write("/containers/", {"image": "nginx", "actor": "alice", "user": "alice"}).status_code == 400
    )
    client.write("/containers/", {"image": "nginx", "labels": {"actor": "alice"}})
    assert Entry.objects.latest("seq").actor == "bob"


def test_reading_files_out_is_an_entry(voice: FakeNode, bob: User, api: ApiOf) -> None:
    """AP-13: cp."""
    voice.container(container_record())
    api(bob).read("/containers/web/files/?path=/etc/passwd")
    entry = Entry.objects.latest("seq")
    assert entry.action == "container.files_get"
    assert json.loads(entry.body) == {"path": "/etc/passwd"}


def test_refusals_do_not_fill_the_disk(node: object, vera: User, api: ApiOf) -> None:
    client = api(vera)
    for _ in range(services.REFUSALS_A_MINUTE + 20):
        client.write("/system/check/")
    assert Entry.objects.filter(outcome="refused").count() <= services.REFUSALS_A_MINUTE + 1


# --- append only --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["UPDATE audit_entry SET actor = 'eve'", "DELETE FROM audit_entry"])
def test_the_database_refuses_changes(bob: User, sql: str) -> None:
    """AP-13: by trigger, whatever the application says."""
    write(bob)
    with (
        pytest.raises(DatabaseError, match=r"append-only|permission denied"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
    assert Entry.objects.filter(actor="bob").count() == 3


def test_a_whole_book_verifies(bob: User) -> None:
    write(bob, 5)
    found = chain.verify()
    assert (found.ok, found.entries, found.broken_at) == (True, 5, None)


def test_an_empty_book_verifies(db: None) -> None:
    assert chain.verify().ok


def test_an_edited_entry_is_found(bob: User) -> None:
    """AP-13."""
    write(bob)
    forge("UPDATE audit_entry SET actor = %s WHERE seq = 2", "eve")
    found = chain.verify()
    assert (found.ok, found.broken_at) == (False, 2)


def test_a_dropped_entry_is_found(bob: User) -> None:
    """AP-13."""
    write(bob)
    forge("DELETE FROM audit_entry WHERE seq = 2")
    assert chain.verify().broken_at == 2


def test_reordered_entries_are_found(bob: User) -> None:
    """AP-13."""
    write(bob)
    forge("UPDATE audit_entry SET seq = CASE seq WHEN 2 THEN -3 WHEN 3 THEN -2 END WHERE seq IN (2, 3)")
    forge("UPDATE audit_entry SET seq = -seq WHERE seq < 0")
    assert chain.verify().broken_at == 2


def test_a_cut_tail_is_found(bob: User) -> None:
    """AP-13."""
    write(bob)
    forge("DELETE FROM audit_entry WHERE seq = 3")
    assert not chain.verify().ok


def test_a_cut_tail_with_a_forged_head_is_found(bob: User) -> None:
    """AP-13: the head's seal needs a key that is not in the database."""
    write(bob)
    last = Entry.objects.get(seq=2)
    forge("DELETE FROM audit_entry WHERE seq = 3")
    Head.objects.update(seq=2, hash=last.hash)
    assert "not sealed" in chain.verify().reason


def test_an_old_database_put_back_is_found(bob: User) -> None:
    """AP-13: an old head has a good seal; the witness outside the database knows better."""
    write(bob, 2)
    old = Head.objects.values("seq", "hash", "seal").get()
    write(bob, 1)
    forge("DELETE FROM audit_entry WHERE seq = 3")
    Head.objects.update(**old)
    found = chain.verify()
    assert not found.ok
    assert "3 were written" in found.reason


def test_verify_is_an_endpoint(bob: User, vera: User, api: ApiOf) -> None:
    client = api(vera)
    write(bob)
    body = client.read("/audit/verify/").json()
    assert body["ok"] is True
    assert body["entries"] == Entry.objects.count()


# --- reading and exporting ----------------------------------------------------------------------------------------


def test_entries_are_filtered(node: object, bob: User, alice: User, api: ApiOf) -> None:
    client = api(alice)
    write(bob, 2)
    services.record(actor_of(alice), "image.pull", target="nginx")
    assert [e["actor"] for e in client.read("/audit/?actor=bob").json()["results"]] == ["bob", "bob"]
    assert len(client.read("/audit/?action=container.").json()["results"]) == 2
    assert client.read("/audit/?action=image.pull").json()["results"][0]["target"] == "nginx"
    assert (
        client.read("/audit/?since=1h&until=2100-01-01T00:00:00Z&target=c1").json()["results"][0]["target"]
        == "c1"
    )


def test_unknown_filters_are_refused(vera: User, api: ApiOf) -> None:
    """AP-11."""
    client = api(vera)
    for query in ("ordering=owner__password", "actor__regex=.*", "actor_id__gt=0", "_connector=OR"):
        assert client.read(f"/audit/?{query}").status_code == 400
    assert client.read("/audit/?since=yesterday").status_code == 400
    assert client.read("/audit/?cursor=e30").status_code == 400


def test_pages_follow_each_other_without_a_hole(bob: User, api: ApiOf) -> None:
    client = api(bob)
    write(bob, 7)
    seen, cursor = [], ""
    while True:
        page = client.read(f"/audit/?action=container.start&limit=3&cursor={cursor}").json()
        seen += [entry["target"] for entry in page["results"]]
        if len(seen) == 3:
            write(bob, 1)  # new entries do not shift the pages
        cursor = page["next"]
        if not cursor:
            break
    assert seen == ["c6", "c5", "c4", "c3", "c2", "c1", "c0"]


def test_csv_holds_no_formula_and_no_escape(bob: User, api: ApiOf) -> None:
    """AP-13: CSV formula, ANSI, newline."""
    client = api(bob)
    evil = ["=HYPERLINK(1)", "+1", "-1", "@x", "\x1b[31mred", "two\nlines", "\u202eright"]
    for text in evil:
        services.record(actor_of(bob), "container.start", target=text)
    answer = client.read("/audit/?format=csv&action=container.start")
    text = b"".join(answer.streaming_content).decode()
    assert "\x1b" not in text
    assert "\u202e" not in text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(evil)
    assert not [row for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert "attachment" in answer["Content-Disposition"]
    assert Entry.objects.latest("seq").action == "audit.export"


def test_jsonl_is_one_entry_a_line(bob: User, api: ApiOf) -> None:
    client = api(bob)
    services.record(actor_of(bob), "container.start", target="two\nlines \x1b[31m")
    lines = b"".join(
        client.read("/audit/?format=jsonl&action=container.start").streaming_content
    ).splitlines()
    assert len(lines) == 1
    assert b"\x1b" not in lines[0]
    assert json.loads(lines[0])["target"] == "two\nlines \x1b[31m"


@pytest.mark.parametrize(
    ("value", "absent"),
    [
        ({"env": {"A": "s3cret"}}, "s3cret"),
        ({"env": ["A=s3cret"]}, "s3cret"),
        ({"build_args": {"TOKEN": "s3cret"}}, "s3cret"),
        ({"password": "s3cret"}, "s3cret"),
        ({"deep": [{"apiKey": "s3cret"}]}, "s3cret"),
        ({"url": "https://bob:s3cret@example.org/x"}, "s3cret"),
        ({"command": ["mysql", "--password=s3cret"]}, "s3cret"),
        ({"text": "x" * 5000}, "x" * 3000),
    ],
)
def test_secrets_are_masked(value: dict[str, Any], absent: str) -> None:
    """AP-13, RT-13."""
    assert absent not in json.dumps(mask(value))


def test_masking_keeps_what_is_no_secret() -> None:
    assert mask({"image": "nginx", "author": "bob", "ports": ["80"]}) == {
        "image": "nginx",
        "author": "bob",
        "ports": ["80"],
    }

"""Logs that were kept when their containers were removed: listed, read and removed by REST and pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client

from tests.support.sample_site import session_of
from tests.support.web import Api, FakeNode, container_record, last_sent
from webapp.accounts.models import User
from webapp.audit.models import Entry
from webapp.containers.kept_logs import kept_log_get
from webapp.core.errors import Missing
from webapp.operations.sender import RecordingSender
from workers.contracts.containers import ContainerRemove, KeptLogRemove

pytestmark = pytest.mark.django_db(transaction=True)
ApiOf = Callable[..., Api]
ID = "5" * 64


@pytest.fixture
def kept(voice: FakeNode) -> FakeNode:
    note = {"id": ID, "name": "old", "image": "nginx", "removed_at": 1_700_000_000.5, "size_bytes": 7}
    RecordingSender.answers["kept_log.list"] = {
        "logs": [note, {**note, "id": "6" * 64, "removed_at": 1_600_000_000.0}]
    }
    return voice


def test_a_log_is_kept_only_when_asked_for(voice: FakeNode, bob: User, api: ApiOf) -> None:
    voice.container(container_record(status="exited"))
    assert api(bob).send("DELETE", "/containers/web/?keep_log=true", None).status_code == 202
    contract = last_sent()[1]
    assert isinstance(contract, ContainerRemove)
    assert contract.keep_log
    assert not ContainerRemove("x").keep_log


def test_kept_logs_are_listed_and_removed(kept: FakeNode, bob: User, vera: User, api: ApiOf) -> None:
    listed = api(vera).read("/kept-logs/").json()["results"]
    assert [(log["name"], log["size_bytes"], log["node"]) for log in listed] == [
        ("old", 7, kept.node.name)
    ] * 2
    assert listed[0]["removed_at"].startswith("2023-11-14T22:13:20")
    assert api(vera).send("DELETE", "/kept-logs/old/", None).status_code == 403
    assert api(bob).send("DELETE", "/kept-logs/old/", None).status_code == 202
    assert last_sent()[1] == KeptLogRemove(log=ID)
    entry = Entry.objects.latest("seq")
    assert (entry.actor, entry.action, entry.target) == ("bob", "kept_log.remove", "old")


def test_kept_logs_are_found_by_name_id_and_beginning(kept: FakeNode) -> None:
    for ref in ("old", ID, ID[:12]):
        assert kept_log_get(kept.node, ref).id == ID
    with pytest.raises(Missing, match="nobody"):
        kept_log_get(kept.node, "nobody")


def test_an_unknown_kept_log_is_not_found(kept: FakeNode, vera: User, api: ApiOf) -> None:
    answer = api(vera).read("/kept-logs/nobody/")
    assert (answer.status_code, answer.json()["hint"]) == (404, "list the kept logs")


def signed_in(user: User) -> Client:
    client = Client()
    client.cookies["wharfinger_session"] = session_of(user.pk)
    return client


def test_the_dialog_offers_to_keep_the_log(kept: FakeNode, bob: User) -> None:
    kept.container(container_record(status="exited"))
    client = signed_in(bob)
    page = client.get("/containers/web/remove/").content.decode()
    assert 'name="keep_log"' in page
    client.post("/containers/web/remove/", {"keep_log": "1"})
    contract = last_sent()[1]
    assert isinstance(contract, ContainerRemove)
    assert (contract.keep_log, contract.volumes) == (True, False)


def test_the_page_lists_and_removes(kept: FakeNode, bob: User) -> None:
    client = signed_in(bob)
    text = client.get("/containers/kept-logs/").content.decode()
    assert text.count("old.log") == 2
    client.post(f"/containers/kept-logs/{ID}/remove/")
    assert last_sent()[1] == KeptLogRemove(log=ID)

"""Operations: accepted means kept, the same key means once, every one comes to an end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.support.web import Api, FakeNode, actor_of, container_record, last_sent, token_for
from webapp.accounts.models import Token, User
from webapp.audit.models import Entry
from webapp.containers.models import Container
from webapp.core.sealing import unseal
from webapp.nodes.models import Node
from webapp.nodes.system import check
from webapp.operations import reaper
from webapp.operations.models import IdempotencyKey, Operation, Status
from webapp.operations.reaper import Reaper
from webapp.operations.sender import RecordingSender
from webapp.registries.services import registry_create
from workers.contracts.events import Heartbeat
from workers.contracts.images import ImagePull, RegistryAccess

pytestmark = pytest.mark.django_db(transaction=True)
ApiOf = Callable[..., Api]


def beat(*running: str) -> Heartbeat:
    return Heartbeat(node="local", boot="b", epoch="e1", last_seq=0, at=0.0, running=list(running))


@pytest.fixture
def heartbeat(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the node's agent say something, or nothing (`None`)."""

    def says(said: Heartbeat | None) -> None:
        monkeypatch.setattr(reaper.client, "heartbeat", lambda node: said)

    says(beat())
    return says


def silent(operation_id: str) -> None:
    Operation.objects.filter(pk=operation_id).update(heard_at=timezone.now() - timedelta(minutes=1))


# --- the outbox ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_sent_is_kept_and_sent_later(
    node: Node, bob: User, api: ApiOf, heartbeat: Any
) -> None:
    """F-12: never "accepted" and lost."""
    RecordingSender.down = True
    answer = api(bob).write("/containers/", {"image": "nginx"})
    assert answer.status_code == 202
    operation = Operation.objects.get()
    assert (operation.status, operation.sent_at) == ("queued", None)
    Operation.objects.update(created_at=timezone.now() - timedelta(seconds=5))
    Reaper().tick()
    assert Operation.objects.get().sent_at is None
    RecordingSender.down = False
    Reaper().tick()
    assert [item[0] for item in RecordingSender.sent] == [operation.id]
    assert Operation.objects.get().sent_at is not None


def test_cancelling_what_was_never_sent_ends_it_at_once(node: Node, bob: User, api: ApiOf) -> None:
    RecordingSender.down = True
    client = api(bob)
    operation = client.write("/containers/", {"image": "nginx"}).json()["operation"]
    answer = client.write(f"/operations/{operation['id']}/cancel/")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert Entry.objects.filter(outcome="cancelled", action="container.create").exists()


def test_cancelling_is_passed_to_the_node(node: Node, bob: User, api: ApiOf) -> None:
    client = api(bob)
    client.write("/containers/", {"image": "nginx"})
    operation = last_sent()[0]
    assert client.write(f"/operations/{operation}/cancel/").status_code == 202
    assert RecordingSender.cancelled == [operation]
    assert Entry.objects.filter(action="operation.cancel").exists()


def test_an_ended_operation_cannot_be_cancelled(voice: FakeNode, bob: User, api: ApiOf) -> None:
    client = api(bob)
    client.write("/system/check/")
    voice.end(last_sent()[0], result={})
    assert client.write(f"/operations/{last_sent()[0]}/cancel/").status_code == 409


# --- idempotency --------------------------------------------------------------------------------------------------


def test_the_same_key_is_the_same_operation(node: Node, bob: User, api: ApiOf) -> None:
    """F-19."""
    client = api(bob)
    first = client.write("/containers/", {"image": "nginx"}, Idempotency_Key="k1")
    again = client.write("/containers/", {"image": "nginx"}, Idempotency_Key="k1")
    assert first.status_code == again.status_code == 202
    assert first.json()["operation"]["id"] == again.json()["operation"]["id"]
    assert first.json()["container"]["id"] == again.json()["container"]["id"]
    assert (Operation.objects.count(), Container.objects.count(), len(RecordingSender.sent)) == (1, 1, 1)


def test_a_repeated_key_answers_the_end_when_it_is_there(voice: FakeNode, bob: User, api: ApiOf) -> None:
    client = api(bob)
    first = client.write("/containers/", {"image": "nginx", "name": "web"}, Idempotency_Key="k1").json()
    voice.container(container_record(id=first["container"]["id"]))
    voice.end(first["operation"]["id"])
    again = client.write("/containers/", {"image": "nginx", "name": "web"}, Idempotency_Key="k1")
    assert again.status_code == 201
    assert again.json()["id"] == first["container"]["id"]


def test_the_same_key_for_other_work_is_refused(node: Node, bob: User, api: ApiOf) -> None:
    client = api(bob)
    client.write("/containers/", {"image": "nginx"}, Idempotency_Key="k1")
    assert client.write("/containers/", {"image": "redis"}, Idempotency_Key="k1").status_code == 409


def test_keys_are_each_persons_own(node: Node, bob: User, alice: User, api: ApiOf) -> None:
    """AP-04."""
    api(bob).write("/containers/", {"image": "nginx"}, Idempotency_Key="k1")
    api(alice).write("/containers/", {"image": "nginx"}, Idempotency_Key="k1")
    assert Operation.objects.count() == 2


def test_a_repeated_direct_request_answers_the_same(alice: User, api: ApiOf) -> None:
    client = api(alice)
    body = {"host": "127.0.0.1:5000", "username": "u", "secret": "s"}
    first = client.write("/registries/", body, Idempotency_Key="k1")
    again = client.write("/registries/", body, Idempotency_Key="k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()


def test_a_repeated_token_request_makes_no_second_and_shows_no_secret(alice: User, api: ApiOf) -> None:
    client = api(alice)
    first = client.write("/tokens/", {"name": "ci"}, Idempotency_Key="k1")
    again = client.write("/tokens/", {"name": "ci"}, Idempotency_Key="k1")
    assert again.status_code == 409
    assert first.json()["secret"] not in str(IdempotencyKey.objects.values())
    assert Token.objects.filter(name="ci").count() == 1


# --- outcomes -----------------------------------------------------------------------------------------------------


def test_an_outcome_ends_the_operation_once(voice: FakeNode, bob: User, api: ApiOf) -> None:
    client = api(bob)
    client.write("/system/check/")
    operation = last_sent()[0]
    voice.say("operation", "running", operation, status="running", kind="system.check", fence=1)
    assert client.read(f"/operations/{operation}/").json()["status"] == "running"
    voice.end(operation, result={"problems": []})
    voice.fail(operation)  # too late
    body = client.read(f"/operations/{operation[:8]}/?wait=5").json()
    assert (body["status"], body["result"]) == ("succeeded", {"problems": []})
    assert body["started_at"]
    assert body["finished_at"]


def test_an_outcome_of_a_future_fence_is_nobodys(voice: FakeNode, bob: User, api: ApiOf) -> None:
    """F-14: what the database never sent cannot end it."""
    api(bob).write("/system/check/")
    voice.end(last_sent()[0], fence=7)
    assert Operation.objects.get().status == "queued"


def test_secrets_are_sealed_and_forgotten_at_the_end(
    voice: FakeNode, alice: User, bob: User, api: ApiOf
) -> None:
    """RG-09, RT-13: the credential lies encrypted in the row, and only until the end."""
    registry_create(actor_of(alice), "127.0.0.1:5000", username="u", secret="hunter2")
    api(bob).write("/images/pull/", {"reference": "127.0.0.1:5000/app"})
    operation, contract = last_sent()
    assert isinstance(contract, ImagePull)
    assert contract.registries == [RegistryAccess(host="127.0.0.1:5000", username="u", password="hunter2")]
    row = Operation.objects.get()
    assert "hunter2" not in str(row.payload)
    assert b"hunter2" not in bytes(row.sealed_payload)
    assert unseal(row.sealed_payload)["registries"][0]["password"] == "hunter2"
    voice.end(operation, result={})
    assert not bytes(Operation.objects.get().sealed_payload)


# --- the reaper ---------------------------------------------------------------------------------------------------


def test_what_a_living_worker_holds_is_left_alone(node: Node, bob: User, heartbeat: Any) -> None:
    operation = check(actor_of(bob))
    silent(operation.id)
    heartbeat(beat(operation.id))
    Reaper().tick()
    assert len(RecordingSender.sent) == 1


def test_what_the_node_does_not_know_is_sent_again(node: Node, bob: User, heartbeat: Any) -> None:
    """F-11, F-16: the queue was emptied."""
    operation = check(actor_of(bob))
    silent(operation.id)
    RecordingSender.answers["operation.get"] = {"operations": {}}
    Reaper().tick()
    assert [(item[0], item[1]) for item in RecordingSender.sent] == [(operation.id, 1), (operation.id, 2)]


def test_what_the_node_has_ended_is_ended_here(node: Node, bob: User, heartbeat: Any) -> None:
    """F-11: the event was lost, the node remembers."""
    operation = check(actor_of(bob))
    silent(operation.id)
    told = {
        "status": "succeeded",
        "kind": "system.check",
        "fence": 1,
        "attempt": 1,
        "result": {"problems": []},
        "error": None,
    }
    RecordingSender.answers["operation.get"] = {"operations": {operation.id: told}}
    Reaper().tick()
    operation.refresh_from_db()
    assert (operation.status, operation.result) == ("succeeded", {"problems": []})
    assert len(RecordingSender.sent) == 1


def test_a_silent_node_is_waited_for(node: Node, bob: User, heartbeat: Any) -> None:
    operation = check(actor_of(bob))
    silent(operation.id)
    heartbeat(None)
    Reaper().tick()
    operation.refresh_from_db()
    assert operation.status == "queued"


def test_what_never_comes_to_an_end_is_interrupted(node: Node, bob: User, heartbeat: Any) -> None:
    """F-16: every accepted job ends in a final state; the book says `interrupted`."""
    operation = check(actor_of(bob))
    silent(operation.id)
    Operation.objects.update(attempts=reaper.MAX_ATTEMPTS)
    RecordingSender.answers["operation.get"] = {"operations": {}}
    Reaper().tick()
    operation.refresh_from_db()
    assert (operation.status, operation.error["code"]) == ("failed", "interrupted")
    assert Entry.objects.latest("seq").outcome == "interrupted"


def test_a_lost_cancel_is_said_again(node: Node, bob: User, api: ApiOf, heartbeat: Any) -> None:
    operation = check(actor_of(bob))
    Operation.objects.update(cancel_requested_at=timezone.now() - timedelta(seconds=10))
    Reaper().tick()
    assert RecordingSender.cancelled == [operation.id]


# --- retry and lists ----------------------------------------------------------------------------------------------


def test_a_failed_operation_is_retried_as_a_new_one(voice: FakeNode, bob: User, api: ApiOf) -> None:
    client = api(bob)
    client.write("/images/pull/", {"reference": "nginx"})
    first = last_sent()[0]
    voice.fail(first)
    answer = client.write(f"/operations/{first}/retry/")
    assert answer.status_code == 202
    second = Operation.objects.get(pk=answer.json()["operation"]["id"])
    assert (second.kind, second.retry_of, second.status) == ("image.pull", first, Status.QUEUED)


def test_a_finished_one_is_not_retried(voice: FakeNode, bob: User, api: ApiOf) -> None:
    client = api(bob)
    client.write("/system/check/")
    voice.end(last_sent()[0], result={})
    assert client.write(f"/operations/{last_sent()[0]}/retry/").status_code == 409


def test_operations_are_filtered(voice: FakeNode, bob: User, api: ApiOf) -> None:
    client = api(bob)
    client.write("/system/check/")
    client.write("/images/pull/", {"reference": "nginx"})
    assert len(client.read("/operations/").json()["results"]) == 2
    assert [o["kind"] for o in client.read("/operations/?kind=image.").json()["results"]] == ["image.pull"]
    voice.end(last_sent()[0], result={})
    assert [o["kind"] for o in client.read("/operations/?active=1").json()["results"]] == ["system.check"]


def test_a_read_token_reads_operations_only(node: Node, bob: User) -> None:
    """AP-05."""
    operation = check(actor_of(bob))
    client = Api(token_for(bob, "read"))
    assert client.read(f"/operations/{operation.id}/").status_code == 200
    assert client.write(f"/operations/{operation.id}/cancel/").status_code == 403

"""Containers through REST: accepted, sent to the node, answered when it has told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.web import Api, FakeNode, container_record, last_sent
from webapp.accounts.models import User
from webapp.audit.models import Entry
from webapp.containers.models import Container
from webapp.operations.models import Operation
from webapp.operations.sender import RecordingSender
from workers.contracts.containers import ContainerCreate, ContainerRemove, ContainerStop

pytestmark = pytest.mark.django_db(transaction=True)
ApiOf = Callable[..., Api]


def test_create_answers_202_with_operation_and_container(node: object, bob: User, api: ApiOf) -> None:
    answer = api(bob).write("/containers/", {"image": "nginx", "name": "web", "ports": ["8080:80"]})
    assert answer.status_code == 202
    body = answer.json()
    assert body["operation"]["status"] == "queued"
    assert body["operation"]["url"] == f"/api/v1/operations/{body['operation']['id']}/"
    assert body["container"]["name"] == "web"
    assert body["container"]["status"] == "creating"


def test_create_sends_the_canonical_spec_to_the_node(node: object, bob: User, api: ApiOf) -> None:
    api(bob).write(
        "/containers/",
        {
            "image": "nginx",
            "command": "sleep 9",
            "env": {"A": "1"},
            "memory_bytes": 1 << 20,
            "restart": "on-failure:3",
        },
    )
    operation, contract = last_sent()
    assert isinstance(contract, ContainerCreate)
    assert contract.start is True
    assert contract.spec["command"] == ["sleep", "9"]
    assert contract.spec["resources"]["memory_bytes"] == 1 << 20
    assert contract.spec["restart"] == {"name": "on-failure", "maximum_retry_count": 3}
    assert Container.objects.get().id == contract.id
    assert Operation.objects.get().id == operation


def test_create_with_wait_answers_201_with_the_container(
    voice: FakeNode, bob: User, api: ApiOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def node_does_it(self: RecordingSender, operation: Operation) -> None:
        self.sent.append((operation.id, operation.fence, None))  # type: ignore[arg-type]
        voice.container(container_record(id=operation.target_id))
        voice.say(
            "operation",
            "succeeded",
            operation.id,
            status="succeeded",
            kind=operation.kind,
            fence=1,
            result={},
        )

    monkeypatch.setattr(RecordingSender, "send", node_does_it)
    answer = api(bob).write("/containers/?wait=5", {"image": "nginx", "name": "web"})
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert body["status"] == "running"
    assert body["operation"]["status"] == "succeeded"
    assert body["created_by"] == "bob"


def test_create_with_wait_answers_the_problem_when_it_fails(
    voice: FakeNode, bob: User, api: ApiOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def node_fails(self: RecordingSender, operation: Operation) -> None:
        self.sent.append((operation.id, operation.fence, None))  # type: ignore[arg-type]
        error = {"code": "image_not_found", "detail": "no image nginx", "hint": "look at the name"}
        voice.say(
            "operation", "failed", operation.id, status="failed", kind=operation.kind, fence=1, error=error
        )

    monkeypatch.setattr(RecordingSender, "send", node_fails)
    answer = api(bob).write("/containers/?wait=5", {"image": "nginx"})
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "image_not_found"
    assert answer.json()["hint"] == "look at the name"
    assert not Container.objects.exists()  # nothing half-made


def test_wait_gives_up_with_202(node: object, bob: User, api: ApiOf) -> None:
    answer = api(bob).write("/containers/?wait=0.1", {"image": "nginx"})
    assert answer.status_code == 202


def test_a_taken_name_is_refused_at_once(voice: FakeNode, bob: User, api: ApiOf) -> None:
    voice.container(container_record())
    answer = api(bob).write("/containers/", {"image": "nginx", "name": "web"})
    assert answer.status_code == 409
    assert "web" in answer.json()["detail"]
    assert not RecordingSender.sent


@pytest.mark.parametrize("ref", ["web", "c" * 64, "cccc"])
def test_containers_are_found_by_name_id_and_prefix(
    voice: FakeNode, vera: User, api: ApiOf, ref: str
) -> None:
    voice.container(container_record())
    assert api(vera).read(f"/containers/{ref}/").json()["name"] == "web"


def test_an_unknown_container_is_a_problem_document(node: object, vera: User, api: ApiOf) -> None:
    answer = api(vera).read("/containers/nope/")
    assert answer.status_code == 404
    assert answer.json()["code"] == "container_not_found"


def test_an_ambiguous_prefix_is_a_conflict(voice: FakeNode, vera: User, api: ApiOf) -> None:
    voice.container(container_record(id="ab" + "1" * 62, name="one"))
    voice.container(container_record(id="ab" + "2" * 62, name="two"))
    assert api(vera).read("/containers/ab/").status_code == 409


def test_stop_passes_the_grace_time(voice: FakeNode, bob: User, api: ApiOf) -> None:
    voice.container(container_record())
    assert api(bob).write("/containers/web/stop/", {"timeout_s": 3}).status_code == 202
    _, contract = last_sent()
    assert contract == ContainerStop(container="c" * 64, timeout_s=3.0)


def test_a_running_container_is_not_removed_without_force(voice: FakeNode, bob: User, api: ApiOf) -> None:
    voice.container(container_record())
    assert api(bob).send("DELETE", "/containers/web/").status_code == 409
    assert api(bob).send("DELETE", "/containers/web/?force=1&volumes=true").status_code == 202
    assert last_sent()[1] == ContainerRemove(container="c" * 64, force=True, volumes=True)


def test_viewers_see_names_of_variables_only(voice: FakeNode, vera: User, bob: User, api: ApiOf) -> None:
    """RT-13."""
    voice.container(container_record())
    assert b"hunter2" not in api(vera).read("/containers/web/").content
    assert b"DB_PASSWORD" in api(vera).read("/containers/web/").content
    assert b"hunter2" in api(bob).read("/containers/web/").content


def test_env_values_are_not_in_the_book(node: object, bob: User, api: ApiOf) -> None:
    """RT-13, AP-13."""
    api(bob).write("/containers/", {"image": "nginx", "env": {"DB_PASSWORD": "hunter2"}})
    entry = Entry.objects.get(action="container.create")
    assert "hunter2" not in entry.body
    assert "DB_PASSWORD" in entry.body


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "image"),
        ({"image": "nginx", "nonsense": 1}, "nonsense"),
        ({"image": "nginx", "ports": ["99999:80"]}, "ports"),
        ({"image": "nginx", "ports": ["80:80/icmp"]}, "ports"),
        ({"image": "nginx", "name": "../x"}, "name"),
        ({"image": "nginx", "name": "-rf"}, "name"),
        ({"image": "nginx", "name": "a" * 300}, "name"),
        ({"image": "nginx", "mounts": ["data:relative"]}, "mounts"),
        ({"image": "nginx", "restart": "sometimes"}, "restart"),
        ({"image": "nginx", "restart": "always", "auto_remove": True}, "restart"),
        ({"image": "nginx", "hostname": "a\nb"}, "hostname"),
        ({"image": "nginx", "tty": "yes"}, "tty"),
        ({"image": "nginx", "memory_bytes": -5}, "memory_bytes"),
        ({"image": "nginx", "network_mode": "host", "networks": ["a"]}, "networks"),
    ],
)
def test_bad_requests_name_the_field(
    node: object, alice: User, api: ApiOf, body: dict[str, object], field: str
) -> None:
    """RT-15, RT-16."""
    answer = api(alice).write("/containers/", body)
    assert answer.status_code == 400, answer.content
    assert field in str(answer.json().get("fields")) + answer.json()["detail"]
    assert not RecordingSender.sent
    assert not Container.objects.exists()

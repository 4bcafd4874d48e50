"""RG-10: protected names at the site's doors: 403, one clear sentence, a row in the book, and nothing is sent to a node."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from channels.db import database_sync_to_async
from django.test import Client

from engine.images import protection as of_node
from tests.support.sample_site import session_of
from tests.support.web import Api, FakeNode, actor_of, container_record, image_record, last_sent, token_for
from webapp.accounts.models import User
from webapp.asgi import application
from webapp.audit.models import Entry
from webapp.core.errors import Invalid
from webapp.images import protection
from webapp.images.models import Image, ProtectedName
from webapp.nodes.models import Node
from webapp.nodes.services import node_update
from webapp.operations.models import Operation
from webapp.operations.sender import RecordingSender
from workers.contracts.images import NamesProtect

pytestmark = pytest.mark.django_db(transaction=True)
ApiOf = Callable[..., Api]

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SENTENCE = "the name team/app:1 is protected and cannot be"


@pytest.fixture
def images(voice: FakeNode, alice: User) -> FakeNode:
    """`team/app:1` and `team/app:old` are names of one image, `other:1` of another; the first is protected."""
    names = ["docker.io/team/app:1", "docker.io/team/app:old"]
    voice.say("image", "pull", OLD, record=image_record(id=OLD, names=names))
    voice.say("image", "pull", NEW, record=image_record(id=NEW, names=["docker.io/library/other:1"]))
    voice.container(container_record())
    protection.protect(actor_of(alice), "team/app:1", "in production")
    RecordingSender.sent.clear()
    return voice


def tar(client: Api, path: str) -> Any:
    return client.generic("POST", f"/api/v1{path}", b"x" * 1024, content_type="application/x-tar")


REST: dict[str, Callable[[Api], Any]] = {
    "tag": lambda c: c.write("/images/other:1/tag/", {"reference": "team/app:1"}),
    "untag": lambda c: c.send("DELETE", f"/images/{OLD}/tag/?reference=team/app:1"),
    "remove by name": lambda c: c.send("DELETE", "/images/team%2Fapp:1/"),
    "remove by id": lambda c: c.send("DELETE", f"/images/{OLD}/?force=true"),
    "build": lambda c: c.write("/builds/", {"dockerfile": "FROM scratch", "tags": ["team/app:1"]}),
    "commit": lambda c: c.write(f"/containers/{'c' * 64}/commit/", {"reference": "team/app:1"}),
}


@pytest.mark.parametrize("door", REST)
@pytest.mark.parametrize("who", ["bob", "alice"])
def test_rest_refuses_and_writes_it_down(
    images: FakeNode, request: pytest.FixtureRequest, api: ApiOf, door: str, who: str
) -> None:
    answer = REST[door](api(request.getfixturevalue(who)))
    assert answer.status_code == 403, answer.content
    problem = answer.json()
    assert problem["code"] == "name_protected"
    assert problem["detail"].startswith(SENTENCE)
    assert "administrator" in problem["hint"]
    entry = Entry.objects.filter(outcome="refused").get()
    assert (entry.actor, entry.target) == (who, "team/app:1")
    assert entry.detail.startswith(SENTENCE)
    assert not RecordingSender.sent


@pytest.mark.parametrize("door", [name for name in REST if name != "untag"])
def test_after_the_protection_is_lifted_the_same_requests_are_accepted(
    images: FakeNode, alice: User, api: ApiOf, door: str
) -> None:
    protection.unprotect(actor_of(alice), "team/app:1")
    assert REST[door](api(alice)).status_code == 202


def test_other_names_of_the_same_image_are_free(images: FakeNode, bob: User, api: ApiOf) -> None:
    client = api(bob)
    assert client.send("DELETE", f"/images/{OLD}/tag/?reference=team/app:old").status_code == 202
    assert client.write("/images/team%2Fapp:1/tag/", {"reference": "team/app:2"}).status_code == 202
    assert client.write("/images/team%2Fapp:1/tag/", {"reference": "team/app:1"}).status_code == 202


async def test_import_refuses_and_the_upload_is_gone(images: FakeNode, bob: User) -> None:
    answer = await asgi(bob, "POST", "/api/v1/images/import/?reference=team/app:1", content=b"x" * 1024)
    assert answer.status_code == 403
    assert answer.json()["detail"].startswith(SENTENCE)
    assert not RecordingSender.sent


@pytest.mark.parametrize("door", ["load", "pull"])
def test_what_only_the_node_can_know_is_told_in_its_words(
    images: FakeNode, bob: User, api: ApiOf, door: str
) -> None:
    """An archive's names and what a registry has under a tag: the node refuses, the operation ends with 403."""
    client = api(bob)
    path = "/images/load/" if door == "load" else "/images/pull/"
    sent = tar(client, path) if door == "load" else client.write(path, {"reference": "team/app:1"})
    assert sent.status_code == 202
    operation = sent.json()["operation"]["id"]
    images.fail(operation, "name_protected", f"{SENTENCE} moved to another image", "an administrator can")
    ended = client.read(f"/operations/{operation}/").json()
    assert ended["error"]["code"] == "name_protected"
    assert Entry.objects.filter(operation=operation, outcome="failed").exists()
    assert Image.objects.get(image_id=OLD).names == ["team/app:1", "team/app:old"]


# --- the docker command's answers ---------------------------------------------------------------------------------

DOCKER = {
    "tag": ("POST", "/v1.44/images/other:1/tag?repo=team/app&tag=1"),
    "rmi": ("DELETE", "/v1.44/images/team/app:1"),
    "rmi of the id": ("DELETE", f"/v1.44/images/{OLD}?force=1"),
    "commit": ("POST", f"/v1.44/commit?container={'c' * 64}&repo=team/app&tag=1"),
    "import": ("POST", "/v1.44/images/create?fromSrc=-&repo=team/app&tag=1"),
}


async def asgi(user: User, method: str, path: str, content: bytes = b"") -> httpx.Response:
    token = await database_sync_to_async(token_for)(user)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-tar"}
    if not path.startswith("/api/"):
        headers["Content-Type"] = "application/json" if b"{" in content else "application/x-tar"
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, path, headers=headers, content=content)


@pytest.mark.parametrize("door", DOCKER)
async def test_the_docker_command_is_answered_403(images: FakeNode, bob: User, door: str) -> None:
    method, path = DOCKER[door]
    answer = await asgi(bob, method, path, b"{}" if door == "commit" else b"")
    assert answer.status_code == 403, answer.text
    assert answer.json()["message"].startswith(SENTENCE)
    assert not RecordingSender.sent


# --- the list -----------------------------------------------------------------------------------------------------


def test_an_admin_keeps_the_list_and_every_node_hears_of_it(
    node: Node, alice: User, bob: User, api: ApiOf
) -> None:
    client = api(alice)
    made = client.write("/images/protected/", {"pattern": "team/*:prod", "note": "releases"})
    assert made.status_code == 202
    _, first = last_sent()
    assert isinstance(first, NamesProtect)
    assert first.patterns == ["docker.io/team/*:prod"]
    client.write("/images/protected/", {"pattern": "nginx"})
    _, second = last_sent()
    assert isinstance(second, NamesProtect)
    assert second.patterns == ["docker.io/library/nginx:latest", "docker.io/team/*:prod"]
    assert second.revision > first.revision
    (row, _) = api(bob).read("/images/protected/").json()["results"]
    assert (row["pattern"], row["created_by"]) == ("nginx:latest", "alice")
    assert client.write("/images/protected/", {"pattern": "nginx:latest"}).status_code == 409
    assert client.send("DELETE", "/images/protected/?pattern=nginx").status_code == 202
    assert client.send("DELETE", "/images/protected/?pattern=nginx").status_code == 404
    assert client.send("DELETE", "/images/protected/").status_code == 400
    book = Entry.objects.filter(action__in=("image.protect", "image.unprotect")).order_by("seq")
    assert [(entry.action, entry.target) for entry in book] == [
        ("image.protect", "team/*:prod"),
        ("image.protect", "nginx:latest"),
        ("image.unprotect", "nginx:latest"),
    ]


def test_nobody_but_an_admin_protects_or_lifts(images: FakeNode, bob: User, api: ApiOf) -> None:
    client = api(bob)
    assert client.write("/images/protected/", {"pattern": "x"}).status_code == 403
    assert client.send("DELETE", "/images/protected/?pattern=team/app:1").status_code == 403
    assert ProtectedName.objects.count() == 1


def test_a_node_that_comes_later_hears_of_it(images: FakeNode, alice: User) -> None:
    made = Node.objects.create(name="second")
    assert told() == ["image.names_protect"]
    node_update(actor_of(alice), made, {"is_enabled": False})
    assert len(told()) == 1
    node_update(actor_of(alice), made, {"is_enabled": True})
    assert len(told()) == 2


def told() -> list[str]:
    """Return the kinds of what was sent to the node that came later."""
    second = set(Operation.objects.filter(node__name="second").values_list("id", flat=True))
    return [contract.KIND for operation, _, contract in RecordingSender.sent if operation in second]


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:*", "docker.io/library/nginx:*"),
        ("team/*:prod", "docker.io/team/*:prod"),
        ("host:5000/team/*", "host:5000/team/*:latest"),
        ("localhost/app:1-*", "localhost/app:1-*"),
    ],
)
def test_patterns_are_normalised_as_names_are(written: str, whole: str) -> None:
    assert protection.normal_pattern(written) == whole
    assert protection.normal_pattern(whole) == whole


@pytest.mark.parametrize(
    "text", ["", "a/B:1", "a b", "a@sha256:" + "0" * 64, "x" * 400, "*.evil.com/a:1", "a:1:2"]
)
def test_what_is_no_pattern_is_refused(db: None, text: str) -> None:
    with pytest.raises(Invalid):
        protection.normal_pattern(text)


@pytest.mark.parametrize("pattern", ["docker.io/team/*:prod", "docker.io/library/a.b:*", "h:5000/x/*:1-*"])
@pytest.mark.parametrize(
    "name",
    [
        "docker.io/team/a:prod",
        "docker.io/team/a/b:prod",
        "docker.io/library/a.b:1",
        "h:5000/x/y:1-slim",
        "h:5000/x:1",
    ],
)
def test_site_and_node_agree_what_fits(pattern: str, name: str) -> None:
    assert protection.fits(pattern, name) is of_node.fits(pattern, name)


# --- pages --------------------------------------------------------------------------------------------------------


def browser(user: User) -> Client:
    client = Client()
    client.cookies["wharfinger_session"] = session_of(user.pk)
    return client


def test_the_page_of_an_image_protects_and_lifts(images: FakeNode, alice: User, bob: User) -> None:
    admin = browser(alice)
    tags = admin.get(f"/images/{'a' * 12}/tags/").content.decode()
    assert tags.count("Lift the protection") == 1
    assert tags.count(">Protect<") == 1
    admin.post("/images/protected/", {"pattern": "team/app:old", "next": f"/images/{'a' * 12}/tags/"})
    assert set(ProtectedName.objects.values_list("pattern", flat=True)) == {
        "docker.io/team/app:1",
        "docker.io/team/app:old",
    }
    assert admin.get(f"/images/{'a' * 12}/tags/").content.decode().count("Lift the protection") == 2
    assert "in production" in admin.get("/images/protected/").content.decode()
    admin.post("/images/protected/lift/", {"pattern": "team/app:1"})
    assert ProtectedName.objects.get().pattern == "docker.io/team/app:old"
    operator = browser(bob)
    assert "Lift the protection" not in operator.get(f"/images/{'a' * 12}/tags/").content.decode()
    assert operator.post("/images/protected/", {"pattern": "x"}).status_code == 403


def test_the_pages_that_move_names_refuse(images: FakeNode, bob: User) -> None:
    operator = browser(bob)
    script = {"HX-Request": "true"}
    moved = operator.post(f"/images/{'b' * 12}/tag/", {"reference": "team/app:1"}, headers=script)
    gone = operator.post(f"/images/{'a' * 12}/untag/", {"reference": "team/app:1"}, headers=script)
    asked = operator.get(f"/images/{'a' * 12}/remove/").content.decode()
    assert "team/app:1 is protected" in asked
    assert 'data-kind="danger"' not in asked
    removed = operator.post(f"/images/{'a' * 12}/remove/")
    assert [moved.status_code, gone.status_code, removed.status_code] == [403, 403, 403]
    assert json.loads(moved.content)["detail"].startswith(SENTENCE)
    assert not RecordingSender.sent

"""Images by REST and by their pages: what a request becomes for the node."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client

from tests.support.sample_site import session_of
from tests.support.web import Api, FakeNode, image_record, last_sent
from webapp.accounts.models import User
from webapp.audit.models import Entry
from webapp.dockerapi.documents import image as documents
from webapp.images.models import Image
from webapp.images.selectors import brief_records
from webapp.nodes.models import Node
from webapp.operations.sender import RecordingSender
from workers.contracts.images import ImagePrune, ImagePull, ImagePush

pytestmark = pytest.mark.django_db(transaction=True)
ApiOf = Callable[..., Api]

IMAGE = "sha256:" + "a" * 64


def browser(user: User) -> Client:
    client = Client()
    client.cookies["wharfinger_session"] = session_of(user.pk)
    return client


@pytest.fixture
def image(voice: FakeNode) -> str:
    voice.say("image", "pull", IMAGE, record=image_record(names=["docker.io/team/app:1"]))
    return f"/images/{IMAGE}/"


@pytest.mark.parametrize(
    ("wish", "compression", "all_platforms"),
    [({}, "gzip", False), ({"compression": "zstd"}, "zstd", False), ({"all_platforms": True}, "gzip", True)],
)
def test_a_push_says_how_layers_are_packed_and_whether_all_platforms_go(
    image: str, bob: User, api: ApiOf, wish: dict[str, object], compression: str, all_platforms: bool
) -> None:
    assert api(bob).write(f"{image}push/", wish).status_code == 202
    _, sent = last_sent()
    assert isinstance(sent, ImagePush)
    assert (sent.compression, sent.all_platforms) == (compression, all_platforms)
    assert sent.reference == "docker.io/team/app:1"
    assert Entry.objects.filter(action="image.push", target="team/app:1").exists()


def test_an_index_cannot_be_packed_otherwise(image: str, bob: User, api: ApiOf) -> None:
    answer = api(bob).write(f"{image}push/", {"compression": "zstd", "all_platforms": True})
    assert answer.status_code == 400
    assert "as it is" in answer.json()["detail"]
    assert not RecordingSender.sent


def test_the_page_asks_the_same(image: str, bob: User) -> None:
    client = browser(bob)
    assert 'name="all_platforms"' in client.get(f"{image}push/").content.decode()
    client.post(f"{image}push/", {"reference": "team/app:1", "all_platforms": "1"})
    _, sent = last_sent()
    assert isinstance(sent, ImagePush)
    assert sent.all_platforms
    client.post(f"{image}push/", {"reference": "team/app:1", "compression": "zstd"})
    _, sent = last_sent()
    assert isinstance(sent, ImagePush)
    assert sent.compression == "zstd"


def test_a_pull_of_all_tags(node: Node, bob: User, api: ApiOf) -> None:
    client = api(bob)
    assert client.write("/images/pull/", {"reference": "team/app", "all_tags": True}).status_code == 202
    _, sent = last_sent()
    assert isinstance(sent, ImagePull)
    assert (sent.reference, sent.all_tags) == ("docker.io/team/app:latest", True)
    assert Entry.objects.filter(action="image.pull", target="team/app, all tags").exists()
    refused = client.write("/images/pull/", {"reference": "team/app:1", "all_tags": True})
    assert refused.status_code == 400


def test_the_tags_of_a_repository_are_asked_of_its_registry(node: Node, vera: User, api: ApiOf) -> None:
    RecordingSender.answers["registry.tags"] = {"tags": ["1", "2"]}
    client = api(vera)
    answer = client.read("/images/tags/?reference=registry.example:5000/team/app")
    assert answer.json() == {"repository": "registry.example:5000/team/app", "tags": ["1", "2"]}
    assert client.read("/images/tags/").status_code == 400
    assert client.read("/images/tags/?reference=A/B").status_code == 400


def test_the_page_of_a_search_shows_tags_and_pulls_them(node: Node, bob: User) -> None:
    RecordingSender.answers["registry.tags"] = {"tags": ["1.0", "2.0"]}
    page = browser(bob).get("/images/search/?tags=registry.example/app").content.decode()
    assert "Tags of registry.example/app" in page
    assert 'href="/images/pull/?reference=registry.example/app:2.0"' in page


def test_the_page_removes_what_is_old_only(node: Node, bob: User) -> None:
    browser(bob).post("/images/prune/", {"mode": "unused", "older_than_s": "604800"})
    _, sent = last_sent()
    assert isinstance(sent, ImagePrune)
    assert (sent.mode, sent.older_than_s) == ("unused", 604800.0)


def test_a_brief_record_makes_the_same_line_of_a_list_as_the_whole_one(voice: FakeNode) -> None:
    records = [
        image_record(id="sha256:" + "1" * 64, created_at=1_700_000_000.5),
        image_record(id="sha256:" + "2" * 64, created_at=0.0, created="", names=[], size_bytes=5),
        image_record(
            id="sha256:" + "3" * 64,
            created_at=1.0,
            names=["docker.io/team/app:1", "registry.example:5000/app:2"],
            repo_digests=["docker.io/team/app@sha256:" + "d" * 64],
            config={"os": "linux", "architecture": "amd64", "config": {}},
        ),
    ]
    for record in records:
        voice.say("image", "pull", record["id"], record=record)
    for image in Image.objects.all():
        image.record["size_bytes"] = image.size_bytes
        image.save()
    brief = dict(brief_records(Image.objects.all()))
    for image in Image.objects.all():
        assert documents.summary(brief[image.image_id]) == documents.summary(image.record)

"""Images by REST and by their pages: what a request becomes for the node."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client

from tests.support.sample_site import session_of
from tests.support.web import Api, FakeNode, image_record, last_sent
from webapp.accounts.models import User
from webapp.audit.models import Entry
from webapp.operations.sender import RecordingSender
from workers.contracts.images import ImagePush

pytestmark = pytest.mark.django_db(transaction=True)
ApiOf = Callable[..., Api]

IMAGE = "sha256:" + "a" * 64


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
    client = Client()
    client.cookies["wharfinger_session"] = session_of(bob.pk)
    assert 'name="all_platforms"' in client.get(f"{image}push/").content.decode()
    client.post(f"{image}push/", {"reference": "team/app:1", "all_platforms": "1"})
    _, sent = last_sent()
    assert isinstance(sent, ImagePush)
    assert sent.all_platforms
    client.post(f"{image}push/", {"reference": "team/app:1", "compression": "zstd"})
    _, sent = last_sent()
    assert isinstance(sent, ImagePush)
    assert sent.compression == "zstd"

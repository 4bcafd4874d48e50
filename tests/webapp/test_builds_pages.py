"""The form of a new build: what it asks for, and how it is said what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from tests.support import sample_data
from tests.support.sample_site import session_of
from webapp.builds.models import Build
from webapp.builds.pages import START
from webapp.operations.sender import RecordingSender
from workers.contracts.builds import BuildRun


@pytest.fixture
def sample(db: None) -> Iterator[dict[str, Any]]:
    RecordingSender.reset()
    yield sample_data.fill()
    RecordingSender.reset()


@pytest.fixture
def admin(sample: dict[str, Any]) -> Client:
    client = Client()
    client.cookies["wharfinger_session"] = session_of(sample["people"]["admin"].pk)
    return client


def _sent() -> BuildRun:
    _, _, contract = RecordingSender.sent[-1]
    assert isinstance(contract, BuildRun)
    return contract


def test_the_form_builds_from_an_address(admin: Client, django_capture_on_commit_callbacks: Any) -> None:
    address = "https://example.com/team/app.git#main:web"
    with django_capture_on_commit_callbacks(execute=True):
        answer = admin.post("/builds/new/", {"dockerfile": START, "remote": f" {address} ", "tags": "app:1"})
    assert answer.status_code in (302, 303), answer.content
    assert (_sent().remote, _sent().dockerfile) == (address, "")


def test_such_a_build_can_be_done_again_and_is_shown_as_a_call(
    admin: Client, django_capture_on_commit_callbacks: Any
) -> None:
    address = "https://example.com/team/app.git"
    admin.post("/builds/new/", {"remote": address, "tags": "app:1"})
    build = Build.objects.latest("created_at")
    assert f"-F remote={address}" in admin.get(f"/builds/{build.pk}/").content.decode()
    assert f'value="{address}"' in admin.get(f"/builds/new/?like={build.pk}").content.decode()
    with django_capture_on_commit_callbacks(execute=True):
        answer = admin.post(f"/builds/{build.pk}/again/")
    assert answer.status_code in (302, 303)
    assert (_sent().remote, _sent().tags) == (address, ["docker.io/library/app:1"])


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"remote": "git@example.com:a/b.git"}, "not an address of a context"),
        ({"remote": "https://me:secret@example.com/b.git"}, "credentials do not belong into an address"),
        ({"dockerfile": ""}, "there is nothing to build"),
    ],
)
def test_the_form_says_what_is_wrong(admin: Client, form: dict[str, str], words: str) -> None:
    answer = admin.post("/builds/new/", form)
    assert answer.status_code == 422
    assert words in answer.content.decode().lower()
    assert not RecordingSender.sent

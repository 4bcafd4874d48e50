"""Lists: a constant number of queries, quick with two thousand rows, and the shapes that OpenAPI promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from tests.support.web import (
    Api,
    FakeNode,
    actor_of,
    container_record,
    image_record,
    network_record,
    token_for,
    volume_record,
)
from webapp.accounts.models import User
from webapp.accounts.selectors import token_json, user_json
from webapp.api import shapes
from webapp.api.apis import readable, schema
from webapp.audit import selectors as audit
from webapp.audit.services import record
from webapp.builds import selectors as builds
from webapp.builds.services import BuildWish, build_create
from webapp.containers import selectors as containers
from webapp.images import selectors as images
from webapp.networks import selectors as networks
from webapp.nodes import selectors as nodes
from webapp.nodes.models import Node
from webapp.operations import selectors as operations
from webapp.operations.models import Operation
from webapp.realtime.apply import confirm
from webapp.registries import selectors as registries
from webapp.registries.services import registry_create
from webapp.volumes import selectors as volumes
from webapp.volumes.services import schedule_create, volume_backup

pytestmark = pytest.mark.django_db
ApiOf = Callable[..., Api]


def fill(node: Node, count: int) -> None:
    from django.utils import timezone

    def hexes(number: int) -> str:
        return f"{number:064x}"

    confirm(
        node.name,
        "container",
        [container_record(id=hexes(n), name=f"c{n}", created_at=1_700_000_000.0 + n) for n in range(count)],
        timezone.now(),
    )
    confirm(
        node.name,
        "image",
        [
            image_record(id="sha256:" + hexes(n), names=[f"docker.io/library/i{n}:latest"])
            for n in range(count)
        ],
        timezone.now(),
    )
    confirm(
        node.name,
        "network",
        [network_record(id=hexes(n), name=f"n{n}") for n in range(count)],
        timezone.now(),
    )
    confirm(node.name, "volume", [volume_record(name=f"v{n}") for n in range(count)], timezone.now())


LISTS = [
    "containers",
    "images",
    "networks",
    "volumes",
    "operations",
    "builds",
    "audit",
    "registries",
    "nodes",
    "events",
    "tokens",
    "backups",
]


@pytest.mark.parametrize("name", LISTS)
def test_the_number_of_queries_does_not_grow(node: Node, alice: User, api: ApiOf, name: str) -> None:
    client = api(alice)
    client.read("/system/")  # the token's first use is written down
    counts = []
    for count in (2, 12):
        fill(node, count)
        for _ in range(count):
            Operation.objects.create(kind="system.check", node=node, user=alice)
            build_create(actor_of(alice), BuildWish(dockerfile="FROM scratch"))
            record(actor_of(alice), "container.start")
            token_for(alice)
        with CaptureQueriesContext(connection) as queries:
            answer = client.read(f"/{name}/")
        assert answer.status_code == 200, answer.content
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 6, counts


def test_pages_of_two_thousand_are_whole(node: Node, vera: User, api: ApiOf) -> None:
    fill(node, 150)
    client = api(vera)
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = client.read(f"/containers/?limit=40&cursor={cursor}").json()
        seen += [item["name"] for item in page["results"]]
        cursor = page["next"]
    assert seen == [f"c{n}" for n in reversed(range(150))]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name=c1", ["c11", "c10", "c1"]),
        ("status=exited", ["c3"]),
        ("label=maker", [f"c{n}" for n in reversed(range(12))]),
        ("label=maker%3Dus&limit=1", ["c11"]),
        ("label=maker%3Dthem", []),
        ("network=bridge&limit=2", ["c11", "c10"]),
        ("volume=data&name=c2", ["c2"]),
        ("project=leafy", ["c3"]),
        ("search=c5", ["c5"]),
    ],
)
def test_containers_are_filtered(
    node: Node, voice: FakeNode, vera: User, api: ApiOf, query: str, names: list[str]
) -> None:
    fill(node, 12)
    labels = {"com.docker.compose.project": "leafy", "maker": "us"}
    spec = {**container_record()["spec"], "labels": labels}
    voice.container(
        container_record(
            id=f"{3:064x}", name="c3", status="exited", created_at=1_700_000_003.0, spec=spec, generation=2
        )
    )
    assert [item["name"] for item in api(vera).read(f"/containers/?{query}").json()["results"]] == names


@pytest.mark.parametrize(
    "query",
    [
        "ordering=created_by__password",
        "created_by__password__startswith=x",
        "limit=0",
        "limit=9999999",
        "limit=x",
        "cursor=%00",
        "cursor=bm9wZQ",
    ],
)
def test_nonsense_queries_are_refused(node: Node, vera: User, api: ApiOf, query: str) -> None:
    """AP-11."""
    assert api(vera).read(f"/containers/?{query}").status_code == 400


def test_a_listed_image_is_what_its_own_page_says(
    node: Node, voice: FakeNode, vera: User, api: ApiOf
) -> None:
    client = api(vera)
    for names in (["docker.io/library/nginx:latest"], ["docker.io/library/nginx:1", "docker.io/team/é:2"]):
        voice.say("image", "tag", image_record()["id"], record=image_record(names=names))
        (row,) = client.read("/images/").json()["results"]
        whole = client.read(f"/images/{row['id']}/").json()
        assert row == {name: value for name, value in whole.items() if name != "record"}
        assert len(row["names"]) == len(names)
        assert row["labels"] == {"maker": "us"}


def test_images_are_found_as_people_name_them(node: Node, voice: FakeNode, vera: User, api: ApiOf) -> None:
    digest = "sha256:" + "d" * 64
    voice.say(
        "image",
        "pull",
        "a",
        record=image_record(
            names=["127.0.0.1:5000/team/app:1", "docker.io/library/nginx:latest"],
            repo_digests=[f"docker.io/library/nginx@{digest}"],
        ),
    )
    client = api(vera)
    for ref in (
        "nginx",
        "nginx:latest",
        "docker.io/library/nginx",
        "127.0.0.1:5000/team/app:1",
        "aaaa",
        "sha256:" + "a" * 64,
        f"nginx@{digest}",
    ):
        answer = client.read(f"/images/{ref}/")
        assert answer.status_code == 200, ref
        assert answer.json()["names"] == ["127.0.0.1:5000/team/app:1", "nginx:latest"]
    for ref in ("nginx:2", "app", "bbbb", "nginx@sha256:" + "e" * 64):
        assert client.read(f"/images/{ref}/").status_code == 404
    assert len(client.read("/images/?name=nginx").json()["results"]) == 1
    assert client.read("/images/?dangling=1").json()["results"] == []


# --- the description ----------------------------------------------------------------------------------------------


def test_the_openapi_document_is_valid() -> None:
    validate(schema())
    broken = {name: part for name, part in schema().items() if name != "info"}
    with pytest.raises(OpenAPIValidationError):  # so the validator is one
        validate(broken)


def test_every_call_of_the_design_is_described() -> None:
    paths = schema()["paths"]
    for path in (
        "/api/v1/containers/{ref}/logs/",
        "/api/v1/images/{ref}/push/",
        "/api/v1/volumes/{name}/restore/",
        "/api/v1/audit/verify/",
    ):
        assert path in paths
    calls = [call for group in readable(schema()) for call in group["calls"]]
    assert all(call["summary"] for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)


def test_schema_and_docs_are_open_and_self_contained(client: Any, db: None) -> None:
    assert client.get("/api/v1/schema/").json()["openapi"].startswith("3.")
    page = client.get("/api/v1/docs/").content.decode()
    assert "/api/v1/containers/" in page
    assert "//cdn" not in page
    assert 'src="http' not in page
    assert "<script>" not in page


def test_answers_have_the_shapes_that_are_described(voice: FakeNode, alice: User) -> None:
    fill(voice.node, 1)
    actor = actor_of(alice)
    volume = volumes.volume_get("v0")
    backup, _ = volume_backup(actor, volume)
    build, operation = build_create(actor, BuildWish(dockerfile="FROM scratch"))
    token_for(alice)
    voice.say("container", "start", "x", name="x")
    pairs = [
        (shapes.CONTAINER_DETAIL, containers.detail_json(containers.container_get("c0"), actor)),
        (shapes.IMAGE_DETAIL, images.detail_json(images.image_get("i0"))),
        (shapes.NETWORK_DETAIL, networks.detail_json(networks.network_get("n0"))),
        (shapes.VOLUME_DETAIL, volumes.detail_json(volume)),
        (shapes.BACKUP, volumes.backup_json(backup)),
        (shapes.SCHEDULE, volumes.schedule_json(schedule_create(actor, volume))),
        (shapes.BUILD_DETAIL, builds.detail_json(build, actor)),
        (shapes.OPERATION, operations.to_json(operation, whole=True)),
        (shapes.USER, user_json(alice)),
        (shapes.TOKEN, token_json(alice.tokens.get())),
        (shapes.REGISTRY, registries.to_json(registry_create(actor, "127.0.0.1:5000"))),
        (shapes.NODE, nodes.node_json(voice.node)),
        (shapes.EVENT, nodes.event_json(nodes.event_list().get())),
        (shapes.ENTRY, audit.to_json(audit.entry_list().first())),  # type: ignore[arg-type]
    ]
    for promised, given in pairs:
        assert set(promised["properties"]) == set(given)

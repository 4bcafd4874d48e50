"""Pages: who sees what, what they ask of the database, and that nothing from outside is ever markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.support import sample_data
from tests.support.web import FakeNode, actor_of, container_record
from webapp.accounts.models import User
from webapp.containers.services import container_create, container_remove
from webapp.core.routes import all_routes, route_of
from webapp.nodes import usage
from webapp.operations.sender import RecordingSender

LISTS = [
    "/",
    "/containers/",
    "/images/",
    "/builds/",
    "/operations/",
    "/audit/",
    "/volumes/",
    "/backups/",
    "/networks/",
    "/registries/",
    "/nodes/",
    "/people/",
    "/account/",
]


@pytest.fixture
def sample(db: None) -> Iterator[dict[str, Any]]:
    RecordingSender.reset()
    RecordingSender.answers.update(sample_data.node_answers())
    usage.forget()
    yield sample_data.fill()
    RecordingSender.reset()


def signed_in(user: Any) -> Client:
    from tests.support.sample_site import session_of

    client = Client()
    client.cookies["wharfinger_session"] = session_of(user.pk)
    return client


@pytest.fixture
def admin(sample: dict[str, Any]) -> Client:
    return signed_in(sample["people"]["admin"])


@pytest.fixture
def viewer(sample: dict[str, Any]) -> Client:
    return signed_in(sample["people"]["viewer"])


def pages_of(sample: dict[str, Any]) -> list[str]:
    container, image, build = (
        sample["containers"]["leafy-backend"].pk[:12],
        sample["images"][0].image_id[7:19],
        sample["builds"]["done"].pk,
    )
    tabs = ["", "terminal/", "timeline/", "load/", "files/", "processes/", "changes/", "details/", "json/"]
    return [
        *LISTS,
        *(f"/containers/{container}/{tab}" for tab in tabs),
        *(f"/images/{image}/{tab}" for tab in ("", "config/", "tags/", "users/", "json/")),
        f"/builds/{build}/", f"/operations/{sample['operations'][2].pk}/", "/volumes/leafy-data/", "/networks/leafy-network/", "/applications/leafy/",
        "/system/", "/nodes/quay-1/", "/search/?q=leafy", "/containers/kept-logs/", "/audit/recordings/", "/containers/run/", "/builds/new/",
    ]  # fmt: skip


# --- frames ---------------------------------------------------------------------------------------------------


def test_every_page_answers_and_holds_no_inline_code(sample: dict[str, Any], admin: Client) -> None:
    for path in pages_of(sample):
        response = admin.get(path)
        text = response.content.decode()
        assert response.status_code == 200, path
        assert not re.search(r"<[^>]+\son[a-z]+\s*=", text), f"{path} has an inline handler"
        assert not re.search(r"<[^>]+\sstyle\s*=", text), f"{path} has an inline style"
        assert not re.search(r"<script(?![^>]*(?:src=|application/json))", text), (
            f"{path} has an inline script"
        )
        assert "<style" not in text, path
        assert len(re.findall(r"<h1", text)) == 1, f"{path} needs one first heading"


def test_every_page_that_shows_something_ends_with_the_equal_call(
    sample: dict[str, Any], admin: Client
) -> None:
    without = {"/search/?q=leafy", "/audit/recordings/"}
    for path in pages_of(sample):
        if path not in without:
            assert "curl" in admin.get(path).content.decode() or path == "/containers/run/", path


def test_every_icon_is_in_the_sprite(sample: dict[str, Any], admin: Client) -> None:
    sprite = (settings.BASE_DIR / "static" / "img" / "sprite.svg").read_text()
    known = set(re.findall(r'symbol id="([^"]+)"', sprite))
    used: set[str] = set()
    for path in pages_of(sample):
        used |= set(re.findall(r'<use href="[^"#]*#([^"]+)"', admin.get(path).content.decode()))
    assert used <= known


def test_icon_only_buttons_have_names(sample: dict[str, Any], admin: Client) -> None:
    for path in pages_of(sample):
        for tag in re.findall(
            r"<(?:a|button|summary)\b[^>]*\bdata-icon\b[^>]*>", admin.get(path).content.decode()
        ):
            assert "aria-label" in tag, f"{path}: {tag}"


# --- the database ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in LISTS if path != "/account/"])
def test_a_list_asks_the_same_number_of_questions_however_long_it_is(
    path: str, sample: dict[str, Any], admin: Client
) -> None:
    admin.get(path)
    with CaptureQueriesContext(
        connection,
    ) as few:
        assert admin.get(path).status_code == 200
    more(sample)
    with CaptureQueriesContext(connection) as many:
        assert admin.get(path).status_code == 200
    assert len(many) <= len(few), "\n".join(query["sql"][:200] for query in many.captured_queries[-10:])


def more(sample: dict[str, Any]) -> None:
    """Add twenty of everything."""
    from webapp.accounts import services as accounts
    from webapp.accounts.actor import SYSTEM
    from webapp.audit import services as audit
    from webapp.builds.models import Build
    from webapp.containers import records as containers
    from webapp.images import records as images
    from webapp.networks import records as networks
    from webapp.nodes.models import Node
    from webapp.registries.models import Registry
    from webapp.volumes import records as volumes

    node, person = sample["node"], sample["people"]["operator"]
    for n in range(20):
        extra = {
            "endpoints": [sample_data.endpoint("leafy-network", f"10.89.4.{20 + n}")],
            "mounts": [sample_data._volume(f"v{n}", "/data")],
            "spec": sample_data._compose(f"app{n % 3}", f"s{n}"),
        }
        container = containers.apply(node, sample_data.container_record(f"more-{n}", **extra))
        assert container is not None
        type(container).objects.filter(pk=container.pk).update(created_by=person)
        images.apply(node, sample_data.image_record(f"more/image:{n}", 1000 + n, sample_data.BASE))
        networks.apply(
            node,
            {
                "id": sample_data._id(f"more {n}"),
                "name": f"more-{n}",
                "subnets": [],
                "created_at": 1764000000,
            },
        )
        volumes.apply(node, {"name": f"v{n}", "created_at": 1764000000, "size_bytes": n})
        operation = sample_data._operation(node, person, "build.run", "succeeded", f"more:{n}", began=100 + n)
        Build.objects.create(operation=operation, tags=[f"more:{n}"])
        audit.record(SYSTEM, "container.start", target_type="container", target=f"more-{n}")
        Registry.objects.create(host=f"r{n}.example.com", created_by=person)
        Node.objects.create(name=f"more-{n}")
        accounts.user_create(SYSTEM, username=f"person{n}", password=sample_data.PASSWORD)


# --- who may --------------------------------------------------------------------------------------------------


def test_who_is_not_signed_in_is_asked_to(sample: dict[str, Any]) -> None:
    for path in pages_of(sample):
        response = Client().get(path)
        assert response.status_code == 302, path
        assert response["Location"].startswith("/login/?next="), path


def test_a_viewer_sees_no_verb(sample: dict[str, Any], viewer: Client) -> None:
    for path in (
        "/containers/",
        f"/containers/{sample['containers']['leafy-front'].pk[:12]}/",
        "/images/",
        "/volumes/",
        "/volumes/leafy-data/",
        "/networks/leafy-network/",
    ):
        text = viewer.get(path).content.decode()
        forms = [
            form
            for form in re.findall(r'<form[^>]*method="post"[^>]*action="([^"]+)"', text)
            if form != "/logout/"
        ]
        assert not forms, f"{path} offers {forms}"


def test_a_viewer_who_posts_is_refused_in_the_book(sample: dict[str, Any], viewer: Client) -> None:
    from webapp.audit.models import Entry

    before = len(RecordingSender.sent)
    response = viewer.post(f"/containers/{sample['containers']['leafy-front'].pk[:12]}/stop/")
    assert response.status_code == 403
    assert "ask an admin" in response.content.decode().lower()
    assert len(RecordingSender.sent) == before
    assert Entry.objects.first().outcome == "refused"  # type: ignore[union-attr]


def test_a_viewer_does_not_read_the_values_of_variables(
    sample: dict[str, Any], viewer: Client, admin: Client
) -> None:
    path = f"/containers/{sample['containers']['leafy-backend'].pk[:12]}/"
    for tab in ("details/", "json/"):
        assert "JAVA_HOME" in viewer.get(path + tab).content.decode()
        assert "/opt/java" not in viewer.get(path + tab).content.decode()
        assert "/opt/java" in admin.get(path + tab).content.decode()


def test_no_page_changes_anything_when_it_is_only_looked_at(sample: dict[str, Any], admin: Client) -> None:
    """AP-06: what changes needs POST, and POST needs the CSRF token."""
    for path, view in all_routes():
        route = route_of(view)
        if (
            path.startswith("/api/")
            or route is None
            or "POST" not in route.permissions
            or "GET" in route.permissions
        ):
            continue
        sample_path = (
            re.sub(r"<[^>]+>|\(\?P<[^>]+>[^)]*\)|\[\^/\]\+", "x", path).replace("^", "").replace("$", "")
        )
        assert admin.get(sample_path).status_code in (404, 405), path


def test_a_post_without_the_token_is_refused(sample: dict[str, Any]) -> None:
    """AP-06: a form of another site has the cookie but not the token."""
    client = Client(enforce_csrf_checks=True)
    from tests.support.sample_site import session_of

    client.cookies["wharfinger_session"] = session_of(sample["people"]["operator"].pk)
    response = client.post(f"/containers/{sample['containers']['leafy-front'].pk[:12]}/stop/")
    assert response.status_code == 403
    assert not RecordingSender.sent


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_signing_in_leads_to_no_other_site(target: str, sample: dict[str, Any]) -> None:
    """WB-04: `next` stays on this site."""
    response = Client().post(
        f"/login/?next={target}", {"username": "operator", "password": sample_data.PASSWORD}
    )
    assert response.status_code == 302
    assert response["Location"] == "/"


# --- what comes from outside ----------------------------------------------------------------------------------

EVIL = '<img src=x onerror="alert(1)">"\'</script><script>alert(2)</script>{{ 7|add:7 }}'


def test_markup_from_outside_is_shown_as_text(sample: dict[str, Any], admin: Client) -> None:
    """WB-01: names, labels, variables, logs, file names, errors and the book are text wherever they appear."""
    from webapp.audit import services as audit
    from webapp.containers import records as containers
    from webapp.images import records as images
    from webapp.volumes import records as volumes

    node = sample["node"]
    record = sample_data.container_record(
        "evil", EVIL, spec={"labels": {EVIL: EVIL}, "env": {"X": EVIL}}, error=EVIL, path=EVIL,
        config={"Env": [f"X={EVIL}"], "Cmd": [EVIL], "Entrypoint": [EVIL], "Labels": {EVIL: EVIL}, "ExposedPorts": {}},
    )  # fmt: skip
    container = containers.apply(node, record)
    assert container is not None
    image = images.apply(
        node, sample_data.image_record("evil:1", 10, (EVIL, 10), Env=[f"X={EVIL}"], Labels={EVIL: EVIL})
    )
    volumes.apply(node, {"name": "evil", "labels": {EVIL: EVIL}, "created_at": 1764000000})
    operation = sample_data._operation(
        node,
        sample["people"]["operator"],
        "image.pull",
        "failed",
        EVIL,
        began=5,
        error={"detail": EVIL, "hint": EVIL},
    )
    build = sample["builds"]["done"]
    type(build).objects.filter(pk=build.pk).update(
        dockerfile=EVIL,
        tags=[EVIL],
        steps=[sample_data._step(EVIL, "0.0", 1, EVIL, "done", EVIL)],
        advice=[{"rule": EVIL, "message": EVIL, "line": 1, "size_bytes": 1}],
        plan=[],
    )
    audit.record(sample_data.SYSTEM, "container.start", target=EVIL, detail=EVIL, body={"x": EVIL})
    RecordingSender.answers["container.list_files"] = {
        "entries": [{"name": EVIL, "mode": 0o100644, "size_bytes": 1, "mtime": 0, "link_target": EVIL}]
    }
    RecordingSender.answers["container.changes"] = {"changes": [{"kind": "A", "path": EVIL}]}
    RecordingSender.answers["container.top"] = {"titles": [EVIL], "processes": [[EVIL]]}
    RecordingSender.answers["volume.browse"] = {"entries": [{"name": EVIL, "mode": 0o100644}]}
    RecordingSender.answers["image.search"] = {"results": [{"name": EVIL, "description": EVIL}]}
    RecordingSender.answers["operation.log"] = {
        "entries": [
            {"type": "message", "text": EVIL, "step": "0.0", "at": 1},
            {"type": "message", "text": EVIL, "at": 1},
        ]
    }
    RecordingSender.answers["network.probe"] = {
        "outcome": EVIL,
        "detail": EVIL,
        "hint": EVIL,
        "addresses": [EVIL],
        "attempts": [{"address": EVIL, "outcome": EVIL}],
    }
    key, front = container.pk[:12], sample["containers"]["leafy-front"].pk
    paths = [
        "/", "/containers/", *(f"/containers/{key}/{tab}" for tab in ("", "timeline/", "files/", "processes/", "changes/", "details/", "json/", "commit/", "remove/")),
        f"/containers/run/?like={key}", f"/images/{image.image_id[7:19]}/", f"/images/{image.image_id[7:19]}/config/", "/images/search/?q=x", "/volumes/", "/volumes/evil/",
        f"/operations/{operation.pk}/", "/operations/", f"/builds/{build.pk}/", "/builds/", f"/builds/new/?like={build.pk}", "/audit/", f"/search/?q={EVIL}",
        f"/networks/leafy-network/?from={front}&to=x", f"/audit/?q={EVIL}", f"/containers/?q={EVIL}",
    ]  # fmt: skip
    for path in paths:
        text = admin.get(path).content.decode()
        assert "<img src=x" not in text, path
        assert "<script>alert" not in text, path
        assert "14" not in re.findall(r"</script>(\d+)", text), path


def test_a_port_link_leads_only_to_http(sample: dict[str, Any], admin: Client) -> None:
    from webapp.containers import records as containers

    port = {"container_port": 80, "protocol": "tcp", "host_ip": "javascript:alert(1)//", "host_port": 80}
    containers.apply(sample["node"], sample_data.container_record("odd", ports=[port]))
    assert "javascript:" not in admin.get("/containers/").content.decode()


# --- errors ---------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_said_with_a_way_on(admin: Client) -> None:
    for path in (
        "/containers/nothing/",
        "/images/nothing/",
        "/volumes/nothing/",
        "/networks/nothing/",
        "/builds/nothing/",
        "/operations/nothing/",
        "/nowhere/",
    ):
        response = admin.get(path)
        assert response.status_code == 404, path
        assert "What you can do" in response.content.decode(), path


def test_a_page_stands_while_its_node_is_silent(sample: dict[str, Any], admin: Client) -> None:
    from workers.contracts.problems import NodeError, Problem

    silent = NodeError(
        Problem(code="node_silent", detail="node quay-1 does not answer", hint="see whether its agent runs")
    )
    for kind in sample_data.node_answers():
        RecordingSender.answers[kind] = silent
    usage.forget()
    for path in pages_of(sample):
        assert admin.get(path).status_code == 200, path
    container = sample["containers"]["leafy-backend"].pk[:12]
    for tab in ("files/", "processes/", "changes/"):
        assert "does not answer" in admin.get(f"/containers/{container}/{tab}").content.decode()


def test_a_refused_verb_tells_a_script_why(sample: dict[str, Any], admin: Client) -> None:
    container = sample["containers"]["leafy-front"].pk[:12]
    response = admin.post(
        f"/containers/{container}/rename/",
        {"name": "leafy-backend"},
        headers={"HX-Request": "true", "X-Wharfinger-Dialog": "1"},
    )
    assert response.status_code == 422
    assert "taken" in response.content.decode()
    assert "<dialog" in response.content.decode()


def test_the_page_of_a_container_that_was_not_made_says_why(voice: FakeNode, bob: User) -> None:
    _, operation = container_create(actor_of(bob), {"image": "nosuch:1", "name": "late"})
    voice.fail(operation.id, "image_not_found", "no image nosuch:1", "check its name")
    for ref in (operation.target_id, operation.target_id[:12], "late"):
        answer = signed_in(bob).get(f"/containers/{ref}/")
        text = answer.content.decode()
        assert answer.status_code == 404
        assert "It was not made" in text
        assert "No image nosuch:1. Check its name." in text
        assert f"/operations/{operation.id}/" in text
    assert "It was not made" not in signed_in(bob).get("/containers/never-there/").content.decode()


def test_the_page_of_a_container_that_was_removed_says_so(voice: FakeNode, bob: User) -> None:
    container, operation = container_create(actor_of(bob), {"image": "x", "name": "brief"})
    voice.container(container_record(id=container.id, name="brief"), "create")
    voice.end(operation.id)
    removal = container_remove(actor_of(bob), container, force=True)
    voice.say("container", "destroy", container.id, name="brief")
    voice.end(removal.id)
    answer = signed_in(bob).get(f"/containers/{container.id[:12]}/files/")
    assert answer.status_code == 404
    assert "It was removed" in answer.content.decode()

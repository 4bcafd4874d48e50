"""The site as a whole: headers, hosts, CSRF, proxies; and the real server with its limits."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import websockets
from django.conf import settings
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from tests.support.web import PASSWORD, Api, FakeNode, container_record, last_sent, token_for
from webapp import server
from webapp.accounts.actor import Actor
from webapp.accounts.models import User
from webapp.asgi import seen_through_proxy
from webapp.audit.models import Entry
from webapp.containers.services import project_apply
from webapp.core.keys import read_or_make_key
from webapp.core.routes import all_routes
from webapp.nodes.models import Node
from webapp.operations.models import Operation
from webapp.operations.sender import RecordingSender
from webapp.registries.models import Registry
from webapp.volumes.models import BackupSchedule
from webapp.volumes.services import run_due_schedules
from workers.contracts.networks import NetworkCreate
from workers.contracts.problems import NodeError, Problem
from workers.contracts.volumes import BackupRemove, VolumeBackup, VolumeRestore

pytestmark = pytest.mark.django_db(transaction=True)
ApiOf = Callable[..., Api]
ROOT = Path(__file__).resolve().parents[2]


# --- every answer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/login/", "/", "/api/v1/containers/", "/api/v1/schema/", "/nothing/", "/api/v1/nothing/"]
)
def test_every_answer_has_the_headers(node: Node, path: str) -> None:
    """WB-01, WB-04."""
    answer = Client().get(path)
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["Referrer-Policy"] == "same-origin"
    assert "no-store" in answer["Cache-Control"]


def test_errors_are_problem_documents_for_programs_and_pages_for_people(node: Node) -> None:
    assert Client().get("/api/v1/nothing/")["Content-Type"] == "application/problem+json"
    assert Client().get("/nothing/")["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""])
def test_a_foreign_host_is_refused(node: Node, vera: User, host: str) -> None:
    """AP-08: DNS rebinding."""
    answer = Client(headers={"host": host}).get(
        "/api/v1/containers/", headers={"Authorization": f"Bearer {token_for(vera)}"}
    )
    assert answer.status_code == 400


def test_a_cookie_without_the_csrf_token_changes_nothing(node: Node, bob: User) -> None:
    """AP-06."""
    client = Client(enforce_csrf_checks=True)
    client.get("/login/")
    token = client.cookies["wharfinger_csrf"].value
    client.post("/login/", {"username": "bob", "password": PASSWORD, "csrfmiddlewaretoken": token})
    assert client.get("/api/v1/users/me/").status_code == 200
    answer = client.post("/api/v1/containers/", {"image": "nginx"}, content_type="application/json")
    assert answer.status_code == 403
    assert answer.json()["code"] == "csrf"
    assert not RecordingSender.sent
    token = client.cookies["wharfinger_csrf"].value
    good = client.post(
        "/api/v1/containers/",
        {"image": "nginx"},
        content_type="application/json",
        headers={"X-CSRFToken": token},
    )
    assert good.status_code == 202


def test_a_bad_token_beside_a_good_cookie_is_nobody(node: Node, bob: User) -> None:
    """AP-12: a failed layer is not followed by another one."""
    client = Client()
    client.post("/login/", {"username": "bob", "password": PASSWORD})
    assert client.get("/api/v1/containers/", headers={"Authorization": "Bearer wft_wrong"}).status_code == 401


@pytest.mark.parametrize(
    "layer", ["webapp.accounts.authentication.actor_of_token", "webapp.accounts.authentication.address_of"]
)
def test_an_error_while_signing_in_lets_nobody_through(
    node: Node, bob: User, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    """AP-12 (CVE-2026-44882)."""

    def broken(*args: Any, **rest: Any) -> None:
        raise RuntimeError("broken")

    client = Api(token_for(bob))
    client.raise_request_exception = False
    monkeypatch.setattr(layer, broken)
    assert client.write("/containers/", {"image": "nginx"}).status_code == 500
    assert not Operation.objects.exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_only_a_trusted_proxy_says_who_asked(node: Node, vera: User, settings: Any, trusted: bool) -> None:
    """AP-09."""
    settings.TRUSTED_PROXIES = ["127.0.0.1"] if trusted else []
    client = Client(
        headers={"Authorization": f"Bearer {token_for(vera)}", "X-Forwarded-For": "6.6.6.6, 203.0.113.9"}
    )
    client.post("/api/v1/containers/", "{}", content_type="application/json")
    assert Entry.objects.latest("seq").address == ("203.0.113.9" if trusted else "127.0.0.1")


@pytest.mark.parametrize("trusted", [False, True])
def test_only_a_trusted_proxy_says_that_it_was_tls(settings: Any, trusted: bool) -> None:
    """AP-09."""
    settings.TRUSTED_PROXIES = ["127.0.0.1"] if trusted else []
    scope = {
        "type": "http",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "headers": [(b"x-forwarded-proto", b"https")],
    }
    assert seen_through_proxy(scope)["scheme"] == ("https" if trusted else "http")


def test_one_person_does_not_fill_the_queues(
    node: Node, alice: User, bob: User, api: ApiOf, settings: Any
) -> None:
    """DS-08."""
    settings.MAX_ACTIVE_OPERATIONS_A_USER = 3
    client = api(bob)
    answers = [client.write("/builds/", {"dockerfile": "FROM scratch"}).status_code for _ in range(5)]
    assert answers == [202, 202, 202, 429, 429]
    assert api(alice).write("/system/check/").status_code == 202


def test_a_locked_database_is_said_and_not_waited_for_for_ever(
    node: Node, bob: User, api: ApiOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-18."""

    def locked(*args: Any, **rest: Any) -> None:
        raise OperationalError("database is locked")

    client = api(bob)
    monkeypatch.setattr("webapp.audit.chain.append", locked)
    answer = client.write("/containers/", {"image": "nginx"})
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert not RecordingSender.sent
    assert settings.DATABASES["default"]["OPTIONS"].get("timeout", 10) <= 15


def test_keys_are_the_accounts_own() -> None:
    for path in Path(settings.KEYS).iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert read_or_make_key(settings.KEYS / "django") == settings.SECRET_KEY


def test_nothing_in_the_tree_is_a_default_password() -> None:
    """AP-10."""
    text = "\n".join(path.read_text() for path in (ROOT / "webapp").rglob("*.py"))
    assert "password='admin'" not in text
    assert 'password="admin"' not in text


def test_no_view_opens_a_shell() -> None:
    """AP-19."""
    for path in (ROOT / "webapp").rglob("*.py"):
        assert "shell=True" not in path.read_text(), path
        assert "os.system" not in path.read_text(), path


def test_all_routes_end_in_a_slash() -> None:
    for path, _ in all_routes():
        assert path.rstrip("$").endswith("/") or path == "/healthz", path


# --- other things through REST ---------------------------------------------------------------------------------------


def test_a_registry_secret_goes_in_and_never_comes_out(
    node: Node, alice: User, vera: User, api: ApiOf
) -> None:
    body = {"host": "https://127.0.0.1:5000/", "username": "u", "secret": "hunter2"}
    answer = api(alice).write("/registries/", body)
    assert answer.status_code == 201
    assert (answer.json()["host"], answer.json()["has_secret"]) == ("127.0.0.1:5000", True)
    everything = (
        answer.content + api(vera).read("/registries/").content + str(list(Entry.objects.values())).encode()
    )
    assert b"hunter2" not in everything
    assert b"hunter2" not in bytes(Registry.objects.get().sealed_secret)
    change = api(alice).send("PATCH", "/registries/127.0.0.1:5000/", {"username": "v"})
    assert (change.json()["username"], change.json()["has_secret"]) == ("v", True)


def test_operators_use_only_the_accounts_that_are_theirs(
    node: Node, alice: User, bob: User, api: ApiOf
) -> None:
    for host, usable in (("a.example", "operators"), ("b.example", "admins")):
        api(alice).write("/registries/", {"host": host, "username": "u", "secret": "s", "usable_by": usable})
    secrets = []
    for user in (bob, alice):
        for host in ("a.example", "b.example"):
            api(user).write("/images/pull/", {"reference": f"{host}/x"})
            secrets.append(last_sent()[1].registries[0].password)  # type: ignore[attr-defined]
    assert secrets == ["s", "", "s", "s"]


@pytest.mark.parametrize(
    "body",
    [
        {"name": "bridge"},
        {"name": "a b"},
        {"name": "x", "driver": "macvlan"},
        {"name": "x", "subnet": "10.0.0.0/31"},
        {"name": "x", "subnet": "0.0.0.0/0"},
        {"name": "x", "subnet": "10.0.0.1/24"},
        {"name": "x", "subnet": "10.0.0.0/24", "gateway": "10.0.1.1"},
        {"name": "x;nft flush ruleset"},
    ],
)
def test_bad_networks_are_refused(node: Node, bob: User, api: ApiOf, body: dict[str, Any]) -> None:
    """NW-04, NW-07."""
    assert api(bob).write("/networks/", body).status_code == 400
    assert not RecordingSender.sent


def test_a_network_is_asked_for(node: Node, bob: User, api: ApiOf) -> None:
    assert (
        api(bob).write("/networks/", {"name": "leafy", "subnet": "10.9.0.0/24", "internal": True}).status_code
        == 202
    )
    _, contract = last_sent()
    assert isinstance(contract, NetworkCreate)
    assert (contract.name, contract.internal, contract.subnets[0].subnet) == ("leafy", True, "10.9.0.0/24")


def test_a_backup_is_kept_and_restored(voice: FakeNode, bob: User, api: ApiOf) -> None:
    voice.say("volume", "create", "data", record={"name": "data", "created_at": 1.0})
    client = api(bob)
    made = client.write("/volumes/data/backup/", {}).json()["backup"]
    operation, contract = last_sent()
    assert isinstance(contract, VolumeBackup)
    assert client.write("/volumes/data/restore/", {"backup": made["id"]}).status_code == 409  # not ready
    voice.end(
        operation,
        result={
            "path": f"{contract.directory}/{contract.file_name}",
            "size_bytes": 9,
            "files": 2,
            "digest": "sha256:x",
        },
    )
    backup = client.read("/backups/").json()["results"][0]
    assert (backup["status"], backup["proven"], backup["size_bytes"], backup["entries"]) == (
        "ready",
        True,
        9,
        2,
    )
    assert client.write("/volumes/copy/restore/", {"backup": made["id"], "files": ["a"]}).status_code == 202
    restore = last_sent()[1]
    assert isinstance(restore, VolumeRestore)
    assert (restore.volume, restore.create, restore.file_name, restore.files) == (
        "copy",
        True,
        contract.file_name,
        ["a"],
    )


NEEDS = "com.docker.compose.depends_on"


def _application(voice: FakeNode, status: str, needs: dict[str, str]) -> None:
    """Three containers of one project, made in the order front, back, db."""
    for number, service in enumerate(("front", "back", "db")):
        labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": service}
        if service in needs:
            labels[NEEDS] = needs[service]
        spec = {**container_record()["spec"], "labels": labels}
        record = container_record(id=f"{number + 1}" * 64, name=service, spec=spec, status=status)
        voice.container({**record, "created_at": 1_700_000_000.0 + number})


@pytest.mark.parametrize(
    ("verb", "status", "needs", "order"),
    [
        (
            "start",
            "exited",
            {"front": "back:service_started:false", "back": "db:service_healthy:true"},
            "db back front",
        ),
        (
            "stop",
            "running",
            {"front": "back:service_started:false", "back": "db:service_healthy:true"},
            "front back db",
        ),
        ("start", "exited", {}, "front back db"),  # as they were made
        (
            "start",
            "exited",
            {"front": "db:x:y", "db": "front:x:y"},
            "back front db",
        ),  # a ring: nobody waits for ever
        ("start", "exited", {"front": "another:x:y,db:x:y"}, "back db front"),  # not all of it is here
    ],
)
def test_an_application_starts_and_stops_in_order(
    voice: FakeNode, bob: User, verb: str, status: str, needs: dict[str, str], order: str
) -> None:
    _application(voice, status, needs)
    names = {f"{number + 1}" * 64: name for number, name in enumerate(("front", "back", "db"))}
    project_apply(Actor(user=bob), "shop", verb)
    assert [names[contract.container] for _, _, contract in RecordingSender.sent] == order.split()  # type: ignore[attr-defined]


def test_a_kept_backup_is_downloaded_and_removed(voice: FakeNode, bob: User, vera: User, api: ApiOf) -> None:
    voice.say("volume", "create", "data", record={"name": "data", "created_at": 1.0})
    client = api(bob)
    made = client.write("/volumes/data/backup/", {}).json()["backup"]["id"]
    operation, backup = last_sent()
    assert isinstance(backup, VolumeBackup)
    assert client.send("DELETE", f"/backups/{made}/").status_code == 409  # still being made
    assert client.read(f"/backups/{made}/file/").status_code == 409
    voice.end(operation, result={"path": f"{backup.directory}/{backup.file_name}", "size_bytes": 9})
    assert client.read(f"/backups/{made}/").json()["status"] == "ready"
    assert api(vera).read(f"/backups/{made}/file/").status_code == 403
    assert (
        client.read(f"/backups/{made}/file/").json()["code"] == "node_silent"
    )  # it asks; there is none here
    assert Entry.objects.filter(action="backup.download", target_id=made, actor="bob").count() == 1
    assert client.send("DELETE", f"/backups/{made}/").status_code == 202
    operation, removal = last_sent()
    assert isinstance(removal, BackupRemove)
    assert (removal.directory, removal.file_name) == (backup.directory, backup.file_name)
    assert client.read(f"/backups/{made}/").status_code == 200  # until the node says that it is gone
    voice.end(operation, result={"path": "/x"})
    assert client.read(f"/backups/{made}/").json()["code"] == "backup_not_found"
    assert client.read("/backups/").json()["results"] == []
    assert Entry.objects.filter(action="backup.remove", actor="bob", outcome="accepted").count() == 1


def test_a_removal_that_fails_keeps_the_backup(voice: FakeNode, bob: User, api: ApiOf) -> None:
    voice.say("volume", "create", "data", record={"name": "data", "created_at": 1.0})
    client = api(bob)
    made = client.write("/volumes/data/backup/", {}).json()["backup"]["id"]
    voice.end(last_sent()[0], result={"path": "/x/y", "size_bytes": 9})
    client.send("DELETE", f"/backups/{made}/")
    voice.end(last_sent()[0], status="failed", problem=Problem("denied", "not there"))
    assert client.read(f"/backups/{made}/").json()["status"] == "ready"


def test_backups_of_a_volume_that_is_gone_are_on_a_page_of_their_own(
    voice: FakeNode, bob: User, api: ApiOf, client: Client
) -> None:
    voice.say("volume", "create", "data", record={"name": "data", "created_at": 1.0})
    made = api(bob).write("/volumes/data/backup/", {}).json()["backup"]["id"]
    voice.end(last_sent()[0], result={"path": "/x/y", "size_bytes": 9})
    voice.say("volume", "destroy", "data", record={"name": "data"})
    assert client.post("/login/", {"username": "bob", "password": PASSWORD}).status_code == 302
    page = client.get("/backups/").content.decode()
    assert "is gone" in page
    assert f"/api/v1/backups/{made}/file/" in page
    assert f"/volumes/data/restore/?backup={made}" in page
    question = client.get(f"/backups/{made}/remove/").content.decode()
    assert "there is no other proven backup of it" in question
    assert client.post(f"/backups/{made}/remove/").status_code == 302
    assert isinstance(last_sent()[1], BackupRemove)


def test_schedules_make_backups_and_let_old_ones_go(voice: FakeNode, bob: User, api: ApiOf) -> None:
    voice.say("volume", "create", "data", record={"name": "data", "created_at": 1.0})
    client = api(bob)
    wish = {"every_hours": 1, "keep": 2, "keep_daily": 3, "keep_weekly": 4, "keep_monthly": 5}
    assert client.write("/volumes/data/schedules/", wish).status_code == 201
    made: list[str] = []
    for _ in range(3):
        assert run_due_schedules() == 1
        assert run_due_schedules() == 0  # not due again
        operation, contract = last_sent()
        assert isinstance(contract, VolumeBackup)
        assert (contract.keep, contract.keep_daily, contract.keep_weekly, contract.keep_monthly) == (
            2,
            3,
            4,
            5,
        )
        assert contract.directory.rpartition("/")[2].startswith("schedule-")
        made.append(contract.file_name)
        path = f"{contract.directory}/{contract.file_name}"
        removed = made[:-2]  # what the node let go
        voice.end(operation, result={"path": path, "size_bytes": 1, "removed": removed})
        BackupSchedule.objects.update(next_at=timezone.now())
    assert len(client.read("/backups/").json()["results"]) == 2
    assert Entry.objects.filter(action="volume.backup", actor="wharfinger", outcome="accepted").count() == 3
    schedule = client.read("/volumes/data/schedules/").json()["results"][0]
    assert {**schedule, **wish} == schedule
    assert client.send("DELETE", f"/volumes/data/schedules/{schedule['id']}/").status_code == 204


@pytest.mark.parametrize(
    ("wish", "field"),
    [({"every_hours": 0}, "every_hours"), ({"keep": 0}, "keep"), ({"keep_daily": -1}, "keep_daily"),
     ({"keep_monthly": 1001}, "keep_monthly")],
)  # fmt: skip
def test_schedule_that_makes_no_sense_is_refused_by_its_field(
    voice: FakeNode, bob: User, api: ApiOf, wish: dict[str, int], field: str
) -> None:
    voice.say("volume", "create", "data", record={"name": "data", "created_at": 1.0})
    answer = api(bob).write("/volumes/data/schedules/", wish)
    assert (answer.status_code, list(answer.json()["fields"])) == (400, [field])
    assert not BackupSchedule.objects.exists()


def test_a_question_that_the_node_refuses_is_its_problem(voice: FakeNode, vera: User, api: ApiOf) -> None:
    voice.container(container_record())
    RecordingSender.answers["container.top"] = NodeError(
        Problem("wrong_state", "container web is paused", hint="unpause it")
    )
    answer = api(vera).read("/containers/web/processes/")
    assert (answer.status_code, answer.json()["code"], answer.json()["hint"]) == (
        409,
        "wrong_state",
        "unpause it",
    )


def test_a_node_that_is_off_takes_no_work(node: Node, alice: User, bob: User, api: ApiOf) -> None:
    api(alice).send("PATCH", "/nodes/local/", {"is_enabled": False})
    assert api(bob).write("/containers/", {"image": "nginx"}).status_code == 503


# --- the real server --------------------------------------------------------------------------------------------------


@pytest.fixture
def live() -> Iterator[str]:
    """Our server on a free port, in a thread; its address."""
    config = server.config()
    config.loop = "asyncio"
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(config)
    running.install_signal_handlers = lambda: None  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[listening])))
    thread.start()
    while not running.started:
        thread.join(0.01)
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join(15)
    assert not thread.is_alive()


def test_the_server_answers(live: str, node: Node) -> None:
    answer = httpx.get(f"http://{live}/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "server" not in answer.headers


def test_static_files_are_served_with_their_types(live: str) -> None:
    source = next((ROOT / "static" / "css").glob("*.css"))
    answer = httpx.get(f"http://{live}/static/css/{source.name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/css")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == source.read_bytes()
    for path in ("/static/../manage.py", "/static/%2e%2e/manage.py", "/static/css/nothing.css"):
        assert httpx.get(f"http://{live}{path}").status_code == 404


def test_waiting_requests_take_no_threads(live: str, node: Node, bob: User) -> None:
    """One process stays responsive while many wait."""
    headers = {"Authorization": f"Bearer {token_for(bob)}"}

    async def wait_and_look() -> float:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(headers=headers, timeout=30, limits=limits) as client:
            first = (await client.post(f"http://{live}/api/v1/system/check/", json={})).json()["operation"][
                "url"
            ]
            waiting = [asyncio.create_task(client.get(f"http://{live}{first}?wait=4")) for _ in range(60)]
            await asyncio.sleep(2)
            before = asyncio.get_running_loop().time()
            assert (await client.get(f"http://{live}/api/v1/containers/")).status_code == 200
            took = asyncio.get_running_loop().time() - before
            assert {(await task).status_code for task in waiting} == {200}
            return took

    assert asyncio.run(wait_and_look()) < 1.0


def test_a_huge_frame_closes_the_connection(live: str, node: Node, vera: User) -> None:
    """WB-03."""
    token = token_for(vera)

    async def send_it() -> int | None:
        headers = {"Authorization": f"Bearer {token}"}
        async with websockets.connect(
            f"ws://{live}/ws/events/", additional_headers=headers, max_size=None, compression=None
        ) as connection:
            await connection.send(b"x" * (server.FRAME_BYTES + 1))
            await connection.wait_closed()
            return connection.close_code

    assert asyncio.run(send_it()) == 1009


def test_compression_of_frames_is_not_offered(live: str, node: Node, vera: User) -> None:
    """WB-03: no deflate bomb."""
    token = token_for(vera)

    async def ask() -> bool:
        async with websockets.connect(
            f"ws://{live}/ws/events/", additional_headers={"Authorization": f"Bearer {token}"}
        ) as connection:
            return bool(connection.protocol.extensions)

    assert asyncio.run(ask()) is False

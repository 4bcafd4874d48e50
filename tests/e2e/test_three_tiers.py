"""Three tiers on one network, as people run them: names, one published port, data that outlives its container."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.leafy import CONTAINERS, Visitor, demo
from tests.support.platform import Platform, free_port

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]  # the base image is made where it is not yet there


@pytest.fixture(scope="module")
def port(server: Platform) -> Iterator[int]:
    """The application runs; this is the port of its front end."""
    server.remove_containers()
    chosen = free_port()
    demo(server, "--port", str(chosen))
    yield chosen
    server.remove_containers()
    demo(server, "--down")


@pytest.fixture
def visitor(port: int) -> Visitor:
    visitor = Visitor(port)
    visitor.sign_in()
    return visitor


def test_the_page_and_what_was_built_for_it_come_from_the_front(visitor: Visitor) -> None:
    script = re.search(r'src="(/static/leafy\.[0-9a-f]{12}\.js)"', visitor.page())
    assert script is not None
    assert "sign-in" in visitor.page(script[1])


def test_a_stranger_reads_nothing_and_a_wrong_password_does_not_help(port: int) -> None:
    stranger = Visitor(port)
    assert stranger.call("GET", "/api/notes")[0] == 401
    assert stranger.call("POST", "/api/sign-in", {"name": "gardener", "password": "grow fast"})[0] == 401
    assert stranger.call("POST", "/api/notes", {"text": "mine"})[0] == 401


def test_notes_outlive_the_database_container(server: Platform, visitor: Visitor) -> None:
    visitor.write("sow the peas")
    first = server.get("/containers/leafy-postgres/").body
    gone = server.call("DELETE", "/containers/leafy-postgres/?force=true&wait=60")
    assert gone.status == 200, gone.body
    assert visitor.call("GET", "/api/notes")[0] == 503
    made = server.post("/containers/?wait=60", wish_of(first))
    assert (made.status, made.body["status"]) == (201, "running"), made.body
    assert made.body["id"] != first["id"]
    assert visitor.notes()[0] == "sow the peas"


def test_notes_come_back_from_a_backup_of_a_destroyed_volume(server: Platform, visitor: Visitor) -> None:
    visitor.write("cut the roses")
    wanted = visitor.notes()
    database = server.get("/containers/leafy-postgres/").body
    assert server.post("/containers/leafy-postgres/stop/?wait=60", {"timeout_s": 30}).status == 200
    backup = download(server, "/volumes/leafy-data/backup/")
    server.call("DELETE", "/containers/leafy-postgres/?wait=60")
    destroyed = server.call("DELETE", "/volumes/leafy-data/?wait=60")
    assert destroyed.status == 200, destroyed.body
    assert server.get("/volumes/leafy-data/").status == 404
    restored = server.call(
        "POST", "/volumes/leafy-data/restore/?wait=60", raw=backup, Content_Type="application/gzip"
    )
    assert restored.status == 200, restored.body
    made = server.post("/containers/?wait=60", wish_of(database))
    assert made.status == 201, made.body
    assert visitor.notes() == wanted


def test_only_the_front_is_published(server: Platform, port: int) -> None:
    published = {name: server.get(f"/containers/{name}/").body["ports"] for name in CONTAINERS}
    assert published["leafy-postgres"] == published["leafy-backend"] == []
    (front,) = published["leafy-front"]
    assert (front["host_ip"], front["host_port"], front["container_port"]) == ("127.0.0.1", port, 8080)


def test_the_backend_is_reached_from_its_own_network_only(server: Platform, port: int) -> None:
    """NW-02: neither by name nor by address, and not by what the front publishes on the loopback."""
    address = server.get("/containers/leafy-backend/").body["networks"][0]["ipv4_address"]
    made = server.post("/networks/?wait=30", {"name": "elsewhere"})
    assert made.status == 201, made.body
    neighbour = {
        "image": "busybox",
        "name": "neighbour",
        "command": ["sleep", "300"],
        "networks": ["elsewhere"],
    }
    assert server.post("/containers/?wait=30", neighbour).status == 201
    try:
        assert probe(server, "leafy-front", "leafy-backend", 8000) == "ok"
        assert probe(server, "neighbour", "leafy-backend", 8000) in ("name_unknown", "other_network")
        assert probe(server, "neighbour", address, 8000) in ("other_network", "filtered", "unreachable")
        for target in (f"{address}:8000", f"127.0.0.1:{port}", f"{address.rpartition('.')[0]}.1:{port}"):
            command = ["wget", "-q", "-T", "2", "-O", "-", f"http://{target}/api/health"]
            done = server.post("/containers/neighbour/exec/?wait=30", {"command": command})
            assert done.status == 200, done.body
            assert (done.body["exit_code"] != 0, done.body["stdout"]) == (True, ""), target
    finally:
        server.call("DELETE", "/containers/neighbour/?force=true&wait=30")
        assert server.call("DELETE", "/networks/elsewhere/?wait=30").status == 200


def test_the_demo_can_be_repeated_and_taken_away(server: Platform, port: int, visitor: Visitor) -> None:
    ids = [server.get(f"/containers/{name}/").body["id"] for name in CONTAINERS]
    before = visitor.notes()
    assert f"http://127.0.0.1:{port}/" in demo(server, "--port", str(port))
    assert [server.get(f"/containers/{name}/").body["id"] for name in CONTAINERS] == ids
    assert visitor.notes() == before
    members = server.get("/containers/?project=leafy").body["results"]
    assert {item["service"] for item in members} == {"database", "backend", "frontend"}
    for _ in range(2):
        demo(server, "--down")
        assert server.get("/containers/?project=leafy").body["results"] == []
        assert server.get("/networks/leafy-network/").status == 404
        assert server.get("/volumes/leafy-data/").status == 404


def wish_of(container: dict[str, Any]) -> dict[str, Any]:
    """Return the body that makes the like of a container."""
    spec = container["record"]["spec"]
    kept = ("image", "name", "env", "labels", "mounts", "networks", "restart", "healthcheck")
    return {name: spec[name] for name in kept}


def download(server: Platform, path: str) -> bytes:
    request = urllib.request.Request(
        f"{server.url}/api/v1{path}", headers={"Authorization": f"Bearer {server.token}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        data: bytes = answer.read()
    assert data[:2] == b"\x1f\x8b"
    return data


def probe(server: Platform, container: str, name: str, port: int) -> str:
    answer = server.post("/networks/probe/", {"container": container, "name": name, "port": port})
    assert answer.status == 200, answer.body
    return str(answer.body["outcome"])

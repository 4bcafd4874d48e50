"""The main job by REST: build, run, look at the log, find out who did it."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.debian import debian_rootfs_tar
from tests.support.platform import ROOT, Platform, free_port

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def clean(server: Platform) -> Iterator[None]:
    """No container of one test is there in the next."""
    yield
    server.remove_containers()


def fetch(port: int, path: str = "/") -> str:
    """Return what a published port answers, tried for up to ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_the_tour_of_the_readme(server: Platform, tmp_path: Path) -> None:
    """Tiny: an image from nothing and the machine's static busybox."""
    context = tmp_path / "hello"
    shutil.copytree(ROOT / "examples/hello", context)
    shutil.copy("/bin/busybox", context / "busybox")
    built = server.build(context, "hello:1")
    assert built.status in (200, 201), built.body
    assert built.body["image_id"].startswith("sha256:")
    port = free_port()
    made = server.post(
        "/containers/?wait=30", {"image": "hello:1", "name": "hello", "ports": [f"{port}:8080"]}
    )
    assert (made.status, made.body["status"]) == (201, "running"), made.body
    assert "Hello from a container" in fetch(port)
    assert fetch(port, "/made.txt") == "made with RUN\n"
    log = server.get("/containers/hello/logs/?tail=5").body
    assert "response:200" in (log if isinstance(log, str) else json.dumps(log))
    stopped = server.post("/containers/hello/stop/?wait=20", {"timeout_s": 1})
    assert stopped.status == 200, stopped.body
    assert server.get("/containers/hello/").body["status"] == "exited"
    actions = [entry["action"] for entry in server.get("/audit/?target=hello").body["results"]]
    assert {"container.create", "container.stop"} <= set(actions)
    assert any(
        entry["action"] == "build.run" for entry in server.get("/audit/?action=build.run").body["results"]
    )
    assert server.get("/audit/verify/").body["ok"] is True
    assert server.call("DELETE", "/containers/hello/?wait=20").status in (200, 204)
    assert server.get("/containers/hello/").status == 404


def test_two_stages_on_a_real_debian(server: Platform, tmp_path: Path) -> None:
    """Real: the second stage takes what the first made, and none of its layers."""
    archive = debian_rootfs_tar().read_bytes()
    imported = server.call(
        "POST",
        "/images/import/?reference=debian:test&wait=120",
        raw=archive,
        Content_Type="application/x-tar",
    )
    assert imported.status in (200, 201), imported.body
    (tmp_path / "Dockerfile").write_text(
        "FROM debian:test AS make\n"
        "RUN head -c 30000000 /dev/zero > /ballast\n"
        "RUN mkdir /site && echo made in the first stage > /site/index.html\n"
        "FROM debian:test\n"
        "COPY --from=make /site /site\n"
        "WORKDIR /site\nEXPOSE 8000\n"
        'CMD ["python3", "-m", "http.server", "8000"]\n'
    )
    built = server.build(tmp_path, "site:1")
    assert built.status in (200, 201), built.body
    port = free_port()
    made = server.post("/containers/?wait=30", {"image": "site:1", "name": "site", "ports": [f"{port}:8000"]})
    assert made.status == 201, made.body
    assert fetch(port) == "made in the first stage\n"
    base = server.get("/images/debian%3Atest/").body
    image = server.get("/images/site%3A1/").body
    assert image["size_bytes"] - base["size_bytes"] < 100_000
    assert image["layers"] == base["layers"] + 1 or image["layers"] == base["layers"] + 2
    server.call("DELETE", "/containers/site/?force=true&wait=20")


def test_a_wrong_dockerfile_is_told_with_its_line(server: Platform, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUM echo typo\n")
    answer = server.build(tmp_path, "wrong:1")
    assert answer.status == 400
    assert answer.body["code"] == "dockerfile_error"
    assert answer.body["context"]["line"] == 2
    assert "RUN" in answer.body["hint"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"image": "127.0.0.1:1/no/such:1"}, None, None),
        ({"image": "busybox", "name": "-bad-"}, 400, None),
        ({"image": "busybox", "nonsense": 1}, 400, None),
        ({"image": "busybox", "mounts": [{"type": "bind", "source": "/etc", "target": "/x"}]}, 403, "denied"),
    ],
)
def test_bad_wishes_get_one_clear_sentence(
    server: Platform, body: dict[str, object], status: int | None, code: str | None
) -> None:
    answer = server.post("/containers/?wait=60", body)
    assert answer.status >= 400
    assert status is None or answer.status == status, answer.body
    assert answer.body["detail"]
    assert code is None or answer.body["code"] == code
    assert server.get("/containers/").body["results"] == []


def test_a_name_in_use_names_its_holder(server: Platform) -> None:
    first = server.post("/containers/?wait=30", {"image": "busybox", "name": "taken", "start": False})
    answer = server.post("/containers/?wait=30", {"image": "busybox", "name": "taken"})
    assert answer.status == 409
    assert first.body["id"][:12] in answer.body["detail"]
    server.call("DELETE", "/containers/taken/?wait=20")


def test_a_repeated_request_with_a_key_is_one_container(server: Platform) -> None:
    body = {"image": "busybox", "command": ["true"]}
    answers = [server.post("/containers/?wait=30", body, Idempotency_Key="once-only-1") for _ in range(2)]
    assert answers[0].body["id"] == answers[1].body.get("id", answers[0].body["id"])
    assert len(server.get("/containers/").body["results"]) == 1
    server.remove_containers()


def test_the_api_describes_itself(server: Platform) -> None:
    schema = server.get("/schema/")
    assert schema.status == 200
    assert server.get("/docs/").status == 200
    assert server.call("GET", "/containers/", token="").status == 401

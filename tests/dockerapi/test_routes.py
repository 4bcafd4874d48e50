"""Who may call what: every endpoint with no token, and as viewer, operator and admin; what is not there is 404."""

from __future__ import annotations

import http.client
import json

import pytest

from tests.support.platform import Platform
from webapp.accounts.permissions import Permission
from webapp.dockerapi.routes import ROUTES, DockerRoute

pytestmark = pytest.mark.root

NAMES = {"{ref}": "nosuch", "{id}": "0" * 64, "{name}": "nosuch", "{rest}": "nosuch"}
ENDLESS = {"/events": "?since=1&until=2"}
MUST_REFUSE = (401, 403)


def path_of(route: DockerRoute) -> str:
    path = route.template
    if path.startswith("/distribution/"):
        path = path.replace("{name}", "127.0.0.1:1/nosuch")  # nobody listens there
    for part, name in NAMES.items():
        path = path.replace(part, name)
    return path + ENDLESS.get(path, "")


def ask(
    engine: Platform, method: str, path: str, token: str = "", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send one raw call; return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=20)
    try:
        values = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            values["Authorization"] = f"Bearer {token}"
        connection.request(method, path, body=body, headers=values)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def tokens(server: Platform) -> dict[str, str]:
    made = {"admin": server.token}
    for role, scope in (("viewer", "read"), ("operator", "operate")):
        server.post("/users/", {"username": f"m-{role}", "password": f"a password for {role}", "role": role})
        made[role] = server.manage("token", "create", f"m-{role}", "--name", "m", "--scope", scope)
    return made


def test_each_endpoint_knows_who_may(engine: Platform, tokens: dict[str, str]) -> None:
    """AP-01, AP-03: nobody gets in without an identity, a viewer changes nothing, on no route, with and without a version."""
    allowed = {
        Permission.PUBLIC: {"", "viewer", "operator", "admin"},
        Permission.VIEW: {"viewer", "operator", "admin"},
        Permission.OPERATE: {"operator", "admin"},
    }
    wrong = []
    for route in ROUTES:
        for role in ("", "viewer", "operator", "admin"):
            may = role in allowed[route.permission]
            if may and (
                route.template.endswith("/prune") or route.template in ("/build", "/images/load", "/auth")
            ):
                continue  # would do something, or wait for a body
            for prefix in ("", "/v1.44") if not role else ("/v1.44",):
                status, _, body = ask(
                    engine,
                    route.method,
                    prefix + path_of(route),
                    tokens.get(role, ""),
                    b"",
                    Content_Length="0",
                )
                if (status in MUST_REFUSE) == may:
                    wrong.append((route.method, prefix + route.template, role, status, body[:80]))
                if status == 500 and not route.template.startswith("/distribution/"):
                    wrong.append((route.method, prefix + route.template, role, status, body[:200]))
    assert not wrong, "\n".join(map(str, wrong))


def test_refusals_are_errors_as_the_engine_writes_them(engine: Platform, tokens: dict[str, str]) -> None:
    status, headers, body = ask(engine, "GET", "/v1.44/containers/json")
    assert (status, headers["content-type"]) == (401, "application/json")
    assert "docker-config" in json.loads(body)["message"]
    status, _, body = ask(
        engine, "POST", "/v1.44/containers/create", tokens["viewer"], b"{}", Content_Type="application/json"
    )
    assert status == 403
    assert set(json.loads(body)) == {"message"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1.44/nosuch",
        "/v1.44/containers",
        "/v1.44/containers/x/y/z",
        "/v1.44/swarm2",
        "/v1.44/../api/v1/users/",
    ],
)
def test_what_is_not_there_is_404_and_goes_nowhere(engine: Platform, path: str) -> None:
    """AP-01: deny by default; nothing is passed on, whoever asks."""
    assert ask(engine, "GET", path, engine.token)[0] == 404


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("1.99", "client version 1.99 is too new. Maximum supported API version is 1.44"),
        ("2.0", "client version 2.0 is too new"),
        ("1.12", "client version 1.12 is too old. Minimum supported API version is 1.24"),
    ],
)
def test_a_version_out_of_range_is_refused_in_the_engines_words(
    engine: Platform, version: str, text: str
) -> None:
    status, _, body = ask(engine, "GET", f"/v{version}/version", engine.token)
    assert status == 400
    assert text in json.loads(body)["message"]


def test_ping_tells_the_version_to_everybody(engine: Platform) -> None:
    for method in ("HEAD", "GET"):
        status, headers, body = ask(engine, method, "/_ping")
        assert status == 200
        assert (headers["api-version"], headers["ostype"]) == ("1.44", "linux")
        assert body == (b"OK" if method == "GET" else b"")


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"Image": "busybox"', "application/json", 400),
        (b"[1]", "application/json", 400),
        (b'{"Image": "busybox"}', "text/plain", 415),
        (b'{"Image": "busybox", "Image": "other"}', "application/json", 400),
        (b'{"Image": "busybox", "hostconfig": {"Privileged": true}}', "application/json", 400),
        (b'{"Image": "busybox", "HostConfig": {"privileged": true}}', "application/json", 400),
        (b'{"Image": "busybox", "HostConfig": {"Privileged": "yes"}}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"Image": "' + b"x" * (5 << 20) + b'"}', "application/json", 413),
    ],
)
def test_bodies_that_could_be_read_in_two_ways_are_refused(
    engine: Platform, body: bytes, content_type: str, status: int
) -> None:
    """AP-02: broken, double, oversized and misspelt bodies make no container."""
    assert (
        ask(engine, "POST", "/v1.44/containers/create", engine.token, body, Content_Type=content_type)[0]
        == status
    )
    assert json.loads(ask(engine, "GET", "/v1.44/containers/json?all=1", engine.token)[2]) == []

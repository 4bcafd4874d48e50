"""The answers of a running engine, endpoint by endpoint, against the published document of API 1.44."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine_api import ApiDocument
from tests.support.platform import Platform, free_port
from webapp.dockerapi import attachws, create
from webapp.dockerapi.routes import find

pytestmark = pytest.mark.root


# operations whose answer is a stream, an archive or a taken connection: which test types them
ELSEWHERE = {
    "GET /_ping": "test_routes.py::test_ping_tells_the_version_to_everybody",
    "HEAD /_ping": "test_routes.py::test_ping_tells_the_version_to_everybody",
    "POST /auth": "test_registry_commands.py::test_login_keeps_what_fits_and_logout_forgets_it",
    "GET /events": "test_docker_command.py::test_events_of_the_past",
    "POST /build": "test_docker_command.py::test_build_with_arguments_target_and_cache",
    "POST /session": "test_answers.py::test_there_is_no_session_of_buildkit",
    "GET /containers/{id}/export": "test_docker_command.py::test_export_and_import",
    "POST /containers/{id}/attach": "test_docker_command.py::test_attach_joins_a_running_container",
    "GET /containers/{id}/attach/ws": "test_terminals.py::test_attach_over_a_websocket",
    "HEAD /containers/{id}/archive": "test_docker_command.py::test_cp_in_and_out",
    "GET /containers/{id}/archive": "test_docker_command.py::test_cp_in_and_out",
    "PUT /containers/{id}/archive": "test_docker_command.py::test_cp_in_and_out",
    "POST /exec/{id}/resize": "test_terminals.py::test_exec_in_a_terminal_with_resize",
    "POST /images/create": "test_registry_commands.py::test_push_and_pull_as_a_person_with_an_account",
    "POST /images/{name}/push": "test_registry_commands.py::test_push_and_pull_as_a_person_with_an_account",
    "GET /images/search": "test_registry_commands.py::test_search_finds_what_a_registry_lists",
    "GET /images/get": "test_docker_command.py::test_save_and_load",
    "GET /images/{name}/get": "test_docker_py.py::test_an_image_is_saved_and_loaded",
    "POST /images/load": "test_docker_command.py::test_save_and_load",
    "GET /distribution/{name}/json": "test_docker_py.py::test_what_a_registry_has_under_a_name",
}
SWARM = ("swarm", "nodes", "services", "tasks", "secrets", "configs")


class Recorder:
    """Calls the engine and keeps what the document has against each answer."""

    def __init__(self, engine: Platform, api: ApiDocument) -> None:
        self._engine = engine
        self._api = api
        self.problems: list[str] = []
        self.checked: set[str] = set()

    def __call__(
        self,
        method: str,
        template: str,
        query: str = "",
        body: Any = None,
        *,
        status: int = 200,
        schema: bool = True,
        **parts: str,
    ) -> Any:
        path = template
        for name, value in parts.items():
            path = path.replace("{" + name + "}", value)
        answer = self._engine.engine_call(method, f"/v1.44{path}{query}", body)
        where = f"{method} {template}"
        assert answer.status == status, f"{where}: {answer.status} {answer.body!r}"
        self.checked.add(where)
        shape = (
            self._api.schema_of(method, template, status) if schema else self._api.definition("ErrorResponse")
        )
        if shape is not None and shape.get("format") != "binary":
            self.problems += [f"{where}: {text}" for text in self._api.problems(answer.body, shape)]
        return answer.body

    def operations(self) -> set[str]:
        return self._api.operations()

    def query_names(self, operation: str) -> set[str]:
        return self._api.query_names(operation)


@pytest.fixture
def call(engine: Platform, vectors: Path) -> Recorder:
    return Recorder(engine, ApiDocument(vectors / "engine-api-spec" / "v1.44.yaml"))


def test_each_answer_is_the_documents(engine: Platform, call: Recorder) -> None:
    port = free_port()
    system(call)
    call("POST", "/volumes/create", body={"Name": "doc-vol", "Labels": {"a": "b"}}, status=201)
    net = call("POST", "/networks/create", body={"Name": "doc-net", "CheckDuplicate": True}, status=201)["Id"]
    try:
        containers(call, port)
        images(call)
        for template, query in (("/volumes", ""), ("/networks", ""), ("/system/df", "")):
            call("GET", template, query)
        call("GET", "/volumes/{name}", name="doc-vol")
        call("GET", "/networks/{id}", id=net)
    finally:
        engine.remove_containers()
        call("DELETE", "/networks/{id}", id="doc-net", status=204)
        call("DELETE", "/volumes/{name}", name="doc-vol", status=204)
    call("POST", "/volumes/prune", "?filters=%7B%22label%22%3A%5B%22no-such%22%5D%7D")
    call("POST", "/containers/prune")
    call("POST", "/networks/prune")
    call("POST", "/build/prune", "?filters=%7B%22until%22%3A%5B%2210000h%22%5D%7D")
    assert call.problems == []
    left = call.operations() - call.checked - set(ELSEWHERE)
    assert left == set(), "operations of the document that no test calls"
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(), place


def test_each_query_parameter_is_read(call: Recorder) -> None:
    """What a client may ask for by the document is read by the endpoint's module, or has no meaning here, as said."""
    meaningless = {
        "GET /images/json": {"all", "digests", "shared-size"},  # nothing hidden; digests are always told
        "GET /networks/{id}": {"verbose"},  # services of a swarm
        "POST /build": {"rm", "forcerm"},  # no containers are left by a build
        "POST /containers/{id}/start": {"detachKeys"},  # given with the attach
        "POST /images/load": {"quiet"},  # one line, with it or without
        "PUT /volumes/{name}": {"version"},  # of a swarm
        "GET /containers/{id}/attach/ws": {"stream"},  # a websocket is one
    }
    for operation in sorted(call.operations()):
        method, path = operation.split(" ")
        if path.split("/")[1] in (*SWARM, "plugins"):
            continue
        route, _, _ = find(method, path.replace("{id}", "x").replace("{name}", "x"))
        module = attachws if path.endswith("/attach/ws") else inspect.getmodule(route and route.handler)
        assert module is not None, operation
        source = inspect.getsource(module)
        unread = {name for name in call.query_names(operation) if f'"{name}"' not in source}
        assert unread == meaningless.get(operation, set()), operation


def test_each_field_of_a_create_body_is_known(vectors: Path) -> None:
    """None is passed over because it was forgotten: those left are Windows', or written by the engine itself."""
    api = ApiDocument(vectors / "engine-api-spec" / "v1.44.yaml")
    assert api.fields("ContainerConfig") - create._KNOWN_CONFIG == set()
    assert api.fields("HostConfig") - create._KNOWN_HOST == {
        *("IOMaximumBandwidth", "IOMaximumIOps", "CpuCount", "CpuPercent"),
        *("ContainerIDFile", "ConsoleSize", "Cgroup", "KernelMemoryTCP"),
    }


def test_there_is_no_session_of_buildkit(engine: Platform) -> None:
    for path in ("/session", "/grpc"):
        answer = engine.engine_call("POST", f"/v1.44{path}")
        assert (answer.status, "DOCKER_BUILDKIT=0" in answer.body["message"]) == (404, True)
    refused = engine.engine_call("POST", "/v1.44/build?version=2")
    assert (refused.status, "DOCKER_BUILDKIT=0" in refused.body["message"]) == (400, True)


def system(call: Recorder) -> None:
    for template in ("/version", "/info", "/plugins"):
        call("GET", template)
    for operation in sorted(call.operations()):
        method, template = operation.split(" ")
        if template.split("/")[1] in SWARM:
            call(method, template, status=503, id="x", name="x", schema=False)
        elif template.startswith("/plugins/"):
            status = 501 if template.split("/")[2] in ("pull", "create", "privileges") else 404
            call(method, template, status=status, name="x", schema=False)
    call("PUT", "/volumes/{name}", name="x", status=503)


def containers(call: Recorder, port: int) -> None:
    body = {
        "Image": "busybox",
        "Cmd": ["sh", "-c", "echo out; exec sleep 60"],
        "Env": ["A=b"],
        "Labels": {"k": "v"},
        "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9},
        "HostConfig": {
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]},
            "Binds": ["doc-vol:/data"],
            "Memory": 64 << 20,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1},
            "NetworkMode": "doc-net",
        },
        "NetworkingConfig": {"EndpointsConfig": {"doc-net": {"Aliases": ["friend"]}}},
    }
    made = call("POST", "/containers/create", "?name=doc", body, status=201)["Id"]
    call("GET", "/containers/json", "?all=1&size=1")
    call("GET", "/containers/{id}/json", "?size=1", id=made)
    call("POST", "/containers/{id}/start", id=made, status=204)
    call("POST", "/containers/{id}/start", id=made, status=304)
    for template in ("/containers/{id}/json", "/containers/{id}/top", "/containers/{id}/changes"):
        call("GET", template, id=made)
    call("GET", "/containers/{id}/stats", "?stream=0", id=made)
    call("GET", "/containers/{id}/logs", "?stdout=1", id=made)
    call("GET", "/containers/json", id=made)
    started = call(
        "POST", "/containers/{id}/exec", body={"Cmd": ["true"], "AttachStdout": True}, id=made, status=201
    )["Id"]
    call("POST", "/exec/{id}/start", body={"Detach": True}, id=started)
    call("GET", "/exec/{id}/json", id=started)
    call("POST", "/containers/{id}/update", body={"Memory": 128 << 20, "MemorySwap": -1}, id=made)
    call("POST", "/commit", "?container=doc&repo=doc-image&tag=1&comment=x", {}, status=201)
    call("POST", "/containers/{id}/resize", "?h=30&w=90", id=made)
    call("POST", "/containers/{id}/restart", "?t=0", id=made, status=204)
    call("POST", "/networks/{id}/disconnect", body={"Container": made, "Force": True}, id="doc-net")
    call("POST", "/networks/{id}/connect", body={"Container": made}, id="doc-net")
    call("POST", "/containers/{id}/pause", id=made, status=204)
    call("POST", "/containers/{id}/unpause", id=made, status=204)
    call("POST", "/containers/{id}/rename", "?name=doc2", id=made, status=204)
    call("POST", "/containers/{id}/kill", "?signal=KILL", id=made, status=204)
    call("POST", "/containers/{id}/wait", id=made)
    call("POST", "/containers/{id}/stop", id=made, status=304)
    call("DELETE", "/containers/{id}", "?force=1", id=made, status=204)
    call("GET", "/containers/{id}/json", id=made, status=404)


def images(call: Recorder) -> None:
    call("GET", "/images/json", "?all=1&digests=1")
    call("GET", "/images/{name}/json", name="busybox")
    call("GET", "/images/{name}/history", name="busybox")
    call("POST", "/images/{name}/tag", "?repo=doc-tagged&tag=1", name="busybox", status=201)
    call("DELETE", "/images/{name}", name="doc-tagged:1")
    call("DELETE", "/images/{name}", name="doc-image:1")
    call("GET", "/images/{name}/json", name="nosuch", status=404)
    call("POST", "/images/prune")


def test_wait_answers_the_status(engine: Platform, call: Recorder) -> None:
    made = call(
        "POST", "/containers/create", body={"Image": "busybox", "Cmd": ["sh", "-c", "exit 3"]}, status=201
    )["Id"]
    call("POST", "/containers/{id}/start", id=made, status=204)
    answer = call("POST", "/containers/{id}/wait", id=made)
    assert json.dumps(answer).startswith('{"StatusCode": 3')

"""The answers of a running engine, endpoint by endpoint, against the published document of API 1.44."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine_api import ApiDocument
from tests.support.platform import Platform, free_port

pytestmark = pytest.mark.root


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
        **parts: str,
    ) -> Any:
        path = template
        for name, value in parts.items():
            path = path.replace("{" + name + "}", value)
        answer = self._engine.engine_call(method, f"/v1.44{path}{query}", body)
        where = f"{method} {template}"
        assert answer.status == status, f"{where}: {answer.status} {answer.body!r}"
        self.checked.add(where)
        schema = self._api.schema_of(method, template, status)
        if schema is not None and schema.get("format") != "binary":
            self.problems += [f"{where}: {text}" for text in self._api.problems(answer.body, schema)]
        return answer.body


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
    call("POST", "/containers/prune")
    call("POST", "/networks/prune")
    call("POST", "/build/prune", "?filters=%7B%22until%22%3A%5B%2210000h%22%5D%7D")
    assert call.problems == []
    assert len(call.checked) >= 40


def system(call: Recorder) -> None:
    for template in ("/version", "/info", "/plugins"):
        call("GET", template)
    for template in ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs"):
        call("GET", template, status=503)


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

"""The web site under test: its cast, clients with tokens, and a node that says what the test lets it say."""

from __future__ import annotations

import json
import time
from typing import Any

from django.test import Client

from webapp.accounts.actor import Actor
from webapp.accounts.models import User
from webapp.accounts.services import token_create
from webapp.audit.models import Face
from webapp.nodes.models import Node
from webapp.operations.sender import RecordingSender
from webapp.realtime.apply import apply_batch
from workers.contracts.base import Contract
from workers.contracts.events import NodeEvent

PASSWORD = "correct horse battery"


def make_user(name: str, role: str, **fields: Any) -> User:
    user = User(username=name, role=role, **fields)
    user.set_password(PASSWORD)
    user.save()
    return user


def actor_of(user: User, face: str = Face.REST) -> Actor:
    return Actor(user=user, face=face, address="192.0.2.1")


def token_for(user: User, scope: str = "admin", **fields: Any) -> str:
    return token_create(Actor(user=user, face=Face.COMMAND), name="test", scope=scope, **fields)[1]


class Api(Client):
    """A client that sends a token and JSON, and is judged like any other (CSRF included)."""

    def __init__(self, token: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(enforce_csrf_checks=True, headers=headers)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.generic(method, f"/api/v1{path}", data, content_type="application/json", headers=extra)

    def read(self, path: str) -> Any:
        return self.send("GET", path)

    def write(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.send("POST", path, {} if body is None else body, **headers)


class FakeNode:
    """A node's voice: events that the relay applies as if they had come through Redis."""

    def __init__(self, node: Node, epoch: str = "e1") -> None:
        self.node = node
        self.epoch = epoch
        self.seq = 0

    def event(self, type: str, action: str, subject: str, **attributes: Any) -> NodeEvent:
        self.seq += 1
        return NodeEvent(
            self.node.name, self.epoch, self.seq, time.time_ns(), type, action, subject, attributes
        )

    def say(self, type: str, action: str, subject: str, **attributes: Any) -> None:
        apply_batch(self.node.name, [self.event(type, action, subject, **attributes)])

    def container(self, record: dict[str, Any], action: str = "start") -> None:
        self.say("container", action, record["id"], name=record["name"], record=record)

    def end(self, operation: str, status: str = "succeeded", *, fence: int = 1, **outcome: Any) -> None:
        kind = next((c.KIND for o, _, c in RecordingSender.sent if o == operation), "x")
        self.say("operation", status, operation, status=status, kind=kind, fence=fence, **outcome)

    def fail(
        self,
        operation: str,
        code: str = "image_not_found",
        detail: str = "no such image",
        hint: str = "pull it",
    ) -> None:
        self.end(
            operation,
            "failed",
            error={"code": code, "detail": detail, "hint": hint, "retryable": False, "context": {}},
        )


def last_sent() -> tuple[str, Contract]:
    operation, _, contract = RecordingSender.sent[-1]
    return operation, contract


def container_record(**changes: Any) -> dict[str, Any]:
    """Return a record as the node tells it."""
    record: dict[str, Any] = {
        "id": "c" * 64,
        "name": "web",
        "spec": {
            "image": "nginx",
            "env": {"DB_PASSWORD": "hunter2"},
            "labels": {},
            "network_mode": "bridge",
            "restart": {"name": "no"},
        },
        "image_id": "sha256:" + "a" * 64,
        "image": "nginx",
        "status": "running",
        "created_at": 1_700_000_000.0,
        "started_at": 1_700_000_001.0,
        "finished_at": 0.0,
        "pid": 42,
        "exit_code": 0,
        "oom_killed": False,
        "error": "",
        "restart_count": 0,
        "path": "/docker-entrypoint.sh",
        "args": ["nginx", "-g", "daemon off;"],
        "config": {"Env": ["PATH=/bin", "DB_PASSWORD=hunter2"], "Labels": {"maker": "us"}},
        "endpoints": [{"network_id": "n" * 64, "network": "bridge", "ipv4_address": "10.201.0.2"}],
        "ports": [{"container_port": 80, "protocol": "tcp", "host_ip": "127.0.0.1", "host_port": 8080}],
        "mounts": [{"type": "volume", "target": "/data", "source": "/x", "name": "data", "read_only": False}],
        "health": {"status": "none"},
        "generation": 1,
    }
    return {**record, **changes}


def image_record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": "sha256:" + "a" * 64,
        "names": ["docker.io/library/nginx:latest"],
        "repo_digests": [],
        "size": 190_000_000,
        "created": "2026-01-02T03:04:05.123456789Z",
        "config": {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Labels": {"maker": "us"}, "Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}},
        },
        "layers": [{}, {}],
    }
    return {**record, **changes}


def network_record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": "n" * 64,
        "name": "bridge",
        "driver": "bridge",
        "subnets": [{"subnet": "10.201.0.0/24", "gateway": "10.201.0.1"}],
        "labels": {},
        "created_at": 1_700_000_000.0,
    }
    return {**record, **changes}


def volume_record(**changes: Any) -> dict[str, Any]:
    return {
        "name": "data",
        "driver": "local",
        "labels": {},
        "created_at": 1_700_000_000.0,
        "anonymous": False,
        **changes,
    }

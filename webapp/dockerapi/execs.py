"""Execs between their creation and their start: the API has two calls where the node has one.

A wish is kept in Redis for a day, so that any web process can start or inspect it. It is nothing but the request: the
one who starts it is judged and written into the book then.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

import redis
from django.conf import settings

from webapp.dockerapi.create import environment_of
from webapp.dockerapi.errors import BadParameter, DockerError

KEPT_S = 24 * 3600


@dataclass(frozen=True)
class Wish:
    container: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    tty: bool = False
    stdin: bool = False
    privileged: bool = False
    detach_keys: str = ""
    console_size: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, body: dict[str, Any], container: str) -> Wish:
        """Return the wish in a body of `POST /containers/{id}/exec`."""
        size = body.get("ConsoleSize") or []
        if not isinstance(size, list) or not all(isinstance(number, int) for number in size):
            raise BadParameter("invalid ConsoleSize")
        return cls(
            container=container,
            command=list(body["Cmd"]),
            env={name: value or "" for name, value in environment_of(list(body.get("Env") or [])).items()},
            user=str(body.get("User") or ""),
            workdir=str(body.get("WorkingDir") or ""),
            tty=bool(body.get("Tty")),
            stdin=bool(body.get("AttachStdin")),
            privileged=bool(body.get("Privileged")),
            detach_keys=str(body.get("DetachKeys") or ""),
            console_size=size if len(size) == 2 else [],
        )


@functools.lru_cache(maxsize=4)
def _client(url: str, process: int) -> Any:  # a redis client, shared by the threads of one process
    del process  # after a fork another one is made
    return redis.Redis.from_url(url, socket_timeout=10)


def _redis() -> Any:
    return _client(settings.REDIS_URL, os.getpid())


def _key(identity: str) -> str:
    return f"wf:docker:exec:{identity}"


def remember(identity: str, wish: Wish) -> None:
    _redis().set(_key(identity), json.dumps(asdict(wish)), ex=KEPT_S)


def get(identity: str) -> Wish:
    """Return the wish, else answer as the engine does."""
    text = _redis().get(_key(identity))
    if text is None:
        raise DockerError(f"No such exec instance: {identity}", 404)
    return Wish(**json.loads(text))


def take(identity: str) -> Wish:
    """Return the wish, which can be started only once."""
    wish = get(identity)
    if not _redis().set(f"{_key(identity)}:started", b"1", nx=True, ex=KEPT_S):
        raise DockerError(f"Error: Exec command {identity} is already running", 409)
    return wish


def status_of(detail: str) -> int:
    """Return the exit status of a program that could not be started, as a shell gives it: 127 not found, 126 else."""
    return 127 if "not found" in detail or "no such file" in detail.lower() else 126


def note_failure(identity: str, status: int) -> None:
    """Remember the status of an exec that did not start, for who inspects it."""
    _redis().set(f"{_key(identity)}:failed", status, ex=KEPT_S)


def failure_of(identity: str) -> int | None:
    found = _redis().get(f"{_key(identity)}:failed")
    return None if found is None else int(found)


def document(identity: str, wish: Wish, state: dict[str, Any]) -> dict[str, Any]:
    """Return ExecInspectResponse."""
    return {
        "ID": identity,
        "Running": bool(state.get("running")),
        "ExitCode": state.get("exit_code"),
        "ProcessConfig": {
            "tty": wish.tty,
            "entrypoint": wish.command[0],
            "arguments": wish.command[1:],
            "privileged": wish.privileged,
            **({"user": wish.user} if wish.user else {}),
        },
        "OpenStdin": wish.stdin,
        "OpenStderr": True,
        "OpenStdout": True,
        "CanRemove": False,
        "ContainerID": wish.container,
        "DetachKeys": wish.detach_keys,
        "Pid": int(state.get("pid") or 0),
    }

"""Building: the classic builder's endpoint, with our builder behind it."""

from __future__ import annotations

import json
from typing import Any

from webapp.builds import services
from webapp.builds.services import BuildWish
from webapp.core.errors import NodeProblem
from webapp.dockerapi import filters as filtering
from webapp.dockerapi import progress, work
from webapp.dockerapi.call import Call, in_thread
from webapp.dockerapi.create import resources_of
from webapp.dockerapi.errors import BadParameter, DockerError
from webapp.dockerapi.handlers.images import access
from webapp.dockerapi.registry_auth import decode_auths
from webapp.dockerapi.values import parse_duration
from webapp.operations.models import Operation, Status
from webapp.operations.waiting import wait_for

_HUB = ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")


async def build(call: Call) -> None:
    wish = _wish(call)
    credentials = []
    for host, auth in decode_auths(call.headers.get("x-registry-config", "")).items():
        if given := access(
            auth,
            "docker.io"
            if host in _HUB
            else host.removeprefix("https://").removeprefix("http://").rstrip("/"),
        ):
            credentials.append(given)
    if not wish.get("remote"):
        wish["context"], wish["context_size_bytes"] = await call.spooled()
    _, operation = await work.handed_over(
        wish.get("context", ""), services.build_create, call.actor, BuildWish(**wish), credentials=credentials
    )
    await _draw(call, operation, quiet=call.truth("q"))


def _refuse(call: Call) -> None:
    """Refuse what the builder cannot do, rather than pass over it in silence."""
    asked = {
        "memswap": call.number("memswap") > 0,
        "cpushares": bool(call.number("cpushares")),
        "cpusetcpus": bool(call.text("cpusetcpus")),
        "outputs": call.text("outputs") not in ("", "null", "[]"),
    }
    for name in (name for name, wanted in asked.items() if wanted):
        raise BadParameter(f"{name} is not supported by this engine's builder")
    if call.text("version") == "2":
        raise BadParameter("BuildKit's protocol is not spoken here: set DOCKER_BUILDKIT=0")


def _wish(call: Call) -> dict[str, Any]:
    _refuse(call)
    more: dict[str, Any] = {}
    if call.number("memory"):
        more["memory_bytes"] = call.number("memory")
    if call.number("cpuquota") > 0:
        more["cpus"] = call.number("cpuquota") / (call.number("cpuperiod") or 100_000)
    if call.texts("extrahosts"):
        more["extra_hosts"] = [host for text in call.texts("extrahosts") for host in text.split(",")]
    if sources := _json(call, "cachefrom", list):
        more["cache_from"] = [str(source) for source in sources]
    if limits := _json(call, "ulimits", list):
        more["ulimits"] = resources_of({"Ulimits": limits}).get("ulimits", [])
    if call.number("shmsize"):
        more["shm_size_bytes"] = call.number("shmsize")
    if call.truth("squash"):
        more["squash"] = True
    wish: dict[str, Any] = {
        "remote": call.text("remote") if call.text("remote") != "client-session" else "",
        "dockerfile_path": call.text("dockerfile") or "Dockerfile",
        "tags": call.texts("t"),
        "build_args": _json(call, "buildargs", dict),
        "labels": _json(call, "labels", dict),
        "target": call.text("target"),
        "platform": call.text("platform"),
        "no_cache": call.truth("nocache"),
        "pull": call.truth("pull"),
        "network_mode": ""
        if call.text("networkmode") in ("", "default", "bridge")
        else call.text("networkmode"),
        "more": more,
    }
    return {key: value for key, value in wish.items() if value}


def _json(call: Call, name: str, kind: type[Any]) -> Any:
    text = call.text(name)
    if not text or text == "null":
        return kind()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadParameter(f"error reading {name}: not JSON") from error
    if not isinstance(value, kind):
        raise BadParameter(f"error reading {name}: wrong type")
    return value


class Drawing:
    """Turns the builder's reports into the lines of the classic builder."""

    def __init__(self) -> None:
        self.total = 0
        self.number = 0
        self._begun: set[str] = set()

    def lines(self, entry: dict[str, Any]) -> list[str]:
        """Return the lines to print for one entry of the log."""
        if entry["type"] == "plan":
            self.total = sum(
                len(stage.get("steps") or []) for stage in entry["stages"] if not stage.get("skipped")
            )
            return []
        if entry["type"] == "message":
            return [entry["text"] if entry["text"].endswith("\n") else entry["text"] + "\n"]
        if entry["type"] != "stepprogress":
            return []
        return self._step(entry)

    def _step(self, entry: dict[str, Any]) -> list[str]:
        lines = []
        if entry["status"] in ("running", "cached", "done", "failed") and entry["id"] not in self._begun:
            self._begun.add(entry["id"])
            self.number += 1
            lines.append(f"Step {self.number}/{max(self.total, self.number)} : {entry['name']}\n")
        if entry["status"] == "cached":
            lines.append(" ---> Using cache\n")
        if entry["status"] in ("cached", "done") and entry.get("image_id"):
            lines.append(f" ---> {progress.short(entry['image_id'])}\n")
        return lines


async def _draw(call: Call, operation: Operation, *, quiet: bool) -> None:
    """Draw the build as it goes. A Dockerfile that cannot be parsed is an answer of its own, before the stream."""
    drawing = Drawing()
    async for entry in progress.entries(operation):
        for line in drawing.lines(entry):
            if not quiet:
                if not call.started:
                    await call.start(200)
                await call.write_json({"stream": line})
    await wait_for(operation.id, work.LONGEST_WAIT_S)
    ended = await in_thread(Operation.objects.get, pk=operation.pk)
    if ended.status != Status.SUCCEEDED:
        await _failed(call, ended)
        return
    if not call.started:
        await call.start(200)
    image_id = str(ended.result.get("image_id") or "")
    await call.write_json({"aux": {"ID": image_id}})
    if quiet:
        await call.write_json({"stream": f"{image_id}\n"})
    else:
        await call.write_json({"stream": f"Successfully built {progress.short(image_id)}\n"})
        for tag in ended.result.get("tags") or []:
            await call.write_json({"stream": f"Successfully tagged {tag}\n"})
    await call.end()


async def _failed(call: Call, ended: Operation) -> None:
    problem = NodeProblem.from_json(ended.error)
    if not call.started:
        if problem.code == "dockerfile_error":
            context = problem.extra.get("context") or {}
            line = f" line {context['line']}" if context.get("line") else ""
            raise DockerError(f"dockerfile parse error{line}: {problem.detail}", 400)
        await call.start(200)
    context = problem.extra.get("context") or {}
    detail: dict[str, Any] = {"message": problem.detail}
    if isinstance(context.get("status"), int):
        detail["code"] = context["status"]
    await call.write_json({"errorDetail": detail, "error": problem.detail})
    await call.end()


async def prune(call: Call) -> None:
    wanted = filtering.parse_filters(call.text("filters"))
    age = float(
        max(
            (parse_duration(text) for text in wanted.get("until", wanted.get("unused-for", set()))), default=0
        )
    )
    ended = await work.done(
        services.build_cache_prune,
        call.actor,
        keep_bytes=call.number("keep-storage"),
        older_than_s=age,
        all=call.truth("all"),
    )
    removed = [str(item) for item in ended.result.get("removed") or []]
    await call.answer(
        {"CachesDeleted": removed or None, "SpaceReclaimed": int(ended.result.get("freed_bytes") or 0)}
    )

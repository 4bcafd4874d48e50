"""Containers: list, create, inspect, the life cycle, and what is asked of one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from webapp.containers import services
from webapp.containers.models import Container
from webapp.core.errors import Conflict, Missing, NodeProblem
from webapp.dockerapi import filters as filtering
from webapp.dockerapi import work
from webapp.dockerapi.call import Call, in_thread
from webapp.dockerapi.create import resources_of, restart_of, spec_of
from webapp.dockerapi.documents import container as documents
from webapp.dockerapi.documents.stats import no_stats, stats_document
from webapp.dockerapi.errors import DockerError
from webapp.dockerapi.values import parse_duration
from webapp.images.selectors import image_get
from webapp.realtime.streams import open_stream
from workers.contracts.problems import NodeError

LIST_FILTERS = "ancestor before expose exited health id isolation is-task label name network publish since status volume".split()
WAIT_CONDITIONS = {
    "": "not-running",
    "not-running": "not-running",
    "next-exit": "next-exit",
    "removed": "removed",
}


async def listing(call: Call) -> None:
    wanted = filtering.parse_filters(call.text("filters"), LIST_FILTERS)
    size, limit = call.truth("size"), call.number("limit")
    every = call.truth("all") or limit > 0 or bool({"status", "exited", "since", "before"} & wanted.keys())

    def gather() -> list[dict[str, Any]]:
        rows = Container.objects.exclude(record={}).order_by("-created_at", "-id")
        found = []
        for row in rows:
            record = row.record
            if (every or record["status"] in ("running", "paused", "restarting")) and _passes(record, wanted):
                found.append(documents.summary(record, size=size))
        return found[:limit] if limit > 0 else found

    await call.answer(await in_thread(gather))


def _passes(record: dict[str, Any], wanted: filtering.Filters) -> bool:
    spec = record["spec"]
    labels = documents.labels(record)
    networks = [part for item in record["endpoints"] for part in (item["network"], item["network_id"])]
    mounts = [part for item in record["mounts"] for part in (item["name"], item["target"]) if part]
    health = record["health"]["status"]
    published = [f"{item['host_port']}/{item['protocol']}" for item in record["ports"]] + [
        str(item["host_port"]) for item in record["ports"]
    ]
    exposed = list(record["config"].get("ExposedPorts") or {})
    exposed += [item.partition("/")[0] for item in exposed]
    image = record["image"]
    return (
        filtering.matches_labels(wanted, "label", labels)
        and filtering.matches_text(wanted, "name", record["name"], "/" + record["name"])
        and filtering.matches_prefix(wanted, "id", record["id"])
        and filtering.matches_exactly(wanted, "status", record["status"])
        and filtering.matches_exactly(
            wanted, "exited", str(record["exit_code"]) if record["finished_at"] else "never"
        )
        and filtering.matches_exactly(wanted, "network", *networks, spec["network_mode"])
        and filtering.matches_exactly(wanted, "volume", *mounts)
        and filtering.matches_exactly(wanted, "health", health)
        and filtering.matches_exactly(wanted, "publish", *published)
        and filtering.matches_exactly(wanted, "expose", *exposed)
        and filtering.matches_exactly(
            wanted, "ancestor", image, image.partition(":")[0], record["image_id"], record["image_id"][7:19]
        )
        and _in_time(record, wanted)
    )


def _in_time(record: dict[str, Any], wanted: filtering.Filters) -> bool:
    for field, sign in (("since", 1), ("before", -1)):
        for ref in wanted.get(field, ()):
            other = (
                Container.objects.filter(name=ref).first()
                or Container.objects.filter(pk__startswith=ref).first()
            )
            if other is None:
                raise DockerError(f"No such container: {ref}", 404)
            if (record["created_at"] - other.record.get("created_at", 0)) * sign <= 0:
                return False
    return True


async def create(call: Call) -> None:
    body = await call.json()
    spec = spec_of(body, call.text("name"))

    def accept() -> Any:
        try:
            image_get(spec["image"])
        except Missing:
            raise DockerError(f"No such image: {_with_tag(spec['image'])}", 404) from None
        return services.container_create(
            call.actor, spec, start=False, pull="never", platform=call.text("platform")
        )

    try:
        container, operation = await in_thread(accept)
    except Conflict as error:
        if error.code != "already_exists":
            raise
        holder = str(error.extra.get("container", ""))
        text = f'Conflict. The container name "/{spec["name"]}" is already in use by container "{holder}". '
        raise DockerError(
            text + "You have to remove (or rename) that container to be able to reuse that name.", 409
        ) from None
    try:
        ended = await work.finished(operation)
    except NodeProblem as error:
        if error.status != 404:
            raise
        # 404 means "no such image" here: the command would pull it and try again
        raise DockerError(error.detail, 400) from None
    await call.answer({"Id": container.id, "Warnings": list(ended.result.get("warnings") or [])}, 201)


def _with_tag(image: str) -> str:
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


async def inspect(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    if not container.record:
        raise DockerError(f"No such container: {call.parameters['ref']}", 404)
    await call.answer(documents.inspect(container.record, size=call.truth("size")))


async def start(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    if container.status in ("running", "paused"):
        await call.nothing(304)
        return
    await work.done(services.container_start, call.actor, container)
    await call.nothing()


async def stop(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    if container.status not in ("running", "paused", "restarting"):
        await call.nothing(304)
        return
    await work.done(
        services.container_stop, call.actor, container, timeout_s=_grace(call), signal=call.text("signal")
    )
    await call.nothing()


async def restart(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    await work.done(
        services.container_restart, call.actor, container, timeout_s=_grace(call), signal=call.text("signal")
    )
    await call.nothing()


def _grace(call: Call) -> float | None:
    return float(call.number("t")) if call.text("t") else None


async def kill(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    if container.status not in ("running", "paused"):
        raise DockerError(
            f"cannot kill container: {call.parameters['ref']}: container {container.id} is not running", 409
        )
    await work.done(services.container_kill, call.actor, container, signal=call.text("signal") or "SIGKILL")
    await call.nothing()


async def pause(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    await work.done(services.container_pause, call.actor, container)
    await call.nothing()


async def unpause(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    if container.status != "paused":
        raise DockerError(f"Container {container.id} is not paused", 500)
    await work.done(services.container_unpause, call.actor, container)
    await call.nothing()


async def rename(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    await work.done(services.container_rename, call.actor, container, call.text("name"))
    await call.nothing()


async def update(call: Call) -> None:
    body = await call.json()
    container = await work.container(call.actor, call.parameters["ref"])
    restart_policy = (
        restart_of(body["RestartPolicy"]) or {"name": "no"}
        if (body.get("RestartPolicy") or {}).get("Name")
        else None
    )
    await work.done(services.container_update, call.actor, container, resources_of(body), restart_policy)
    await call.answer({"Warnings": []})


async def remove(call: Call) -> None:
    ref = call.parameters["ref"]
    container = await work.container(call.actor, ref)
    if call.truth("link"):
        raise DockerError("links cannot be removed: they are names in a network", 400)
    try:
        await work.done(
            services.container_remove,
            call.actor,
            container,
            force=call.truth("force"),
            volumes=call.truth("v"),
        )
    except Conflict:
        text = f'cannot remove container "{ref}": container is {container.status}: stop the container before removing or force remove'
        raise DockerError(text, 409) from None
    await call.nothing()


async def prune(call: Call) -> None:
    wanted = filtering.parse_filters(call.text("filters"), ("until", "label", "label!"))
    age = float(max((parse_duration(text) for text in wanted.get("until", ())), default=0))
    ended = await work.done(
        services.container_prune, call.actor, older_than_s=age, labels=sorted(wanted.get("label", ()))
    )
    removed = ended.result.get("removed") or []
    await call.answer(
        {"ContainersDeleted": removed or None, "SpaceReclaimed": int(ended.result.get("freed_bytes") or 0)}
    )


async def wait(call: Call) -> None:
    """Register the waiter first, then send the headers at once, then block: the command waits for them before it starts."""
    condition = WAIT_CONDITIONS.get(call.text("condition"))
    if condition is None:
        raise DockerError(f'invalid condition: "{call.text("condition")}"', 400)
    container = await work.container(call.actor, call.parameters["ref"])
    async with open_stream(
        container.node.name, "wait", {"container": container.id, "condition": condition}
    ) as stream:
        await call.start(200)
        leaving = asyncio.create_task(call.gone())
        waiting = asyncio.create_task(_drain(stream))
        try:
            await asyncio.wait((leaving, waiting), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
                await work.until_recorded(container.id, gone=condition == "removed")
                await call.write(
                    json.dumps({"StatusCode": int((stream.end or {}).get("exit_code") or 0)}).encode() + b"\n"
                )
                await call.end()
        finally:
            for task in (leaving, waiting):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionResetError, NodeError):
                    await task


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass


async def top(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    _require_running(container)
    answer = await in_thread(services.processes, container, call.text("ps_args", "-ef"))
    await call.answer({"Titles": answer["titles"], "Processes": answer["processes"]})


def _require_running(container: Container) -> None:
    if container.status not in ("running", "paused"):
        raise DockerError(f"container {container.id} is not running", 409)


async def changes(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    answer = await in_thread(services.changes, container)
    kinds = {"C": 0, "A": 1, "D": 2}
    await call.answer(
        [{"Path": item["path"], "Kind": kinds[item["kind"]]} for item in answer["changes"]] or None
    )


async def stats(call: Call) -> None:
    container = await work.container(call.actor, call.parameters["ref"])
    if not call.truth("stream", True) and container.status not in ("running", "paused"):
        await call.answer(no_stats(container.record))
        return
    if not call.truth("stream", True):
        sample = await in_thread(services.stats, container)
        if call.truth("one-shot"):
            sample = {**sample, "previous": None}  # one moment, and none before
        await call.answer(stats_document(container.record, sample, None))
        return
    await call.start(200)
    previous: dict[str, Any] | None = None
    pending = bytearray()
    async with open_stream(
        container.node.name, "stats", {"containers": [container.id], "interval_s": 1.0}
    ) as stream:
        async for chunk in stream:
            pending += chunk.data
            *lines, rest = bytes(pending).split(b"\n")
            pending[:] = rest
            for line in filter(None, lines):
                sample = json.loads(line)
                await call.write(
                    json.dumps(stats_document(container.record, sample, previous)).encode() + b"\n"
                )
                previous = sample
    await call.end()


async def commit(call: Call) -> None:
    container = await work.container(call.actor, call.text("container"))
    repository, tag = call.text("repo"), call.text("tag")
    reference = f"{repository}:{tag}" if repository and tag else repository
    ended = await work.done(
        services.container_commit,
        call.actor,
        container,
        reference=reference,
        message=call.text("comment"),
        author=call.text("author"),
        changes=[line for text in call.texts("changes") for line in text.split("\n") if line.strip()],
        pause=call.truth("pause", True),
    )
    await call.answer({"Id": image_id_of(ended.result)}, 201)


def image_id_of(result: dict[str, Any]) -> str:
    image = result.get("image") or {}
    return str(result.get("image_id") or image.get("id") or "")

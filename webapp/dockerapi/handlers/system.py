"""System: ping, version, info, auth, events, disk usage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from webapp.containers.models import Container, ContainerVolume
from webapp.containers.selectors import image_use_counts
from webapp.dockerapi import filters as filtering
from webapp.dockerapi.call import Call, in_thread
from webapp.dockerapi.documents import container as containers
from webapp.dockerapi.documents import image as images
from webapp.dockerapi.documents import network as networks
from webapp.dockerapi.documents import system
from webapp.dockerapi.documents.event import event
from webapp.dockerapi.errors import DockerError
from webapp.dockerapi.values import parse_time
from webapp.images.models import Image
from webapp.images.services import registries
from webapp.nodes import system as node_system
from webapp.nodes.models import Event
from webapp.nodes.selectors import default_node
from webapp.operations import services as operations
from webapp.realtime.streams import open_stream
from webapp.volumes.models import Volume
from workers.contracts.images import RegistryAccess

EVENT_FILTERS = (
    "config container daemon event image label network node plugin scope secret service type volume".split()
)
STORED_EVENTS = 10_000
HUB_HOSTS = ("index.docker.io", "registry-1.docker.io", "docker.io")


async def ping(call: Call) -> None:
    """Answer without a token: version negotiation comes before everything else."""
    await call.answer_bytes(
        b"OK",
        "text/plain; charset=utf-8",
        cache_control="no-cache, no-store, must-revalidate",
        pragma="no-cache",
    )


async def version(call: Call) -> None:
    await call.answer(system.version(await in_thread(facts)))


async def info(call: Call) -> None:
    def gather() -> dict[str, Any]:
        statuses = list(Container.objects.values_list("status", flat=True))
        running, paused = statuses.count("running"), statuses.count("paused")
        counts = {
            "containers": len(statuses),
            "running": running,
            "paused": paused,
            "stopped": len(statuses) - running - paused,
            "images": Image.objects.count(),
        }
        return system.info(facts(), counts)

    await call.answer(await in_thread(gather))


def facts() -> dict[str, Any]:
    """Return what the default node says of itself."""
    answer = operations.ask(default_node(), "system.info")
    return dict(answer) if isinstance(answer, dict) else {}


async def auth(call: Call) -> None:
    """Check credentials for a registry by asking it; they are not kept here."""
    body = await call.json()
    given = str(body.get("serveraddress") or "docker.io")
    host = given.removeprefix("https://").removeprefix("http://").partition("/")[0]
    offered = RegistryAccess(
        host="docker.io" if host in HUB_HOSTS else host,
        username=str(body.get("username") or ""),
        password=str(body.get("password") or ""),
        identity_token=str(body.get("identitytoken") or ""),
        registered=False,
    )

    def check() -> Any:
        known = registries(call.actor, [offered.host], offered)
        chosen = [asdict(item) for item in known if item.host == offered.host][:1]
        return operations.ask(default_node(), "registry.login", secrets={"registries": chosen})

    await in_thread(check)
    await call.answer({"Status": "Login Succeeded", "IdentityToken": ""})


async def events(call: Call) -> None:
    """Stream what happened and what happens: from the records where `since` asks for the past, then live."""
    wanted = filtering.parse_filters(call.text("filters"), EVENT_FILTERS)
    since = parse_time(call.text("since")) if call.text("since") else None
    until = parse_time(call.text("until")) if call.text("until") else None
    node = await in_thread(default_node)
    now = time.time()
    await call.start(200)
    last = -1
    if since is not None:
        for stored in await in_thread(
            stored_events, node, float(since), float(until) if until is not None else now
        ):
            last = max(last, stored["seq"])
            await _say(call, stored, wanted)
    if until is None or float(until) > now:
        await _follow(call, node.name, last, None if until is None else float(until) - now, wanted)
    await call.end()


def stored_events(node: Any, since: float, until: float) -> list[dict[str, Any]]:
    rows = Event.objects.filter(node=node, at__gte=_moment(since), at__lte=_moment(until)).order_by("seq")[
        :STORED_EVENTS
    ]
    return [
        {
            "seq": row.seq,
            "type": row.type,
            "action": row.action,
            "subject": row.subject,
            "attributes": row.attributes,
            "time_ns": int(row.at.timestamp() * 1e9),
        }
        for row in rows
    ]


def _moment(seconds: float) -> Any:
    from webapp.core.times import from_seconds

    return from_seconds(seconds)


async def _follow(
    call: Call, node: str, after: int, seconds: float | None, wanted: filtering.Filters
) -> None:
    async with open_stream(node, "events", {"after_seq": after}) as stream:
        pending = bytearray()

        async def pass_on() -> None:
            async for chunk in stream:
                pending.extend(chunk.data)
                *lines, rest = bytes(pending).split(b"\n")
                pending[:] = rest
                for line in lines:
                    if line:
                        await _say(call, json.loads(line), wanted)

        tasks = [asyncio.create_task(pass_on()), asyncio.create_task(call.gone())]
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionResetError):
                    await task


async def _say(call: Call, happened: dict[str, Any], wanted: filtering.Filters) -> None:
    document = event(happened)
    if document is not None and _passes(document, wanted):
        await call.write(json.dumps(document, separators=(",", ":")).encode() + b"\n")


def _passes(document: dict[str, Any], wanted: filtering.Filters) -> bool:
    attributes = document["Actor"]["Attributes"]
    kind, identity, name = document["Type"], document["Actor"]["ID"], attributes.get("name", "")
    for field in ("container", "image", "network", "volume"):
        if wanted.get(field):
            candidates = (
                attributes.get("image", "") if field == "image" and kind != "image" else identity,
                name,
            )
            if kind != field and field != "image":
                return False
            if not filtering.matches_exactly(wanted, field, *candidates) and not filtering.matches_prefix(
                wanted, field, identity
            ):
                return False
    return (
        filtering.matches_exactly(wanted, "type", kind)
        and filtering.matches_exactly(
            wanted, "event", document["Action"], document["Action"].partition(":")[0]
        )
        and filtering.matches_labels(wanted, "label", attributes)
    )


async def disk_usage(call: Call) -> None:
    kinds = set(call.texts("type"))

    def gather() -> dict[str, Any]:
        usage = node_system.usage(default_node())
        counts = image_use_counts()
        uses = Counter(ContainerVolume.objects.values_list("volume", flat=True))
        parts = {
            "image": (
                "Images",
                [
                    images.summary(row.record, containers=counts[row.image_id], shared_bytes=0)
                    for row in Image.objects.all()
                ],
            ),
            "container": (
                "Containers",
                [containers.summary(row.record, size=True) for row in Container.objects.exclude(record={})],
            ),
            "volume": ("Volumes", [_volume(row, uses[row.name]) for row in Volume.objects.all()]),
            "build-cache": ("BuildCache", _cache(usage)),
        }
        document: dict[str, Any] = {"LayersSize": _layers_bytes(usage)}
        for kind, (key, values) in parts.items():
            document[key] = values if not kinds or kind in kinds else None
        return document

    await call.answer(await in_thread(gather))


def _volume(row: Volume, references: int) -> dict[str, Any]:
    size = -1 if row.size_bytes is None else row.size_bytes
    return networks.volume(row.record, usage={"size_bytes": size, "references": references})


def _layers_bytes(usage: dict[str, Any]) -> int:
    images_part = usage.get("images") or {}
    value = images_part.get("size_bytes") if isinstance(images_part, dict) else 0
    return int(value or 0)


def _cache(usage: dict[str, Any]) -> list[dict[str, Any]]:
    cache = usage.get("build_cache") or {}
    size = int((cache.get("size_bytes") if isinstance(cache, dict) else 0) or 0)
    if not size:
        return []
    return [
        {
            "ID": "build-cache",
            "Type": "regular",
            "Description": "cached build steps",
            "InUse": False,
            "Shared": False,
            "Size": size,
            "CreatedAt": "0001-01-01T00:00:00Z",
            "LastUsedAt": None,
            "UsageCount": 0,
        }
    ]


async def no_swarm(call: Call) -> None:
    raise DockerError(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.',
        503,
    )


async def no_plugins(call: Call) -> None:
    await call.answer([])


async def no_plugin(call: Call) -> None:
    name = call.parameters["rest"].partition("/")[0]
    if name in ("pull", "create", "privileges"):
        raise DockerError("this engine has no plugins", 501)
    raise DockerError(f'plugin "{name}" not found', 404)


async def no_cluster_volume(call: Call) -> None:
    raise DockerError("volume update only valid for cluster volumes, but swarm is unavailable", 503)


async def no_session(call: Call) -> None:
    raise DockerError("this engine builds with the classic builder: set DOCKER_BUILDKIT=0", 404)

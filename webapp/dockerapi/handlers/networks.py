"""Networks and volumes."""

from __future__ import annotations

from typing import Any

from webapp.core.errors import Conflict, Missing
from webapp.dockerapi import filters as filtering
from webapp.dockerapi import work
from webapp.dockerapi.call import Call, in_thread
from webapp.dockerapi.create import endpoint_of
from webapp.dockerapi.documents import network as documents
from webapp.dockerapi.errors import BadParameter, DockerError
from webapp.dockerapi.values import parse_duration
from webapp.networks import services as networks
from webapp.networks.models import Network
from webapp.networks.selectors import member_list, network_get, network_list
from webapp.volumes import services as volumes
from webapp.volumes.models import Volume
from webapp.volumes.selectors import users_of, volume_get

NETWORK_FILTERS = "dangling driver id label name scope type".split()
VOLUME_FILTERS = "dangling driver label name".split()
_MODES = ("host", "none")


async def network_listing(call: Call) -> None:
    wanted = filtering.parse_filters(call.text("filters"), NETWORK_FILTERS)

    def gather() -> list[dict[str, Any]]:
        found = [
            documents.network(row.record, members=False)
            for row in Network.objects.exclude(record={}).order_by("created_at")
        ]
        names = {item["Name"] for item in found}
        found += [documents.fixed_network(name) for name in _MODES if name not in names]
        used = {row.name for row in network_list() if row.members}
        return [item for item in found if _network_passes(item, wanted, used)]

    await call.answer(await in_thread(gather))


def _network_passes(item: dict[str, Any], wanted: filtering.Filters, used: set[str]) -> bool:
    built_in = item["Name"] in ("bridge", *_MODES)
    if "dangling" in wanted and filtering.boolean(wanted, "dangling", False) == (
        item["Name"] in used or built_in
    ):
        return False
    return (
        filtering.matches_text(wanted, "name", item["Name"])
        and filtering.matches_prefix(wanted, "id", item["Id"])
        and filtering.matches_exactly(wanted, "driver", item["Driver"])
        and filtering.matches_exactly(wanted, "scope", item["Scope"])
        and filtering.matches_exactly(wanted, "type", "builtin" if built_in else "custom")
        and filtering.matches_labels(wanted, "label", item["Labels"])
    )


def with_members(network: Network) -> dict[str, Any]:
    """Return a network's record with who is on it now: containers that run."""
    members = [
        {**member, "name": member["container"]}
        for member in member_list(network)
        if member["status"] in ("running", "paused")
    ]
    return {**network.record, "members": members}


async def _network(ref: str) -> Network:
    try:
        return await in_thread(network_get, ref)
    except Missing:
        raise DockerError(f"network {ref} not found", 404) from None


async def network_inspect(call: Call) -> None:
    ref = call.parameters["ref"]
    try:
        await call.answer(documents.network(await in_thread(with_members, await _network(ref))))
    except DockerError:
        fixed = next(
            (item for item in map(documents.fixed_network, _MODES) if ref in (item["Name"], item["Id"])), None
        )
        if fixed is None:
            raise
        await call.answer(fixed)


async def network_create(call: Call) -> None:
    body = await call.json()
    ipam = body.get("IPAM") or {}
    if ipam.get("Driver") not in (None, "", "default"):
        raise BadParameter(f"no IPAM driver {str(ipam.get('Driver'))[:40]!r}")
    subnets = [
        {
            key: value
            for key, value in (
                ("subnet", item.get("Subnet")),
                ("gateway", item.get("Gateway")),
                ("ip_range", item.get("IPRange")),
                ("aux_addresses", item.get("AuxiliaryAddresses") or item.get("AuxAddress")),
            )
            if value
        }
        for item in ipam.get("Config") or []
    ]
    for unsupported in ("Ingress", "ConfigOnly"):
        if body.get(unsupported):
            raise BadParameter(f"{unsupported} networks need a swarm")
    try:
        identity, operation = await in_thread(
            networks.network_create,
            call.actor,
            name=str(body.get("Name") or ""),
            driver=str(body.get("Driver") or "bridge"),
            internal=bool(body.get("Internal")),
            attachable=bool(body.get("Attachable")),
            ipv6=bool(body.get("EnableIPv6")),
            subnets=[item for item in subnets if item],
            options={key: str(value) for key, value in (body.get("Options") or {}).items()},
            labels={key: str(value) for key, value in (body.get("Labels") or {}).items()},
        )
    except Conflict as error:
        if error.code == "already_exists":
            raise DockerError(f"network with name {body.get('Name')} already exists", 409) from None
        raise
    await work.finished(operation)
    await call.answer({"Id": identity, "Warning": ""}, 201)


async def network_remove(call: Call) -> None:
    network = await _network(call.parameters["ref"])
    if network.name == "bridge":
        raise DockerError("bridge is a pre-defined network and cannot be removed", 403)
    try:
        await work.done(networks.network_remove, call.actor, network)
    except Conflict as error:
        raise DockerError(
            f"error while removing network: network {network.name} has active endpoints: {error.detail}", 403
        ) from None
    await call.nothing()


async def network_connect(call: Call) -> None:
    body = await call.json()
    network = await _network(call.parameters["ref"])
    container = await work.container(call.actor, str(body.get("Container") or ""))
    endpoint = endpoint_of(network.name, body.get("EndpointConfig") or {})
    endpoint.pop("name")
    await work.done(networks.network_connect, call.actor, network, container, endpoint)
    await call.nothing(200)


async def network_disconnect(call: Call) -> None:
    body = await call.json()
    network = await _network(call.parameters["ref"])
    container = await work.container(call.actor, str(body.get("Container") or ""))
    await work.done(
        networks.network_disconnect, call.actor, network, container, force=bool(body.get("Force"))
    )
    await call.nothing(200)


async def network_prune(call: Call) -> None:
    wanted = filtering.parse_filters(call.text("filters"), ("until", "label", "label!"))
    age = float(max((parse_duration(text) for text in wanted.get("until", ())), default=0))
    ended = await work.done(
        networks.network_prune, call.actor, older_than_s=age, labels=sorted(wanted.get("label", ()))
    )
    await call.answer({"NetworksDeleted": ended.result.get("removed") or None})


# --- volumes ------------------------------------------------------------------------------------------------------


async def volume_listing(call: Call) -> None:
    wanted = filtering.parse_filters(call.text("filters"), VOLUME_FILTERS)

    def gather() -> list[dict[str, Any]]:
        found = []
        for row in Volume.objects.exclude(record={}).order_by("name"):
            if "dangling" in wanted and filtering.boolean(wanted, "dangling", False) == bool(users_of(row)):
                continue
            labels = row.record.get("labels") or {}
            if (
                filtering.matches_text(wanted, "name", row.name)
                and filtering.matches_exactly(wanted, "driver", "local")
                and filtering.matches_labels(wanted, "label", labels)
            ):
                found.append(row.record)
        return found

    await call.answer(documents.volumes(await in_thread(gather)))


async def _volume(name: str) -> Volume:
    try:
        return await in_thread(volume_get, name)
    except Missing:
        raise DockerError(f"get {name}: no such volume", 404) from None


async def volume_inspect(call: Call) -> None:
    await call.answer(documents.volume((await _volume(call.parameters["name"])).record))


async def volume_create(call: Call) -> None:
    """Make a volume; one that is there already is answered as made, as the engine does."""
    body = await call.json()
    name = str(body.get("Name") or "")
    driver = str(body.get("Driver") or "local")
    if driver not in ("local", "default"):
        raise DockerError(f'error looking up volume plugin {driver}: plugin "{driver}" not found', 404)
    options = {key: str(value) for key, value in (body.get("DriverOpts") or {}).items()}
    labels = {key: str(value) for key, value in (body.get("Labels") or {}).items()}
    try:
        ended = await work.done(volumes.volume_create, call.actor, name=name, options=options, labels=labels)
        record = ended.result["volume"]
    except Conflict:
        record = (await _volume(name)).record
    await call.answer(documents.volume(record), 201)


async def volume_remove(call: Call) -> None:
    try:
        volume = await _volume(call.parameters["name"])
    except DockerError:
        if call.truth("force"):
            await call.nothing()
            return
        raise
    await work.done(volumes.volume_remove, call.actor, volume, force=call.truth("force"))
    await call.nothing()


async def volume_prune(call: Call) -> None:
    wanted = filtering.parse_filters(call.text("filters"), ("all", "label", "label!"))
    every = filtering.boolean(wanted, "all", call.version < (1, 42))
    ended = await work.done(
        volumes.volume_prune, call.actor, all=every, labels=sorted(wanted.get("label", ()))
    )
    await call.answer(
        {
            "VolumesDeleted": ended.result.get("removed") or None,
            "SpaceReclaimed": int(ended.result.get("freed_bytes") or 0),
        }
    )

"""Networks and volumes: the Network and Volume documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from webapp.dockerapi.values import rfc3339

Record = Mapping[str, Any]  # JSON
Document = dict[str, Any]


def network(record: Record, *, members: bool = True) -> Document:
    """Return a Network. Lists leave the members out, as the engine does."""
    return {
        "Name": record["name"],
        "Id": record["id"],
        "Created": rfc3339(record.get("created_at") or 0),
        "Scope": "local",
        "Driver": record["driver"],
        "EnableIPv6": bool(record.get("ipv6")),
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [_subnet(item) for item in record.get("subnets") or []],
        },
        "Internal": bool(record.get("internal")),
        "Attachable": bool(record.get("attachable")),
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": _members(record) if members else {},
        "Options": dict(record.get("options") or {}),
        "Labels": dict(record.get("labels") or {}),
    }


def _subnet(item: Record) -> Document:
    document: Document = {"Subnet": item["subnet"]}
    if item.get("ip_range"):
        document["IPRange"] = item["ip_range"]
    if item.get("gateway"):
        document["Gateway"] = item["gateway"]
    if item.get("aux_addresses"):
        document["AuxiliaryAddresses"] = dict(item["aux_addresses"])
    return document


def _members(record: Record) -> Document:
    prefixes = {
        6 if ":" in item["subnet"] else 4: item["subnet"].rpartition("/")[2]
        for item in record.get("subnets") or []
    }

    def address(text: str, version: int) -> str:
        return f"{text}/{prefixes[version]}" if text and version in prefixes else ""

    return {
        member["container_id"]: {
            "Name": member["name"],
            "EndpointID": (record["id"][:32] + member["container_id"][:32]).ljust(64, "0"),
            "MacAddress": member["mac_address"],
            "IPv4Address": address(member["ipv4_address"], 4),
            "IPv6Address": address(member["ipv6_address"], 6),
        }
        for member in record.get("members") or []
    }


def fixed_network(name: str) -> Document:
    """Return `host` or `none`, which are modes here and networks in the API."""
    identity = (name.encode().hex() + "0" * 64)[:64]
    driver = "null" if name == "none" else name
    record = {"name": name, "id": identity, "driver": driver, "subnets": [], "created_at": 0}
    return {**network(record), "IPAM": {"Driver": "default", "Options": None, "Config": None}}


def volume(record: Record, *, usage: Record | None = None) -> Document:
    """Return a Volume. The mount point is a path of the node, for people to read."""
    document: Document = {
        "CreatedAt": rfc3339(record.get("created_at") or 0),
        "Driver": record.get("driver") or "local",
        "Labels": dict(record.get("labels") or {}) or None,
        "Mountpoint": record.get("mountpoint") or record.get("path") or "",
        "Name": record["name"],
        "Options": dict(record.get("options") or {}) or None,
        "Scope": "local",
    }
    if usage is not None:
        document["UsageData"] = {"Size": usage.get("size_bytes", -1), "RefCount": usage.get("references", -1)}
    return document


def volumes(records: Sequence[Record]) -> Document:
    return {"Volumes": [volume(record) for record in records], "Warnings": None}

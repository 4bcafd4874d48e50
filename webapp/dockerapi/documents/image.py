"""Images: ImageSummary, ImageInspect, HistoryResponseItem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from webapp.dockerapi.values import ZERO_TIME, rfc3339
from webapp.images.records import familiar

Record = Mapping[str, Any]  # JSON
Document = dict[str, Any]


def tags(record: Record) -> list[str]:
    return [familiar(name) for name in record.get("names") or []]


def digests(record: Record) -> list[str]:
    return [familiar(name) for name in record.get("repo_digests") or []]


def created_seconds(record: Record) -> float:
    value = record.get("created_at")
    return float(value) if isinstance(value, int | float) else 0.0


def summary(record: Record, *, containers: int = -1, shared_bytes: int = -1) -> Document:
    """Return one entry of `GET /images/json`; -1 means "not counted"."""
    run = (record.get("config") or {}).get("config") or {}
    return {
        "Id": record["id"],
        "ParentId": "",
        "RepoTags": tags(record),
        "RepoDigests": digests(record),
        "Created": int(created_seconds(record)),
        "Size": record.get("size_bytes", 0),
        "SharedSize": shared_bytes,
        "Labels": run.get("Labels") or None,
        "Containers": containers,
    }


def inspect(record: Record) -> Document:
    """Return what `GET /images/{name}/json` answers."""
    config = record.get("config") or {}
    history = config.get("history") or []
    created = config.get("created") or ZERO_TIME
    return {
        "Id": record["id"],
        "RepoTags": tags(record),
        "RepoDigests": digests(record),
        "Parent": "",
        "Comment": history[-1].get("comment", "") if history else "",
        "Created": created if isinstance(created, str) else rfc3339(created),
        "DockerVersion": "",
        "Author": config.get("author") or "",
        "Config": run_config(config.get("config") or {}),
        "Architecture": config.get("architecture", ""),
        **({"Variant": config["variant"]} if config.get("variant") else {}),
        "Os": config.get("os", ""),
        "Size": record.get("size_bytes", 0),
        "GraphDriver": {"Name": "overlay", "Data": {}},
        "RootFS": {"Type": "layers", "Layers": (config.get("rootfs") or {}).get("diff_ids") or []},
        "Metadata": {"LastTagTime": ZERO_TIME},
    }


def run_config(run: Record) -> Document:
    """Return the ContainerConfig of an image: what its file says, with the API's empty values around it."""
    document: Document = {
        "Hostname": "",
        "Domainname": "",
        "User": run.get("User") or "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": run.get("Env") or None,
        "Cmd": run.get("Cmd") or None,
        "Image": "",
        "Volumes": run.get("Volumes") or None,
        "WorkingDir": run.get("WorkingDir") or "",
        "Entrypoint": run.get("Entrypoint") or None,
        "OnBuild": run.get("OnBuild") or None,
        "Labels": run.get("Labels") or None,
    }
    for key in ("ExposedPorts", "Healthcheck", "StopSignal", "Shell", "ArgsEscaped"):
        if run.get(key):
            document[key] = run[key]
    return document


def history(record: Record, steps: Sequence[Record]) -> list[Document]:
    """Return what `GET /images/{name}/history` answers, newest first; only the last step has the image's own id."""
    documents = []
    for number, step in enumerate(steps):
        created = step.get("created")
        documents.append(
            {
                "Id": record["id"] if number == 0 else "<missing>",
                "Created": int(created) if isinstance(created, int | float) else 0,
                "CreatedBy": step.get("created_by") or "",
                "Tags": (tags(record) or None) if number == 0 else None,
                "Size": step.get("size") or step.get("size_bytes") or 0,
                "Comment": step.get("comment") or "",
            }
        )
    return documents

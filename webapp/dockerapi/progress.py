"""Progress of an operation, in the JSON messages that the `docker` command draws."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from webapp.core.errors import NodeProblem
from webapp.dockerapi.call import Call
from webapp.operations.models import Operation
from webapp.realtime.streams import StreamBroken, open_stream
from workers.contracts.problems import NodeError

_PULL_WORDS = {
    "waiting": "Pulling fs layer",
    "downloading": "Downloading",
    "verifying": "Verifying Checksum",
    "extracting": "Extracting",
    "done": "Pull complete",
    "exists": "Already exists",
    "retrying": "Retrying",
}
_PUSH_WORDS = {
    "waiting": "Preparing",
    "uploading": "Pushing",
    "done": "Pushed",
    "mounted": "Mounted",
    "exists": "Layer already exists",
    "retrying": "Retrying",
}


async def entries(operation: Operation) -> AsyncIterator[dict[str, Any]]:
    """Yield the entries of an operation's log until it ends; goes on where it was after a break."""
    cursor = ""
    while True:
        try:
            async with open_stream(
                operation.node.name, "operation", {"id": operation.id, "cursor": cursor}
            ) as stream:
                pending = bytearray()
                async for chunk in stream:
                    pending += chunk.data
                    *lines, rest = bytes(pending).split(b"\n")
                    pending[:] = rest
                    for line in filter(None, lines):
                        yield json.loads(line)
                return
        except StreamBroken as error:
            cursor = error.cursor
        except NodeError as error:
            if error.problem.code.endswith("not_found"):  # it ended long ago, or before it began
                return
            raise


def layer_message(entry: dict[str, Any], *, push: bool = False) -> dict[str, Any]:
    """Return the message of one layer's state."""
    words = _PUSH_WORDS if push else _PULL_WORDS
    status = words.get(entry["status"], entry["status"].capitalize())
    message: dict[str, Any] = {"status": status, "progressDetail": {}, "id": short(entry["id"])}
    if entry["status"] in ("downloading", "extracting", "uploading") and entry.get("total"):
        message["progressDetail"] = {"current": entry["current"], "total": entry["total"]}
        message["progress"] = bar(entry["current"], entry["total"])
    return message


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def bar(current: int, total: int) -> str:
    """Return the drawn bar that old clients print."""
    done = min(50, current * 50 // total) if total else 0
    return (
        f"[{'=' * done}{'>' if done < 50 else ''}{' ' * (49 - done)}] {size_text(current)}/{size_text(total)}"
    )


def size_text(size: float) -> str:
    """Return a size in the decimal units of the command: `1.986MB`."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    number = 0
    while size >= 1000 and number < len(units) - 1:
        size /= 1000
        number += 1
    return f"{size:.4g}{units[number]}"


async def fail(call: Call, operation: Operation) -> None:
    """Write the in-band error of an operation that failed."""
    detail = NodeProblem.from_json(operation.error).detail
    await call.write_json({"errorDetail": {"message": detail}, "error": detail})

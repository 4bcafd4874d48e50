"""Events: EventMessage, from the node's journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = ("container", "image", "network", "volume", "builder")
_HIDDEN = ("record", "operation")


def event(happened: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an EventMessage; None for what is only ours (operations)."""
    if happened["type"] not in TYPES:
        return None
    attributes = happened.get("attributes") or {}
    shown = {
        key: _text(value)
        for key, value in attributes.items()
        if key not in _HIDDEN and not isinstance(value, dict | list)
    }
    record = attributes.get("record") or {}
    if happened["type"] == "container" and record:
        shown = {
            **((record.get("config") or {}).get("Labels") or {}),
            **shown,
            "image": record.get("image", ""),
            "name": record.get("name", ""),
        }
        if happened["action"] in ("die", "oom"):
            shown["exitCode"] = str(record.get("exit_code", 0))
    time_ns = int(happened["time_ns"])
    message: dict[str, Any] = {
        "Type": happened["type"],
        "Action": happened["action"],
        "Actor": {"ID": happened["subject"], "Attributes": shown},
        "scope": "local",
        "time": time_ns // 10**9,
        "timeNano": time_ns,
    }
    if happened["type"] in ("container", "image"):
        message |= {"status": happened["action"], "id": happened["subject"]}
        if shown.get("image"):
            message["from"] = shown["image"]
    return message


def _text(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else ("true" if value else "false")
        if isinstance(value, bool)
        else str(value)
    )

"""The OpenAPI document: what drf-spectacular finds, with our problem documents and waits."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema


class WharfingerSchema(AutoSchema):
    """Adds to each operation what every route of ours has: the permission that it needs, and problems as errors."""

    def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        operation = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        needed = getattr(self.view, "permissions", {}).get(self.method)
        if needed is not None:
            operation["x-permission"] = needed.value
            if needed.value == "public":
                operation["security"] = [{}]
        operation.setdefault("responses", {})["default"] = {
            "description": "A problem document (RFC 9457)",
            "content": {"application/problem+json": {"schema": PROBLEM}},
        }
        return operation

    def get_tags(self) -> list[str]:
        parts = [part for part in self.path.removeprefix("/api/v1/").split("/") if part and "{" not in part]
        return parts[:1] or ["system"]


PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "hint": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": True},
        "context": {"type": "object", "additionalProperties": True},
    },
}

"""The OpenAPI document: what drf-spectacular finds, with our permissions, problem documents and names of calls."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

_VERBS = {"GET": "read", "POST": "create", "PUT": "put", "PATCH": "change", "DELETE": "delete"}


class ActorAuthenticationScheme(OpenApiAuthenticationExtension):
    target_class = "webapp.api.authentication.ActorAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


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

    def get_operation_id(self) -> str:
        """Name a call by its path: `containers_list`, `containers_read`, `containers_start_create` ..."""
        parts = [part for part in self.path.removeprefix("/api/v1/").strip("/").split("/") if part]
        words = [part.replace("-", "_") for part in parts if not part.startswith("{")]
        verb = _VERBS.get(self.method, self.method.lower())
        if self.method == "GET" and len(parts) == 1 and words[0] not in ("system", "health", "schema"):
            verb = "list"
        if len(parts) > 2 and parts[-1].startswith("{"):
            verb = f"one_{verb}"
        return "_".join([*words, verb])

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

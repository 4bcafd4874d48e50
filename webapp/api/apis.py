"""The OpenAPI document and a page that shows it without anything from elsewhere."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from drf_spectacular.generators import SchemaGenerator
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts.permissions import Permission
from webapp.api import docs
from webapp.api.base import WharfingerView
from webapp.api.docs import describe
from webapp.core.routes import page
from webapp.core.version import VERSION


def schema() -> dict[str, Any]:
    """Return the OpenAPI document, made once a process."""
    if not _kept:
        _kept.update(
            SchemaGenerator(title="Wharfinger", api_version=VERSION).get_schema(request=None, public=True)
        )
    return _kept


_kept: dict[str, Any] = {}


class SchemaView(WharfingerView):
    permissions = {"GET": Permission.PUBLIC}
    schema = None

    def get(self, request: Request) -> Response:
        return Response(schema())


class HealthView(WharfingerView):
    permissions = {"GET": Permission.PUBLIC}

    @describe("Whether the web site answers and reaches its database", answer=docs.shape(status=docs.TEXT))
    def get(self, request: Request) -> Response:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return Response({"status": "ok"})


@page(Permission.PUBLIC)
def docs_page(request: HttpRequest) -> HttpResponse:
    """Show the API readably: groups, calls, parameters, bodies, answers."""
    return render(request, "api/docs.html", {"groups": readable(schema()), "info": schema()["info"]})


def readable(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of an OpenAPI document grouped by tag, flat enough for a template."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in sorted(document["paths"].items()):
        for method, call in methods.items():
            groups.setdefault(call["tags"][0], []).append(_call(document, path, method, call))
    return [{"name": name, "calls": calls} for name, calls in sorted(groups.items())]


def _call(document: dict[str, Any], path: str, method: str, call: dict[str, Any]) -> dict[str, Any]:
    content = (call.get("requestBody") or {}).get("content") or {}
    answers = {status: answer for status, answer in call.get("responses", {}).items() if status != "default"}
    return {
        "path": path,
        "method": method.upper(),
        "id": call.get("operationId", ""),
        "summary": call.get("summary", ""),
        "permission": call.get("x-permission", ""),
        "parameters": [
            {"name": item["name"], "where": item["in"], "about": item.get("description", "")}
            for item in call.get("parameters", [])
        ],
        "bodies": [
            {"media": media, "fields": _fields(document, item.get("schema", {}))}
            for media, item in content.items()
        ],
        "answers": [
            {
                "status": status,
                "about": answer.get("description", ""),
                "fields": _answer_fields(document, answer),
            }
            for status, answer in sorted(answers.items())
        ],
    }


def _answer_fields(document: dict[str, Any], answer: dict[str, Any]) -> list[dict[str, str]]:
    return [
        line
        for item in (answer.get("content") or {}).values()
        for line in _fields(document, item.get("schema", {}))
    ]


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, str]]:
    schema = _resolve(document, schema)
    required = set(schema.get("required", []))
    return [
        {
            "name": name,
            "type": _type(_resolve(document, inner)),
            "required": "yes" if name in required else "",
            "about": inner.get("description", ""),
        }
        for name, inner in (schema.get("properties") or {}).items()
    ]


def _type(schema: dict[str, Any]) -> str:
    if choices := schema.get("enum"):
        return " | ".join(str(item) for item in choices)
    kind = str(schema.get("type", "any"))
    return f"list of {_type(schema.get('items') or {})}" if kind == "array" else kind


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for part in schema.get("allOf", []):
        schema = {**schema, **part}
    while "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        schema = document["components"]["schemas"][name]
    return schema

"""The published document of the Docker Engine API (v1.44) as a checker of answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]


class ApiDocument:
    """Compares values with the document's schemas: types, required fields, and no field that the document lacks."""

    def __init__(self, path: Path) -> None:
        self._document = _load(path)

    def schema_of(self, method: str, path: str, status: int = 200) -> Schema | None:
        """Return the schema of an answer; None where the document has none."""
        answer = self._document["paths"][path][method.lower()]["responses"].get(status) or self._document[
            "paths"
        ][path][method.lower()]["responses"].get(str(status))
        return None if answer is None else answer.get("schema")

    def operations(self) -> set[str]:
        """Return every operation of the document: `GET /containers/json`."""
        methods = ("get", "head", "post", "put", "delete")
        return {
            f"{method.upper()} {path}"
            for path, item in self._document["paths"].items()
            for method in methods
            if method in item
        }

    def query_names(self, operation: str) -> set[str]:
        """Return the names of an operation's query parameters."""
        method, path = operation.split(" ")
        item = self._document["paths"][path]
        listed = [*(item[method.lower()].get("parameters") or []), *(item.get("parameters") or [])]
        return {entry["name"] for entry in listed if entry.get("in") == "query"}

    def fields(self, name: str) -> set[str]:
        """Return the fields of a definition."""
        return set(self._resolved(self.definition(name)).get("properties") or {})

    def definition(self, name: str) -> Schema:
        return self._document["definitions"][name]

    def problems(self, value: Any, schema: Schema, where: str = "$") -> list[str]:
        """Return what is wrong with `value`, in words."""
        schema = self._resolved(schema)
        if value is None:
            return []  # Go's nil: the engine answers null for every empty list, map and pointer
        kind = schema.get("type") or ("object" if "properties" in schema else "")
        if kind == "object":
            return self._object(value, schema, where)
        if kind == "array":
            if not isinstance(value, list):
                return [f"{where}: a list is expected, not {value!r}"]
            return [
                text
                for index, item in enumerate(value)
                for text in self.problems(item, schema["items"], f"{where}[{index}]")
            ]
        expected = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}.get(kind)
        if expected and (not isinstance(value, expected) or (kind == "integer" and isinstance(value, bool))):
            return [f"{where}: {kind} is expected, not {value!r}"]
        if "enum" in schema and value not in schema["enum"] and value != "":
            return [f"{where}: {value!r} is none of {schema['enum']}"]
        return []

    def _object(self, value: Any, schema: Schema, where: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{where}: an object is expected, not {value!r}"]
        known = schema.get("properties") or {}
        rest = schema.get("additionalProperties")
        found = []
        for name, item in value.items():
            if name in known:
                found += self.problems(item, known[name], f"{where}.{name}")
            elif isinstance(rest, dict):
                found += self.problems(item, rest, f"{where}.{name}")
            elif known and not rest:
                found.append(f"{where}.{name}: not in the document")
        found += [f"{where}.{name}: missing" for name in schema.get("required") or [] if name not in value]
        return found

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = self.definition(schema["$ref"].rpartition("/")[2])
        if "allOf" in schema:
            merged: Schema = {"type": "object", "properties": {}, "required": []}
            for part in schema["allOf"]:
                part = self._resolved(part)
                if part.get("type", "object") != "object":
                    return part
                merged["properties"] |= part.get("properties") or {}
                merged["required"] = [*merged["required"], *(part.get("required") or [])]
            return merged
        return schema


@cache
def _load(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(), Loader=loader)

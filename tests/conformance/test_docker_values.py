"""Values of the Docker Engine API agree with the upstream vectors."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from webapp.dockerapi import filters, values
from webapp.dockerapi.errors import BadParameter
from webapp.dockerapi.registry_auth import decode_auth


def load(vectors: Path, name: str) -> Any:
    return json.loads((vectors / name).read_text())


def test_query_booleans(vectors: Path) -> None:
    for text, expected in load(vectors, "moby-engine/query_bool.json").items():
        assert values.is_true(text) is expected, text


def test_times_of_since_and_until(vectors: Path) -> None:
    for case in load(vectors, "moby-engine/timestamps.json"):
        text = case["in"]
        if case["expectedErr"]:
            with pytest.raises(BadParameter):
                values.parse_time(text)
        elif isinstance(case["expected"], dict):
            assert (
                values.parse_time(text, now=1000000) == 1000000 - case["expected"]["$unix_now_minus_seconds"]
            )
        else:
            assert values.parse_time(text) == Decimal(case["expected"]), text


def test_times_as_the_server_reads_them(vectors: Path) -> None:
    now = values.parse_time("2020-01-02T03:04:05.123456789Z")
    for case in load(vectors, "moby-engine/timestamps_server.json"):
        text = case["in"]
        if case.get("expectedErr"):
            with pytest.raises(BadParameter):
                values.parse_time(text)
        elif text[-1] in "mh":
            assert values.rfc3339(now - values.parse_duration(text)) == case["expected"]
        else:
            assert values.rfc3339(values.parse_time(text)) == case["expected"], text


def test_human_durations(vectors: Path) -> None:
    for case in load(vectors, "go-units/human_duration.json"):
        assert values.human_duration(case["nanoseconds"] / 1e9) == case["expected"], case


def test_filters_in_both_forms(vectors: Path) -> None:
    cases = load(vectors, "moby-engine/filters_json.json")
    for text in cases["invalid"]:
        with pytest.raises(BadParameter):
            filters.parse_filters(text)
    for case in cases["valid"]:
        for text in case["inputs"]:
            assert filters.parse_filters(text) == {key: set(item) for key, item in case["expected"].items()}


def _sets(arguments: dict[str, Any]) -> filters.Filters:
    return {name: set(wanted) for name, wanted in arguments.items()}


def test_filters_match_labels(vectors: Path) -> None:
    cases = load(vectors, "moby-engine/filters_kv_match.json")
    for case in cases["match"]:
        assert filters.matches_labels(_sets(case["filters"]), case["field"], cases["sources"]), case
    for case in cases["differ"]:
        if case["field"] == "created":  # a value filter on a field that is no label
            continue
        assert not filters.matches_labels(_sets(case["filters"]), case["field"], cases["sources"]), case


def test_filters_match_text(vectors: Path) -> None:
    cases = load(vectors, "moby-engine/filters_match.json")
    for case in cases["match"]:
        assert filters.matches_text(_sets(case["filters"]), case["field"], cases["source"]), case
    for case in cases["differ"]:
        assert not filters.matches_text(_sets(case["filters"]), case["field"], cases["source"]), case


def test_boolean_filters(vectors: Path) -> None:
    for case in load(vectors, "moby-engine/filters_bool.json"):
        given = {name: set(wanted) for name, wanted in case["args"].items()}
        if case["expectedErr"]:
            with pytest.raises(BadParameter):
                filters.boolean(given, "dangling", case["defValue"])
        else:
            assert filters.boolean(given, "dangling", case["defValue"]) is case["expectedValue"]


def test_registry_credentials(vectors: Path) -> None:
    for case in load(vectors, "moby-engine/auth_config_decode.json"):
        if message := case.get("expectedErr"):
            with pytest.raises(BadParameter, match=message.split(":")[0]):
                decode_auth(case["inputBase64"])
        else:
            expected = case["expected"] or {}
            auth = decode_auth(case["inputBase64"])
            assert auth.username == expected.get("Username", "")
            assert auth.password == expected.get("Password", "")
            assert auth.server_address == expected.get("ServerAddress", "")

"""OCI and Docker documents have one meaning or are refused; what we write is canonical."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.digest import Digest
from engine.errors import EngineError, InvalidInput, Unsupported
from engine.oci import (
    ContainerConfig,
    Descriptor,
    Healthcheck,
    History,
    ImageConfig,
    Index,
    Manifest,
    parse_config,
    parse_document,
    parse_index,
    parse_manifest,
)
from engine.oci import media_types as mt
from engine.platform import Platform

SUM = Digest("sha256:" + "a" * 64)
DESCRIPTOR = {"mediaType": mt.OCI_LAYER_GZIP, "digest": SUM, "size": 3}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": mt.OCI_MANIFEST,
    "config": {"mediaType": mt.OCI_CONFIG, "digest": SUM, "size": 2},
    "layers": [DESCRIPTOR],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": mt.OCI_INDEX,
    "manifests": [
        {
            "mediaType": mt.OCI_MANIFEST,
            "digest": SUM,
            "size": 2,
            "platform": {"architecture": "arm", "os": "linux", "variant": "v7"},
        }
    ],
}


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


def test_reads_a_manifest() -> None:
    manifest = parse_manifest(dump(MANIFEST))
    assert manifest.layers == (Descriptor(mt.OCI_LAYER_GZIP, SUM, 3),)
    assert manifest.media_type == mt.OCI_MANIFEST


def test_reads_an_index() -> None:
    assert parse_index(dump(INDEX)).manifests[0].platform == Platform("linux", "arm", "v7")


@pytest.mark.parametrize("kind", [mt.DOCKER_MANIFEST, mt.OCI_MANIFEST])
def test_the_type_may_come_from_the_server(kind: str) -> None:
    bare = {key: value for key, value in MANIFEST.items() if key != "mediaType"}
    assert parse_manifest(dump(bare), f"{kind}; charset=utf-8").media_type == kind


def test_a_document_without_any_type_is_told_by_its_content() -> None:
    assert isinstance(parse_document(dump({"schemaVersion": 2, "manifests": []})), Index)
    bare = {key: value for key, value in MANIFEST.items() if key != "mediaType"}
    assert isinstance(parse_document(dump(bare)), Manifest)


AMBIGUOUS = {
    "layers and manifests both": {**MANIFEST, "manifests": []},
    "config and manifests both": {**INDEX, "config": DESCRIPTOR},
    "an index that says it is a manifest": {**INDEX, "mediaType": mt.OCI_MANIFEST},
    "a manifest that says it is an index": {**MANIFEST, "mediaType": mt.OCI_INDEX},
    "no schema version": {**MANIFEST, "schemaVersion": None},
    "a schema version of 3": {**MANIFEST, "schemaVersion": 3},
    "a schema version of true": {**MANIFEST, "schemaVersion": True},
    "another type of document": {**MANIFEST, "mediaType": "application/json"},
    "a negative size": {**MANIFEST, "layers": [{**DESCRIPTOR, "size": -1}]},
    "a size of 2^63": {**MANIFEST, "layers": [{**DESCRIPTOR, "size": 2**63}]},
    "a size in a text": {**MANIFEST, "layers": [{**DESCRIPTOR, "size": "3"}]},
    "a size of true": {**MANIFEST, "layers": [{**DESCRIPTOR, "size": True}]},
    "a broken digest": {**MANIFEST, "layers": [{**DESCRIPTOR, "digest": "sha256:../../etc/passwd"}]},
    "another algorithm": {**MANIFEST, "layers": [{**DESCRIPTOR, "digest": "md5:" + "a" * 32}]},
    "no config": {key: value for key, value in MANIFEST.items() if key != "config"},
    "no layers": {key: value for key, value in MANIFEST.items() if key != "layers"},
    "layers that are no list": {**MANIFEST, "layers": {}},
    "a layer that is no object": {**MANIFEST, "layers": ["x"]},
    "annotations that are no texts": {**MANIFEST, "annotations": {"a": 1}},
    "ten thousand layers": {**MANIFEST, "layers": [DESCRIPTOR] * 10_000},
    "a list": [],
    "a number": 5,
}


@pytest.mark.parametrize("value", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_refuses_what_is_ambiguous(value: object) -> None:
    """RG-04."""
    with pytest.raises(EngineError):
        parse_document(dump(value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"schemaVersion": NaN}',
        b'{"schemaVersion": 2, "schemaVersion": 2, "manifests": []}',
        b'{"schemaVersion": 2, "manifests": [{"digest": "a", "digest": "b"}]}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b" " * (5 * 1024 * 1024),
        b'{"schemaVersion": ' + b"9" * 100_000 + b"}",
    ],
    ids=[
        "empty",
        "cut",
        "no utf-8",
        "NaN",
        "key twice",
        "inner key twice",
        "deep list",
        "deep object",
        "5 MiB",
        "long number",
    ],
)
def test_refuses_what_is_no_clean_json(data: bytes) -> None:
    """RG-04."""
    with pytest.raises(InvalidInput):
        parse_document(data)


def test_the_type_served_must_be_the_type_written() -> None:
    """RG-04."""
    with pytest.raises(InvalidInput, match="served as"):
        parse_document(dump(MANIFEST), mt.DOCKER_MANIFEST)


@pytest.mark.parametrize("value", [{"schemaVersion": 1, "fsLayers": []}, {"schemaVersion": 2}])
def test_schema_one_is_not_supported(value: dict[str, Any]) -> None:
    """RG-04."""
    with pytest.raises(Unsupported):
        parse_document(dump(value), mt.DOCKER_SCHEMA1_SIGNED)


def test_documents_are_canonical() -> None:
    manifest = parse_manifest(dump(MANIFEST))
    assert manifest.to_bytes() == parse_manifest(manifest.to_bytes()).to_bytes()
    assert b" " not in manifest.to_bytes()
    index = parse_index(dump(INDEX))
    assert parse_index(index.to_bytes()) == index


CONFIG = ImageConfig(
    "amd64",
    variant="v2",
    created="2026-01-01T00:00:00Z",
    author="ä",
    config=ContainerConfig(
        user="1000",
        exposed_ports=("80/tcp",),
        env=("A=1", "B=2"),
        entrypoint=(),
        cmd=("x", "<&>"),
        volumes=("/data",),
        working_dir="/w",
        labels={"k": "v"},
        stop_signal="SIGINT",
        shell=("/bin/bash", "-c"),
        on_build=("RUN x",),
        healthcheck=Healthcheck(("CMD", "true"), 1, 2, 3, 4, 5),
        args_escaped=True,
    ),
    diff_ids=(SUM,),
    history=(
        History("2026-01-01T00:00:00Z", "RUN x", "me", "note"),
        History(created_by="CMD", empty_layer=True),
    ),
)


def test_a_config_is_read_as_it_was_written() -> None:
    assert parse_config(CONFIG.to_bytes()) == CONFIG
    assert parse_config(CONFIG.to_bytes()).to_bytes() == CONFIG.to_bytes()


def test_an_empty_entrypoint_is_not_a_missing_one() -> None:
    assert json.loads(CONFIG.to_bytes())["config"]["Entrypoint"] == []
    assert "Shell" not in ImageConfig("amd64", config=ContainerConfig()).to_json()["config"]


def test_nulls_of_other_tools_are_missing_values() -> None:
    value = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": None,
            "Cmd": None,
            "Labels": None,
            "Volumes": None,
            "ExposedPorts": None,
            "OnBuild": None,
        },
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": None,
        "container_config": {"Hostname": "x"},
    }
    assert parse_config(dump(value)) == ImageConfig("amd64")


@pytest.mark.parametrize(
    "change",
    [
        {"rootfs": {"type": "tree", "diff_ids": []}},
        {"rootfs": None},
        {"rootfs": {"type": "layers", "diff_ids": ["x"]}},
        {"config": {"Env": "A=1"}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"User": 5}},
        {"config": {"Healthcheck": {"Interval": 2**70}}},
        {"history": [{"empty_layer": "yes"}]},
    ],
)
def test_refuses_a_config_of_wrong_types(change: dict[str, Any]) -> None:
    value = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, **change}
    with pytest.raises(EngineError):
        parse_config(dump(value))

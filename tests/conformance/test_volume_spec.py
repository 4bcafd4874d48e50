"""Mounts as written with `-v`, `--mount` and `--tmpfs`, against the tables of the Docker engine and command."""

from __future__ import annotations

from typing import Any

import pytest

from engine.containers.model import MountSpec
from engine.errors import BadSpec
from engine.volumes.spec import check_mount, parse_mount, parse_volume, tmpfs_options
from tests.support.vectors import load_vectors

SPECS = load_vectors("moby-engine", "volume_spec.json")


@pytest.mark.parametrize("text", SPECS["valid"])
def test_valid_volumes(text: str) -> None:
    assert parse_volume(text).target.startswith("/")


@pytest.mark.parametrize("text", SPECS["invalid"])
def test_invalid_volumes(text: str) -> None:
    with pytest.raises(BadSpec) as raised:
        parse_volume(text)
    assert SPECS["invalid"][text] in raised.value.message


@pytest.mark.parametrize(
    "case", load_vectors("moby-engine", "volume_spec_split.json"), ids=lambda case: case["bind"]
)
def test_parts_of_a_volume(case: dict[str, Any]) -> None:
    if "expErr" in case:
        with pytest.raises(BadSpec) as raised:
            parse_volume(case["bind"])
        assert raised.value.message == case["expErr"]
        return
    found, want = parse_volume(case["bind"]), case["expected"]
    assert (found.type, found.target) == (want["Type"], want["Destination"])
    assert found.source == want.get("Source", want.get("Name"))
    assert found.read_only is not want["RW"]
    assert found.propagation == want["Propagation"]
    assert found.type == "bind" or found.nocopy is not want["CopyData"]


@pytest.mark.parametrize("case", load_vectors("moby-engine", "validate_mount.json"), ids=str)
def test_fields_that_can_be_together(case: dict[str, Any]) -> None:
    given = case["input"]
    options = given.get("VolumeOptions") or {}
    spec = MountSpec(
        given["Type"],
        given.get("Target", ""),
        given.get("Source", ""),
        subpath=dict(options).get("Subpath", ""),
    )
    expected = case.get("expected")
    if isinstance(expected, dict) and expected["error"] == "errBindSourceDoesNotExist":
        pytest.skip("whether the source exists is judged when it is opened")
    if isinstance(expected, dict) and expected["error"] == "errExtraField":
        pytest.skip("empty options of another type cannot be written in our form of a mount")
    if expected is None:
        check_mount(spec)
        return
    with pytest.raises(BadSpec) as raised:
        check_mount(spec)
    if isinstance(expected, str):
        assert raised.value.message.startswith(expected)
    else:
        assert f"field {expected['args'][0]} must not be empty" in raised.value.message


@pytest.mark.parametrize("case", load_vectors("moby-engine", "tmpfs_options.json"), ids=str)
def test_options_of_a_tmpfs(case: dict[str, Any]) -> None:
    given = dict(case["opt"] or {})
    spec = MountSpec(
        "tmpfs",
        "/run",
        read_only=case.get("readOnly", False),
        tmpfs_size_bytes=given.get("SizeBytes", 0),
        tmpfs_mode=given.get("Mode", 0),
        tmpfs_options=["=".join(option) for option in given.get("Options", [])],
    )
    if case.get("err"):
        with pytest.raises(BadSpec):
            tmpfs_options(spec)
        return
    found = tmpfs_options(spec)
    for text in case["expectedSubstrings"]:
        assert text in found
    for text in case["unexpectedSubstrings"]:
        assert text not in found


@pytest.mark.parametrize(
    "case", load_vectors("docker-cli-opts", "mount_errors.json"), ids=lambda case: case["doc"]
)
def test_errors_of_the_long_form(case: dict[str, Any]) -> None:
    with pytest.raises(BadSpec) as raised:
        parse_mount(case.get("value", ""))
    assert raised.value.message == case["expErr"]


@pytest.mark.parametrize("name", ["readonly", "volume_nocopy"])
def test_switches_of_the_long_form(name: str) -> None:
    for case in load_vectors("docker-cli-opts", f"mount_{name}.json"):
        text = ",".join(part for part in ("type=volume,target=/foo", case["value"]) if part)
        if "expErr" in case:
            with pytest.raises(BadSpec) as raised:
                parse_mount(text)
            assert raised.value.message == case["expErr"]
        else:
            mount = parse_mount(text).mount
            assert (mount.read_only if name == "readonly" else mount.nocopy) is case["exp"], text


@pytest.mark.parametrize(
    "case", load_vectors("docker-cli-opts", "mount_volume_options.json"), ids=lambda case: case["doc"]
)
def test_options_of_the_long_form(case: dict[str, Any]) -> None:
    found = parse_mount(case["value"])
    want = dict(case["exp"].get("VolumeOptions") or {})
    driver = dict(want.get("DriverConfig") or {})
    assert found.mount.labels == want.get("Labels", {})
    assert (found.driver, found.driver_options) == (driver.get("Name", ""), driver.get("Options", {}))

"""Published and exposed ports against the tables of go-connections (package nat) and of the docker command."""

from __future__ import annotations

from typing import Any

import pytest

from engine.containers.model import PortSpec
from engine.errors import BadSpec
from engine.network.ports import (
    format_port,
    parse_exposed,
    parse_number,
    parse_port,
    parse_range,
    split_protocol,
)
from tests.support.vectors import load_vectors

NAT = "go-connections-nat"


def cases(name: str) -> list[Any]:
    return load_vectors(NAT, f"{name}.json")


@pytest.mark.parametrize("case", cases("port_spec"), ids=lambda case: case["spec"])
def test_port_specs(case: dict[str, Any]) -> None:
    if case.get("error"):
        with pytest.raises(BadSpec):
            parse_port(case["spec"])
        return
    found = [
        {
            "Port": f"{port.container_port}/{port.protocol}",
            "Binding": {"HostIP": port.host_ip, "HostPort": str(port.host_port or "")},
        }
        for port in parse_port(case["spec"])
    ]
    assert found == case["expected"]


@pytest.mark.parametrize("case", cases("port_spec_errors"), ids=lambda case: case["name"])
def test_port_spec_errors(case: dict[str, Any]) -> None:
    with pytest.raises(BadSpec) as raised:
        parse_port(case["spec"])
    assert raised.value.message == case["expError"]


@pytest.mark.parametrize("case", cases("port_spec_string"), ids=lambda case: case["doc"])
def test_canonical_text(case: dict[str, Any]) -> None:
    (port,) = parse_port(case["in"])
    container = f"{port.container_port}/{port.protocol}"
    assert format_port(port.host_ip, str(port.host_port or ""), container) == case["expected"]


@pytest.mark.parametrize("case", cases("port_range"), ids=lambda case: case["doc"])
def test_ranges(case: dict[str, Any]) -> None:
    text = case.get("input", "")
    if "expErr" in case:
        with pytest.raises(BadSpec) as raised:
            parse_range(text)
        assert raised.value.message == case["expErr"]
    else:
        assert parse_range(text) == (case.get("expBegin", 0), case.get("expEnd", 0))


@pytest.mark.parametrize("case", cases("port_number"), ids=lambda case: case["doc"])
def test_numbers(case: dict[str, Any]) -> None:
    if "expErr" in case:
        with pytest.raises(BadSpec) as raised:
            parse_number(case["input"])
        assert raised.value.message == case["expErr"]
    else:
        assert parse_number(case["input"]) == case["exp"]


@pytest.mark.parametrize("case", cases("split_proto_port"), ids=lambda case: case["doc"])
def test_protocols(case: dict[str, Any]) -> None:
    assert split_protocol(case.get("input", "")) == (case.get("expPort", ""), case.get("expProto", ""))


@pytest.mark.parametrize(
    "case", load_vectors("docker-cli-opts", "port_simple.json"), ids=lambda case: case["value"]
)
def test_short_forms_of_the_command(case: dict[str, Any]) -> None:
    """The table is of services, where a range of host ports for one port means all of them; for a container: one of them."""
    found = parse_port(case["value"])
    if case["value"] == "80-82:8080/udp":
        assert found == [PortSpec(8080, "udp", "", 80, 82)]
        return
    want = case["expected"]
    got = [
        (port.container_port, port.protocol, port.host_port)
        for port in found
    ]  # fmt: skip
    assert got == [(item["TargetPort"], item["Protocol"], item.get("PublishedPort", 0)) for item in want]


@pytest.mark.parametrize(
    "case", load_vectors("docker-cli-opts", "port_simple_invalid.json"), ids=lambda case: case["value"]
)
def test_invalid_short_forms(case: dict[str, Any]) -> None:
    if case["expectedError"] == "hostip is not supported":
        assert parse_port(case["value"]) == [PortSpec(80, "tcp", "1.1.1.1", 80)]
        return
    with pytest.raises(BadSpec) as raised:
        parse_port(case["value"])
    assert raised.value.message == case["expectedError"]


def test_exposed_ports() -> None:
    for text, ports in load_vectors("docker-cli-opts", "expose.json")["valid"].items():
        assert [f"{port}/{protocol}" for port, protocol in parse_exposed(text)] == ports


@pytest.mark.parametrize("text", load_vectors("docker-cli-opts", "expose.json")["invalid"])
def test_invalid_exposed_ports(text: str) -> None:
    with pytest.raises(BadSpec):
        parse_exposed(text)

"""What people write: image names, ports, mounts, environment, times; against upstream's own vectors where there are some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from webapp.containers.mounts import parse_mount
from webapp.containers.ports import parse_port
from webapp.containers.services import signal_name
from webapp.containers.spec import compile_spec, env_file_of, env_of, restart_of
from webapp.core.errors import Invalid
from webapp.core.flags import flag
from webapp.core.times import parse_moment
from webapp.images.names import parse_name


def read(vectors: Path, name: str) -> Any:
    return json.loads((vectors / name).read_text())


# --- names of images ----------------------------------------------------------------------------------------------


def test_names_that_are_names(vectors: Path) -> None:
    for text in read(vectors, "reference/names_normalized.json")["valid"]:
        name = parse_name(text)
        assert name.domain, text
        assert name.path, text
        assert parse_name(str(name)) == name, text


def test_names_that_are_none(vectors: Path) -> None:
    for text in read(vectors, "reference/names_normalized.json")["invalid"]:
        with pytest.raises(Invalid):
            parse_name(text)


def test_names_are_split_as_docker_does(vectors: Path) -> None:
    for case in read(vectors, "reference/normalized_split_hostname.json"):
        name = parse_name(case["input"])
        assert (name.domain, name.path) == (case["domain"], case["path"]), case


def test_names_become_whole_as_docker_does(vectors: Path) -> None:
    for case in read(vectors, "reference/docker_ref.json"):
        name = parse_name(case["input"])
        whole = f"{name.domain}/{name.path}@{name.digest}" if name.digest else str(name)
        assert whole == case["expected"], case


def test_familiar_and_whole_names_are_the_same_name(vectors: Path) -> None:
    for case in read(vectors, "reference/repository_info.json"):
        wanted = parse_name(
            case["FullName"] if "FullName" in case else f"{case['Domain']}/{case['RemoteName']}"
        )
        assert wanted.familiar() == case["FamiliarName"] + ":latest", case
        assert parse_name(case["FamiliarName"]) == wanted
        if case.get("AmbiguousName"):
            assert parse_name(case["AmbiguousName"]) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "good#@evil",
        "user:pw@host/x",
        "nginx:",
        "ngi nx",
        "nginx\n",
        "Nginx",
        "x" * 300,
        "a" * 64,
        "наук",
        "host:99999999/x/",
        "-rf",
        "../x",
    ],
)
def test_bad_names_are_refused(text: str) -> None:
    """RG-07, RT-16."""
    with pytest.raises(Invalid):
        parse_name(text)


# --- ports --------------------------------------------------------------------------------------------------------


def test_ports_as_docker_reads_them(vectors: Path) -> None:
    for case in read(vectors, "go-connections-nat/port_spec.json"):
        if case.get("error") or case.get("expError"):
            with pytest.raises(Invalid):
                parse_port(case["spec"])
            continue
        if case["spec"].startswith(":") and not case["spec"].startswith("::"):
            continue  # an empty host part, which we do not take for an address
        found = [
            {
                "Port": f"{port['container_port']}/{port['protocol']}",
                "Binding": {
                    "HostIP": port["host_ip"],
                    "HostPort": _host(port),
                },
            }
            for port in parse_port(case["spec"])
        ]
        wanted = [
            {"Port": item["Port"], "Binding": {"HostIP": "", "HostPort": "", **item.get("Binding", {})}}
            for item in case["expected"]
        ]
        assert found == wanted, case["spec"]


def _host(port: dict[str, Any]) -> str:
    if not port["host_port"]:
        return ""
    return f"{port['host_port']}-{port['host_port_end']}" if port["host_port_end"] else str(port["host_port"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "80:",
        "0",
        "70000",
        "80:80:80:80",
        "300.1.1.1:80:80",
        "1-3:1-2",
        "5-3:80",
        "80/icmp",
        "80:80/",
        "localhost:80:80",
    ],
)
def test_bad_ports_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_port(text)


# --- mounts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("data:/var/lib", {"type": "volume", "source": "data", "target": "/var/lib", "read_only": False}),
        ("data:/var/lib:ro", {"type": "volume", "source": "data", "target": "/var/lib", "read_only": True}),
        (
            "data:/x:nocopy",
            {"type": "volume", "source": "data", "target": "/x", "read_only": False, "nocopy": True},
        ),
        (
            "/srv:/www:ro,rslave",
            {
                "type": "bind",
                "source": "/srv",
                "target": "/www",
                "read_only": True,
                "propagation": "rslave",
                "create_source": True,
            },
        ),
        ("/only", {"type": "volume", "source": "", "target": "/only", "read_only": False}),
    ],
)
def test_mounts(text: str, wanted: dict[str, Any]) -> None:
    assert parse_mount(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "data", "data:", "data:rel", "data:/", "../x:/y", "a:/b:what", "a:/b:ro:x", "-v:/x", "a/b:/c"],
)
def test_bad_mounts_are_refused(text: str) -> None:
    """AP-16, RT-16."""
    with pytest.raises(Invalid):
        parse_mount(text)


# --- the rest -----------------------------------------------------------------------------------------------------


def test_environment() -> None:
    assert env_of({"A": "1", "B": 2, "C": None}) == {"A": "1", "B": "2", "C": None}
    assert env_of(["A=1", "B=x=y", "C"]) == {"A": "1", "B": "x=y", "C": None}
    for bad in ({"": "x"}, {"A=B": "x"}, {"A\n": "x"}, {"A": "x\0"}, "A=1", 3):
        with pytest.raises(Invalid):
            env_of(bad)


def test_environment_files_have_the_docker_commands_form() -> None:
    text = '\ufeff# made by hand\n\nA=1\n  B=x=y \nC="quoted"\nD=\nA=2\n'
    assert env_file_of(text) == {"A": "2", "B": "x=y ", "C": '"quoted"', "D": ""}
    assert env_file_of(["A=1", "A=2\nB=3"]) == {"A": "2", "B": "3"}
    assert env_file_of(None) == {}
    spec = compile_spec({"image": "x", "env_file": "A=file\nB=file", "env": {"A": "own", "C": None}})
    assert spec["env"] == {"A": "own", "B": "file", "C": None}


@pytest.mark.parametrize("bad", ["A=1\nALONE", "=x\nB C=1", 5, [5]])
def test_environment_files_that_cannot_be_read_name_the_line(bad: object) -> None:
    with pytest.raises(Invalid) as caught:
        env_file_of(bad)
    assert "env_file" in caught.value.extra["fields"]


def test_restart_policies() -> None:
    assert restart_of(None) == {"name": "no", "maximum_retry_count": 0}
    assert restart_of("on-failure:5") == {"name": "on-failure", "maximum_retry_count": 5}
    for bad in ("always:3", "on-failure:x", "never", 5, ["always"]):
        with pytest.raises(Invalid):
            restart_of(bad)


def test_signals() -> None:
    assert [signal_name(text) for text in ("term", "SIGTERM", "9", "RTMIN+3", "")] == [
        "SIGTERM",
        "SIGTERM",
        "9",
        "SIGRTMIN+3",
        "",
    ]
    for bad in ("0", "65", "$(x)", "TERM;", "a" * 40):
        with pytest.raises(Invalid):
            signal_name(bad)


def test_moments() -> None:
    assert parse_moment("") is None
    assert parse_moment("1700000000").isoformat() == "2023-11-14T22:13:20+00:00"  # type: ignore[union-attr]
    assert parse_moment("2026-01-02T03:04:05Z").hour == 3  # type: ignore[union-attr]
    assert parse_moment("1h30m") is not None
    for bad in ("yesterday", "1x", "2026-13-01", "nan", "inf", "1e400"):
        with pytest.raises(Invalid):
            parse_moment(bad)


def test_flags() -> None:
    assert flag({"x": "1"}, "x")
    assert flag({"x": ""}, "x")
    assert not flag({"x": "false"}, "x", default=True)
    assert flag({}, "x", default=True)
    with pytest.raises(Invalid):
        flag({"x": "perhaps"}, "x")

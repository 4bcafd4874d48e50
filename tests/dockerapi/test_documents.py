"""Documents are those of the published API: right types, no field that it lacks, none missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from engine.containers import model
from tests.support.engine_api import ApiDocument
from webapp.dockerapi.create import spec_of
from webapp.dockerapi.documents import container, event, image, network, stats, system
from webapp.dockerapi.errors import BadParameter

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def api(request: pytest.FixtureRequest) -> ApiDocument:
    vectors: Path = request.getfixturevalue("vectors")
    return ApiDocument(vectors / "engine-api-spec" / "v1.44.yaml")


def record(**changes: Any) -> dict[str, Any]:
    """Return the record of a container that has something of everything."""
    spec = model.ContainerSpec(
        image="busybox",
        name="web",
        labels={"role": "web"},
        mounts=[
            model.MountSpec("volume", "/data", "data"),
            model.MountSpec("bind", "/h", "/etc", read_only=True),
            model.MountSpec("tmpfs", "/t"),
        ],
        ports=[model.PortSpec(80, "tcp", "127.0.0.1", 18080), model.PortSpec(53, "udp", "", 0)],
        networks=[model.EndpointSpec("appnet", aliases=["w1"], ipv4_address="10.77.0.2")],
        network_mode="appnet",
        restart=model.RestartPolicy("on-failure", 3),
        resources=model.Resources(memory_bytes=64 << 20, cpus=0.5, ulimits=[model.Ulimit("nofile", 10, 20)]),
        devices=[model.DeviceSpec("/dev/null")],
        healthcheck=model.Healthcheck(["CMD-SHELL", "true"], interval_s=1.0),
    )
    made = model.Container(
        id="89f98adcdaa8" + "0" * 52,
        name="web",
        spec=spec,
        image_id="sha256:" + "e" * 64,
        image="busybox:latest",
        status=model.Status.RUNNING,
        created_at=NOW - 60,
        started_at=NOW - 30.5,
        pid=42,
        path="sh",
        args=["-c", "echo out; sleep 60"],
        config={
            "Env": ["A=b"],
            "Cmd": ["sh", "-c", "echo out; sleep 60"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Labels": {"role": "web"},
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1000000000},
        },
        endpoints=[
            model.Endpoint(
                "b" * 64, "appnet", ["w1"], "10.77.0.2", 24, "10.77.0.1", mac_address="02:42:0a:4d:00:02"
            )
        ],
        ports=[
            model.PortBinding(80, "tcp", "127.0.0.1", 18080),
            model.PortBinding(53, "udp", "0.0.0.0", 32768),
        ],
        mounts=[
            model.MountPoint("volume", "/data", "/v/data", "data"),
            model.MountPoint("bind", "/h", "/etc", read_only=True),
        ],
        health=model.Health("healthy", 0, [model.HealthResult(NOW - 2, NOW - 1, 0, "")]),
    )
    return model.to_json(dataclasses.replace(made, **changes))


def test_inspect_is_the_documents(api: ApiDocument) -> None:
    schema = api.schema_of("GET", "/containers/{id}/json")
    assert schema is not None
    allowed = ("$.NetworkSettings.Networks",)  # a map of EndpointSettings, checked below
    found = [
        text
        for text in api.problems(container.inspect(record(), size=True), schema)
        if not text.startswith(allowed)
    ]
    assert found == []


def test_endpoints_are_the_documents(api: ApiDocument) -> None:
    for settings in container.networks(record()).values():
        assert api.problems(settings, api.definition("EndpointSettings")) == []


def test_summary_is_the_documents(api: ApiDocument) -> None:
    assert (
        api.problems(container.summary(record(), size=True, now=NOW), api.definition("ContainerSummary"))
        == []
    )


def test_recorded_keys_of_the_engine_are_all_there(vectors: Path) -> None:
    """What a real engine of API 1.41 answered has no key that ours lacks, but for those that 1.44 dropped."""
    recorded = json.loads((vectors / "dockerd-20.10.24-samples/responses/container_inspect.json").read_text())
    ours = container.inspect(record())
    dropped = {"KernelMemory", "KernelMemoryTCP"}
    assert set(recorded) - set(ours) == set()
    assert set(recorded["HostConfig"]) - set(ours["HostConfig"]) <= dropped
    assert set(recorded["Config"]) - set(ours["Config"]) == set()
    assert set(recorded["State"]) - set(ours["State"]) == set()
    assert set(recorded["NetworkSettings"]) - set(ours["NetworkSettings"]) == set()


def test_status_texts_agree_with_the_engine(vectors: Path) -> None:
    for case in json.loads((vectors / "moby-engine/state_string.json").read_text()):
        if case["doc"] in (
            "started but not finished",
            "restarting while not running",
            "paused while not running",
        ):
            continue  # states that our model cannot hold: one word says all
        state = case["state"] or {}

        def seconds(name: str, state: dict[str, Any] = state) -> float:
            return NOW + state[name]["$now_plus_ns"] / 1e9 if name in state else 0.0

        given = record(
            status=model.Status(case["wantState"]),
            exit_code=state.get("ExitCode", 0),
            started_at=seconds("StartedAt"),
            finished_at=seconds("FinishedAt"),
            health=model.Health(),
        )
        assert container.status_text(given, NOW) == case["wantString"], case["doc"]


def test_a_published_port_on_all_addresses_is_listed() -> None:
    listed = container.summary(record(), now=NOW)["Ports"]
    assert {"IP": "0.0.0.0", "PrivatePort": 53, "PublicPort": 32768, "Type": "udp"} in listed


def test_images_networks_and_volumes_are_the_documents(api: ApiDocument) -> None:
    made = {
        "id": "sha256:" + "a" * 64,
        "names": ["docker.io/library/busybox:latest"],
        "repo_digests": [],
        "created_at": NOW,
        "size_bytes": 1985886,
        "config": {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-11-24T22:14:58Z",
            "config": {"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"v": "1"}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "b" * 64]},
            "history": [{"created_by": "x", "comment": "c"}],
        },
    }
    assert api.problems(image.summary(made, containers=1), api.definition("ImageSummary")) == []
    assert api.problems(image.inspect(made), api.definition("ImageInspect")) == []
    assert image.inspect(made)["RepoTags"] == ["busybox:latest"]
    net = {
        "id": "b" * 64,
        "name": "appnet",
        "driver": "bridge",
        "created_at": NOW,
        "subnets": [{"subnet": "10.77.0.0/24", "gateway": "10.77.0.1", "ip_range": "", "aux_addresses": {}}],
        "members": [
            {
                "container_id": "c" * 64,
                "name": "web",
                "ipv4_address": "10.77.0.2",
                "ipv6_address": "",
                "mac_address": "02:42:0a:4d:00:02",
            }
        ],
        "options": {},
        "labels": {"k": "v"},
    }
    assert api.problems(network.network(net), api.definition("Network")) == []
    assert network.network(net)["Containers"]["c" * 64]["IPv4Address"] == "10.77.0.2/24"
    volume = {
        "name": "data",
        "driver": "local",
        "labels": {"k": "v"},
        "options": {},
        "path": "/v/data",
        "created_at": NOW,
    }
    assert api.problems(network.volume(volume), api.definition("Volume")) == []


def test_version_and_info_are_the_documents(api: ApiDocument) -> None:
    facts = {
        "runtime": "runc",
        "runtime_version": "1.1.5",
        "kernel": "6.1",
        "architecture": "amd64",
        "node": "local",
        "cpus": 2,
    }
    found = api.problems(system.version(facts), api.definition("SystemVersion"))
    assert [text for text in found if "GoVersion" not in text] == []
    counts = {"containers": 3, "running": 1, "paused": 0, "stopped": 2, "images": 4}
    assert api.problems(system.info(facts, counts), api.definition("SystemInfo")) == []


def test_an_event_says_who_and_what(api: ApiDocument) -> None:
    happened = {
        "type": "container",
        "action": "die",
        "subject": "c" * 64,
        "attributes": {"record": record(exit_code=42)},
        "time_ns": 10**18,
    }
    message = event.event(happened)
    assert message is not None
    assert message["Actor"]["Attributes"]["exitCode"] == "42"
    assert message["Actor"]["Attributes"]["role"] == "web"
    assert [
        text
        for text in api.problems(message, api.definition("EventMessage"))
        if "status" not in text and ".id" not in text and ".from" not in text
    ] == []


def test_an_operation_is_no_event_of_the_engine() -> None:
    assert (
        event.event(
            {"type": "operation", "action": "succeeded", "subject": "x", "attributes": {}, "time_ns": 1}
        )
        is None
    )


def test_statistics_carry_both_samples() -> None:
    sample = {
        "time": NOW,
        "cpu": {"usage_ns": 10, "system_ns": 100, "online": 2},
        "memory": {"usage_bytes": 5, "limit_bytes": 9},
        "pids": 1,
    }
    document = stats.stats_document(record(), sample, {**sample, "time": NOW - 1, "cpu": {"usage_ns": 4}})
    assert (
        document["cpu_stats"]["cpu_usage"]["total_usage"]
        - document["precpu_stats"]["cpu_usage"]["total_usage"]
        == 6
    )
    assert document["memory_stats"]["limit"] == 9


# --- create bodies --------------------------------------------------------------------------------------------------


def test_a_create_body_becomes_a_spec_that_the_engine_takes(vectors: Path) -> None:
    body = json.loads((vectors / "moby-engine/container_config_1_24.json").read_text())
    spec = model.from_json(model.ContainerSpec, spec_of(body, "/web"))
    assert (spec.name, spec.command, spec.entrypoint) == ("web", ["date"], ["bash"])
    assert spec.ports == [model.PortSpec(22, "tcp", "", 11022)]
    assert spec.mounts == [model.MountSpec("bind", "/tmp", "/tmp", create_source=True)]
    assert spec.cap_add == ["NET_ADMIN"]


def test_restart_policies_agree_with_the_engine(vectors: Path) -> None:
    for case in json.loads((vectors / "moby-engine/restart_policy.json").read_text()):
        body = {"Image": "x", "HostConfig": {"RestartPolicy": case["input"] or {}}}
        if case.get("expectedErr"):
            with pytest.raises(BadParameter, match=case["expectedErr"].split("(")[0]):
                spec_of(body)
        else:
            assert "image" in spec_of(body)


@pytest.mark.parametrize(
    "body",
    [
        {"Image": "x", "hostconfig": {"Privileged": True}},
        {"Image": "x", "HostConfig": {"privileged": True}},
        {"Image": "x", "HostConfig": {"Binds": "/:/host"}},
        {"Image": "x", "HostConfig": {"DeviceCgroupRules": ["a *:* rwm"]}},
        {"Image": "x", "HostConfig": {"MaskedPaths": []}},
        {"Image": "x", "HostConfig": {"Runtime": "evil"}},
        {"Image": ["x"]},
        {},
    ],
)
def test_a_body_that_would_be_judged_as_less_than_it_means_is_refused(body: dict[str, Any]) -> None:
    """AP-02, RT-07: other case, wrong type, and what the engine cannot do."""
    with pytest.raises(BadParameter):
        spec_of(body)


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": ["/etc:/x:ro"]},
        {"Mounts": [{"Type": "bind", "Source": "/etc", "Target": "/x", "ReadOnly": True}]},
    ],
)
def test_both_ways_to_say_a_bind_mount_give_one_spec(host: dict[str, Any]) -> None:
    """D3: policy sees the same whichever field the mount came in."""
    (mount,) = spec_of({"Image": "x", "HostConfig": host})["mounts"]
    assert (mount["type"], mount["source"], mount["target"], mount["read_only"]) == (
        "bind",
        "/etc",
        "/x",
        True,
    )

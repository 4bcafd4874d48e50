"""What web and nodes say to each other: strict, signed, versioned, and complete."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import keys
from workers.contracts import (
    BadSignature,
    BuildRun,
    ContainerCreate,
    ContainerStart,
    ContractError,
    ImagePull,
    NodeKey,
    RegistryAccess,
    all_kinds,
    contract_of,
    envelope,
    names,
    policy,
    queries,
    streams,
)
from workers.contracts.base import sealed_fields, task_name
from workers.contracts.envelope import Envelope
from workers.contracts.events import (
    Heartbeat,
    NodeEvent,
    Outcome,
    read_event,
    read_heartbeat,
    read_outcome,
    write_event,
    write_heartbeat,
)
from workers.contracts.values import dumps, from_json, loads, to_json

KEY = NodeKey("local", b"k" * 32)
OPERATION = "a" * 32

KINDS = """image.pull image.push image.tag image.untag image.names_protect image.remove image.load image.import image.save image.prune build.run
build_cache.prune container.create container.start container.stop container.restart container.kill container.pause container.unpause
container.rename container.update container.remove container.commit container.exec container.prune container.files_put kept_log.remove network.create
network.remove network.connect network.disconnect network.prune volume.create volume.remove volume.prune volume.backup volume.restore backup.remove
system.prune system.check system.repair""".split()


def test_every_kind_of_work_has_a_contract_a_verb_and_a_task() -> None:
    from workers.celery_app import app
    from workers.tasks.verbs import VERBS

    app.loader.import_default_modules()
    assert all_kinds() == sorted(KINDS)
    assert sorted(VERBS) == sorted(KINDS)
    assert {task_name(kind) for kind in KINDS} <= set(app.tasks)


def sample(kind: str) -> Any:
    """Return a contract of `kind` with something in its required fields."""
    made = {"str": "abc", "int": 1, "list[str]": ["x"], "dict[str, Any]": {"image": "x"}}
    declared = contract_of(kind)
    needed = [
        item
        for item in dataclasses.fields(declared)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    return declared(**{item.name: made[str(item.type)] for item in needed})


@pytest.mark.parametrize("kind", KINDS)
def test_a_contract_comes_out_of_its_envelope_as_it_went_in(kind: str) -> None:
    contract = sample(kind)
    assert envelope.read(KEY, envelope.write(KEY, contract, operation_id=OPERATION)).contract() == contract


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_is_refused(kind: str) -> None:
    payload = {**envelope.split(sample(kind))[0], "surprise": 1}
    with pytest.raises(ContractError, match="unknown field surprise"):
        Envelope(1, OPERATION, kind, "local", 1, 0.0, 1.0, payload).contract()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"v": 2}, "version 2"),
        ({"kind": "container.explode"}, "unknown kind"),
        ({"node": "other"}, "came to 'local'"),
        ({"node": "../x"}, "not a node"),
        ({"operation": "../../etc"}, "not an id"),
        ({"fence": 0}, "must be positive"),
        ({"fence": "1"}, "fence must be int"),
        ({"fence": True}, "fence must be int"),
        ({"deadline_s": -1}, "must be positive"),
        ({"payload": []}, "payload must be an object"),
        ({"more": 1}, "unknown field more"),
    ],
)
def test_a_signed_envelope_is_still_read_strictly(change: dict[str, Any], says: str) -> None:
    body = loads(KEY.unwrap("task", envelope.write(KEY, ContainerStart("x"), operation_id=OPERATION)))
    with pytest.raises(ContractError, match=says):
        envelope.read(KEY, KEY.wrap("task", dumps({**body, **change})))


def test_a_signature_is_worth_nothing_for_another_purpose_node_or_body() -> None:
    """AP-14."""
    text = envelope.write(KEY, ContainerStart("x"), operation_id=OPERATION)
    for key, forged in (
        (KEY, text.replace('"x"', '"y"')),
        (NodeKey("local", b"q" * 32), text),
        (NodeKey("other", b"k" * 32), text),
        (KEY, KEY.wrap("query", KEY.unwrap("task", text))),
        (KEY, text.partition(".")[2]),
        (KEY, "ü" + text),
    ):
        with pytest.raises(BadSignature):
            envelope.read(key, forged)


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":2}', "NaN", "[Infinity]", "{", "[" * 200 + "]" * 200, "[" * 100_000, "\x00", ""]
)
def test_json_that_can_be_read_two_ways_is_not_read(text: str) -> None:
    """AP-02."""
    with pytest.raises(ContractError):
        loads(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_whatever_comes_is_a_contract_or_refused(value: Any) -> None:
    for kind in ("container.create", "build.run", "network.create"):
        try:
            contract = from_json(contract_of(kind), value)
        except ContractError:
            continue
        assert isinstance(contract, contract_of(kind))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    try:
        frame = streams.peek(data)
    except ContractError:
        return
    with pytest.raises(BadSignature):
        streams.check(streams.FrameKeys(KEY, frame.id), data, to_agent=True)


def test_a_frame_is_bound_to_its_stream_and_direction() -> None:
    one, two = streams.FrameKeys(KEY, "a" * 32), streams.FrameKeys(KEY, "b" * 32)
    packed = streams.pack(
        one, streams.Frame("a" * 32, 3, "data", b"x", ch=1, c="9", m={"k": 1}), to_agent=True
    )
    assert streams.peek(packed) == streams.Frame("a" * 32, 3, "data", b"x", 1, "9", {"k": 1})
    streams.check(one, packed, to_agent=True)
    for keys_, to_agent in ((one, False), (two, True)):
        with pytest.raises(BadSignature):
            streams.check(keys_, packed, to_agent=to_agent)


@pytest.mark.parametrize("size", [-1, 0, 65536, float("nan"), "80", None, True])
def test_a_terminal_of_no_size_is_refused(size: Any) -> None:
    """WB-03."""
    with pytest.raises(ContractError):
        streams.terminal_size({"width": size, "height": 24})


def test_stale_and_foreign_queries_are_refused() -> None:
    for change in (
        {"expires_at": time.time() - 100},
        {"expires_at": time.time() + 9999},
        {"node": "other"},
        {"id": "../x"},
    ):
        query = dataclasses.replace(
            queries.Query("a" * 32, "local", "system.info", time.time() + 5), **change
        )
        with pytest.raises(ContractError):
            queries.read_query(KEY, queries.write_query(KEY, query))


def test_an_answer_fits_its_query_alone() -> None:
    text = queries.write_answer(KEY, queries.Answer("a" * 32, {"x": 1}))
    assert queries.read_answer(KEY, "a" * 32, text).result == {"x": 1}
    with pytest.raises(BadSignature):
        queries.read_answer(KEY, "b" * 32, text)


def test_events_and_heartbeats_come_back_as_they_were() -> None:
    event = NodeEvent(
        "local",
        "e",
        7,
        8,
        "operation",
        "failed",
        OPERATION,
        {"status": "failed", "kind": "x", "fence": 1, "extra": 1},
    )
    assert read_event(KEY, write_event(KEY, event)) == event
    assert read_outcome(event) == Outcome("failed", "x", 1)
    beat = Heartbeat("local", "b", "e", 9, 1.5, [OPERATION])
    assert read_heartbeat(KEY, write_heartbeat(KEY, beat)) == beat
    with pytest.raises(BadSignature):
        read_event(KEY, write_heartbeat(KEY, beat))


def test_secrets_travel_sealed_and_open_for_their_operation_alone() -> None:
    contract = ImagePull("x", registries=[RegistryAccess("r", password="hunter2-secret")])
    payload, hidden = envelope.split(contract)
    assert "hunter2-secret" not in json.dumps(payload)
    sealed = keys.seal(KEY, hidden, OPERATION)
    text = envelope.write(KEY, contract, operation_id=OPERATION, sealed=sealed)
    assert "hunter2-secret" not in text
    read = envelope.read(KEY, text)
    assert read.contract(keys.unseal(KEY, read.sealed, OPERATION)) == contract
    for key, about, value in (
        (KEY, "b" * 32, sealed),
        (NodeKey("local", b"q" * 32), OPERATION, sealed),
        (KEY, OPERATION, "00"),
    ):
        with pytest.raises(BadSignature):
            keys.unseal(key, value, about)


def test_a_secret_in_the_open_is_refused() -> None:
    payload = {"reference": "x", "registries": [{"host": "r", "password": "p"}]}
    with pytest.raises(ContractError, match="must travel sealed"):
        Envelope(1, OPERATION, "image.pull", "local", 1, 0.0, 1.0, payload).contract()


def test_what_is_secret_is_declared() -> None:
    assert sealed_fields(BuildRun) == ["secrets", "registries"]
    assert sealed_fields(ContainerCreate) == ["registries"]


def test_a_key_file_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    first = keys.make_key(tmp_path, "local")
    assert keys.make_key(tmp_path, "local").sign("x", b"") == first.sign("x", b"")
    mode = os.stat(keys.key_path(tmp_path, "local")).st_mode
    assert stat.S_IMODE(mode) == 0o640
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["node-local.key"]
    with pytest.raises(ContractError):
        keys.key_path(tmp_path, "../x")


def test_a_spooled_file_has_an_id_for_a_name(tmp_path: Path) -> None:
    assert names.spool_path(tmp_path, "in", "a" * 32) == tmp_path / "spool" / "in" / ("a" * 32)
    for direction, name in (("in", "../../etc/passwd"), ("in", "A" * 32), ("up", "a" * 32), ("in", "")):
        with pytest.raises(ContractError):
            names.spool_path(tmp_path, direction, name)


def test_contracts_import_the_standard_library_alone() -> None:
    code = "import sys, workers.contracts; print([m for m in sys.modules if m.split('.')[0] in ('celery','redis','engine','django','cryptography')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        ({"mounts": [{"type": "bind", "source": "/etc", "target": "/x"}]}, policy.HOST_MOUNTS),
        ({"mounts": [{"type": "volume", "source": "/etc", "target": "/x"}]}, policy.HOST_MOUNTS),
        ({"mounts": [{"type": "npipe", "source": "x", "target": "/x"}]}, policy.HOST_MOUNTS),
        ({"mounts": ["/etc:/x"]}, policy.HOST_MOUNTS),
        ({"mounts": "/etc:/x"}, policy.HOST_MOUNTS),
        ({"privileged": True}, policy.PRIVILEGED),
        ({"privileged": 1}, policy.PRIVILEGED),
        ({"cap_add": ["NET_ADMIN"]}, policy.PRIVILEGED),
        ({"cap_add": "ALL"}, policy.PRIVILEGED),
        ({"security_opt": ["seccomp=unconfined"]}, policy.PRIVILEGED),
        ({"security_opt": ["systempaths=unconfined"]}, policy.PRIVILEGED),
        ({"security_opt": "label=disable"}, policy.PRIVILEGED),
        ({"cgroup_parent": "/"}, policy.PRIVILEGED),
        ({"resources": {"oom_score_adj": -1000}}, policy.PRIVILEGED),
        ({"resources": {"oom_score_adj": "x"}}, policy.PRIVILEGED),
        ({"resources": {"oom_kill_disable": True}}, policy.PRIVILEGED),
        ({"devices": [{"path_on_host": "/dev/sda"}]}, policy.DEVICES),
        *(({mode: "host"}, policy.HOST_NAMESPACES) for mode in ("network_mode", "pid_mode", "ipc_mode", "uts_mode", "userns_mode", "cgroupns_mode")),
    ],
)  # fmt: skip
def test_a_risky_wish_needs_its_right(spec: dict[str, Any], right: str) -> None:
    """D3, AP-03."""
    assert right in policy.rights_of_spec(spec)
    assert policy.missing(policy.rights_of_spec(spec), [right]) == {}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {
            "image": "x",
            "mounts": [{"type": "volume", "source": "v", "target": "/x"}, {"type": "tmpfs", "target": "/t"}],
        },
        {
            "security_opt": ["no-new-privileges"],
            "network_mode": "bridge",
            "pid_mode": "",
            "resources": {"memory_bytes": 1},
        },
        {"cap_drop": ["ALL"], "cap_add": [], "devices": []},
    ],
)
def test_an_ordinary_wish_needs_no_right(spec: dict[str, Any]) -> None:
    assert policy.rights_of_spec(spec) == {}


def test_a_volume_on_the_host_is_a_mount_of_the_host() -> None:
    """AP-03."""
    for options in ({"type": "none", "o": "bind", "device": "/etc"}, {"device": "/dev/sda1"}, {"o": "rbind"}):
        assert policy.HOST_MOUNTS in policy.rights_of_volume(options)
    assert policy.rights_of_volume({"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}) == {}


def test_values_survive_json() -> None:
    contract = BuildRun(build_args={"A": None, "B": "x"}, tags=["t"], cpus=1.5)
    assert from_json(BuildRun, json.loads(dumps(to_json(contract)))) == contract

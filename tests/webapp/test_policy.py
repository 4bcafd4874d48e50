"""One policy for every door: what an operator may not have, he gets nowhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

from engine.containers import model
from tests.support.web import Api, FakeNode, actor_of, container_record, last_sent, make_user
from webapp.accounts.models import User
from webapp.audit.models import Entry
from webapp.builds.services import BuildWish, build_create
from webapp.containers import spec as specs
from webapp.containers.services import container_create
from webapp.core.errors import Denied
from webapp.operations.sender import RecordingSender
from webapp.volumes.services import volume_create

pytestmark = pytest.mark.django_db(transaction=True)
ApiOf = Callable[..., Api]

RISKY: list[tuple[str, dict[str, Any]]] = [
    ("host_mounts", {"mounts": ["/:/host"]}),
    ("host_mounts", {"mounts": ["/etc:/etc:ro"]}),
    ("host_mounts", {"mounts": [{"type": "bind", "source": "/var/run", "target": "/x"}]}),
    ("host_mounts", {"mounts": [{"type": "volume", "source": "/etc", "target": "/x"}]}),
    (
        "host_mounts",
        {"mounts": [{"type": "volume", "source": "data", "target": "/x", "propagation": "rshared"}]},
    ),
    ("host_mounts", {"volumes_from": ["risky"]}),
    ("privileged", {"privileged": True}),
    ("privileged", {"cap_add": ["SYS_ADMIN"]}),
    ("privileged", {"security_opt": ["seccomp=unconfined"]}),
    ("privileged", {"cgroup_parent": "/"}),
    ("privileged", {"sysctls": {"kernel.core_pattern": "|/x"}}),
    ("privileged", {"annotations": {"run.oci.handler": "wasm"}}),
    ("privileged", {"resources": {"oom_score_adj": -1000}}),
    ("privileged", {"resources": {"oom_kill_disable": True}}),
    ("host_namespaces", {"network_mode": "host"}),
    ("host_namespaces", {"pid_mode": "host"}),
    ("host_namespaces", {"ipc_mode": "host"}),
    ("host_namespaces", {"uts_mode": "host"}),
    ("host_namespaces", {"userns_mode": "host"}),
    ("host_namespaces", {"cgroupns_mode": "host"}),
    ("host_namespaces", {"network_mode": "container:risky"}),
    ("devices", {"devices": [{"path_on_host": "/dev/sda"}]}),
]


@pytest.fixture
def risky(voice: FakeNode) -> None:
    """A container that an admin made, with a mount of the host and the host's network."""
    spec = {
        "image": "x",
        "network_mode": "host",
        "mounts": [{"type": "bind", "source": "/srv", "target": "/srv"}],
    }
    voice.container(container_record(id="f" * 64, name="risky", spec=spec))


@pytest.mark.parametrize(("right", "fields"), RISKY, ids=[str(fields) for _, fields in RISKY])
def test_operators_need_the_right_and_admins_have_it(
    risky: None, alice: User, bob: User, api: ApiOf, right: str, fields: dict[str, Any]
) -> None:
    """RT-07, RT-08, AP-03: each alone; 403, an entry, nothing sent; the right itself or an admin gets through."""
    answer = api(bob).write("/containers/", {"image": "nginx", **fields})
    assert answer.status_code == 403, answer.content
    assert right in answer.json()["rights"]
    assert not RecordingSender.sent
    entry = Entry.objects.latest("seq")
    assert (entry.actor, entry.action, entry.outcome) == ("bob", "container.create", "refused")
    assert api(alice).write("/containers/", {"image": "nginx", **fields}).status_code == 202
    needed = answer.json()["rights"]
    ops = make_user("ops", "operator", **{f"right_{name}": True for name in needed})
    assert api(ops).write("/containers/", {"image": "nginx", **fields}).status_code == 202
    assert set(needed) <= set(last_sent()[1].rights)  # type: ignore[attr-defined]


def test_a_small_token_of_an_admin_has_no_risky_rights(node: object, alice: User, api: ApiOf) -> None:
    """AP-05."""
    assert (
        api(alice, "operate").write("/containers/", {"image": "nginx", "privileged": True}).status_code == 403
    )


def test_update_is_judged(voice: FakeNode, bob: User, api: ApiOf) -> None:
    """AP-03."""
    voice.container(container_record())
    assert api(bob).write("/containers/web/update/", {"oom_score_adj": -500}).status_code == 403
    assert api(bob).write("/containers/web/update/", {"memory_bytes": 1 << 26}).status_code == 202


def test_a_privileged_exec_is_judged(voice: FakeNode, bob: User, api: ApiOf) -> None:
    """AP-03."""
    voice.container(container_record())
    assert api(bob).write("/containers/web/exec/", {"command": ["id"], "privileged": True}).status_code == 403
    assert api(bob).write("/containers/web/exec/", {"command": ["id"]}).status_code == 202


@pytest.mark.parametrize(
    "call",
    [
        ("POST", "/containers/risky/exec/", {"command": ["id"]}),
        ("GET", "/containers/risky/files/?path=/srv", None),
        ("GET", "/containers/risky/export/", None),
    ],
)
def test_a_risky_container_is_entered_only_with_its_rights(
    risky: None, bob: User, api: ApiOf, call: tuple[str, str, Any]
) -> None:
    """AP-03: the power of another's container is no way around."""
    assert api(bob).send(*call).status_code == 403


@pytest.mark.parametrize(
    "options", [{"type": "none", "o": "bind", "device": "/"}, {"o": "rbind,ro", "device": "/etc"}]
)
def test_a_volume_is_no_way_to_mount_the_host(
    node: object, bob: User, api: ApiOf, options: dict[str, str]
) -> None:
    """AP-03, RT-08: volume driver options."""
    assert api(bob).write("/volumes/", {"name": "x", "options": options}).status_code == 403


def test_a_backup_into_a_folder_of_the_host_needs_the_right_to_mount_it(
    voice: FakeNode, bob: User, alice: User, api: ApiOf
) -> None:
    """RT-08."""
    voice.say("volume", "create", "data", record={"name": "data", "created_at": 1.0})
    wish = {"directory": "/srv/backups"}
    refused = api(bob).write("/volumes/data/backup/", wish)
    assert (refused.status_code, refused.json()["needs"]) == (403, "host_mounts")
    assert Entry.objects.filter(action="volume.backup", actor="bob", outcome="refused").count() == 1
    assert not RecordingSender.sent
    for directory in ("srv", "/srv/../etc", "/srv/\0"):
        assert api(alice).write("/volumes/data/backup/", {"directory": directory}).status_code == 400
    assert api(alice).write("/volumes/data/backup/", wish).status_code == 202
    contract = RecordingSender.sent[-1][2]
    assert (contract.directory, contract.file_name[:5]) == ("/srv/backups", "data-")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "fields",
    [
        {"network_mode": "host", "dockerfile": "FROM scratch"},
        {"dockerfile": "FROM a\nRUN --network=host x"},
        {"dockerfile": "FROM a\nRUN --security=insecure x"},
    ],
)
def test_a_build_is_no_way_either(node: object, bob: User, api: ApiOf, fields: dict[str, str]) -> None:
    """AP-03, BU-05."""
    assert api(bob).write("/builds/", fields).status_code == 403
    assert not RecordingSender.sent


def test_services_refuse_whichever_face_calls(risky: None, bob: User) -> None:
    """AP-03: pages and the Docker API call the same services."""
    for face in ("page", "docker", "rest"):
        actor = actor_of(bob, face)
        with pytest.raises(Denied):
            container_create(actor, {"image": "x", "privileged": True})
        with pytest.raises(Denied):
            volume_create(actor, name="x", options={"device": "/", "o": "bind"})
        with pytest.raises(Denied):
            build_create(actor, BuildWish(dockerfile="FROM x", network_mode="host"))


def test_retrying_does_not_lend_rights(voice: FakeNode, alice: User, bob: User, api: ApiOf) -> None:
    """AP-03: another's failed request is no way to his rights."""
    api(alice).write("/containers/", {"image": "nginx", "privileged": True})
    operation = last_sent()[0]
    voice.fail(operation)
    assert api(bob).write(f"/operations/{operation}/retry/").status_code == 403
    assert api(alice).write(f"/operations/{operation}/retry/").status_code == 202


def test_the_canonical_spec_mirrors_the_engines() -> None:
    """D3: the spec that is judged is the spec that is used."""
    pairs = [
        (specs.Spec, model.ContainerSpec),
        (specs.Mount, model.MountSpec),
        (specs.Port, model.PortSpec),
        (specs.Endpoint, model.EndpointSpec),
        (specs.Resources, model.Resources),
        (specs.Restart, model.RestartPolicy),
        (specs.Healthcheck, model.Healthcheck),
        (specs.Device, model.DeviceSpec),
        (specs.Ulimit, model.Ulimit),
    ]
    for ours, theirs in pairs:
        assert _shape(ours) == _shape(theirs), ours


def _shape(kind: Any) -> dict[str, Any]:
    hints = {
        name: str(hint).rpartition(".")[2].replace("Spec", "").replace("Policy", "").strip("]")
        for name, hint in get_type_hints(kind).items()
    }
    defaults = {}
    for item in dataclasses.fields(kind):
        made = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        defaults[item.name] = (
            dataclasses.asdict(made)
            if dataclasses.is_dataclass(made) and not isinstance(made, type)
            else made
        )
    return {name: (hints[name], defaults[name]) for name in hints}


def test_what_compiles_is_what_the_engine_takes() -> None:
    compiled = specs.compile_spec(
        {
            "image": "nginx",
            "command": "a 'b c'",
            "env": {"A": "1", "B": 2, "C": None},
            "ports": ["8080:80", "127.0.0.1::53/udp", 9000, "8000-8002:70-72"],
            "mounts": ["data:/data:ro", "/srv:/srv", "/anonymous", {"type": "tmpfs", "target": "/t"}],
            "networks": ["one", {"name": "two", "ipv4_address": "10.0.0.9"}],
            "aliases": ["db"],
            "memory_bytes": 1 << 26,
            "healthcheck": {"test": ["CMD", "true"], "interval_s": 3},
        }
    )
    parsed = model.from_json(model.ContainerSpec, compiled)
    assert model.to_json(parsed) == compiled
    assert parsed.networks[0].aliases == ["db"]
    assert parsed.network_mode == "one"
    assert [port.container_port for port in parsed.ports] == [80, 53, 9000, 70, 71, 72]

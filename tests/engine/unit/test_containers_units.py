"""What containers decide without a kernel: settings, policies, health, names."""

from __future__ import annotations

import dataclasses

import pytest

from engine.config import EngineConfig
from engine.containers import effective, health, names, verdict
from engine.containers.model import (
    Container,
    ContainerSpec,
    Health,
    Healthcheck,
    HealthResult,
    RestartPolicy,
    Status,
)
from engine.containers.policy import cpu_numbers, parse_security, parse_signal
from engine.containers.verdict import Verdict
from engine.db import Database
from engine.errors import BadSpec, NoSpace
from engine.linux.userns import SCHEMA, RangeAllocator
from engine.oci.image_config import ContainerConfig
from engine.oci.image_config import Healthcheck as ImageHealthcheck


def container(**fields: object) -> Container:
    values: dict[str, object] = {
        "id": "a" * 64, "name": "n", "spec": ContainerSpec("image"), "image_id": "", "image": "image", "status": Status.EXITED,
        "created_at": 0.0, "started_at": 100.0, "finished_at": 101.0, **fields,
    }  # fmt: skip
    return Container(**values)  # type: ignore[arg-type]


IMAGE = ContainerConfig(
    entrypoint=("entry",),
    cmd=("default",),
    env=("A=1", "B=2"),
    working_dir="/w",
    user="u",
    labels={"l": "image"},
)


@pytest.mark.parametrize(
    ("entrypoint", "command", "argv"),
    [
        (None, None, ["entry", "default"]),
        (None, ["mine"], ["entry", "mine"]),
        (None, [], ["entry", "default"]),
        (["other"], None, ["other"]),
        (["other"], ["x"], ["other", "x"]),
        ([""], ["x"], ["x"]),
        ([], ["x"], ["x"]),
    ],
)
def test_command_lines_follow_docker(
    entrypoint: list[str] | None, command: list[str] | None, argv: list[str]
) -> None:
    assert effective.merge(IMAGE, ContainerSpec("image", entrypoint=entrypoint, command=command)).argv == argv


def test_settings_are_laid_over_the_image() -> None:
    spec = ContainerSpec("image", env={"A": None, "C": "3=3"}, labels={"l": "mine", "m": "x"}, workdir="/v")
    found = effective.merge(IMAGE, spec)
    assert found.env[:2] == ["B=2", "C=3=3"]
    assert found.env[2].startswith("PATH=")
    assert (found.user, found.workdir, found.labels) == ("u", "/v", {"l": "mine", "m": "x"})
    with pytest.raises(BadSpec, match="no command"):
        effective.merge(ContainerConfig(), ContainerSpec("image"))


def test_a_health_check_takes_missing_fields_from_the_image() -> None:
    image = ContainerConfig(
        cmd=("x",), healthcheck=ImageHealthcheck(("CMD", "look"), 5_000_000_000, 0, 0, 0, 7)
    )
    found = effective.merge(image, ContainerSpec("i", healthcheck=Healthcheck(timeout_s=2)))
    assert found.healthcheck == Healthcheck(["CMD", "look"], 5.0, 2, 0.0, 0.0, 7)
    config = effective.to_config(found, ContainerSpec("i"))
    assert effective.healthcheck_of(config) == found.healthcheck
    off = effective.merge(image, ContainerSpec("i", healthcheck=Healthcheck(["NONE"])))
    assert effective.healthcheck_of(effective.to_config(off, ContainerSpec("i"))) is None


@pytest.mark.parametrize(
    ("policy", "code", "count", "by_user", "expected"),
    [
        ("no", 1, 0, False, Verdict.STAY),
        ("always", 0, 0, False, Verdict.RESTART),
        ("always", 0, 0, True, Verdict.STAY),
        ("unless-stopped", 1, 9, False, Verdict.RESTART),
        ("on-failure", 0, 0, False, Verdict.STAY),
        ("on-failure", 1, 0, False, Verdict.RESTART),
        ("on-failure:2", 1, 2, False, Verdict.STAY),
        ("on-failure:2", 1, 1, False, Verdict.RESTART),
    ],
)
def test_restart_policies(policy: str, code: int, count: int, by_user: bool, expected: Verdict) -> None:
    name, _, most = policy.partition(":")
    spec = ContainerSpec("image", restart=RestartPolicy(name, int(most or 0)))
    ended = container(spec=spec, exit_code=code, restart_count=count, stopped_by_user=by_user)
    assert verdict.after_exit(ended)[0] is expected


def test_the_pause_grows_and_is_forgotten_after_a_long_run() -> None:
    """F-38."""
    ended = container(spec=ContainerSpec("image", restart=RestartPolicy("always")))
    pauses, pause = [], 0.0
    for _ in range(12):
        _, pause = verdict.after_exit(ended, pause)
        pauses.append(round(pause, 1))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]
    assert verdict.after_exit(dataclasses.replace(ended, finished_at=111.0), 60.0)[1] == 0.1


def test_who_is_removed_is_not_restarted() -> None:
    assert verdict.after_exit(container(spec=ContainerSpec("image", auto_remove=True)))[0] is Verdict.REMOVE


CHECK = health.timing(
    Healthcheck(["CMD", "x"], interval_s=10, retries=2, start_period_s=30, start_interval_s=1)
)


def result(code: int, at: float) -> HealthResult:
    return HealthResult(at, at + 0.1, code, "")


def test_failures_in_the_start_period_do_not_count() -> None:
    found = container(status=Status.RUNNING, health=Health("starting"))
    for at in (101.0, 102.0, 103.0):
        found = dataclasses.replace(found, health=health.after_result(found, CHECK, result(1, at)))
    assert (found.health.status, found.health.failing_streak) == ("starting", 0)
    for at in (131.0, 141.0):
        found = dataclasses.replace(found, health=health.after_result(found, CHECK, result(1, at)))
    assert found.health.status == "unhealthy"
    found = dataclasses.replace(found, health=health.after_result(found, CHECK, result(0, 150.0)))
    assert (found.health.status, found.health.failing_streak, len(found.health.log)) == ("healthy", 0, 5)


def test_checks_come_quicker_while_starting() -> None:
    found = container(status=Status.RUNNING, health=Health("starting"))
    assert health.next_due(found, CHECK, 105.0) == 101.0
    healthy = dataclasses.replace(found, health=Health("healthy", 0, [result(0, 104.0)]))
    assert health.next_due(healthy, CHECK, 105.0) == pytest.approx(114.1)


@pytest.mark.parametrize(
    ("text", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("rtmax-1", 63)]
)
def test_signals_have_many_spellings(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "SIGNOPE", "SIGRTMIN+99", "-9", "SIG_IGN"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(BadSpec):
        parse_signal(text)


def test_security_options() -> None:
    assert parse_security(["no-new-privileges"]).no_new_privileges
    assert parse_security(["no-new-privileges:true"]).no_new_privileges
    assert not parse_security(["no-new-privileges=false"]).no_new_privileges
    assert (
        parse_security(["seccomp=unconfined", "label=disable", "apparmor=unconfined"]).seccomp == "unconfined"
    )
    assert parse_security(['seccomp={"a": "b=c:d"}']).seccomp == '{"a": "b=c:d"}'
    for option in ("", "seccomp", "apparmor=x", "label=type:y", "no-new-privileges=maybe", "unknown=1"):
        with pytest.raises(BadSpec):
            parse_security([option])


def test_lists_of_processors() -> None:
    assert cpu_numbers("0-2,5") == {0, 1, 2, 5}


@pytest.mark.parametrize("name", ["web", "/web", "a.b-c_d", "0", "x" * 128])
def test_names_that_are_fine(name: str) -> None:
    assert names.check_name(name) == name.removeprefix("/")


@pytest.mark.parametrize("name", ["", "-x", ".x", "_x", "a/b", "a b", "x" * 129, "ä", "a\n", "//a"])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(BadSpec):
        names.check_name(name)


def test_random_names_are_allowed_and_differ() -> None:
    made = {names.check_name(names.random_name()) for _ in range(200)}
    assert len(made) > 150


def test_ranges_are_given_shared_and_given_back(tmp_path: object) -> None:
    config = EngineConfig.from_home(str(tmp_path), subuid_count=3)
    ranges = RangeAllocator(Database(config.database, (SCHEMA,)), config)
    first = ranges.allocate("a")
    assert ranges.allocate("a") == first
    starts = {first, ranges.allocate("b"), ranges.allocate("c")}
    assert len(starts) == 3
    assert all(start % 65536 == 0 and start >= config.subuid_base for start in starts)
    ranges.share(first, "friend")
    with pytest.raises(NoSpace):
        ranges.allocate("d")
    ranges.release("a")
    with pytest.raises(NoSpace):
        ranges.allocate("d")  # the friend still has it
    ranges.release("friend")
    ranges.release("friend")
    assert ranges.allocate("d") == first

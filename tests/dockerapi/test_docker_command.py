"""What people type: the unchanged `docker` command against a running platform, row by row of what it must do."""

from __future__ import annotations

import json
import tarfile
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.platform import Platform, free_port

pytestmark = pytest.mark.root


def ok(engine: Platform, *argv: str, **options: object) -> str:
    """Run a command that must succeed; return what it prints."""
    done = engine.docker(*argv, **options)  # type: ignore[arg-type]
    assert done.returncode == 0, f"docker {' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout.strip()


def inspect(engine: Platform, name: str) -> dict:  # type: ignore[type-arg]
    return json.loads(ok(engine, "inspect", name))[0]


def wait_for_log(engine: Platform, name: str, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in ok(engine, "logs", name):
        assert time.monotonic() < deadline, f"{text!r} never came"
        time.sleep(0.05)


# 1, 2: versions and help


def test_version_and_info(engine: Platform) -> None:
    server = json.loads(ok(engine, "version", "--format", "{{json .Server}}"))
    assert server["ApiVersion"] == "1.44"
    info = json.loads(ok(engine, "info", "--format", "{{json .}}"))
    assert info["Driver"] == "overlay"
    assert info["Images"] >= 1
    assert "Usage" in ok(engine, "--help")


def test_without_a_token_nothing_is_told(engine: Platform) -> None:
    done = engine.docker("ps", token="wft_wrong_wrong_wrong")
    assert done.returncode == 1
    assert "token" in done.stderr


# 3, 4: run


def test_run_publishes_a_port_and_keeps_its_name(engine: Platform) -> None:
    port = free_port()
    script = "mkdir -p /www && echo hello > /www/index.html && exec httpd -f -p 80 -h /www"
    ok(engine, "run", "-d", "-p", f"{port}:80", "--name", "hellonginx", "busybox", "sh", "-c", script)
    deadline = time.monotonic() + 10
    while True:
        try:
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).read() == b"hello\n"
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert ok(engine, "port", "hellonginx", "80/tcp") == f"127.0.0.1:{port}"
    assert "hellonginx" in ok(engine, "ps", "--format", "{{.Names}}")


def test_run_prints_output_and_exits_as_the_program_did(engine: Platform) -> None:
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert ok(engine, "ps", "-aq") == ""


def test_run_reads_standard_input_to_its_end(engine: Platform) -> None:
    assert ok(engine, "run", "--rm", "-i", "busybox", "wc", "-c", stdin="x" * 100_000) == "100000"


def test_run_with_the_environment_overridden(engine: Platform) -> None:
    assert (
        ok(engine, "run", "--rm", "--env", "KEY=VALUE two", "busybox", "sh", "-c", "echo $KEY") == "VALUE two"
    )


@pytest.mark.parametrize(("command", "status"), [(["nosuch"], 127), (["/etc"], 126)])
def test_run_tells_what_cannot_be_executed(engine: Platform, command: list[str], status: int) -> None:
    done = engine.docker("run", "--rm", "busybox", *command)
    assert done.returncode == status, done.stderr


def test_run_of_an_image_that_is_nowhere_says_so(engine: Platform) -> None:
    done = engine.docker("run", "--rm", f"127.0.0.1:{free_port()}/no/such:1", timeout_s=120)
    assert done.returncode == 125


# 5: exec and attach


def test_exec_gives_output_and_exit_code(engine: Platform) -> None:
    ok(engine, "run", "-d", "--name", "x", "busybox", "sleep", "60")
    done = engine.docker("exec", "-e", "A=b", "-w", "/tmp", "x", "sh", "-c", "echo $A; pwd; exit 5")
    assert (done.returncode, done.stdout) == (5, "b\n/tmp\n")
    assert ok(engine, "exec", "-i", "x", "cat", stdin="through\n") == "through"
    assert ok(engine, "exec", "-u", "nobody", "x", "id", "-u") == "65534"
    done = engine.docker("exec", "x", "nosuch")
    assert done.returncode == 127, done.stderr
    assert "not found" in done.stdout + done.stderr


def test_attach_joins_a_running_container(engine: Platform) -> None:
    ok(
        engine,
        "run",
        "-d",
        "-i",
        "--name",
        "reader",
        "busybox",
        "sh",
        "-c",
        "read line; echo got $line; exit 7",
    )
    done = engine.docker("attach", "reader", stdin="word\n")
    assert done.returncode == 7
    assert "got word" in done.stdout


# 6: ps


def test_ps_filters_and_formats(engine: Platform) -> None:
    ok(engine, "run", "-d", "--name", "a", "--label", "tier=front", "busybox", "sleep", "60")
    ok(engine, "create", "--name", "b", "--label", "tier=back", "busybox", "true")
    assert ok(engine, "ps", "--format", "{{.Names}}") == "a"
    assert sorted(ok(engine, "ps", "-a", "--format", "{{.Names}}").split()) == ["a", "b"]
    assert ok(engine, "ps", "-a", "--filter", "label=tier=back", "--format", "{{.Names}}") == "b"
    assert ok(engine, "ps", "-a", "--filter", "status=created", "--format", "{{.Names}}") == "b"
    assert json.loads(ok(engine, "ps", "--format", "json"))["State"] == "running"


# 7, 9: life cycle


def test_life_cycle(engine: Platform) -> None:
    ok(
        engine,
        "create",
        "--name",
        "c",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 9' TERM; while :; do sleep 0.1; done",
    )
    ok(engine, "start", "c")
    ok(engine, "pause", "c")
    assert inspect(engine, "c")["State"]["Status"] == "paused"
    ok(engine, "unpause", "c")
    ok(engine, "rename", "c", "d")
    ok(engine, "stop", "d")
    assert inspect(engine, "d")["State"]["ExitCode"] == 9
    ok(engine, "restart", "d")
    ok(engine, "kill", "-s", "TERM", "d")
    assert ok(engine, "wait", "d") == "9"
    done = engine.docker("rm", "d")
    assert done.returncode == 0


def test_rm_of_a_running_container_needs_force(engine: Platform) -> None:
    ok(engine, "run", "-d", "--name", "busy", "busybox", "sleep", "60")
    refused = engine.docker("rm", "busy")
    assert refused.returncode == 1
    assert "running" in refused.stderr
    ok(engine, "rm", "-f", "busy")
    assert engine.docker("inspect", "busy").returncode == 1


def test_a_name_in_use_is_refused_with_its_holder(engine: Platform) -> None:
    first = ok(engine, "create", "--name", "one", "busybox")
    done = engine.docker("create", "--name", "one", "busybox")
    assert done.returncode == 1
    assert first in done.stderr


def test_update_changes_limits_of_a_running_container(engine: Platform) -> None:
    ok(engine, "run", "-d", "--name", "u", "--memory", "64m", "busybox", "sleep", "60")
    ok(engine, "update", "--memory", "96m", "--memory-swap", "-1", "--restart", "always", "u")
    host = inspect(engine, "u")["HostConfig"]
    assert host["Memory"] == 96 * 1024 * 1024
    assert host["RestartPolicy"]["Name"] == "always"


# 8: logs


def test_logs(engine: Platform) -> None:
    ok(
        engine,
        "run",
        "--name",
        "l",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2",
    )
    done = engine.docker("logs", "l")
    assert done.stdout.splitlines() == [f"line {i}" for i in range(1, 6)]
    assert done.stderr == "oops\n"
    assert ok(engine, "logs", "--tail", "2", "l").splitlines() == [
        "line 5"
    ]  # the other one is on standard error
    stamped = ok(engine, "logs", "-t", "--tail", "3", "l").splitlines()[0]
    assert stamped[10] == "T"
    assert stamped.endswith("line 4")
    assert ok(engine, "logs", "--since", "1h", "l").count("line") == 5
    assert ok(engine, "logs", "--until", "1h", "l") == ""


def test_logs_follow_until_the_end(engine: Platform) -> None:
    ok(
        engine,
        "run",
        "-d",
        "--name",
        "f",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3; do echo $i; sleep 0.3; done",
    )
    assert ok(engine, "logs", "-f", "f").split() == ["1", "2", "3"]


# 10-13, 15: images


def test_images_by_name_history_and_tags(engine: Platform) -> None:
    ok(engine, "tag", "busybox", "team/box:2")
    assert "team/box" in ok(engine, "image", "ls", "team/box", "--format", "{{.Repository}}")
    assert json.loads(ok(engine, "image", "inspect", "team/box:2"))[0]["RepoTags"]
    assert "CMD" in ok(engine, "image", "history", "--no-trunc", "team/box:2")
    assert "Untagged: team/box:2" in ok(engine, "image", "rm", "team/box:2")
    assert engine.docker("image", "inspect", "team/box:2").returncode == 1


def test_an_image_in_use_is_not_removed(engine: Platform) -> None:
    ok(engine, "create", "--name", "holder", "busybox")
    done = engine.docker("image", "rm", "busybox")
    assert done.returncode == 1
    assert "holder" in done.stderr or "used" in done.stderr


# 19: commit


def test_commit_with_a_change(engine: Platform) -> None:
    ok(engine, "run", "-d", "--name", "e", "busybox", "sh", "-c", "echo edited > /edited; sleep 60")
    deadline = time.monotonic() + 10
    while engine.docker("exec", "e", "test", "-s", "/edited").returncode:
        assert time.monotonic() < deadline
    ok(engine, "commit", "-m", "edited", "-c", 'CMD ["cat","/edited"]', "e", "edited:1")
    assert ok(engine, "run", "--rm", "edited:1") == "edited"
    assert "A /edited" in ok(engine, "diff", "e").splitlines()
    assert json.loads(ok(engine, "image", "inspect", "edited:1"))[0]["Comment"] == "edited"
    ok(engine, "image", "rm", "-f", "edited:1")


# 20-24: build


def test_build_with_arguments_target_and_cache(engine: Platform, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile-basic").write_text(
        "ARG WHO=nobody\nFROM busybox AS one\nARG WHO\nRUN echo $WHO > /who\nFROM busybox\nCOPY --from=one /who /from\nCOPY . /ctx/\n"
    )
    (tmp_path / ".dockerignore").write_text("secret\n")
    (tmp_path / "secret").write_text("no")
    (tmp_path / "kept").write_text("yes")
    arguments = ("build", "-t", "built:1", "-f", "Dockerfile-basic", "--build-arg", "WHO=me", ".")
    first = ok(engine, *arguments, cwd=tmp_path)
    assert "Successfully tagged built:1" in first
    assert (
        ok(engine, "run", "--rm", "built:1", "sh", "-c", "cat /from; ls /ctx") == "me\nDockerfile-basic\nkept"
    )
    assert "Using cache" in ok(engine, *arguments, cwd=tmp_path)
    ok(
        engine,
        "build",
        "-t",
        "built:one",
        "-f",
        "Dockerfile-basic",
        "--target",
        "one",
        "--no-cache",
        ".",
        cwd=tmp_path,
    )
    assert ok(engine, "run", "--rm", "built:one", "cat", "/who") == "nobody"


def test_a_failing_step_gives_its_exit_code(engine: Platform, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 7\n")
    done = engine.docker("build", ".", cwd=tmp_path)
    assert done.returncode == 7
    assert "The command '/bin/sh -c exit 7' returned a non-zero code: 7" in done.stderr


def test_an_unknown_instruction_is_named_with_its_line(engine: Platform, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nFOO bar\n")
    done = engine.docker("build", ".", cwd=tmp_path)
    assert done.returncode == 1
    assert "dockerfile parse error line 2: unknown instruction: FOO" in done.stderr


# 25-27: networks


def test_containers_find_each_other_by_name(engine: Platform) -> None:
    ok(engine, "network", "create", "leafy-network")
    try:
        ok(
            engine,
            "run",
            "-d",
            "--network",
            "leafy-network",
            "--name",
            "leafy-postgres",
            "busybox",
            "nc",
            "-ll",
            "-p",
            "5432",
            "-e",
            "echo",
            "pg",
        )
        ok(
            engine,
            "run",
            "--rm",
            "--network",
            "leafy-network",
            "-e",
            "DB_URL=leafy-postgres",
            "busybox",
            "sh",
            "-c",
            "for i in 1 2 3 4 5 6 7 8 9; do nc $DB_URL 5432 </dev/null && exit 0; sleep 0.2; done; exit 1",
        )
        members = json.loads(ok(engine, "network", "inspect", "leafy-network"))[0]["Containers"]
        assert [member["Name"] for member in members.values()] == ["leafy-postgres"]
        ok(engine, "network", "disconnect", "leafy-network", "leafy-postgres")
        ok(engine, "network", "connect", "--alias", "db", "leafy-network", "leafy-postgres")
        assert "leafy-network" in ok(engine, "network", "ls", "--format", "{{.Name}}")
    finally:
        engine.docker("rm", "-f", "leafy-postgres")
        ok(engine, "network", "rm", "leafy-network")


def test_a_port_in_use_is_refused(engine: Platform) -> None:
    port = free_port()
    ok(engine, "run", "-d", "--name", "first", "-p", f"{port}:80", "busybox", "sleep", "60")
    done = engine.docker("run", "-d", "--name", "second", "-p", f"{port}:80", "busybox", "sleep", "60")
    assert done.returncode != 0
    assert str(port) in done.stderr


# 28-30: volumes


def test_volumes_outlive_containers(engine: Platform) -> None:
    ok(engine, "volume", "create", "data")
    ok(engine, "run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/file")
    assert (
        ok(
            engine,
            "run",
            "--rm",
            "--mount",
            "type=volume,source=data,target=/d,readonly",
            "busybox",
            "cat",
            "/d/file",
        )
        == "kept"
    )
    assert engine.docker("run", "--rm", "-v", "data:/d:ro", "busybox", "touch", "/d/x").returncode == 1
    assert (
        ok(
            engine,
            "run",
            "--rm",
            "--tmpfs",
            "/t:size=1m",
            "busybox",
            "sh",
            "-c",
            "df /t | tail -1 | awk '{print $2}'",
        )
        == "1024"
    )
    assert "data" in ok(engine, "volume", "ls", "-q").split()
    ok(engine, "volume", "rm", "data")
    assert engine.docker("volume", "inspect", "data").returncode == 1


def test_a_bind_mount_needs_an_allowed_root(engine: Platform) -> None:
    folder = engine.home.parent / "binds" / "shared"
    folder.mkdir(exist_ok=True)
    (folder / "note").write_text("from the host")
    assert ok(engine, "run", "--rm", "-v", f"{folder}:/s:ro", "busybox", "cat", "/s/note") == "from the host"
    done = engine.docker("run", "--rm", "-v", "/etc:/host", "busybox", "cat", "/host/shadow")
    assert done.returncode == 125


# 32: cp, diff, top, stats, events, df


def test_cp_in_and_out(engine: Platform, tmp_path: Path) -> None:
    ok(engine, "run", "-d", "--name", "cp", "busybox", "sleep", "60")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("carried")
    ok(engine, "cp", str(tmp_path / "in"), "cp:/tmp/")
    assert ok(engine, "exec", "cp", "cat", "/tmp/in/file") == "carried"
    ok(engine, "cp", "cp:/tmp/in/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "carried"


def test_top_stats_and_usage(engine: Platform) -> None:
    ok(engine, "run", "-d", "--name", "t", "busybox", "sleep", "77")
    assert "sleep 77" in ok(engine, "top", "t")
    stats = json.loads(ok(engine, "stats", "--no-stream", "--format", "json", "t"))
    assert stats["Name"] == "t"
    assert stats["PIDs"] == "1"
    assert "Images" in ok(engine, "system", "df")


def test_events_of_the_past(engine: Platform) -> None:
    since = str(int(time.time()) - 1)
    ok(engine, "run", "--rm", "--name", "seen", "busybox", "true")
    told = ok(
        engine,
        "events",
        "--since",
        since,
        "--until",
        str(int(time.time()) + 2),
        "--filter",
        "container=seen",
        "--format",
        "{{.Action}}",
    )
    assert [action for action in told.split() if action in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]


def test_prune_removes_what_is_stopped(engine: Platform) -> None:
    ok(engine, "run", "--name", "old", "busybox", "true")
    assert "Deleted Containers" in ok(engine, "container", "prune", "-f")
    assert ok(engine, "ps", "-aq") == ""


# 33: archives


def test_save_and_load(engine: Platform, tmp_path: Path) -> None:
    ok(engine, "tag", "busybox", "saved:1")
    ok(engine, "save", "-o", str(tmp_path / "image.tar"), "saved:1")
    with tarfile.open(tmp_path / "image.tar") as archive:
        assert {"manifest.json", "oci-layout"} <= set(archive.getnames())
    ok(engine, "tag", "busybox", "saved:2")
    both = urllib.request.Request(
        f"{engine.url}/api/v1/images/archive/?ref=saved:1&ref=saved:2",
        headers={"Authorization": f"Bearer {engine.token}"},
    )
    with urllib.request.urlopen(both, timeout=60) as answer:
        (tmp_path / "both.tar").write_bytes(answer.read())
    with tarfile.open(tmp_path / "both.tar") as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert entry["RepoTags"] == ["saved:1", "saved:2"]
    assert engine.get("/images/archive/").status == 400
    ok(engine, "image", "rm", "saved:1", "saved:2")
    assert "Loaded image: saved:1" in ok(engine, "load", "-i", str(tmp_path / "image.tar"))
    ok(engine, "image", "rm", "saved:1")


def test_a_protected_name_is_not_moved_by_any_command(engine: Platform, tmp_path: Path) -> None:
    """RG-10: each command says so in one sentence, and the name stays with its image."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nLABEL other=1\n")
    ok(engine, "build", "-q", "-t", "team/live:1", str(tmp_path))
    ok(engine, "save", "-o", str(tmp_path / "evil.tar"), "team/live:1")
    ok(engine, "image", "rm", "team/live:1")
    ok(engine, "tag", "busybox", "team/live:1")
    ok(engine, "create", "--name", "made", "busybox")
    ok(engine, "export", "-o", str(tmp_path / "root.tar"), "made")
    held = json.loads(ok(engine, "image", "inspect", "team/live:1"))[0]["Id"]
    assert engine.post("/images/protected/?wait=30", {"pattern": "team/live:*"}).status == 201
    try:
        for command in (
            ["load", "-i", str(tmp_path / "evil.tar")],
            ["import", str(tmp_path / "root.tar"), "team/live:1"],
            ["commit", "made", "team/live:1"],
            ["build", "-t", "team/live:1", str(tmp_path)],
            ["tag", "busybox", "team/live:2"],
            ["image", "rm", "team/live:1"],
            ["image", "rm", "-f", held],
        ):
            done = engine.docker(*command)
            if command[-1] == "team/live:2":  # nobody has it: given once, then it stays
                assert done.returncode == 0, done.stderr
                continue
            assert done.returncode != 0, command
            assert "is protected and cannot be" in done.stderr + done.stdout, command
        assert json.loads(ok(engine, "image", "inspect", "team/live:1"))[0]["Id"] == held
        assert engine.get("/audit/?outcome=refused&target=team/live:1").body["results"]
    finally:
        lifted = engine.call("DELETE", "/images/protected/?pattern=team/live:*&wait=30")
    assert lifted.status == 200
    ok(engine, "image", "rm", "team/live:1", "team/live:2")
    ok(engine, "rm", "made")


def test_export_and_import(engine: Platform, tmp_path: Path) -> None:
    ok(engine, "create", "--name", "flat", "busybox")
    ok(engine, "export", "-o", str(tmp_path / "root.tar"), "flat")
    ok(engine, "import", "-c", 'CMD ["echo","flat"]', str(tmp_path / "root.tar"), "flat:1")
    assert ok(engine, "run", "--rm", "flat:1") == "flat"
    ok(engine, "image", "rm", "flat:1")


# 36: who ran what


def test_each_call_is_in_the_book_under_a_name(engine: Platform) -> None:
    ok(engine, "run", "--rm", "--name", "audited", "busybox", "true")
    entries = engine.get("/audit/?target=audited").body["results"]
    actions = {entry["action"] for entry in entries}
    assert {"container.create", "container.start"} <= actions
    assert {entry["actor"] for entry in entries if entry["face"] == "docker"} == {"admin"}


def test_an_operator_without_the_right_gets_no_privileges_by_any_field(engine: Platform) -> None:
    """RT-07, AP-03: the same refusal through the Docker API as through REST, and a row in the book."""
    engine.post("/users/", {"username": "olga", "password": "olga has a long password", "role": "operator"})
    token = engine.manage("token", "create", "olga", "--name", "t", "--scope", "operate")
    for arguments in (
        ["--privileged"],
        ["--cap-add", "SYS_ADMIN"],
        ["--pid", "host"],
        ["-v", "/etc:/x"],
        ["--device", "/dev/null"],
        ["--userns", "host"],
    ):
        done = engine.docker("create", *arguments, "busybox", token=token)
        assert done.returncode != 0, arguments
        assert "right" in done.stderr, done.stderr
    refusals = engine.get("/audit/?actor=olga&outcome=refused").body["results"]
    assert len(refusals) >= 6

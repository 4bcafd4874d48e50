"""What the runtime part decides without a kernel: users, capabilities, filters, configurations, terminals."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from engine.containers.model import Resources, Ulimit
from engine.errors import BadSpec, CommandFailed, Unsupported
from engine.linux.cgroup import Mode, detect
from engine.linux.mount import parse_mountinfo
from engine.runtime import capabilities, seccomp, stubs
from engine.runtime.conmon import readable, start_status
from engine.runtime.log_reader import Gap, Piece
from engine.runtime.paths import check_mount_target, check_root, checked_cwd, clean_path
from engine.runtime.spec import Device, ProcessSpec, SandboxSpec, build_config, build_resources
from engine.runtime.streams import DetachKeys, Ring, check_size
from engine.runtime.users import resolve_user
from tests.support.busybox import GROUP, PASSWD


@pytest.fixture
def root(tmp_path: Path) -> int:
    for name in ("etc", "proc", "tmp", "home/alice"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text(
        PASSWD + "# comment\nbroken:x\nbad:x:abc:0::/:\nhigh:x:70000:70000::/:\n"
    )
    (tmp_path / "etc/group").write_text(GROUP)
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor  # type: ignore[misc]
    os.close(descriptor)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, (60,))),
        ("alice", (1000, 1000, (50, 60))),
        ("1000", (1000, 1000, (50, 60))),
        ("alice:staff", (1000, 50, ())),
        ("alice:77", (1000, 77, ())),
        ("4321", (4321, 0, ())),
        ("4321:5", (4321, 5, ())),
    ],
)
def test_users_are_resolved_as_docker_does(
    root: int, user: str, expected: tuple[int, int, tuple[int, ...]]
) -> None:
    found = resolve_user(root, user, max_id=65535)
    assert (found.uid, found.gid, found.groups) == expected


@pytest.mark.parametrize(
    "user", ["bob", "alice:nope", "-1", "65536", "high", "99999999999999999999", "a\nb", "1e3", "٣"]
)
def test_unknown_and_too_high_users_are_refused(root: int, user: str) -> None:
    """RT-06."""
    with pytest.raises(BadSpec):
        resolve_user(root, user, max_id=65535)


def test_a_root_without_passwd_knows_numbers_only(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    assert resolve_user(descriptor, "5:6", ["7"]).groups == (7,)
    with pytest.raises(BadSpec):
        resolve_user(descriptor, "root")
    os.close(descriptor)


def test_capabilities_are_added_and_dropped() -> None:
    assert capabilities.resolve(drop=["ALL"], add=["net_raw"]) == {"CAP_NET_RAW"}
    assert capabilities.resolve(drop=["CAP_CHOWN"]) == capabilities.DEFAULT - {"CAP_CHOWN"}
    assert capabilities.resolve(add=["ALL"]) == capabilities.available()
    with pytest.raises(BadSpec):
        capabilities.resolve(add=["CAP_NOPE"])


def rules(profile: dict[str, object], name: str) -> list[dict[str, object]]:
    return [rule for rule in profile["syscalls"] if name in rule["names"]]  # type: ignore[attr-defined,index]


def test_the_default_filter_holds_what_it_promises() -> None:
    """RT-04, D12: for a container with the usual capabilities."""
    profile = seccomp.default_seccomp(capabilities.DEFAULT, "amd64")
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    for name in (
        "mount",
        "unshare",
        "setns",
        "keyctl",
        "add_key",
        "io_uring_setup",
        "userfaultfd",
        "bpf",
        "kexec_load",
    ):
        found = rules(profile, name)
        assert found, name
        assert all(
            rule["action"] == "SCMP_ACT_ERRNO" and rule["errnoRet"] == errno.EPERM for rule in found
        ), name
    assert [rule["errnoRet"] for rule in rules(profile, "clone3")] == [errno.ENOSYS]
    assert rules(profile, "socketcall")[0]["action"] == "SCMP_ACT_ALLOW"
    refused = [
        rule["args"][0]["value"] for rule in rules(profile, "socket") if rule["action"] == "SCMP_ACT_ERRNO"
    ]  # type: ignore[index]
    assert refused == [38, 40]


def test_sys_admin_gets_what_needs_it() -> None:
    profile = seccomp.default_seccomp(capabilities.DEFAULT | {"CAP_SYS_ADMIN"}, "amd64")
    assert rules(profile, "mount")[0]["action"] == "SCMP_ACT_ALLOW"
    assert rules(profile, "clone3")[0]["action"] == "SCMP_ACT_ALLOW"
    assert rules(profile, "io_uring_setup")[0]["action"] == "SCMP_ACT_ERRNO"


def test_audit_sockets_need_their_capability() -> None:
    profile = seccomp.default_seccomp(frozenset(), "amd64")
    families = {rule["args"][0]["value"]: rule for rule in rules(profile, "socket")}  # type: ignore[index]
    assert families[1 + 16]["action"] == "SCMP_ACT_ALLOW"
    for rule in rules(profile, "socket"):
        indexes = [argument["index"] for argument in rule["args"]]  # type: ignore[union-attr,index]
        assert len(indexes) == len(set(indexes)), "a rule tests an argument once only"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"x"', '{"syscalls": 3}', '{"defaultAction": "SCMP_ACT_TRACE"}', "[" * 5000]
)
def test_strange_profiles_are_refused(text: str) -> None:
    with pytest.raises(BadSpec):
        seccomp.parse_profile(text, frozenset())


def test_a_profile_of_the_request_is_converted() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"name": "chmod", "action": "SCMP_ACT_ERRNO"},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["future"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
            {"names": ["other"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["s390x"]}},
        ],
    }
    found = seccomp.parse_profile(json.dumps(profile), frozenset())
    assert [rule["names"] for rule in found["syscalls"]] == [["chmod"], ["mount"]]


def sandbox(**fields: object) -> SandboxSpec:
    values: dict[str, object] = {
        "rootfs": Path("/root-of-it"), "cgroup": "g/x", "id_start": 100000,
        "namespaces": {"user": "/pin", "pid": "", "ipc": "", "uts": "", "mount": "", "network": ""}, **fields,
    }  # fmt: skip
    return SandboxSpec(**values)  # type: ignore[arg-type]


def test_the_configuration_is_closed_by_default() -> None:
    config = build_config(ProcessSpec(["true"]), sandbox(hostname="h"))
    mounts = {mount["destination"]: mount for mount in config["mounts"]}
    assert set(mounts) == {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"}
    assert mounts["/dev"]["type"] == "tmpfs"
    assert "ro" in mounts["/sys"]["options"]
    assert "ro" in mounts["/sys/fs/cgroup"]["options"]
    assert config["linux"]["maskedPaths"]
    assert config["linux"]["readonlyPaths"]
    assert config["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 100000, "size": 65536}]
    assert "annotations" not in config
    assert "hooks" not in config
    assert config["hostname"] == "h"


def test_what_is_shared_with_the_host_is_bound_not_mounted() -> None:
    """Only a namespace's owner may mount its file system."""
    config = build_config(ProcessSpec(["true"]), sandbox(namespaces={"user": "/pin", "mount": ""}))
    kinds = {mount["destination"]: mount["type"] for mount in config["mounts"]}
    assert (kinds["/proc"], kinds["/sys"], kinds["/dev/mqueue"]) == ("bind", "bind", "bind")


def test_only_root_has_effective_capabilities() -> None:
    caps = frozenset({"CAP_CHOWN"})
    for uid, expected in ((0, ["CAP_CHOWN"]), (5, [])):
        found = ProcessSpec(["x"], uid=uid, capabilities=caps).to_oci()["capabilities"]
        assert (found["bounding"], found["effective"], found["inheritable"], found["ambient"]) == (
            ["CAP_CHOWN"],
            expected,
            [],
            [],
        )


def test_limits_become_resources() -> None:
    found = build_resources(
        Resources(
            memory_bytes=10, memory_swap_bytes=-1, cpus=1.5, pids_limit=7, cpuset_cpus="0-1", blkio_weight=20
        )
    )
    assert found["memory"] == {"limit": 10, "swap": -1}
    assert found["cpu"] == {"period": 100000, "quota": 150000, "cpus": "0-1"}
    assert found["pids"] == {"limit": 7}
    assert found["blockIO"] == {"weight": 20}
    limits = ProcessSpec(["x"], ulimits=[Ulimit("nofile", 5, -1)]).to_oci()["rlimits"]
    assert limits == [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 2**64 - 1}]


def test_devices_are_bound_in_a_user_namespace_and_made_without() -> None:
    device = Device("/dev/zero", "/dev/mine", "c", 1, 5, "r")
    mapped = build_config(ProcessSpec(["x"]), sandbox(devices=[device]))
    assert {
        "destination": "/dev/mine",
        "type": "bind",
        "source": "/dev/zero",
        "options": ["bind", "rprivate", "nosuid", "noexec"],
    } in mapped["mounts"]
    plain = build_config(
        ProcessSpec(["x"]), sandbox(devices=[device], id_start=None, namespaces={"mount": "", "network": ""})
    )
    assert plain["linux"]["devices"][0]["path"] == "/dev/mine"
    for config in (mapped, plain):
        assert {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"} in config["linux"][
            "resources"
        ]["devices"]


@pytest.mark.parametrize("target", ["/data", "/dev/shm", "/dev/shm/x", "/var/../data", "/devices", "/procx"])
def test_mount_targets_that_are_fine(target: str) -> None:
    assert check_mount_target(target).startswith("/")


@pytest.mark.parametrize(
    "target", ["/", "/proc", "/dev", "/dev/shm/../pts", "/sys/x", "/./proc", "x", "/a\nb", "/" + "a" * 5000]
)
def test_mount_targets_that_are_not(target: str) -> None:
    with pytest.raises(BadSpec):
        check_mount_target(target)


def test_strange_roots_and_working_directories(root: int, tmp_path: Path) -> None:
    """AR-17, RT-01."""
    check_root(root)
    assert checked_cwd(root, "/home/alice") == "/home/alice"
    assert checked_cwd(root, "/not/yet") == "/not/yet"
    with pytest.raises(BadSpec):
        checked_cwd(root, "/not/yet", must_exist=True)
    (tmp_path / "leak").symlink_to("/proc/self/fd/3")
    (tmp_path / "up").symlink_to("../../../../etc")
    (tmp_path / "toproc").symlink_to("proc")
    for cwd in ("/leak", "/leak/x", "/toproc", "/etc/passwd", "/proc", "rel"):
        with pytest.raises(BadSpec):
            checked_cwd(root, cwd)
    assert checked_cwd(root, "/up") == "/up"  # inside, whatever it says
    (tmp_path / "sys").symlink_to("/tmp")
    with pytest.raises(BadSpec):
        check_root(root)
    assert clean_path("//a/./b/..", "x") == "/a"


def test_mount_points_are_removed_when_nobody_used_them(root: int, tmp_path: Path) -> None:
    missing = stubs.absent(root, ["/etc/hosts", "/new/deep/place", "/proc"])
    assert missing == ["/etc/hosts", "/new", "/new/deep", "/new/deep/place"]
    (tmp_path / "etc/hosts").touch()
    (tmp_path / "new/deep/place").mkdir(parents=True)
    assert stubs.unused(root, missing) == {"etc/hosts", "new", "new/deep", "new/deep/place"}
    (tmp_path / "new/file").write_text("used")
    assert stubs.unused(root, missing) == {"etc/hosts", "new/deep", "new/deep/place"}
    stubs.remove(root, missing)
    assert not (tmp_path / "etc/hosts").exists()
    assert (tmp_path / "new/file").exists()
    assert not (tmp_path / "new/deep").exists()
    (tmp_path / "etc/hosts").symlink_to("/etc/passwd")
    stubs.remove(root, missing)
    assert (tmp_path / "etc/hosts").is_symlink()


def test_detach_keys_are_found_across_reads() -> None:
    keys = DetachKeys.parse()
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"\x10") == (b"\x10", False)
    assert keys.feed(b"\x11rest") == (b"", True)
    other = DetachKeys.parse("ctrl-a,d")
    assert other.feed(b"\x01x") == (b"\x01x", False)
    assert other.feed(b"\x01d") == (b"", True)
    assert DetachKeys.parse("").feed(b"\x10\x11") == (b"\x10\x11", False)
    for text in ("ctrl-", "ctrl-aa", "xy", "ctrl-1"):
        with pytest.raises(BadSpec):
            DetachKeys.parse(text)


def test_a_ring_keeps_the_last_bytes_and_tells_of_the_rest() -> None:
    """DS-05: bounded, with the number of bytes that a slow reader missed."""
    ring = Ring(limit_bytes=100)
    for number in range(50):
        ring.put("stdout", b"%010d" % number)
    found = ring.read(0, 0)
    assert found[0] == Gap(400, 400)
    assert b"".join(piece.data for piece in found if isinstance(piece, Piece)) == b"".join(
        b"%010d" % n for n in range(40, 50)
    )
    assert ring.read(495, 0) == [Piece("stdout", b"00049", 500)]
    assert ring.read(500, 0) == []
    ring.close()
    assert ring.read(500, 60) == []


@pytest.mark.parametrize("size", [(0, 80), (24, 0), (-1, 80), (65536, 80), (24, 10**9)])
def test_sizes_that_no_terminal_has(size: tuple[int, int]) -> None:
    with pytest.raises(BadSpec):
        check_size(*size)


V1 = "30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 1 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "32 1 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
UNIFIED = "33 1 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(("text", "mode"), [(V1, Mode.V1), (V2, Mode.V2), (V1 + UNIFIED, Mode.HYBRID)])
def test_layouts_of_control_groups(text: str, mode: Mode) -> None:
    found = detect(parse_mountinfo(text))
    assert found.mode is mode
    if mode is not Mode.V2:
        assert found.mounts["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")


def test_a_host_without_control_groups_is_said_so() -> None:
    with pytest.raises(Unsupported):
        detect(parse_mountinfo("1 1 0:1 / / rw - ext4 /dev/x rw\n"))


def test_messages_of_runtimes_become_sentences() -> None:
    line = 'time="x" level=error msg="runc create failed: exec: \\"nofile\\": executable file not found in $PATH"\n'
    assert readable(line) == 'runc create failed: exec: "nofile": executable file not found in $PATH'
    assert start_status(readable(line)) == 127
    assert start_status("exec /x: permission denied") == 126
    assert start_status("something else") == 125
    assert CommandFailed("x", status=127).status == 127


@pytest.mark.parametrize(
    ("said", "means", "status"),
    [
        (
            "executable file `no such` not found in $PATH: No such file or directory",
            'exec: "no such": executable file not found in $PATH',
            127,
        ),
        ("open executable: Permission denied", "open executable: permission denied", 126),
        ("open executable: Operation not permitted", "open executable: permission denied", 126),
        ("cannot setns `/x`: Invalid argument", "cannot setns `/x`: Invalid argument", 125),
    ],
)
def test_what_crun_says_is_put_in_runcs_words(said: str, means: str, status: int) -> None:
    assert readable(f"{said}\n") == means
    assert start_status(readable(said)) == status

"""What a container cannot do: hostile programs on the real kernel, and what of ours they could see."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.containers.exec import ExecSpec
from engine.containers.model import ContainerSpec, Healthcheck, MountSpec, Status
from engine.errors import BadSpec, EngineError
from engine.linux.cgroup import Mode
from engine.linux.mount import LinuxMounts
from engine.linux.userns import temporary_userns
from engine.runtime import capabilities
from engine.runtime.filters import ANNOTATION
from engine.runtime.step import StepRunner
from tests.support.busybox import make_tar
from tests.support.containers import Node, container_node
from tests.support.debian import debian_rootfs_tar

pytestmark = pytest.mark.root

# the paths that Docker masks (moby, daemon/pkg/oci/defaults.go), written down here on purpose
MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
# errno of system calls that must not work, by their numbers on x86-64; 38 is ENOSYS, 1 is EPERM
PROBE = r"""
import ctypes, json, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else 0
def family(number):
    try:
        socket.socket(number, socket.SOCK_STREAM).close()
    except OSError as error:
        return error.errno
    return 0
zeros = ctypes.create_string_buffer(256)
print(json.dumps({
    "mount": call(165, b"none", b"/tmp", b"tmpfs", 0, None), "umount2": call(166, b"/proc", 2),
    "unshare_user": call(272, 0x10000000), "unshare_mount": call(272, 0x20000), "setns": call(308, 0, 0),
    "bpf": call(321, 0, zeros, 64), "keyctl": call(250, 0, 0, 0), "add_key": call(248, b"user", b"x", b"y", 1, -3),
    "perf_event_open": call(298, zeros, 0, -1, -1, 0), "userfaultfd": call(323, 0), "io_uring_setup": call(425, 8, zeros),
    "open_by_handle_at": call(304, -100, zeros, 0), "kexec_load": call(246, 0, 0, None, 0), "init_module": call(175, zeros, 0, b""),
    "clone_user": call(56, 0x10000000, None, None, None, None), "fsopen": call(430, b"tmpfs", 0), "pivot_root": call(155, b"/", b"/"),
    "af_alg": family(38), "af_vsock": family(40), "af_inet": family(2), "af_unix": family(1), "clone3": call(435, zeros, 64),
}))
"""
ALLOWED = {"af_inet": 0, "af_unix": 0, "clone3": 38}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


@pytest.fixture(scope="module")
def debian(node: Node) -> str:
    node.add_image("debian", debian_rootfs_tar().read_bytes())
    return "debian"


def run_debian(node: Node, *command: str, **fields: object) -> str:
    spec = ContainerSpec("debian", command=list(command), **fields)  # type: ignore[arg-type]
    container = node.containers.start(node.containers.create(spec).id)
    ended = node.containers.wait(container.id, timeout_s=60)
    text = node.log(container.id)
    node.containers.remove(container.id)
    assert ended.exit_code == 0, text
    return text


def judge(text: str) -> None:
    found = json.loads(text.splitlines()[-1])
    assert found == {name: ALLOWED.get(name, 1) for name in found}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the probe knows the numbers of x86-64")
def test_forbidden_system_calls_are_refused_everywhere(node: Node, debian: str) -> None:
    """RT-04, D12: at start, for another user, in an exec, a health check and a build step."""
    judge(run_debian(node, "python3", "-c", PROBE))
    judge(run_debian(node, "python3", "-c", PROBE, user="65534"))
    container = node.containers.start(
        node.containers.create(ContainerSpec(debian, command=["sleep", "600"])).id
    )
    judge(node.containers.execs.run(container.id, ExecSpec(["python3", "-c", PROBE])).stdout.decode())
    checked = node.containers.supervisor.check(container.id, Healthcheck(["CMD", "python3", "-c", PROBE]))
    assert checked is not None
    judge(checked.health.log[-1].output)
    node.containers.remove(container.id, force=True)
    judge(_in_step(node, ["python3", "-c", PROBE]))


def _in_step(node: Node, argv: list[str]) -> str:
    """Run a build step on the Debian image and return what it writes."""
    parts, out = node.containers.parts, bytearray()
    parts.snapshots.prepare("a-step", parts.images.resolve("debian").chain)
    target = node.config.run_root / "a-step"
    target.mkdir()
    try:
        with temporary_userns(parts.ranges, "a-step", node.config.run_root / "ns" / "a-step") as idmap:
            parts.snapshots.mount("a-step", target, idmap=idmap)
            runner = StepRunner(node.config, parts.runtime, parts.cgroups)
            assert (
                runner.run_step(
                    target, argv=argv, idmap=idmap, on_output=lambda stream, data: out.extend(data)
                )
                == 0
            )
            parts.snapshots.unmount("a-step")
    finally:
        parts.snapshots.remove("a-step")
        target.rmdir()
        shutil.rmtree(node.config.run_root / "ns" / "a-step", ignore_errors=True)
    return out.decode()


def status_of(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def test_capabilities_are_the_documented_set(node: Node) -> None:
    """RT-05: bounding is the documented set, inheritable and ambient are empty, only root has effective ones.

    Programs may gain by setuid unless `no-new-privileges` is asked for: `su` and `sudo` of ordinary images then work, and all
    they gain is root of the container's own range.
    """
    look = ["cat", "/proc/self/status"]
    root = status_of(node.output(*look))
    assert capabilities.decode(int(root["CapBnd"], 16)) == capabilities.DEFAULT
    assert capabilities.decode(int(root["CapEff"], 16)) == capabilities.DEFAULT
    user = status_of(node.output(*look, user="alice"))
    assert int(user["CapEff"], 16) == int(user["CapPrm"], 16) == 0
    for found in (root, user):
        assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
        assert found["NoNewPrivs"].strip() == "0"
        assert found["Seccomp"].strip() == "2"
    hardened = status_of(
        node.output(*look, security_opt=["no-new-privileges"], cap_drop=["ALL"], cap_add=["chown"])
    )
    assert hardened["NoNewPrivs"].strip() == "1"
    assert capabilities.decode(int(hardened["CapBnd"], 16)) == {"CAP_CHOWN"}
    sleeper = node.run("sleep", "600", security_opt=["no-new-privileges"])
    inside = status_of(node.containers.execs.run(sleeper.id, ExecSpec(look)).stdout.decode())
    assert (inside["NoNewPrivs"].strip(), inside["CapBnd"]) == ("1", root["CapBnd"])
    node.containers.remove(sleeper.id, force=True)


def test_root_inside_is_nobody_outside(node: Node) -> None:
    """D15: each container has a range of its own, and no two share one."""
    first, second = node.run("sleep", "600"), node.run("sleep", "600")
    for container in (first, second):
        assert os.stat(f"/proc/{container.pid}").st_uid == container.subuid > 0
    assert abs(first.subuid - second.subuid) >= 65536
    for container in (first, second):
        node.containers.remove(container.id, force=True)


USERS = [
    "4294967296",
    "-1",
    "2147483648",
    "65536",
    "no-such",
    "alice:no-such",
    "alice:65536",
    "",
    " ",
    "a" * 300,
]


@pytest.mark.parametrize("user", USERS)
def test_users_that_do_not_fit_are_refused(node: Node, user: str) -> None:
    """RT-06: never root by accident."""
    if user == "":
        assert node.output("id", "-u", user=user) == "0\n"
        return
    with pytest.raises(BadSpec):
        node.run("id", user=user)


def test_digits_are_never_a_name(node: Node) -> None:
    """RT-06: a line `1000:x:0:0` in an image's passwd does not make user 1000 root."""
    from tests.support import tarballs as tars

    busybox = Path("/bin/busybox").read_bytes()
    files = {"etc/passwd": b"1000:x:0:0::/:/\nroot:x:0:0::/:/\n", "bin/busybox": busybox}
    node.add_image("tricky", tars.make({"bin": None, "etc": None, **files}, mode=0o755))
    container = node.containers.create(
        ContainerSpec("tricky", command=["/bin/busybox", "id", "-u"], user="1000")
    )
    node.containers.start(container.id)
    node.containers.wait(container.id, timeout_s=5)
    assert node.log(container.id) == "1000\n"
    node.containers.remove(container.id)


def programs_of(node: Node) -> list[str]:
    """Return the programs of the host that have to do with containers."""
    own = [node.containers.parts.runtime.path, shutil.which("conmon") or ""]
    return [*own, "/bin/busybox", os.path.realpath("/proc/self/exe")]


def test_the_runtimes_programs_are_not_written(node: Node) -> None:
    """RT-02: an entrypoint and an exec that are `/proc/self/exe`, and a writer that waits for the end of whatever comes by.

    A program that runs cannot be written; who keeps `/proc/PID/exe` open until it has ended could.
    """
    programs = programs_of(node)
    before = [hashlib.sha256(Path(program).read_bytes()).hexdigest() for program in programs]
    writer = """while :; do for p in /proc/[0-9]*; do [ $p/exe -ef /bin/busybox ] && continue
        (exec 3<$p/exe && while [ -e $p ]; do :; done; echo pwned >/proc/self/fd/3) 2>/dev/null & done; done"""
    container = node.run(
        "sh",
        "-c",
        f"ln -s /proc/self/exe /evil; printf '#!/proc/self/exe\\n' > /script; chmod +x /script; {writer}",
    )
    time.sleep(0.3)
    for _ in range(3):
        for program in ("/evil", "/script", "/proc/self/exe"):
            try:
                node.containers.execs.run(container.id, ExecSpec([program, "--version"]), timeout_s=5)
            except (EngineError, TimeoutError):
                continue
    time.sleep(0.3)
    node.containers.remove(container.id, force=True)
    assert [hashlib.sha256(Path(program).read_bytes()).hexdigest() for program in programs] == before


def test_masked_paths_are_empty_and_the_kernel_is_not_written(node: Node) -> None:
    """RT-03: every masked path is empty, null or not there; the switches of the kernel cannot be turned."""
    script = "".join(
        f"ls -A {path} >/dev/null 2>&1 && head -c 1 {path} 2>/dev/null | wc -c; ls -A {path}/ 2>/dev/null | wc -l; "
        for path in MASKED
    )
    assert set(node.output("sh", "-c", script + " true").split()) <= {"0"}
    writes = """for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /sys/kernel/uevent_helper \
        /proc/sys/vm/drop_caches /proc/irq/default_smp_affinity; do (echo x > $f) 2>/dev/null && echo WROTE $f; done; echo done"""
    assert node.output("sh", "-c", writes).strip() == "done"


def test_devices_cannot_be_made_or_opened(node: Node) -> None:
    """RT-10: no disk, memory or fuse; neither by mknod nor because it is there."""
    script = """for d in b,8,0 b,254,0 c,1,1 c,1,2 c,10,229; do set -- $(echo $d | tr , ' '); mknod /tmp/n $1 $2 $3 2>/dev/null && echo MADE $d; done
        ls /dev | tr '\\n' ' '; cat /dev/kmsg 2>&1 | head -1"""
    text = node.output("sh", "-c", script)
    assert "MADE" not in text
    listed = set(text.split())
    assert listed & {"sda", "vda", "mem", "kmsg", "fuse", "kvm"} == set()
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm"} <= listed


def test_control_groups_cannot_be_written(node: Node) -> None:
    """RT-09: no mount of a control group, no release agent, read-only where they show."""
    script = """mkdir /tmp/c; mount -t cgroup -o memory cgroup /tmp/c 2>/dev/null && echo MOUNTED; mount -t cgroup2 none /tmp/c 2>/dev/null && echo MOUNTED
        for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs -o -name memory.limit_in_bytes 2>/dev/null | head -20); do
            (echo 1 > $f) 2>/dev/null && echo WROTE $f; done; mkdir /sys/fs/cgroup/x 2>/dev/null && echo MADE; echo done"""
    assert node.output("sh", "-c", script).strip() == "done"
    wide = node.output("sh", "-c", script, cap_add=["SYS_ADMIN"], security_opt=["seccomp=unconfined"])
    if node.containers.parts.cgroups.mode is Mode.V2:  # there it may see its own group, and nothing above it
        wide = wide.replace("MOUNTED\n", "")
    assert wide.strip() == "done"


def test_even_sys_admin_inside_rules_only_its_own(node: Node) -> None:
    """RT-09: with CAP_SYS_ADMIN and without a filter, the release agent of the host stays out of reach."""
    script = """mkdir /tmp/c; mount -t cgroup -o rdma cgroup /tmp/c 2>/dev/null; mount -t cgroup -o freezer cgroup /tmp/c 2>/dev/null
        grep -q ' /tmp/c ' /proc/mounts && (echo /tmp/x > /tmp/c/release_agent) 2>/dev/null && echo WROTE; echo done"""
    assert (
        node.output("sh", "-c", script, cap_add=["ALL"], security_opt=["seccomp=unconfined"]).strip()
        == "done"
    )


def test_our_sockets_are_files_in_closed_folders(node: Node) -> None:
    """RT-11: no abstract sockets, nothing that a container of the host's network could reach."""
    container = node.run("sleep", "600", stdin_open=True)
    bundle = node.containers.parts.bundle(container.id)
    assert os.stat(bundle.folder / "attach").st_mode & 0o077 == 0
    for folder in (bundle.folder, bundle.sockets, bundle.exits):
        assert os.stat(folder).st_mode & 0o777 == 0o700
    inside = node.output("cat", "/proc/net/unix", network_mode="host")
    ours = [
        line.split()[-1] for line in inside.splitlines() if node.config.instance in line or "conmon" in line
    ]
    assert not [name for name in ours if name.startswith("@")]
    node.containers.remove(container.id, force=True)


def test_labels_and_annotations_steer_nothing(node: Node) -> None:
    """RT-14: an image's labels reach neither the runtime's annotations nor its hooks."""
    labels = {
        "run.oci.hooks.stdout": "/tmp/x",
        "io.kubernetes.x": "y",
        "wharfinger.hook": "touch /tmp/x",
        "org.systemd.property.x": "1",
    }
    node.add_image("labelled", make_tar(), {"Labels": labels, "Cmd": ["sleep", "600"]})
    container = node.containers.start(
        node.containers.create(ContainerSpec("labelled", annotations={"note": "mine"})).id
    )
    config = node.containers.parts.bundle(container.id).read_config()
    assert config is not None
    assert set(config.get("annotations", {})) <= {ANNOTATION}
    assert "hooks" not in config
    node.containers.remove(container.id, force=True)


def test_secrets_of_the_environment_are_not_shown(node: Node) -> None:
    """RT-13, RT-15: not in arguments, not in our helpers' environment, and the bundle is closed; theirs is clean."""
    container = node.run("sleep", "600", env={"TOKEN": "s3cr3t-value", "LD_PRELOAD": "/evil.so"})
    node.containers.execs.run(container.id, ExecSpec(["true"], {"MORE": "s3cr3t-value"}))
    private = node.containers.store.private(container.id)
    for pid in (private.monitor_pid, container.pid):
        assert b"s3cr3t" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    helper = Path(f"/proc/{private.monitor_pid}/environ").read_bytes()
    assert b"s3cr3t" not in helper
    assert b"LD_PRELOAD" not in helper
    assert node.containers.parts.bundle(container.id).config.stat().st_mode & 0o777 == 0o600
    node.containers.remove(container.id, force=True)


def test_mounts_made_inside_do_not_come_out(node: Node) -> None:
    """RT-18: whatever a container mounts, the host's table stays as it was."""
    before = {entry.target for entry in LinuxMounts().entries() if node.config.instance in entry.target}
    script = "mount -t tmpfs none /mnt 2>/dev/null || true; mkdir -p /mnt; mount -t tmpfs none /mnt; mount --make-rshared / ; mount -t tmpfs none /mnt; grep -c /mnt /proc/mounts"
    volume = MountSpec("volume", "/v", source="shared")
    text = node.output(
        "sh", "-c", script, cap_add=["ALL"], security_opt=["seccomp=unconfined"], mounts=[volume]
    )
    assert int(text.split()[-1]) >= 1
    after = {entry.target for entry in LinuxMounts().entries() if node.config.instance in entry.target}
    assert after == before


def test_use_does_not_leak(node: Node) -> None:
    """RT-17: descriptors and threads are back at their baseline after many attaches, resizes and execs."""
    container = node.run("sh", tty=True, stdin_open=True)
    node.containers.attach(container.id).close()
    node.containers.execs.run(container.id, ExecSpec(["true"]))
    monitor = node.containers.store.private(container.id).monitor_pid

    def count() -> tuple[int, int, int]:
        return (
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            len(os.listdir(f"/proc/{monitor}/fd")),
        )

    time.sleep(0.5)
    before = count()
    for number in range(40):
        pump = node.containers.attach(container.id)
        for _ in range(50):
            node.containers.resize(container.id, 20 + number % 20, 80)
        pump.close()
    for _ in range(5):
        node.containers.execs.run(container.id, ExecSpec(["head", "-c", "3000000", "/dev/zero"]))
    time.sleep(0.5)
    # one more or less is a connection that is just being closed; a leak would be one for each of forty attaches
    assert all(now <= then + 1 for now, then in zip(count(), before, strict=True))
    node.containers.remove(container.id, force=True)


def test_ordinary_things_work_in_a_debian_container(node: Node, debian: str) -> None:
    """What people do inside still works: other users by su, ownership, dpkg, a port below 1024, ping as a user."""
    script = """set -e
        useradd --version >/dev/null 2>&1 || true
        echo 'bob:x:1001:1001::/tmp:/bin/sh' >> /etc/passwd; echo 'bob:x:1001:' >> /etc/group; echo 'bob:*:19000:0:99999:7:::' >> /etc/shadow
        su bob -c 'id -u'
        mkdir /srv/data; chown bob:bob /srv/data; chmod 700 /srv/data; su bob -c 'touch /srv/data/x'; stat -c %U /srv/data/x
        dpkg --version | head -1 >/dev/null; dpkg -s libc6 | grep Status
        python3 -c 'import socket; s = socket.socket(); s.bind(("0.0.0.0", 80)); print("port 80")'
        mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/p; echo hi > /tmp/p/usr/share/p/f
        printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y>\\nDescription: p\\n' > /tmp/p/DEBIAN/control
        dpkg-deb -b /tmp/p /tmp/p.deb >/dev/null; dpkg -i /tmp/p.deb >/dev/null 2>&1; cat /usr/share/p/f
        chmod u+s /usr/bin/id; su bob -c 'id -u'; """
    text = run_debian(node, "sh", "-c", script)
    assert text.splitlines() == ["1001", "bob", "Status: install ok installed", "port 80", "hi", "0"]


def test_apt_installs_in_a_container(node: Node, debian: str) -> None:
    """apt changes to its own user `_apt` to fetch and to root to unpack; packages keep other owners and set-user-id bits."""
    script = """set -e; mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin /srv/repo; cd /srv/repo
        printf '#!/bin/sh\\necho installed\\n' > /tmp/p/usr/bin/p; chown 0:mail /tmp/p/usr/bin/p; chmod 4755 /tmp/p/usr/bin/p
        printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y>\\nDescription: p\\n' | tee /tmp/p/DEBIAN/control > Packages
        dpkg-deb -b /tmp/p p.deb >/dev/null
        printf 'Filename: ./p.deb\\nSize: %s\\nSHA256: %s\\n' $(stat -c %s p.deb) $(sha256sum p.deb | cut -d' ' -f1) >> Packages
        echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/sources.list
        apt-get update >/dev/null 2>&1; apt-get install -y p >/dev/null 2>&1; p; stat -c '%A %U %G' /usr/bin/p"""
    assert run_debian(node, "sh", "-c", script).splitlines() == ["installed", "-rwsr-xr-x root mail"]


def test_a_database_takes_over_its_volume_and_a_server_drops_its_rights(node: Node, debian: str) -> None:
    """As the images of PostgreSQL and nginx do: root gives a volume away and goes on as another user; 80 is bound by root."""
    script = """set -e; chown -R 999:999 /data; chmod 700 /data
        setpriv --reuid 999 --regid 999 --clear-groups sh -c 'echo row > /data/table; id -u'; stat -c '%u %a' /data /data/table
        python3 - <<'PYTHON'
import os, socket
server = socket.socket(); server.bind(("0.0.0.0", 80)); server.listen()
os.setgid(33); os.setuid(33)
client = socket.create_connection(("127.0.0.1", 80)); print("served by", os.getuid())
PYTHON"""
    volume = MountSpec("volume", "/data", source="pgdata")
    text = run_debian(node, "sh", "-c", script, mounts=[volume])
    assert text.splitlines() == ["999", "999 700", "999 644", "served by 33"]
    assert (Path(node.volumes.get("pgdata").path) / "table").stat().st_uid == 999
    again = run_debian(node, "cat", "/data/table", mounts=[volume], user="999")
    assert again == "row\n"


def test_privileged_has_the_hosts_ids_and_says_so(node: Node) -> None:
    text = node.output(
        "sh",
        "-c",
        "cat /proc/self/uid_map; ls /dev | wc -l; mount -t tmpfs none /mnt 2>&1 || mkdir -p /mnt",
        privileged=True,
    )
    assert text.split()[:3] == ["0", "0", "4294967295"]
    container = node.containers.create(ContainerSpec("busybox", command=["true"], privileged=True))
    assert (container.subuid, container.status) == (0, Status.CREATED)
    node.containers.remove(container.id)

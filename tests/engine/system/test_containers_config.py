"""What a container is configured to be is what it is, on the real kernel; what cannot be is refused with the reason."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.containers.exec import ExecSpec
from engine.containers.model import (
    ContainerSpec,
    DeviceSpec,
    EndpointSpec,
    MountSpec,
    PortSpec,
    Resources,
    Status,
    Ulimit,
)
from engine.errors import BadSpec, EngineError, Unsupported, WrongState
from engine.linux.process import wait_until
from engine.network.model import NetworkSpec
from engine.runtime.stats import Sampler
from tests.support.busybox import make_tar
from tests.support.containers import Node, container_node

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


def test_environment_user_workdir_and_names(node: Node) -> None:
    text = node.output(
        "sh", "-c", "id; pwd; hostname; echo $A $HOME; stat -c %U:%G .",
        env={"A": "b c"}, user="alice", workdir="/made/deep", hostname="named",
    )  # fmt: skip
    assert text.splitlines() == [
        "uid=1000(alice) gid=1000(alice) groups=50(staff),60(netdev)",
        "/made/deep",
        "named",
        "b c /home/alice",
        "root:root",
    ]


def test_all_that_is_exposed_is_published_on_request(node: Node) -> None:
    """By the image or the spec, single ports and ranges; on random ports of the policy's address, each once."""
    exposed = ["80", "53/udp", "7000-7001/tcp", "7001"]
    made = node.run(
        "sleep", "60", publish_all=True, exposed_ports=exposed, ports=[PortSpec(80, host_ip="127.0.0.1", host_port=18080)]
    )  # fmt: skip
    found = {(port.container_port, port.protocol): port for port in made.ports}
    assert sorted(found) == [(53, "udp"), (80, "tcp"), (7000, "tcp"), (7001, "tcp")]
    assert found[80, "tcp"].host_port == 18080
    assert {port.host_ip for port in made.ports} == {"127.0.0.1"}
    assert len({port.host_port for port in made.ports}) == 4
    node.containers.remove(made.id, force=True)


def test_groups_are_added_by_name_and_number(node: Node) -> None:
    assert "groups=50(staff),60(netdev),77" in node.output("id", user="alice", groups=["77", "staff"])
    with pytest.raises(BadSpec, match="no group 'nope'"):
        node.run("true", groups=["nope"])


def test_image_settings_are_inherited_and_overridden(node: Node) -> None:
    config = {
        "Env": ["A=image", "B=image"], "Entrypoint": ["echo", "E"], "Cmd": ["C"], "WorkingDir": "/tmp",
        "Labels": {"l": "image"}, "User": "1000",
    }  # fmt: skip
    node.add_image("withconfig", make_tar(), config)

    def output(**fields: object) -> str:
        spec = ContainerSpec("withconfig", **fields)  # type: ignore[arg-type]
        container = node.containers.start(node.containers.create(spec).id)
        node.containers.wait(container.id, timeout_s=10)
        text = node.log(container.id)
        node.containers.remove(container.id)
        return text

    assert output() == "E C\n"
    assert output(command=["mine"]) == "E mine\n"
    assert output(entrypoint=["id", "-u"]) == "1000\n"
    assert (
        output(entrypoint=[""], command=["sh", "-c", "echo $A $B; pwd"], env={"A": None, "B": "b"})
        == "b\n/tmp\n"
    )


def test_the_engines_files_are_inside(node: Node) -> None:
    text = node.output(
        "sh", "-c", "cat /etc/hosts /etc/hostname; ls -l /etc/hosts | cut -c1-20", extra_hosts=["db:10.0.0.9"]
    )
    assert "10.0.0.9\tdb" in text
    assert "127.0.0.1\tlocalhost" in text
    assert "-rw-r--r--" in text


def test_volumes_binds_and_tmpfs_are_mounted_with_the_containers_ids(node: Node) -> None:
    bind = Path(node.config.allowed_bind_roots[0]) / "shared"
    bind.mkdir()
    (bind / "hello").write_text("from the host\n")
    mounts = [
        MountSpec("volume", "/data", source="named"),
        MountSpec("bind", "/bound", source=str(bind)),
        MountSpec("bind", "/ro", source=str(bind), read_only=True),
        MountSpec("tmpfs", "/scratch", tmpfs_size_bytes=1024 * 1024),
    ]
    script = """cat /bound/hello; echo data > /data/file; chown 1000 /data/file; ls -ln /data/file | cut -d' ' -f3-10
        touch /ro/x 2>&1; df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /bound/made"""
    text = node.output("sh", "-c", script, mounts=mounts)
    assert "from the host" in text
    assert "Read-only file system" in text
    assert "1024" in text
    stored = Path(node.volumes.get("named").path) / "file"
    assert stored.read_text() == "data\n"
    assert stored.stat().st_uid == 1000  # as inside: the mount maps, not the files
    assert (bind / "made").stat().st_uid == 0
    assert (
        node.output("cat", "/again/file", mounts=[MountSpec("volume", "/again", source="named")]) == "data\n"
    )


def test_a_new_volume_is_filled_from_the_image(node: Node) -> None:
    assert "passwd" in node.output("ls", "/etc", mounts=[MountSpec("volume", "/etc", source="etcvolume")])
    assert "passwd" in os.listdir(node.volumes.get("etcvolume").path)
    assert (Path(node.volumes.get("etcvolume").path) / "passwd").stat().st_uid == 0


def test_volumes_of_an_image_and_of_another_container(node: Node) -> None:
    node.add_image("withvolume", make_tar(), {"Volumes": {"/kept": {}}, "Cmd": ["sleep", "60"]})
    first = node.containers.start(node.containers.create(ContainerSpec("withvolume")).id)
    assert first.mounts[0].anonymous
    text = node.output("sh", "-c", "touch /kept/x; ls /kept", volumes_from=[first.id])
    assert text == "x\n"
    refused = node.output("touch", "/kept/y", volumes_from=[f"{first.id}:ro"], status=1)
    assert "Read-only" in refused
    name = first.mounts[0].name
    node.containers.remove(first.id, force=True, volumes=True)
    with pytest.raises(EngineError):
        node.volumes.get(name)


@pytest.mark.parametrize(
    "target", ["/", "/proc", "/proc/self", "/sys/fs", "/dev", "/dev/pts", "/dev/../proc", "rel"]
)
def test_mounts_on_the_kernels_places_are_refused(node: Node, target: str) -> None:
    """RT-03, D6: nothing may stand where proc, sysfs or devices are."""
    with pytest.raises(BadSpec):
        node.containers.create(
            ContainerSpec("busybox", command=["true"], mounts=[MountSpec("tmpfs", target)])
        )


def test_limits_are_really_set(node: Node) -> None:
    resources = Resources(
        memory_bytes=64 << 20, memory_reservation_bytes=32 << 20, cpus=0.5, cpu_shares=512, pids_limit=33, cpuset_cpus="0",
        ulimits=[Ulimit("nofile", 100, 200)],
    )  # fmt: skip
    container = node.run("sh", "-c", "ulimit -n; ulimit -Hn; sleep 60", resources=resources)
    cgroups, group = node.containers.parts.cgroups, node.containers.parts.group_of(container.id)

    def value(controller: str, *names: str) -> str:
        folder = cgroups.folder(controller, group)
        assert folder is not None
        return next((folder / name).read_text().strip() for name in names if (folder / name).exists())

    assert value("memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert value("pids", "pids.max") == "33"
    assert value("cpuset", "cpuset.cpus") == "0"
    assert value("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    time.sleep(0.2)
    assert node.log(container.id).split() == ["100", "200"]
    updated = node.containers.update(
        container.id, {"memory_bytes": 96 << 20, "memory_swap_bytes": 192 << 20, "pids_limit": 44}
    )
    assert value("memory", "memory.limit_in_bytes", "memory.max") == str(96 << 20)
    assert value("pids", "pids.max") == "44"
    assert value("cpuset", "cpuset.cpus") == "0"
    assert updated.spec.resources.memory_bytes == 96 << 20
    node.containers.remove(container.id, force=True)


@pytest.mark.parametrize(
    "resources",
    [
        Resources(memory_bytes=1000),
        Resources(memory_bytes=10 << 20, memory_swap_bytes=5 << 20),
        Resources(memory_swap_bytes=5 << 20),
        Resources(memory_bytes=10 << 20, memory_reservation_bytes=20 << 20),
        Resources(cpus=1000),
        Resources(cpus=-1),
        Resources(cpus=1, cpu_quota=5000),
        Resources(cpu_period=5),
        Resources(cpu_shares=1),
        Resources(cpuset_cpus="900"),
        Resources(cpuset_cpus="0;1"),
        Resources(pids_limit=-5),
        Resources(blkio_weight=5),
        Resources(oom_score_adj=5000),
        Resources(ulimits=[Ulimit("nope", 1, 1)]),
        Resources(ulimits=[Ulimit("nofile", 20, 10)]),
        Resources(ulimits=[Ulimit("nofile", 1 << 40, 1 << 40)]),
    ],
)
def test_limits_that_cannot_be_are_refused(node: Node, resources: Resources) -> None:
    with pytest.raises((BadSpec, Unsupported)):
        node.containers.create(ContainerSpec("busybox", command=["true"], resources=resources))


HOGS = {
    "its own memory": "head -c 64000000 /dev/zero | tail -c 64000000 >/dev/null",
    "a tmpfs": "dd if=/dev/zero of=/dev/shm/x bs=64000 count=1000 2>/dev/null",
}


@pytest.mark.parametrize("kind", HOGS)
def test_running_out_of_memory_is_recorded(node: Node, kind: str) -> None:
    """DS-02: the memory hog dies alone, and the record says why; a neighbour and both monitors go on."""
    neighbour = node.run("sleep", "60")
    container = node.run(
        "sh", "-c", HOGS[kind], resources=Resources(memory_bytes=16 << 20, memory_swap_bytes=16 << 20)
    )
    ended = node.containers.wait(container.id, timeout_s=30)
    assert ended.oom_killed
    assert ended.exit_code == 137
    assert "oom" in [event.action for event in node.db.events_of(container.id)]
    assert node.containers.get(neighbour.id).status is Status.RUNNING
    assert node.containers.execs.run(neighbour.id, ExecSpec(["true"])).exit_code == 0
    for one in (container, neighbour):
        node.containers.remove(one.id, force=True)


def test_the_page_cache_is_given_back_before_anybody_dies(node: Node) -> None:
    """DS-02: a file four times as large as the limit is written and read, and the container ends well."""
    script = "dd if=/dev/zero of=/big bs=65536 count=1024 2>/dev/null && cat /big | wc -c"
    limits = Resources(memory_bytes=16 << 20, memory_swap_bytes=16 << 20)
    assert node.output("sh", "-c", script, resources=limits) == f"{64 << 20}\n"


def test_a_fork_bomb_is_held(node: Node) -> None:
    """DS-01: the limit of processes holds, other containers are served meanwhile, and the bomb can be killed at once."""
    neighbour = node.run("sleep", "60")
    bomb = "b() { b & b & exec sleep 60; }; b & exec sleep 60"  # what has forked twice stays
    container = node.run("sh", "-c", bomb, resources=Resources(pids_limit=64))
    group, most = node.containers.parts.group_of(container.id), 0
    for _ in range(40):
        most = max(most, Sampler(node.containers.parts.cgroups).sample(group).pids)
        time.sleep(0.02)
    assert 32 <= most <= 64
    assert "can't fork" in node.log(container.id)
    began = time.monotonic()
    assert node.containers.execs.run(neighbour.id, ExecSpec(["true"])).exit_code == 0
    node.containers.remove(container.id, force=True)
    assert time.monotonic() - began < 5
    node.containers.remove(neighbour.id, force=True)


def test_figures_are_those_of_the_container_that_runs_now(node: Node) -> None:
    """Files of a control group are kept open between samples; after a restart there is another group of that name."""
    sampler = Sampler(node.containers.parts.cgroups)
    container = node.run("sh", "-c", "sleep 600 & sleep 600 & wait")
    group = node.containers.parts.group_of(container.id)
    assert wait_until(lambda: sampler.sample(group, container.pid).pids == 3, 5)
    before = sampler.sample(group, container.pid)
    assert before.memory_bytes > 0
    assert before.memory_peak_bytes >= before.memory_total_bytes
    assert list(before.networks) == ["eth0"]
    again = node.containers.restart(container.id, 0)
    assert wait_until(lambda: sampler.sample(group, again.pid).pids == 3, 5)
    node.containers.remove(container.id, force=True)
    gone = sampler.sample(group, 0)
    assert (gone.pids, gone.memory_bytes, gone.networks) == (0, 0, {})


def test_processes_are_limited_without_being_asked(node: Node) -> None:
    """DS-01: by default too."""
    container = node.run("sleep", "60")
    folder = node.containers.parts.cgroups.folder("pids", node.containers.parts.group_of(container.id))
    assert folder is not None
    assert int((folder / "pids.max").read_text()) == node.config.default_pids_limit
    node.containers.remove(container.id, force=True)


def test_read_only_root(node: Node) -> None:
    text = node.output(
        "sh", "-c", "touch /x; touch /tmp/y && echo fine", read_only=True, mounts=[MountSpec("tmpfs", "/tmp")]
    )
    assert "Read-only file system" in text
    assert "fine" in text


def test_init_reaps_and_forwards_signals(node: Node) -> None:
    container = node.run(
        "sh", "-c", "trap 'exit 5' TERM; (sleep 0.1 &); while :; do sleep 0.05; done", init=True
    )
    time.sleep(0.5)
    titles = node.containers.top(container.id, "-eo pid,stat,args").processes
    assert not [row for row in titles if row[1].startswith("Z")]
    assert "init" in titles[0][2]
    assert node.containers.stop(container.id, 5).exit_code == 5
    node.containers.remove(container.id)


def test_sysctls_of_its_own_namespaces_only(node: Node) -> None:
    text = node.output("cat", "/proc/sys/net/core/somaxconn", sysctls={"net.core.somaxconn": "1234"})
    assert text == "1234\n"
    for name in ("kernel.core_pattern", "vm.swappiness", "kernel.sysrq"):
        with pytest.raises(BadSpec, match="whole machine"):
            node.run("true", sysctls={name: "1"})
    with pytest.raises(BadSpec):
        node.run("true", network_mode="host", sysctls={"net.core.somaxconn": "1"})


def test_users_may_ping_and_listen_below_1024(node: Node) -> None:
    script = "ping -c1 -w2 127.0.0.1 >/dev/null && echo pinged; (timeout 1 nc -l -p 80 & sleep 0.3; echo x | nc 127.0.0.1 80) && echo listened"
    assert node.output("sh", "-c", script, user="alice").split()[-1] == "listened"


def test_devices(node: Node) -> None:
    text = node.output(
        "sh",
        "-c",
        "ls -l /dev/myzero | cut -c1-1; head -c 3 /dev/myzero | wc -c",
        devices=[DeviceSpec("/dev/zero", "/dev/myzero", "r")],
    )
    assert text.split() == ["c", "3"]
    for bad in (
        DeviceSpec("/dev/nope"),
        DeviceSpec("/etc/passwd"),
        DeviceSpec("/dev/zero", "/etc/zero"),
        DeviceSpec("/dev/zero", "", "x"),
    ):
        with pytest.raises(BadSpec):
            node.run("true", devices=[bad])


def test_network_modes(node: Node) -> None:
    assert node.output("sh", "-c", "ls /sys/class/net", network_mode="none").split() == ["lo"]
    host = node.output("sh", "-c", "cat /proc/net/dev", network_mode="host")
    assert "eth0" not in host  # the machine of the test has a namespace with bridges only
    first = node.run("sleep", "60")
    shared = node.output("sh", "-c", "ip -o -4 addr show eth0", network_mode=f"container:{first.id}")
    assert first.endpoints[0].ipv4_address in shared
    node.containers.stop(first.id, 0)
    with pytest.raises(WrongState, match="does not run"):
        node.run("true", network_mode=f"container:{first.id}")
    node.containers.remove(first.id)


def test_published_ports_answer_and_are_given_back(node: Node) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = PortSpec(8080, host_port=port)
    container = node.run(
        "sh", "-c", "mkdir -p /www; echo hello > /www/x; exec httpd -f -p 8080 -h /www", ports=[spec]
    )
    assert container.ports[0].host_port == port
    time.sleep(0.3)
    with socket.create_connection(("127.0.0.1", port), 2) as client:
        client.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        assert b"hello" in client.makefile("rb").read()
    with pytest.raises(EngineError, match=str(port)):
        node.run("true", ports=[spec])
    node.containers.remove(container.id, force=True)
    again = node.run("sleep", "60", ports=[spec])
    node.containers.remove(again.id, force=True)
    with pytest.raises(BadSpec, match="no port"):
        node.run("true", network_mode="host", ports=[spec])


def test_networks_are_joined_and_left_while_running(node: Node) -> None:
    network = node.network.create(NetworkSpec("leafy"))
    server = node.run("sleep", "60", name="server", network_mode="leafy")
    client = node.run("sleep", "60")
    joined = node.containers.connect("leafy", client.id, EndpointSpec("leafy", aliases=["friend"]))
    assert [endpoint.network for endpoint in joined.endpoints] == ["bridge", "leafy"]
    address = server.endpoints[0].ipv4_address
    assert node.containers.execs.run(client.id, ExecSpec(["ping", "-c1", "-w2", address])).exit_code == 0
    left = node.containers.disconnect("leafy", client.id)
    assert [endpoint.network for endpoint in left.endpoints] == ["bridge"]
    assert node.containers.execs.run(client.id, ExecSpec(["ping", "-c1", "-w1", address])).exit_code != 0
    restarted = node.containers.restart(client.id, 0)
    assert [endpoint.network for endpoint in restarted.endpoints] == ["bridge"]
    for container in (server, client):
        node.containers.remove(container.id, force=True)
    node.network.remove(network.id)


def test_namespaces_can_be_shared(node: Node) -> None:
    first = node.run("sh", "-c", "echo shared > /dev/shm/x; sleep 60", ipc_mode="shareable")
    time.sleep(0.2)
    assert "sleep 60" in node.output("ps", pid_mode=f"container:{first.id}")
    assert node.output("cat", "/dev/shm/x", ipc_mode=f"container:{first.id}") == "shared\n"
    node.containers.remove(first.id, force=True)
    with pytest.raises(BadSpec):
        node.run("true", pid_mode="everybody")


def test_processes_are_shown_with_the_containers_own_users(node: Node) -> None:
    container = node.run("sh", "-c", "sleep 600 & sleep 600; true", user="alice")
    time.sleep(0.3)
    found = node.containers.top(container.id)
    assert found.titles[:2] == ["UID", "PID"]
    assert {row[0] for row in found.processes} == {"alice"}
    assert len(found.processes) == 3
    for bad in ("-o pid; reboot", "$(id)", "-o user", "--nope"):
        with pytest.raises(BadSpec):
            node.containers.top(container.id, bad)
    node.containers.remove(container.id, force=True)


def test_no_shared_memory_with_ipc_none(node: Node) -> None:
    assert "No such file" in node.output("ls", "/dev/shm", ipc_mode="none", status=1)


def test_host_namespaces(node: Node) -> None:
    """Own ids with the host's pid or uts namespace work; what needs the host's ids says so."""
    assert len(node.output("ps", pid_mode="host").splitlines()) > 5
    assert node.output("hostname", uts_mode="host").strip() == os.uname().nodename
    assert node.output("cat", "/proc/self/uid_map", userns_mode="host").split() == ["0", "0", "4294967295"]
    assert "00000" in node.output("grep", "CapBnd", "/proc/self/status", privileged=True)


def test_status_and_labels_are_in_the_record(node: Node) -> None:
    container = node.containers.create(ContainerSpec("busybox", command=["true"], labels={"team": "dock"}))
    assert container.status is Status.CREATED
    assert container.config["Labels"] == {"team": "dock"}
    node.containers.remove(container.id)


def test_unknown_options_are_refused(node: Node) -> None:
    for fields in (
        {"security_opt": ["apparmor=custom"]},
        {"security_opt": ["seccomp={"]},
        {"log_driver": "syslog"},
        {"log_options": {"tag": "x"}},
        {"cgroup_parent": "/elsewhere"},
        {"cap_add": ["CAP_NONSENSE"]},
        {"annotations": {"run.oci.keep_original_groups": "1"}},
        {"mounts": [MountSpec("tmpfs", "/x", propagation="shared")]},
        {"userns_mode": "auto"},
    ):
        with pytest.raises((BadSpec, Unsupported)):
            container = node.containers.create(ContainerSpec("busybox", command=["true"], **fields))  # type: ignore[arg-type]
            node.containers.start(container.id)

"""docker-py, unchanged, drives the engine: images, containers, exec, logs, networks, volumes, events, stats, builds."""

from __future__ import annotations

import gc
import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, BuildError, ImageNotFound, NotFound

from tests.support.platform import Platform
from tests.support.registry import real_registry

pytestmark = [
    pytest.mark.root,
    # docker-py leaves the sockets of upgraded connections to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def client(engine: Platform) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=f"tcp://127.0.0.1:{engine.port}", version="1.44", timeout=30)
    made.api.headers["Authorization"] = f"Bearer {engine.token}"
    yield made
    made.close()
    gc.collect()  # the sockets that it left go here, not in the middle of another test


def test_versions_are_negotiated(engine: Platform) -> None:
    api = docker.APIClient(base_url=f"tcp://127.0.0.1:{engine.port}", version="1.44")
    api.headers["Authorization"] = f"Bearer {engine.token}"
    try:
        assert api.version()["ApiVersion"] == "1.44"
        assert api.ping()
    finally:
        api.close()


def test_run_returns_the_output_and_raises_with_the_status(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    with pytest.raises(docker.errors.ContainerError) as raised:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert raised.value.exit_status == 3
    assert client.containers.list(all=True) == []


def test_life_of_a_container(client: docker.DockerClient) -> None:
    made = client.containers.create(
        "busybox",
        ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
        name="py",
        labels={"k": "v"},
    )
    assert made.status == "created"
    made.start()
    made.reload()
    assert made.status == "running"
    assert [item.name for item in client.containers.list(filters={"label": ["k=v"]})] == ["py"]
    made.pause()
    made.reload()
    assert made.status == "paused"
    made.unpause()
    made.rename("py2")
    made.restart(timeout=2)
    made.stop(timeout=2)
    assert made.wait()["StatusCode"] == 0
    made.remove()
    with pytest.raises(NotFound):
        client.containers.get("py2")


def test_exec_with_streams_apart(client: docker.DockerClient) -> None:
    box = client.containers.run("busybox", ["sleep", "60"], detach=True)
    code, (out, err) = box.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True)
    assert (code, out, err) == (4, b"o\n", b"e\n")
    code, shown = box.exec_run(["sh", "-c", "test -t 1 && echo tty"], tty=True)
    assert (code, shown) == (0, b"tty\r\n")
    code, shown = box.exec_run(["env"], environment={"A": "1"}, user="nobody", workdir="/tmp")
    assert b"A=1" in shown
    _, stream = box.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True)
    assert b"".join(stream) == b"1\n2\n"


def test_exec_over_a_socket(client: docker.DockerClient) -> None:
    box = client.containers.run("busybox", ["sleep", "60"], detach=True)
    made = client.api.exec_create(box.id, ["cat"], stdin=True)
    connection = client.api.exec_start(made["Id"], socket=True)
    connection._sock.sendall(b"through\n")
    assert b"through\n" in connection._sock.recv(4096)
    connection.close()


def test_logs_with_times_tail_and_follow(client: docker.DockerClient) -> None:
    box = client.containers.run(
        "busybox", ["sh", "-c", "for i in 1 2 3; do echo line $i; done; echo e >&2"], detach=True
    )
    box.wait()
    assert box.logs(stderr=False) == b"line 1\nline 2\nline 3\n"
    assert box.logs(stdout=False) == b"e\n"
    assert len(box.logs(tail=2).splitlines()) == 2
    assert box.logs(timestamps=True, stderr=False).startswith(b"20")
    assert b"".join(box.logs(stream=True, follow=True, stderr=False)) == b"line 1\nline 2\nline 3\n"


def test_files_in_and_out(client: docker.DockerClient) -> None:
    box = client.containers.run("busybox", ["sleep", "60"], detach=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("note")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    assert box.put_archive("/tmp", packed.getvalue())
    bits, stat = box.get_archive("/tmp/note")
    assert stat["size"] == 5
    with tarfile.open(fileobj=io.BytesIO(b"".join(bits))) as archive:
        note = archive.extractfile("note")
        assert note is not None
        assert note.read() == b"hello"
    assert {"Path": "/tmp/note", "Kind": 1} in box.diff()


def test_images(client: docker.DockerClient) -> None:
    image = client.images.get("busybox")
    assert "busybox:latest" in image.tags
    assert image.tag("py-tagged", "1")
    assert "py-tagged:1" in client.images.get("py-tagged:1").tags
    assert image.history()
    data = b"".join(client.images.get("py-tagged:1").save(named="py-tagged:1"))
    client.images.remove("py-tagged:1")
    with pytest.raises(ImageNotFound):
        client.images.get("py-tagged:1")
    assert client.images.load(data)[0].id == image.id
    client.images.remove("py-tagged:1")


def test_an_image_is_saved_and_loaded(client: docker.DockerClient) -> None:
    image = client.images.get("busybox")
    assert image.tag("saved-by-py", "1")
    archive = b"".join(client.images.get("saved-by-py:1").save(named="saved-by-py:1"))
    client.images.remove("saved-by-py:1")
    loaded = client.images.load(archive)
    assert {item.id for item in loaded} == {image.id}
    assert "saved-by-py:1" in loaded[0].tags
    client.images.remove("saved-by-py:1")


def test_what_a_registry_has_under_a_name(client: docker.DockerClient, tmp_path: Path) -> None:
    with real_registry(tmp_path) as registry:
        name = f"{registry.domain}/py/box"
        client.images.get("busybox").tag(name, "1")
        assert "digest" in client.images.push(name, tag="1")
        told = client.images.get_registry_data(f"{name}:1")
        assert told.id.startswith("sha256:")
        assert told.attrs["Descriptor"]["size"] > 0
        assert told.attrs["Descriptor"]["mediaType"].endswith(("manifest.v1+json", "manifest.v2+json"))
        client.images.remove(f"{name}:1")


def test_stats_of_one_moment_have_no_moment_before(client: docker.DockerClient) -> None:
    box = client.containers.run("busybox", ["sleep", "60"], detach=True)
    one = client.api.stats(box.id, stream=False, one_shot=True)
    assert (one["cpu_stats"]["cpu_usage"]["total_usage"] > 0, one["precpu_stats"]["system_cpu_usage"]) == (
        True,
        0,
    )
    two = client.api.stats(box.id, stream=False)
    assert two["cpu_stats"]["system_cpu_usage"] > two["precpu_stats"]["system_cpu_usage"] > 0
    assert two["preread"] != one["preread"]


def test_build_streams_its_steps_and_gives_the_image(client: docker.DockerClient) -> None:
    text = b"FROM busybox\nARG WHO=x\nLABEL who=$WHO\nRUN echo made > /made\n"
    image, log = client.images.build(
        fileobj=io.BytesIO(text), tag="py-built:1", buildargs={"WHO": "me"}, rm=True
    )
    assert image.labels["who"] == "me"
    assert any("Step 1/" in part.get("stream", "") for part in log)
    with pytest.raises(BuildError, match="non-zero code: 3"):
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 3\n"))
    client.images.remove("py-built:1")


def test_networks(client: docker.DockerClient) -> None:
    pool = docker.types.IPAMPool(subnet="10.213.77.0/24", gateway="10.213.77.1")
    network = client.networks.create(
        "py-net", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"a": "b"}
    )
    try:
        box = client.containers.run("busybox", ["sleep", "60"], detach=True, name="member")
        network.connect(box, ipv4_address="10.213.77.9", aliases=["friend"])
        network.reload()
        assert [member["IPv4Address"] for member in network.attrs["Containers"].values()] == [
            "10.213.77.9/24"
        ]
        found = client.containers.run("busybox", ["nslookup", "friend"], network="py-net", remove=True)
        assert b"10.213.77.9" in found
        network.disconnect(box)
        network.reload()
        assert network.attrs["Containers"] == {}
        assert [item.name for item in client.networks.list(filters={"label": "a=b"})] == ["py-net"]
    finally:
        client.containers.get("member").remove(force=True)
        network.remove()


def test_volumes(client: docker.DockerClient) -> None:
    volume = client.volumes.create("py-vol", labels={"a": "b"})
    client.containers.run(
        "busybox", ["sh", "-c", "echo kept > /v/x"], volumes={"py-vol": {"bind": "/v"}}, remove=True
    )
    assert (
        client.containers.run(
            "busybox", ["cat", "/v/x"], volumes={"py-vol": {"bind": "/v", "mode": "ro"}}, remove=True
        )
        == b"kept\n"
    )
    assert [item.name for item in client.volumes.list(filters={"label": "a=b"})] == ["py-vol"]
    volume.remove()
    with pytest.raises(NotFound):
        client.volumes.get("py-vol")


def test_events_live_and_past(client: docker.DockerClient) -> None:
    since = time.time() - 1
    with_live = client.events(decode=True, filters={"type": "container", "event": ["create", "die"]})
    try:
        box = client.containers.run("busybox", ["true"], detach=True)
        seen = [next(with_live) for _ in range(2)]
    finally:
        with_live.close()
    assert [event["Action"] for event in seen] == ["create", "die"]
    assert {event["Actor"]["ID"] for event in seen} == {box.id}
    past = list(client.events(since=since, until=time.time() + 1, decode=True, filters={"container": box.id}))
    assert {"create", "start", "die"} <= {event["Action"] for event in past}


def test_stats_count(client: docker.DockerClient) -> None:
    box = client.containers.run("busybox", ["sh", "-c", "while :; do :; done"], detach=True)
    once = box.stats(stream=False)
    assert once["pids_stats"]["current"] >= 1
    stream = box.stats(decode=True, stream=True)
    first, second = next(stream), next(stream)
    stream.close()
    assert second["cpu_stats"]["cpu_usage"]["total_usage"] > first["cpu_stats"]["cpu_usage"]["total_usage"]
    assert second["memory_stats"]["usage"] > 0


def test_errors_have_the_engines_status_and_message(client: docker.DockerClient) -> None:
    with pytest.raises(APIError) as raised:
        client.containers.create("busybox", name="no such name!")
    assert raised.value.status_code == 400
    client.containers.create("busybox", name="twice")
    with pytest.raises(APIError) as raised:
        client.containers.create("busybox", name="twice")
    assert raised.value.status_code == 409
    assert "already in use" in raised.value.explanation

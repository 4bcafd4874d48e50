"""Streams and queries of real containers, through Redis and a real agent."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.containers.model import Status
from tests.support.real_node import RealNode, real_node
from tests.support.redis import RedisServer
from tests.support.worker import wait_for
from webapp.realtime import streams as web
from workers import client
from workers.contracts import (
    BackupRemove,
    ContainerCreate,
    ContainerExec,
    ContainerFilesPut,
    ContainerKill,
    ContainerRemove,
    ContainerStart,
    ContainerStop,
    KeptLogRemove,
    NodeError,
    VolumeBackup,
    VolumeCreate,
    names,
)

pytestmark = [pytest.mark.root, pytest.mark.serial]


@pytest.fixture(scope="module")
def site(redis_server: RedisServer) -> Iterator[RealNode]:
    with real_node(redis_server, "agent", "worker", "bulk") as running:
        yield running


@pytest.fixture(autouse=True)
def _no_containers_left(site: RealNode) -> Iterator[None]:
    yield
    site.remove_all()


@pytest.fixture(autouse=True)
async def _hub() -> Any:
    yield
    await web.Hub.current().stop()


async def run(site: RealNode, *command: str, **spec: Any) -> str:
    return (await asyncio.to_thread(site.run, *command, **spec)).id


async def read_until(stream: web.Stream, text: bytes, timeout_s: float = 10) -> bytes:
    seen = b""
    async with asyncio.timeout(timeout_s):
        async for chunk in stream:
            seen += chunk.data
            if text in seen:
                return seen
    raise AssertionError(f"{text!r} did not come: {seen!r} {stream.end}")


async def rest(stream: web.Stream) -> bytes:
    return b"".join([chunk.data async for chunk in stream])


def exec_params(container: str, *command: str, **more: Any) -> dict[str, Any]:
    return {"container": container, "exec_id": names.new_id() * 2, "command": list(command), **more}


async def test_exec_keeps_its_streams_apart_and_tells_the_exit_code(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    params = exec_params(container, "sh", "-c", "echo out; echo err >&2; exit 7")
    async with web.open_stream(site.name, "exec", params) as stream:
        chunks = [chunk async for chunk in stream]
    assert b"".join(chunk.data for chunk in chunks if chunk.channel == 1) == b"out\n"
    assert b"".join(chunk.data for chunk in chunks if chunk.channel == 2) == b"err\n"
    assert stream.end == {"reason": "done", "exit_code": 7}


async def test_exec_reads_input_to_its_end(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    sent = b"0123456789abcdef" * 40_000
    params = exec_params(container, "sha256sum", stdin=True)
    async with web.open_stream(site.name, "exec", params) as stream:
        await stream.send(sent)
        await stream.send_eof()
        answer = await rest(stream)
    import hashlib

    assert answer.split()[0].decode() == hashlib.sha256(sent).hexdigest()


async def test_a_terminal_has_a_size_that_can_change(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    params = exec_params(container, "sh", tty=True, stdin=True, width=91, height=33)
    async with web.open_stream(site.name, "exec", params) as stream:
        await stream.send(b"stty size\n")
        await read_until(stream, b"33 91")
        await stream.resize(120, 40)
        await asyncio.sleep(0.2)
        await stream.send(b"stty size\n")
        await read_until(stream, b"40 120")
        await stream.send(b"exit 3\n")
        await rest(stream)
    assert stream.end is not None
    assert stream.end["exit_code"] == 3


async def test_typing_comes_back_quickly(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    params = exec_params(container, "cat", stdin=True)
    delays = []
    async with web.open_stream(site.name, "exec", params) as stream:
        for number in range(20):
            began = time.monotonic()
            await stream.send(f"{number}\n".encode())
            await read_until(stream, f"{number}\n".encode())
            delays.append(time.monotonic() - began)
    assert sorted(delays)[10] < 0.1


async def test_detach_keys_leave_the_program_running(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    params = exec_params(container, "sh", tty=True, stdin=True)
    async with web.open_stream(site.name, "exec", params) as stream:
        await stream.send(b"echo ready\n")
        await read_until(stream, b"ready")
        await stream.send(b"\x10\x11")
        await rest(stream)
    assert stream.end is not None
    assert stream.end["detached"] is True
    answer = await web.query(site.name, "container.exec_inspect", {"exec_id": params["exec_id"]})
    assert answer["running"] is True


async def test_a_terminal_that_is_hung_up_ends(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    params = exec_params(container, "sleep", "300", tty=True, stdin=True, hangup=True)
    async with web.open_stream(site.name, "exec", params):
        pass
    query = {"exec_id": params["exec_id"]}
    async with asyncio.timeout(10):
        while (found := await web.query(site.name, "container.exec_inspect", query))["running"]:
            await asyncio.sleep(0.05)
    assert found["exit_code"] not in (0, None)


@pytest.mark.parametrize(
    ("command", "code"), [(["/no/such/program"], "command_failed"), (["/etc/passwd"], "command_failed")]
)
async def test_a_program_that_cannot_be_run_is_a_refusal(
    site: RealNode, command: list[str], code: str
) -> None:
    container = await run(site, "sleep", "60")
    with pytest.raises(NodeError) as caught:
        async with web.open_stream(site.name, "exec", exec_params(container, *command)):
            pass
    assert caught.value.code == code


async def test_a_privileged_exec_needs_the_right_on_the_node_too(site: RealNode) -> None:
    """AP-03, D3."""
    container = await run(site, "sleep", "60")
    with pytest.raises(NodeError, match="privileged"):
        async with web.open_stream(site.name, "exec", exec_params(container, "id", privileged=True)):
            pass


async def test_a_slow_reader_slows_its_own_program_only(site: RealNode) -> None:
    """DS-05, D7."""
    container = await run(site, "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    params = exec_params(container, "sh", "-c", "yes | head -c 20000000; echo; echo the end")
    async with (
        web.open_stream(site.name, "exec", params, credit=100_000) as slow,
        web.open_stream(site.name, "logs", {"container": container, "follow": True, "tail": 0}) as ticks,
    ):
        await asyncio.sleep(0.5)
        began = time.monotonic()
        for _ in range(5):
            await anext(ticks)
        assert time.monotonic() - began < 2
        assert (await rest(slow))[-8:] == b"the end\n"


async def test_a_slow_reader_of_attach_holds_nobody_up(site: RealNode) -> None:
    """D7, DS-05: the container writes 20 MB while nobody reads, and ends; what was written is all there."""
    identity = names.new_id() * 2
    script = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); head -c 100000 /dev/zero | tr '\\0' x; echo; done"
    contract = ContainerCreate(identity, {"image": "busybox", "command": ["sh", "-c", script]})
    await asyncio.to_thread(site.do, contract)
    async with web.open_stream(site.name, "attach", {"container": identity}, credit=100_000) as stream:
        await asyncio.to_thread(site.do, ContainerStart(identity))
        wait = asyncio.to_thread(
            wait_for, lambda: site.container(identity).status is Status.EXITED, "the end", 20
        )
        await wait
        assert len(await rest(stream)) == 200 * 100_001


async def test_attach_carries_input_and_the_exit_code(site: RealNode) -> None:
    identity = names.new_id() * 2
    spec = {
        "image": "busybox",
        "command": ["sh", "-c", "read x; echo got $x; exit 5"],
        "stdin_open": True,
        "stdin_once": True,
    }
    await asyncio.to_thread(site.do, ContainerCreate(identity, spec))
    async with web.open_stream(site.name, "attach", {"container": identity, "stdin": True}) as stream:
        await stream.send(b"hello\n")
        await asyncio.to_thread(site.do, ContainerStart(identity))
        assert await rest(stream) == b"got hello\n"
    assert stream.end == {"reason": "done", "exit_code": 5, "status": "exited"}


async def test_the_end_of_attached_input_reaches_the_program(site: RealNode) -> None:
    identity = names.new_id() * 2
    spec = {"image": "busybox", "command": ["cat"], "stdin_open": True, "stdin_once": True}
    await asyncio.to_thread(site.do, ContainerCreate(identity, spec, start=True))
    async with web.open_stream(site.name, "attach", {"container": identity, "stdin": True}) as stream:
        await stream.send(b"a line\n")
        await stream.send_eof()
        async with asyncio.timeout(10):
            assert await rest(stream) == b"a line\n"


async def test_two_people_on_one_terminal_see_the_same(site: RealNode) -> None:
    container = await run(site, "sh", tty=True, stdin_open=True)
    params = {"container": container, "stdin": True}
    async with (
        web.open_stream(site.name, "attach", params) as one,
        web.open_stream(site.name, "attach", params) as two,
    ):
        await one.send(b"echo from-one\n")
        await read_until(one, b"from-one\r\n")
        await read_until(two, b"from-one\r\n")
        await two.send(b"echo from-two\n")
        await read_until(one, b"from-two\r\n")
        await web.query(site.name, "container.resize", {"container": container, "width": 77, "height": 22})
        await two.send(b"stty size\n")
        await read_until(one, b"22 77")
        await one.send(b"\x10\x11")
        await rest(one)
        assert one.end is not None
        assert one.end["detached"] is True
    assert site.container(container).status is Status.RUNNING


async def test_a_killed_container_ends_what_was_open_on_it(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    async with (
        web.open_stream(site.name, "logs", {"container": container, "follow": True}) as log,
        web.open_stream(site.name, "attach", {"container": container}) as attached,
        web.open_stream(site.name, "exec", exec_params(container, "sleep", "60")) as program,
        web.open_stream(site.name, "wait", {"container": container, "condition": "next-exit"}) as waiting,
        web.open_stream(site.name, "stats", {"containers": [container], "interval_s": 0.5}) as stats,
    ):
        await asyncio.to_thread(site.do, ContainerKill(container))
        async with asyncio.timeout(10):
            await asyncio.gather(*(rest(stream) for stream in (log, attached, program, waiting, stats)))
    assert waiting.end is not None
    assert waiting.end["exit_code"] == 137
    assert program.end is not None
    assert program.end["exit_code"] == 137


async def test_figures_arrive_at_their_interval(site: RealNode) -> None:
    container = await run(site, "sh", "-c", "while :; do :; done")
    samples = []
    async with web.open_stream(site.name, "stats", {"containers": [], "interval_s": 0.5}) as stream:
        async for chunk in stream:
            samples += [json.loads(line) for line in chunk.data.splitlines()]
            if len(samples) == 3:
                break
    assert {sample["container"] for sample in samples} == {container}
    assert 0.4 < samples[2]["time"] - samples[1]["time"] < 2
    assert samples[2]["cpu_percent"] > 10
    assert samples[2]["memory"]["usage_bytes"] > 0
    assert samples[2]["pids"] >= 1


def test_questions_about_a_container(site: RealNode) -> None:
    container = site.run("sh", "-c", "echo x > /new; sleep 60").id
    wait_for(lambda: client.query(site.name, "container.changes", {"container": container})["changes"])
    ask = {"container": container}
    assert {"kind": "A", "path": "/new"} in client.query(site.name, "container.changes", ask)["changes"]
    top = client.query(site.name, "container.top", ask)
    assert any("sleep 60" in " ".join(row) for row in top["processes"])
    assert client.query(site.name, "container.stats", ask)["cpu"]["usage_ns"] > 0
    assert client.query(site.name, "container.inspect", {"ref": container})["status"] == "running"
    assert client.query(site.name, "container.stat", {**ask, "path": "/etc/passwd"})["size_bytes"] > 0
    listed = client.query(site.name, "container.list_files", {**ask, "path": "/etc"})["entries"]
    assert "passwd" in {entry["name"] for entry in listed}
    actions = [event["action"] for event in client.query(site.name, "container.timeline", ask)["events"]]
    assert actions[:2] == ["create", "start"]
    records = client.query(site.name, "records.list", {"type": "container"})
    assert [record["id"] for record in records["records"]] == [container]
    with pytest.raises(NodeError, match="no container"):
        client.query(site.name, "container.inspect", {"ref": "nobody"})


def test_questions_about_images_and_the_node(site: RealNode) -> None:
    image = client.query(site.name, "image.inspect", {"ref": "busybox"})
    assert image["id"].startswith("sha256:")
    assert client.query(site.name, "image.history", {"ref": "busybox"})["history"]
    layers = client.query(site.name, "image.layers", {"ref": "busybox"})["layers"]
    files = client.query(site.name, "image.layer_files", {"ref": "busybox", "index": len(layers) - 1})[
        "files"
    ]
    assert any(item["path"].strip("/") == "bin/busybox" for item in files)
    info = client.query(site.name, "system.info")
    assert info["node"] == site.name
    assert client.query(site.name, "system.usage")["images"]["count"] == 1


async def test_files_go_in_and_out(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    upload = names.new_id()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("greeting")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    (site.node.home / "spool/in" / upload).write_bytes(buffer.getvalue())
    await asyncio.to_thread(site.do, ContainerFilesPut(container, "/tmp", upload))
    await asyncio.to_thread(wait_for, lambda: not (site.node.home / "spool/in" / upload).exists())
    params = {"container": container, "path": "/tmp/greeting"}
    async with web.open_stream(site.name, "container.archive", params) as stream:
        assert stream.facts["stat"]["name"] == "greeting"
        data = await rest(stream)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile("greeting")
        assert member is not None
        assert member.read() == b"hello"


async def test_archives_flow_at_the_readers_pace(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    async with web.open_stream(
        site.name, "container.export", {"container": container}, credit=300_000
    ) as stream:
        await asyncio.sleep(0.3)
        data = await rest(stream)
    assert stream.end is not None
    assert stream.end["size_bytes"] == len(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert "bin/busybox" in {name.strip("./") for name in archive.getnames()}
    async with web.open_stream(site.name, "image.save", {"images": ["busybox"]}) as stream:
        with tarfile.open(fileobj=io.BytesIO(await rest(stream))) as archive:
            assert "index.json" in archive.getnames()


async def test_an_archive_whose_reader_leaves_is_given_up(site: RealNode) -> None:
    container = await run(site, "sleep", "60")
    async with web.open_stream(site.name, "container.export", {"container": container}, credit=10_000):
        pass
    stopped = await asyncio.to_thread(site.do, ContainerStop(container, timeout_s=0))
    assert stopped["container"]["status"] == "exited"  # nobody holds its lock or its root any more


def test_a_command_that_is_not_watched(site: RealNode) -> None:
    container = site.run("sleep", "60").id
    done = site.do(
        ContainerExec(container, names.new_id() * 2, ["sh", "-c", "echo out; echo err >&2; exit 4"])
    )
    assert (done["exit_code"], done["stdout"], done["stderr"], done["truncated"]) == (
        4,
        "out\n",
        "err\n",
        False,
    )
    identity = names.new_id() * 2
    site.do(ContainerExec(container, identity, ["touch", "/made"], detach=True))
    wait_for(
        lambda: any(
            change["path"] == "/made"
            for change in client.query(site.name, "container.changes", {"container": container})["changes"]
        )
    )


def test_a_backup_lands_in_the_spool_under_its_name(site: RealNode) -> None:
    site.do(VolumeCreate(name="data"))
    target = names.new_id()
    done = site.do(VolumeBackup("data", target=target))
    path = site.node.home / "spool/out" / target
    assert done["size_bytes"] == path.stat().st_size > 0
    path.unlink()


async def test_a_kept_backup_is_fetched_and_removed(site: RealNode) -> None:
    site.do(VolumeCreate(name="kept"))
    folder = site.node.home / "backups/kept/kept"
    done = site.do(VolumeBackup("kept", directory=str(folder), file_name="kept-1.tar.gz"))
    content = (folder / "kept-1.tar.gz").read_bytes()
    assert done["size_bytes"] == len(content)
    where = {"directory": str(folder), "file_name": "kept-1.tar.gz"}
    async with web.open_stream(site.name, "backup.file", where) as stream:
        assert b"".join([chunk.data async for chunk in stream]) == content
    for _ in range(2):  # again: it is gone, which is what was asked for
        site.do(BackupRemove("kept", str(folder), "kept-1.tar.gz"))
        assert list(folder.iterdir()) == []
    with pytest.raises(NodeError) as refused:
        async with web.open_stream(site.name, "backup.file", where) as stream:
            await rest(stream)
    assert refused.value.problem.code == "not_found"


@pytest.fixture
def small_disk(site: RealNode) -> Iterator[Path]:
    """The node's folder for backups on a disk of 1 MB."""
    folder = site.node.home / "backups"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "wharfinger-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_during_a_backup_keeps_nothing_of_it(site: RealNode, small_disk: Path) -> None:
    site.do(VolumeCreate(name="large"))
    data = Path(site.engine.volume_get(name="large").path)
    (data / "noise").write_bytes(os.urandom(3_000_000))
    folder = small_disk / "large/kept"
    outcome = site.outcome(
        site.send(VolumeBackup("large", directory=str(folder), file_name="large-1.tar.gz"))
    )
    assert (outcome["status"], outcome["error"]["code"]) == ("failed", "no_space")
    assert "no space" in outcome["error"]["detail"]
    assert "large" in outcome["error"]["detail"]
    assert list(folder.iterdir()) == []
    site.do(VolumeCreate(name="small"))
    site.do(
        VolumeBackup("small", directory=str(folder), file_name="small-1.tar.gz")
    )  # the disk is as free as before


def test_a_node_lets_go_what_a_schedule_does_not_keep(site: RealNode) -> None:
    site.do(VolumeCreate(name="often"))
    folder = site.node.home / "backups/often/schedule-1"
    wanted: dict[str, Any] = {"directory": str(folder), "keep": 1, "keep_daily": 2}
    day = 24 * 3600
    today = time.time() // day * day  # UTC, as retention counts
    for number, when in enumerate((today - 3 * day, today - 2 * day + 60, today - 2 * day, today)):
        site.do(VolumeBackup("often", directory=str(folder), file_name=f"often-{number}.tar.gz"))
        os.utime(folder / f"often-{number}.tar.gz", (when, when))
    (folder / "notes").write_text("somebody's own")
    done = site.do(VolumeBackup("often", file_name="often-4.tar.gz", **wanted))
    assert sorted(done["removed"]) == ["often-0.tar.gz", "often-2.tar.gz", "often-3.tar.gz"]
    assert sorted(path.name for path in folder.iterdir()) == ["notes", "often-1.tar.gz", "often-4.tar.gz"]


@pytest.mark.parametrize(
    ("directory", "file_name"),
    [("/etc", "passwd"), ("{home}/backups/..", "node.key"), ("{home}/backups", "../x")],
)
async def test_only_backups_are_fetched_and_removed(site: RealNode, directory: str, file_name: str) -> None:
    """AP-16."""
    directory = directory.format(home=site.node.home)
    with pytest.raises(NodeError) as refused:
        async with web.open_stream(
            site.name, "backup.file", {"directory": directory, "file_name": file_name}
        ) as stream:
            await rest(stream)
    assert refused.value.problem.code in ("denied", "invalid_input")
    outcome = site.outcome(site.send(BackupRemove("kept", directory, file_name)))
    assert outcome["error"]["code"] in ("denied", "invalid_input")
    assert Path("/etc/passwd").exists()


async def test_a_file_travels_to_the_node_and_back(site: RealNode) -> None:
    """For web sites on another machine: what is uploaded is whole or not there."""
    name, content = names.new_id(), b"z" * 3_000_000
    async with web.open_stream(site.name, "spool.write", {"source": name}) as stream:
        await stream.send(content)
        await stream.send_eof()
        await rest(stream)
    assert stream.end is not None
    assert stream.end["size_bytes"] == len(content)
    path = site.node.home / "spool/in" / name
    assert path.read_bytes() == content
    path.unlink()
    cut = names.new_id()
    async with web.open_stream(site.name, "spool.write", {"source": cut}) as stream:
        await stream.send(b"half")
    await asyncio.sleep(0.3)
    assert not list((site.node.home / "spool/in").glob(f"*{cut}*"))


async def test_a_log_that_was_kept_is_read_after_its_container(site: RealNode) -> None:
    container = await run(site, "echo", "worth keeping")
    await asyncio.to_thread(wait_for, lambda: status_of(site, container) == "exited")
    await asyncio.to_thread(site.do, ContainerRemove(container, keep_log=True))
    [kept] = (await web.query(site.name, "kept_log.list"))["logs"]
    assert (kept["id"], kept["image"]) == (container, "busybox")
    async with web.open_stream(site.name, "logs", {"kept": container, "follow": True}) as stream:
        assert await rest(stream) == b"worth keeping\n"
    await asyncio.to_thread(site.do, KeptLogRemove(container))
    with pytest.raises(NodeError, match="no log"):
        async with web.open_stream(site.name, "logs", {"kept": container}):
            pass


def status_of(site: RealNode, container: str) -> str:
    return str(client.query(site.name, "container.inspect", {"ref": container})["status"])

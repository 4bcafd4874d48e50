"""Files in and out of containers: Docker's path rules, changes, export, commit; and that no path leads out."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.containers.exec import ExecSpec
from engine.containers.model import Container, ContainerSpec, MountSpec, Status
from engine.errors import BadArchive, BadSpec, CommandFailed, Denied, InvalidInput, NotFound
from engine.linux.mount import LinuxMounts
from tests.support import tarballs
from tests.support.containers import Node, container_node

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


@pytest.fixture(scope="module")
def running(node: Node) -> Container:
    return node.run(
        "sleep", "600", mounts=[MountSpec("volume", "/data", source="data"), MountSpec("tmpfs", "/scratch")]
    )


@pytest.fixture(params=["running", "stopped"])
def container(request: pytest.FixtureRequest, node: Node) -> Iterator[Container]:
    mounts = [MountSpec("volume", "/data")]
    if request.param == "running":
        made = node.run("sleep", "600", mounts=mounts)
    else:
        made = node.containers.create(ContainerSpec("busybox", command=["true"], mounts=mounts))
    yield made
    node.containers.remove(made.id, force=True, volumes=True)


def get(node: Node, container: Container, path: str) -> bytes:
    out = io.BytesIO()
    node.containers.archive.get(container.id, path, out)
    return out.getvalue()


def put(node: Node, container: Container, path: str, data: bytes, **options: bool) -> None:
    node.containers.archive.put(container.id, path, io.BytesIO(data), **options)


def own_mounts(node: Node) -> set[str]:
    """Return what this engine has mounted."""
    return {entry.target for entry in LinuxMounts().entries() if node.config.instance in entry.target}


def test_what_is_put_in_comes_out(node: Node, container: Container) -> None:
    put(node, container, "/tmp", tarballs.make({"dir": None, "dir/file": b"hello", "top": b"x"}, owner=1000))
    assert tarballs.contents(get(node, container, "/tmp/dir")) == {"dir": None, "dir/file": b"hello"}
    assert tarballs.contents(get(node, container, "/tmp/top")) == {"top": b"x"}
    assert tarballs.owners(get(node, container, "/tmp/top")) == {"top": (1000, 1000)}
    assert sorted(tarballs.contents(get(node, container, "/tmp/dir/."))) == [".", "file"]


def test_volumes_are_part_of_the_view(node: Node, container: Container) -> None:
    put(node, container, "/data", tarballs.make({"kept": b"in the volume"}))
    stored = Path(node.volumes.get(container.mounts[0].name).path) / "kept"
    assert stored.read_bytes() == b"in the volume"
    assert stored.stat().st_uid == 0
    assert tarballs.contents(get(node, container, "/data/kept")) == {"kept": b"in the volume"}
    assert not [entry.target for entry in LinuxMounts().entries() if "/rootfs/data" in entry.target]


def test_owner_of_the_containers_user(node: Node) -> None:
    container = node.containers.create(ContainerSpec("busybox", command=["true"], user="alice"))
    put(node, container, "/tmp", tarballs.make({"mine": b"x"}, owner=0), copy_uid_gid=True)
    assert tarballs.owners(get(node, container, "/tmp/mine")) == {"mine": (1000, 1000)}
    node.containers.remove(container.id)


def test_packed_archives_are_unpacked(node: Node, running: Container) -> None:
    plain = tarballs.make({"packed": b"data"})
    for packed in (gzip.compress(plain), lzma.compress(plain)):
        put(node, running, "/scratch", packed)
        assert tarballs.contents(get(node, running, "/scratch/packed")) == {"packed": b"data"}


def test_stat_follows_dockers_rules(node: Node, running: Container) -> None:
    put(
        node,
        running,
        "/tmp",
        tarballs.make({"f": b"12345"}, links={"l": "../tmp/f", "abs": "/tmp/f", "dead": "nowhere"}),
    )
    archive = node.containers.archive
    found = archive.stat(running.id, "/tmp/f")
    assert (found.name, found.size, stat.S_ISREG(found.mode), found.link_target) == ("f", 5, True, "")
    assert archive.stat(running.id, "/tmp/l").link_target == "/tmp/f"
    assert archive.stat(running.id, "/tmp/abs").link_target == "/tmp/f"
    assert archive.stat(running.id, "/tmp/dead").link_target == "/tmp/nowhere"
    assert stat.S_ISDIR(archive.stat(running.id, "/tmp/").mode)
    assert archive.stat(running.id, "tmp/../tmp/f").size == 5
    assert {item.name for item in archive.list_files(running.id, "/tmp")} >= {"f", "l", "abs", "dead"}
    for path in ("/tmp/none", "/tmp/none/"):
        with pytest.raises(NotFound):
            archive.stat(running.id, path)
    with pytest.raises(BadSpec):
        archive.list_files(running.id, "/tmp/f")


def test_links_are_copied_as_links_and_folders_through_them(node: Node, running: Container) -> None:
    put(node, running, "/tmp", tarballs.make({"real": None, "real/x": b"1"}, links={"toreal": "real"}))
    assert tarballs.contents(get(node, running, "/tmp/toreal")) == {"toreal": b"real"}
    assert tarballs.contents(get(node, running, "/tmp/toreal/"))["toreal/x"] == b"1"
    put(node, running, "/tmp/toreal", tarballs.make({"y": b"2"}))
    assert tarballs.contents(get(node, running, "/tmp/real/y")) == {"y": b"2"}


def test_a_folder_does_not_replace_a_file_when_asked(node: Node, running: Container) -> None:
    put(node, running, "/tmp", tarballs.make({"thing": b"file"}))
    with pytest.raises(InvalidInput):
        put(node, running, "/tmp", tarballs.make({"thing": None}), no_overwrite_dir_non_dir=True)
    with pytest.raises(BadSpec):
        put(node, running, "/tmp/thing", tarballs.make({"x": b""}))
    with pytest.raises(NotFound):
        put(node, running, "/tmp/not/there", tarballs.make({"x": b""}))


def test_read_only_places_are_refused(node: Node) -> None:
    container = node.run("sleep", "60", read_only=True, mounts=[MountSpec("volume", "/w")])
    with pytest.raises(Denied, match="read-only"):
        put(node, container, "/tmp", tarballs.make({"x": b""}))
    put(node, container, "/w", tarballs.make({"x": b""}))
    node.containers.stop(container.id, 0)
    with pytest.raises(Denied, match="read-only"):
        put(node, container, "/tmp", tarballs.make({"x": b""}))
    put(node, container, "/w", tarballs.make({"y": b""}))
    node.containers.remove(container.id, volumes=True)


@pytest.mark.parametrize(
    "path", ["/proc/1/environ", "/sys/kernel", "/dev/null", "/proc/self/root/etc/shadow"]
)
def test_the_kernels_file_systems_are_not_copied(node: Node, running: Container, path: str) -> None:
    with pytest.raises((Denied, NotFound, BadSpec)):
        get(node, running, path)


@pytest.mark.parametrize(
    "link", ["/", "/etc", "../../../../etc", "/proc/1/root", "/proc/self/root", "/proc/self/cwd", "/sentinel"]
)
def test_links_do_not_lead_out(node: Node, container: Container, tmp_path: Path, link: str) -> None:
    """AR-02: what a link inside means is decided inside."""
    sentinel = tmp_path / "sentinel"
    sentinel.write_text("outside")
    target = str(tmp_path) if link == "/sentinel" else link
    put(node, container, "/tmp", tarballs.make({}, links={"out": target}))
    for _ in range(2):
        try:
            put(
                node,
                container,
                "/tmp/out",
                tarballs.make({"sentinel": b"overwritten", "wharfinger-marker": b"x"}),
            )
        except (NotFound, BadSpec, Denied, BadArchive):
            break
    assert sentinel.read_text() == "outside"
    assert not (tmp_path / "wharfinger-marker").exists()
    for folder in ("/", "/etc", "/root"):
        assert not Path(folder, "wharfinger-marker").exists()


@pytest.mark.parametrize("name", ["/abs/x", "../up", "a/../../up", "ok/../../../etc/x"])
def test_names_in_an_archive_do_not_lead_out(
    node: Node, running: Container, tmp_path: Path, name: str
) -> None:
    """AR-01 through the door of copying in."""
    before = sorted(os.listdir("/"))
    with suppress(BadArchive):
        put(node, running, "/scratch", tarballs.make({name: b"x"}))
    assert sorted(os.listdir("/")) == before


def test_devices_and_fifos_are_refused(node: Node, running: Container) -> None:
    """AR-06 through the door of copying in."""
    import tarfile

    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo("node")
            entry.type, entry.devmajor, entry.devminor = kind, 8, 0
            archive.addfile(entry)
        with pytest.raises(BadArchive):
            put(node, running, "/scratch", buffer.getvalue())


def test_a_container_that_swaps_folder_and_link_gains_nothing(node: Node, tmp_path: Path) -> None:
    """AR-13: copies in and out while the container swaps the path for a link to the host's files."""
    (tmp_path / "sub").mkdir()
    sentinel = tmp_path / "sub" / "sentinel"
    sentinel.write_text("outside")
    digest = hashlib.sha256(sentinel.read_bytes()).hexdigest()
    mounts_before = own_mounts(node)
    swap = f"""mkdir -p /w/real/sub; ln -s {tmp_path} /w/link; cd /w
        while :; do mv -T real x 2>/dev/null; mv -T link real; mv -T real link; mv -T x real; done"""
    container = node.run("sh", "-c", swap)
    payload = tarballs.make({"sub/sentinel": b"overwritten"})
    stop = threading.Event()
    rounds = 0
    leaked = b""
    try:
        threading.Timer(8.0, stop.set).start()
        while rounds < 2500 and not stop.is_set():
            rounds += 1
            try:
                put(node, container, "/w/real", payload)
                leaked += get(node, container, "/w/real/sub")
            except (NotFound, BadSpec, BadArchive, Denied):
                continue
            assert b"outside" not in leaked
            leaked = b""
    finally:
        stop.set()
    assert rounds > 100
    assert hashlib.sha256(sentinel.read_bytes()).hexdigest() == digest
    assert len(own_mounts(node) - mounts_before) == 3  # root and namespaces of the container itself
    node.containers.remove(container.id, force=True)


def test_nothing_of_the_container_is_executed(node: Node) -> None:
    """AR-14: a container's own xz, gzip or libraries are never run or loaded by us."""
    fakes = {
        f"bin/{name}": b"#!/bin/sh\ntouch /marker\n"
        for name in ("xz", "unxz", "unpigz", "pigz", "zstd", "gzip", "tar", "python3")
    }
    fakes |= {"lib/x86_64-linux-gnu/libnss_files.so.2": b"\x7fELF broken"}
    container = node.run("sleep", "60")
    put(node, container, "/", tarballs.make(fakes, mode=0o755))
    put(node, container, "/tmp", lzma.compress(tarballs.make({"x": b"1"})))
    get(node, container, "/tmp")
    node.containers.execs.run(container.id, ExecSpec(["id"], user="alice"))
    with pytest.raises(NotFound):
        node.containers.archive.stat(container.id, "/marker")
    node.containers.remove(container.id, force=True)


def test_changes_are_those_of_the_container_alone(node: Node) -> None:
    container = node.run(
        "sh", "-c", "echo x > /new; rm /etc/group; chmod 700 /home; mkdir -p /deep/er; sleep 60"
    )
    time.sleep(0.3)
    found = {(change.kind, change.path) for change in node.containers.archive.changes(container.id)}
    assert found == {
        ("A", "/new"),
        ("D", "/etc/group"),
        ("C", "/etc"),
        ("C", "/home"),
        ("A", "/deep"),
        ("A", "/deep/er"),
    }
    node.containers.remove(container.id, force=True)


def test_a_fresh_container_has_no_changes(node: Node) -> None:
    container = node.run("sleep", "60")
    assert node.containers.archive.changes(container.id) == []
    node.containers.stop(container.id, 0)
    assert node.containers.archive.changes(container.id) == []
    node.containers.remove(container.id)


def test_export_is_the_whole_root_with_its_own_owners(node: Node, container: Container) -> None:
    put(node, container, "/tmp", tarballs.make({"mine": b"1"}, owner=1000))
    out = io.BytesIO()
    node.containers.archive.export(container.id, out)
    names = tarballs.contents(out.getvalue())
    assert names["etc/passwd"]
    assert names["tmp/mine"] == b"1"
    found = tarballs.owners(out.getvalue())
    assert (found["tmp/mine"], found["etc/passwd"]) == ((1000, 1000), (0, 0))


def test_commit_makes_an_image_of_the_changes(node: Node) -> None:
    container = node.run("sh", "-c", "echo edited > /page; chown 1000 /page; rm /etc/group; sleep 60")
    time.sleep(0.3)
    image = node.containers.committer.commit(
        container.id,
        "edited:1",
        message="edited",
        author="alice",
        changes=['CMD ["cat", "/page"]', "ENV A=b"],
    )
    assert node.containers.get(container.id).status is Status.RUNNING
    assert image.config.history[-1].comment == "edited"
    made = node.containers.create(ContainerSpec("edited:1"))
    node.containers.start(made.id)
    assert node.containers.wait(made.id, timeout_s=5).exit_code == 0
    assert node.log(made.id) == "edited\n"
    layer = set(tarballs.contents(node.content.read(image.layers[-1].descriptor.digest, limit=10 << 20)))
    assert layer == {"page", "etc", "etc/.wh.group"}
    for one in (made, container):
        node.containers.remove(one.id, force=True)


def test_commit_lets_the_container_go_on_when_it_fails(node: Node) -> None:
    """F-03: whatever happens, the source container is not left frozen."""
    container = node.run("sleep", "60")
    with pytest.raises(InvalidInput):
        node.containers.committer.commit(container.id, changes=["RUN nothing"])
    group = node.containers.parts.group_of(container.id)
    assert not node.containers.parts.cgroups.is_frozen(group)
    node.containers.parts.cgroups.freeze(group, True)  # as a commit that was killed leaves it
    assert any("frozen" in line for line in node.containers.reconcile())
    assert not node.containers.parts.cgroups.is_frozen(group)
    node.containers.remove(container.id, force=True)


BUSYBOX = {"bin": None, "bin/busybox": Path("/bin/busybox").read_bytes(), "tmp": None, "var": None}
ROOTS = {
    "dev is a link": tarballs.make(BUSYBOX, links={"dev": "/tmp"}, mode=0o755),
    "proc is a link": tarballs.make(BUSYBOX, links={"proc": "/"}, mode=0o755),
    "sys is a file": tarballs.make({**BUSYBOX, "sys": b"x"}, mode=0o755),
    "etc is a link": tarballs.make(BUSYBOX, links={"etc": "/var"}, mode=0o755),
}


@pytest.mark.parametrize("shape", ROOTS)
def test_strange_roots_are_refused(node: Node, shape: str) -> None:
    """AR-17: a root whose kernel folders are something else is not started, and nothing outside is filled."""
    node.add_image("strange", ROOTS[shape])
    container = node.containers.create(ContainerSpec("strange", command=["/bin/busybox", "true"]))
    with pytest.raises(BadSpec):
        node.containers.start(container.id)
    node.containers.remove(container.id)
    for folder in ("/tmp", "/var", "/"):
        assert not {"null", "pts", "shm", "hosts", "resolv.conf", "hostname", "self"} & set(
            os.listdir(folder)
        )


def test_the_engines_own_files_are_written_inside_only(node: Node, tmp_path: Path) -> None:
    """AR-15: `/etc/hosts` and others as links to a file of the host, and a working directory that is one."""
    sentinel = tmp_path / "sentinel"
    sentinel.write_text("outside")
    base = {
        "bin": None,
        "etc": None,
        "proc": None,
        "sys": None,
        "dev": None,
        "bin/busybox": Path("/bin/busybox").read_bytes(),
    }
    links = {
        "etc/hosts": str(sentinel),
        "etc/resolv.conf": "../../../.." + str(sentinel),
        "etc/hostname": str(sentinel),
        "srv": str(tmp_path),
    }
    node.add_image("leading", tarballs.make(base, links=links, mode=0o755))
    container = node.containers.create(
        ContainerSpec("leading", command=["/bin/busybox", "cat", "/etc/hosts"], workdir="/")
    )
    with suppress(CommandFailed, BadSpec):  # a clean refusal is as good
        node.containers.start(container.id)
        node.containers.wait(container.id, timeout_s=5)
    node.containers.remove(container.id, force=True)
    other = node.containers.create(
        ContainerSpec("leading", command=["/bin/busybox", "true"], workdir="/srv/made")
    )
    with pytest.raises(BadSpec):
        node.containers.start(other.id)
    node.containers.remove(other.id)
    assert sentinel.read_text() == "outside"
    assert sorted(os.listdir(tmp_path)) == ["sentinel"]


@pytest.mark.parametrize("what", ["link", "fifo", "zero", "huge", "folder"])
def test_foreign_passwd_files_do_no_harm(node: Node, tmp_path: Path, what: str) -> None:
    """AR-16: `/etc/passwd` as a link to a file of the host, a FIFO, a device, a gigabyte: refused or ignored, and quickly."""
    host = tmp_path / "passwd"
    host.write_text("wharfinger-user:x:5:5::/:/\n")
    container = node.containers.create(ContainerSpec("busybox", command=["true"], user="wharfinger-user"))
    upper = node.containers.parts.snapshots.snapshot(container.id).upper
    (upper / "etc").mkdir()
    os.chown(upper / "etc", container.subuid, container.subuid)
    passwd = upper / "etc/passwd"
    if what == "link":
        passwd.symlink_to(host)
    elif what == "fifo":
        os.mkfifo(passwd)
    elif what == "zero":
        os.mknod(passwd, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    elif what == "huge":
        with open(passwd, "wb") as file:
            file.write(host.read_bytes())
            file.truncate(1 << 30)
    else:
        passwd.mkdir()
    began = time.monotonic()
    with pytest.raises((BadSpec, Denied)):
        node.containers.start(container.id)
    assert time.monotonic() - began < 2
    node.containers.remove(container.id)


def test_the_store_is_closed_to_everybody_else(node: Node) -> None:
    """RT-19, AR-08: another account of the host reads nothing of the data root nor of the run root."""
    container = node.run("sleep", "60")
    places = [
        node.config.data_root, node.config.run_root, node.containers.parts.roots.folder(container.id),
        node.containers.parts.roots.rootfs(container.id) / "bin/busybox", node.containers.parts.bundle(container.id).config,
        node.containers.parts.data_folder(container.id), node.config.database,
    ]  # fmt: skip
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        readable = 0
        for place in places:
            try:
                os.listdir(place) if os.path.isdir(place) else open(place, "rb").close()
                readable += 1
            except OSError:
                continue
        os._exit(readable)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    node.containers.remove(container.id, force=True)


def test_a_container_of_nothing_but_one_program(node: Node) -> None:
    node.add_image("scratch", tarballs.make({"busybox": Path("/bin/busybox").read_bytes()}, mode=0o755))
    container = node.containers.create(ContainerSpec("scratch", command=["/busybox", "echo", "alone"]))
    node.containers.start(container.id)
    node.containers.wait(container.id, timeout_s=5)
    assert node.log(container.id) == "alone\n"
    assert node.containers.archive.changes(container.id) == []
    node.containers.remove(container.id)

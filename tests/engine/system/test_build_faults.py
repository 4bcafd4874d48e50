"""Builds that are stopped, killed, run out of something, or meet hostile steps: what is promised afterwards."""

from __future__ import annotations

import hashlib
import http.server
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from engine.build.ops import mounts
from engine.build.request import BuildLimits
from engine.build.workspace import sweep_dead_builds
from engine.containers.model import Resources
from engine.errors import Cancelled, CommandFailed, Denied, EngineError, InvalidInput, NoSpace, Unavailable
from engine.progress import CancelToken
from tests.support.building import BuildNode, build_node
from tests.support.loops import ext4, fill

pytestmark = pytest.mark.root
BASE = "FROM busybox:test\n"


@pytest.fixture(scope="module")
def node() -> Iterator[BuildNode]:
    with build_node(reachable=["127.0.0.2/32"]) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(node: BuildNode) -> Iterator[None]:
    yield
    assert node.leftovers() == []


# stopping ------------------------------------------------------------------------------------------------------


def test_independent_stages_run_at_once(node: BuildNode) -> None:
    stages = "".join(
        f"FROM busybox:test AS s{number}\nRUN sleep 2; touch /f{number}\n" for number in range(3)
    )
    copies = "".join(f"COPY --from=s{number} /f{number} /\n" for number in range(3))
    began = time.monotonic()
    node.build(stages + "FROM scratch\n" + copies, no_cache=True)
    assert time.monotonic() - began < 4  # one after the other takes six


def test_a_build_is_cancelled_within_two_seconds(node: BuildNode) -> None:
    cancel = CancelToken()
    threading.Timer(0.5, cancel.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        node.build(
            "FROM busybox:test AS one\nRUN sleep 60\nFROM busybox:test AS two\nRUN sleep 61\nFROM scratch\n"
            "COPY --from=one / /\nCOPY --from=two / /\n",
            cancel=cancel,
        )
    assert time.monotonic() - began < 2.5
    assert set(node.told.statuses().values()) >= {"cancelled"}


def test_a_failing_stage_stops_the_others(node: BuildNode) -> None:
    began = time.monotonic()
    with pytest.raises(CommandFailed, match="non-zero code: 3"):
        node.build(
            "FROM busybox:test AS one\nRUN sleep 60\nFROM busybox:test AS two\nRUN sleep 0.2; exit 3\nFROM scratch\n"
            "COPY --from=one / /\nCOPY --from=two / /\n"
        )
    assert time.monotonic() - began < 3


def test_a_build_that_takes_too_long_is_ended(node: BuildNode) -> None:
    with pytest.raises(Unavailable, match="took longer than 1 s"):
        node.build(BASE + "RUN sleep 30\n", limits=BuildLimits(time_s=1))


# hostile steps -------------------------------------------------------------------------------------------------


def test_a_step_leaves_no_process(node: BuildNode) -> None:
    """BU-09: what was put into the background ends with the step."""
    node.build(BASE + "RUN (setsid sleep 4711 &) ; (sleep 4712 &)\n")
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"471" in command and command.startswith(b"sleep") for command in commands)


def test_a_fork_bomb_meets_its_limit(node: BuildNode) -> None:
    """BU-09: the bound on processes holds, the build goes on or fails by itself."""
    limits = BuildLimits(step=Resources(pids_limit=50), time_s=60)
    with pytest.raises(CommandFailed):
        node.build(BASE + "RUN i=0; while [ $i -lt 200 ]; do sleep 5 & i=$((i+1)); done\n", limits=limits)


def test_a_flood_of_output_is_cut(node: BuildNode) -> None:
    """BU-09: the log keeps its bound and the step still ends by itself."""
    node.build(BASE + "RUN yes | head -c 50000000\n", limits=BuildLimits(log_bytes=10_000))
    kept = node.told.lines("stdout")
    assert sum(len(line) + 1 for line in kept) <= 10_000
    assert any("log of this build is full" in line for line in node.told.lines())


def test_memory_of_a_step_is_bounded(node: BuildNode) -> None:
    limits = BuildLimits(step=Resources(memory_bytes=32 << 20, memory_swap_bytes=32 << 20))
    with pytest.raises(CommandFailed) as caught:
        node.build(
            BASE + "RUN sh -c 'head -c 200000000 /dev/zero | tail -c 100000000 > /dev/null'\n", limits=limits
        )
    assert caught.value.status != 0


def test_disk_of_a_build_is_bounded(node: BuildNode) -> None:
    with pytest.raises(NoSpace):
        node.build(
            BASE + "RUN head -c 3000000 /dev/zero > /big\nRUN true\n",
            limits=BuildLimits(disk_bytes=1_000_000),
        )


@contextmanager
def _sentinel(tmp_path: Path) -> Iterator[Path]:
    """Give a folder whose content, owners, modes and times must be the same afterwards."""
    folder = tmp_path / "sentinel"
    (folder / "inner").mkdir(parents=True)
    (folder / "secret").write_text("sentinel-secret-bytes")

    def state() -> list[tuple[str, int, int, int, int]]:
        found = []
        for path in [folder, *sorted(folder.rglob("*"))]:
            info = path.lstat()
            found.append((str(path), info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns))
        return found

    before = state()
    yield folder
    assert state() == before
    assert (folder / "secret").read_text() == "sentinel-secret-bytes"


def test_a_link_of_the_context_never_brings_a_file_of_the_host(node: BuildNode, tmp_path: Path) -> None:
    """BU-02: as an upload and as a folder, the link stays a link or is not there; the host's bytes are nowhere."""
    with _sentinel(tmp_path) as folder:
        local = tmp_path / "local"
        local.mkdir()
        (local / "leak").symlink_to(folder / "secret")
        (local / "dir").symlink_to(folder)
        upload: dict[str, bytes | str] = {"leak": f"->{folder}/secret", "dir": f"->{folder}"}
        for given in ({"files": upload}, {"context": local}):
            result = node.build("FROM scratch\nCOPY . /\n", **given)
            assert node.tree(result) == {"dir": f"link {folder}", "leak": f"link {folder}/secret"}
            for source in ("leak", "dir/secret", "dir/", "./leak"):
                with pytest.raises(InvalidInput, match="not found"):
                    node.build(f"FROM scratch\nCOPY {source} /x/\n", **given)
            assert "sentinel-secret" not in "\n".join(node.told.lines())
        for blob in node.content.walk():
            assert b"sentinel-secret-bytes" not in node.content.read(blob.digest, limit=64 << 20)


@pytest.mark.parametrize("kind", ["absolute", "relative", "folder"])
def test_copy_never_writes_through_links_to_the_host(node: BuildNode, tmp_path: Path, kind: str) -> None:
    """BU-03, AR-15: links of the image are those of the image, whatever path they name."""
    with _sentinel(tmp_path) as folder:
        target = {
            "absolute": str(folder),
            "relative": "../../../../.." + str(folder),
            "folder": str(folder / "inner"),
        }[kind]
        result = node.build(
            BASE
            + f"RUN ln -s {target} /out\nCOPY secret /out/secret\nCOPY d /out/\nWORKDIR /out/work\nRUN touch x\n",
            files={"secret": "new", "d/inner/x": "1"},
        )
        tree = node.tree(result)
        assert tree["out"] == f"link {target}"
        assert f"{target.strip('./')}/secret" in {name.strip("./") for name in tree}


def test_copy_from_a_stage_with_links_stays_in_the_stage(node: BuildNode, tmp_path: Path) -> None:
    """BU-03: what a stage's link names is looked up in the stage."""
    with _sentinel(tmp_path) as folder:
        text = (
            f"FROM busybox:test AS one\nRUN ln -s {folder}/secret /leak; ln -s {folder} /dir\nFROM scratch\n"
        )
        for line in (
            "COPY --from=one /leak /x",
            "COPY --from=one /dir/secret /x",
            "COPY --from=one /dir/ /x/",
        ):
            with pytest.raises(InvalidInput, match="not found"):
                node.build(text + line + "\n")
        result = node.build(text + "COPY --from=one / /all/\n")
        assert node.tree(result)["all/leak"] == f"link {folder}/secret"


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("type=bind,source=../../..,target=/m", ""),
        ("type=bind,source=leak,target=/m", "not found"),
        ("type=bind,from=evil,source=/dir,target=/m", "not found"),
        ("type=cache,id=../../../etc,target=/m", ""),
        ("type=cache,id=trap,source=out,target=/m", "not a folder"),
        ("type=cache,id=trap,source=../x,target=/m", "leads out"),
        ("type=bind,target=/proc", "must not lie in /proc"),
        ("type=bind,target=/sys/fs", "must not lie in /sys"),
        ("type=tmpfs,target=/dev", "must not lie in /dev"),
        ("type=bind,target=/", "root of a container"),
    ],
)
def test_hostile_mounts_reach_nothing_of_the_host(
    node: BuildNode, tmp_path: Path, mount: str, message: str
) -> None:
    """BU-04: source escapes, cache ids and targets; the host's files are neither seen nor changed."""
    with _sentinel(tmp_path) as folder:
        node.build(
            BASE + f"RUN --mount=type=cache,id=trap,target=/c rm -rf /c/out; ln -s {folder} /c/out\n",
            no_cache=True,
        )
        text = f"FROM busybox:test AS evil\nRUN ln -s {folder} /dir\n{BASE}RUN --mount={mount} cat /m/secret; ls /m; touch /m/new; true\n"
        files = {"leak": f"->{folder}", "f": "1"}
        if message:
            with pytest.raises(EngineError, match=message):
                node.build(text, files=files)
        else:
            node.build(text, files=files)
        assert "sentinel-secret" not in node.told.output()


def test_a_cache_folder_that_becomes_a_link_at_the_last_moment_is_not_followed(
    node: BuildNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BU-04, CVE-2024-23651: a build that shares the cache puts a link where the checked folder was."""
    check = mounts.inner_folder

    def checked_then_swapped(folder: Path, path: str) -> str:
        inner = check(folder, path)
        (folder / inner).rmdir()
        (folder / inner).symlink_to(tmp_path / "sentinel")
        return inner

    monkeypatch.setattr(mounts, "inner_folder", checked_then_swapped)
    with _sentinel(tmp_path):
        tmp_path.chmod(0o755)
        with pytest.raises(InvalidInput, match="changed"):
            node.build(
                BASE
                + "RUN --mount=type=cache,id=raced,source=out,target=/m cat /m/secret; touch /m/new; true\n"
            )
        assert "sentinel-secret" not in node.told.output()


def test_stubs_of_mounts_never_remove_what_a_step_made(node: BuildNode, tmp_path: Path) -> None:
    """BU-04, CVE-2024-23652: a mount point replaced by a link is not followed when it is cleaned up."""
    with _sentinel(tmp_path) as folder:
        result = node.build(
            BASE
            + f"RUN --mount=type=tmpfs,target=/deep/mount mkdir -p /other && ln -s {folder} /other/link && ls /deep\n"
        )
        tree = node.tree(result)
        assert "deep" not in tree
        assert tree["other/link"] == f"link {folder}"


def test_wrong_roots_are_refused(node: BuildNode) -> None:
    """AR-17: an image whose /proc is a link does not run."""
    for name in ("proc", "dev", "sys", "etc"):
        with pytest.raises(EngineError, match="not a folder"):
            node.build(
                "FROM scratch\nCOPY --from=busybox:test /bin /bin\nCOPY d /\nRUN true\n",
                files={f"d/{name}": "->/tmp"},
            )


# addresses -----------------------------------------------------------------------------------------------------


class _Site(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("=")[2])
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        body = b"page of the site"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (10 if self.path == "/cut" else 0)))
        self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:01:40 GMT")
        self.send_header("Content-Disposition", 'attachment; filename="../../../etc/evil"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[int]:
    """A server on all loopback addresses; only 127.0.0.2 counts as public for the node."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), _Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_add_fetches_an_address(node: BuildNode, site: int) -> None:
    digest = "sha256:" + "0" * 64
    result = node.build(
        f"FROM scratch\nADD http://127.0.0.2:{site}/a/page.html?x=1 /d/\nADD http://127.0.0.2:{site}/x /named\n"
    )
    assert node.tree(result)["d/page.html"] == "file 600 0:0 page of the site"
    with node.root(result) as root:
        assert os.stat(root / "named").st_mtime == 100
    with pytest.raises(InvalidInput, match="digest mismatch"):
        node.build(f"FROM scratch\nADD --checksum={digest} http://127.0.0.2:{site}/x /x\n")
    with pytest.raises(EngineError, match="is not there"):
        node.build(f"FROM scratch\nADD http://127.0.0.2:{site}/missing /x\n")
    with pytest.raises(EngineError, match=r"cut off|broke off"):
        node.build(f"FROM scratch\nADD http://127.0.0.2:{site}/cut /x\n")
    with pytest.raises(InvalidInput, match="file name"):
        node.build(f"FROM scratch\nADD http://127.0.0.2:{site}/ /x/\n")


def test_a_download_with_a_checksum_is_not_fetched_again(node: BuildNode, site: int) -> None:
    digest = "sha256:" + hashlib.sha256(b"page of the site").hexdigest()
    text = f"FROM scratch\nADD --checksum={digest} http://127.0.0.2:{site}/once /x\n"
    first = node.build(text)
    assert node.build(text).image_id == first.image_id
    assert _Site.asked.count("/once") == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://0:{port}/",
        "http://0.0.0.0:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[64:ff9b::7f00:1]:{port}/",
        "http://169.254.169.254/latest/",
        "http://10.0.0.1/",
        "http://127.0.0.2:{port}/redirect=http://127.0.0.1:{port}/",
        "http://127.0.0.2:{port}/redirect=//localhost:{port}/",
    ],
)
def test_add_reaches_only_the_public_internet(node: BuildNode, site: int, address: str) -> None:
    """BU-06: however the address is written, also behind a redirect."""
    with pytest.raises((Denied, Unavailable)) as caught:
        node.build(f"FROM scratch\nADD {address.format(port=site)} /x\n")
    assert isinstance(caught.value, Denied) or "resolve" in caught.value.message


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.2/x", "gopher://127.0.0.2/"])
def test_add_follows_no_redirect_to_another_protocol(node: BuildNode, site: int, target: str) -> None:
    """BU-06: only http and https."""
    with pytest.raises(InvalidInput, match="only http and https"):
        node.build(f"FROM scratch\nADD http://127.0.0.2:{site}/redirect={target} /x\n")


def test_credentials_in_an_address_are_not_written_down(node: BuildNode, site: int) -> None:
    """BU-10: not in history, log or cache."""
    result = node.build(f"FROM scratch\nADD http://me:geheim@127.0.0.2:{site}/f /f\n")
    shown = str(node.image(result)) + str(node.told.reports) + str(node.builder.cache.records())
    assert "geheim" not in shown
    assert "***@127.0.0.2" in shown


# killed processes ----------------------------------------------------------------------------------------------

_CHILD = """
import importlib, os, signal, sys
from pathlib import Path
from engine.build.request import BuildRequest
from engine.config import EngineConfig
from tests.support.building import open_node
config = EngineConfig(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
node = open_node(config, reachable=["127.0.0.2/32"])
if len(sys.argv) > 6:
    module, _, path = sys.argv[6].partition(":")
    owner, name = getattr(importlib.import_module(module), path.split(".")[0]), path.split(".")[1]
    original = getattr(owner, name)
    def dying(*args, **kwargs):
        if sys.argv[7] == "after":
            original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, dying)
def report(said):
    print(type(said).__name__, getattr(said, "status", ""), getattr(said, "text", ""), flush=True)
node.builder.build(BuildRequest(context=Path(sys.argv[4]), dockerfile=sys.argv[5], build_id="doomed", tags=["doomed:1"]), report)
print("finished", flush=True)
"""


def _start(node: BuildNode, dockerfile: str, context: Path, *point: str) -> subprocess.Popen[str]:
    config = node.config
    arguments = [
        str(config.data_root),
        str(config.run_root),
        config.instance,
        str(context),
        dockerfile,
        *point,
    ]
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def _kill_at(child: subprocess.Popen[str], words: str) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if words in line:
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize("point", ["in a command", "in a copy", "between steps"])
def test_a_killed_build_leaves_nothing_and_can_be_done_again(
    node: BuildNode, tmp_path: Path, point: str
) -> None:
    """F-02: no process, mount, range, address or half layer stays; the cache is valid; the same request succeeds."""
    for number in range(2000):
        (tmp_path / f"f{number}").write_text(point * 500)
    marker = {
        "in a command": "sleeping",
        "in a copy": "StepProgress running",
        "between steps": "StepProgress done",
    }[point]
    command = "echo sleeping; sleep 300" if point == "in a command" else "echo through"
    text = f"FROM busybox:test\nCOPY . /x/\nRUN {command}\n"
    began = time.monotonic()
    _kill_at(_start(node, text, tmp_path), marker)
    swept = sweep_dead_builds(node.config, node.db, node.snapshots, node.steps, node.network)
    assert swept == ["doomed"]
    assert node.leftovers() == []
    assert not [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists() and path.read_bytes() == b"sleep\x00300\x00"
    ]
    assert time.monotonic() - began < 20
    again = node.build("FROM busybox:test\nCOPY . /x/\nRUN echo through\n", context=tmp_path)
    assert len([name for name in node.tree(again, "x") if name.startswith("x/f")]) == 2000
    assert sweep_dead_builds(node.config, node.db, node.snapshots, node.steps, node.network) == []


POINTS = (
    "engine.build.workspace:Workspace.__enter__",
    "engine.build.sandboxes:Sandboxes._make",
    "engine.snapshots.overlay:OverlaySnapshotter.prepare",
    "engine.snapshots.overlay:OverlaySnapshotter.mount",
    "engine.snapshots.overlay:OverlaySnapshotter.commit",
    "engine.snapshots.overlay:OverlaySnapshotter.sync",
    "engine.runtime.step:StepRunner._supervise",
    "engine.build.ops.place:Placement.write",
    "engine.content.store:BlobWriter.commit",
    "engine.content.store:ContentStore.sync",
    "engine.images.store:ImageStore.add",
    "engine.build.cache:BuildCache.add",
)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_build_killed_at_any_point_is_made_good(
    node: BuildNode, tmp_path: Path, point: str, when: str
) -> None:
    """F-02, H2: whatever the point, nothing is left, no image is half made, and the same build succeeds."""
    (tmp_path / "f").write_text(point + when)
    text = "FROM busybox:test\nCOPY f /f\nRUN cat /f > /g\nWORKDIR /w\n"
    child = _start(node, text, tmp_path, point, when)
    output = child.communicate()[0]
    assert child.returncode == -signal.SIGKILL, output
    sweep_dead_builds(node.config, node.db, node.snapshots, node.steps, node.network)
    assert node.leftovers() == []
    made = node.images.find("doomed:1")
    result = node.build(text, context=tmp_path, tags=["doomed:1"])
    assert node.text(result, "g") == point + when
    for layer in (*node.image(result).layers, *(made.layers if made else ())):
        assert node.content.verify(layer.descriptor.digest)
    node.images.remove("doomed:1", force=True)


def test_a_full_disk_fails_the_build_and_nothing_else(tmp_path: Path) -> None:
    """F-22: a clear error, nothing half made, and the same build again when there is space."""
    with ext4(tmp_path, 64) as disk, build_node(disk=disk) as full:
        text = "FROM busybox:test\nCOPY big /big\nRUN cat /big > /more\n"
        files: dict[str, bytes | str] = {"big": os.urandom(3_000_000)}
        filler = fill(disk)
        with pytest.raises((NoSpace, CommandFailed)):
            full.build(text, files=files)
        assert full.leftovers() == []
        assert [image.names for image in full.images.list()] == [full.images.resolve("busybox:test").names]
        filler.unlink()
        assert "more" in full.tree(full.build(text, files=files))


def test_random_cancels_leave_nothing(node: BuildNode) -> None:
    """F-36: stopped within two seconds at whatever moment, and nothing stays."""
    source = random.Random(4)
    text = "FROM busybox:test AS a\nCOPY . /x/\nRUN cat /x/* > /y; sleep 1\nFROM busybox:test AS b\nRUN sleep 1; touch /b\nFROM scratch\nCOPY --from=a /y /\nCOPY --from=b /b /\n"
    files: dict[str, bytes | str] = {f"f{number}": "x" * 1000 for number in range(300)}
    for _ in range(12):
        cancel = CancelToken()
        timer = threading.Timer(source.uniform(0.0, 0.6), cancel.cancel)
        began = time.monotonic()
        timer.start()
        with pytest.raises(Cancelled):
            node.build(text, files=files, cancel=cancel, no_cache=True)
        timer.join()
        assert time.monotonic() - began < 3
        assert node.leftovers() == []


def test_the_sweeper_spares_running_builds(node: BuildNode, tmp_path: Path) -> None:
    child = _start(node, "FROM busybox:test\nRUN echo sleeping; sleep 1; echo through\n", tmp_path)
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line.strip())
        if "sleeping" in line:
            assert node.builder.running() == ["doomed"]
            assert node.builder.sweep() == []
    child.wait()
    child.stdout.close()
    assert lines[-1] == "finished"


def test_a_build_id_runs_once(node: BuildNode, tmp_path: Path) -> None:
    child = _start(node, "FROM busybox:test\nRUN echo sleeping; sleep 1\n", tmp_path)
    assert child.stdout is not None
    for line in child.stdout:
        if "sleeping" in line:
            break
    with pytest.raises(EngineError, match="running already"):
        node.build(BASE, build_id="doomed")
    child.stdout.read()
    child.wait()
    child.stdout.close()

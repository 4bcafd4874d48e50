"""Archives are unpacked by a process that can reach nothing but its target, however it is led astray (D1)."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import BadArchive, NoSpace, Unavailable
from engine.layers import apply, confined, helper, job, unpacker
from engine.layers.limits import LAYER, UPLOAD
from engine.layers.policy import ROOTFS_POLICY, ApplyResult, Whiteouts
from engine.layers.tar import TarReader
from engine.layers.wire import Job
from engine.linux import confine
from engine.linux.mount import LinuxMounts
from engine.linux.process import ProcessId, process_id, wait_until
from tests.support import tars
from tests.support.sentinel import fingerprint, make_sentinel, sentinel  # noqa: F401
from tests.support.unpacking import Interrupted, altered_helper, job_processes, the_job

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[4]
SMALL = tars.archive(*[tars.member(f"d/f{index}", data=b"x" * 700) for index in range(200)])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No process, no descriptor is left of any job."""
    helper.start()
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert job_processes() == []
    assert (
        len(os.listdir("/proc/self/fd")) <= before
    )  # what other tests have left is closed when it is collected


def extract(target: Path, data: bytes, **options: object) -> ApplyResult:
    return confined.extract(io.BytesIO(data), target, **options)  # type: ignore[arg-type]


# what the process is --------------------------------------------------------------------------------------------


def seen(target: Path, look: Callable[[int], object]) -> None:
    confined.extract(Interrupted(SMALL, lambda: look(the_job())), target)
    assert len(list((target / "d").iterdir())) == 200


def test_a_job_has_its_own_mounts_and_the_target_as_root(target: Path) -> None:
    def look(pid: int) -> None:
        helper_pid = helper.start().process.pid
        spaces = {os.readlink(f"/proc/{process}/ns/mnt") for process in (pid, helper_pid, os.getpid())}
        assert len(spaces) == 3
        assert Path(f"/proc/{pid}/root").samefile(target)
        assert os.readlink(f"/proc/{pid}/cwd") == os.readlink(f"/proc/{pid}/root")
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
        assert mounts == "", mounts  # of the one mount it has, nothing can be reached from its root

    seen(target, look)


def test_the_helper_has_an_empty_root_and_no_mounts_of_the_host(target: Path) -> None:
    extract(target, SMALL)
    pid = helper.start().process.pid
    assert os.listdir(f"/proc/{pid}/root") == []
    (mount,) = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    assert " tmpfs " in mount
    with pytest.raises(OSError, match=r"(?i)read-only"):
        (Path(f"/proc/{pid}/root") / "x").touch()


def test_neither_has_our_environment_or_our_descriptors(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHARFINGER_SECRET", "hidden")
    helper._stop()

    def look(pid: int) -> None:
        for process in (pid, helper.start().process.pid):
            assert Path(f"/proc/{process}/environ").read_bytes() == b""
        links = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        files = {link for link in links if link.startswith("/")}
        others = sorted(link.partition(":")[0] for link in links - files)
        assert others == ["pipe", "socket"]  # the archive, and what is said
        assert all(file == "/dev/null" or Path(file).is_relative_to(target) for file in files), files

    seen(target, look)


def test_a_job_keeps_five_capabilities_and_cannot_gain_any(target: Path) -> None:
    mask = sum(1 << number for number in unpacker.KEPT)

    def look(pid: int) -> None:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == mask
        assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"].strip()) == ("1", "2", "1")

    seen(target, look)


def test_a_job_has_limits(target: Path) -> None:
    def look(pid: int) -> None:
        limits = {
            kind: resource.prlimit(pid, kind)[1]
            for kind in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)
        }
        assert limits[resource.RLIMIT_AS] == unpacker.MEMORY_BYTES
        assert limits[resource.RLIMIT_NOFILE] == 512
        assert limits[resource.RLIMIT_CPU] == UPLOAD.deadline_s
        assert resource.prlimit(pid, resource.RLIMIT_FSIZE)[1] == UPLOAD.max_bytes
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)

    seen(target, look)


FORBIDDEN: dict[str, str] = {
    "fork": "os.fork()",
    "exec": "os.execv('/bin/true', ['true'])",
    "socket": "import socket; socket.socket()",
    "kill": "os.kill(os.getppid(), 0)",
    "chroot": "os.chroot('.')",
    "pidfd": "os.pidfd_open(1)",
    "mount": "confine.own_mounts()",
    "setns": "confine._check(confine._libc.setns(0, 0), 'setns')",
    "x32": "confine._check(confine._libc.syscall(0x40000000 + 39), 'x32')",
}


@pytest.mark.parametrize("call", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_forbidden_calls_are_refused(call: str) -> None:
    """Even with all of root's capabilities; the same lines work, or fail otherwise, where nothing is forbidden."""
    lines = [
        "import os",
        "from engine.linux import confine",
        "confine.forbid_calls()",
        "try:",
        f"    {call}",
        "except OSError as error:",
        "    os._exit(error.errno)",
        "os._exit(0)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, check=False)
    assert done.returncode == errno.EPERM


def test_a_job_cannot_start_a_program(target: Path) -> None:
    with altered_helper("apply.clean_name = lambda *a, **k: os.fork()"), pytest.raises(OSError) as caught:
        extract(target, SMALL)
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("machine", sorted(confine.FORBIDDEN_CALLS))
def test_numbers_of_calls_are_those_of_the_kernels_headers(machine: str) -> None:
    headers = {
        "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        "aarch64": Path("/usr/include/asm-generic/unistd.h"),
        "riscv64": Path("/usr/include/asm-generic/unistd.h"),
    }
    if not headers[machine].exists():
        pytest.skip("the kernel's headers are not installed (linux-libc-dev)")
    words = [line.split() for line in headers[machine].read_text().splitlines() if "__NR" in line]
    known = {
        line[1].removeprefix("__NR3264_").removeprefix("__NR_"): line[2]
        for line in words
        if line[0] == "#define" and len(line) == 3
    }
    assert {name: str(number) for name, number in confine.FORBIDDEN_CALLS[machine].items()} == {
        name: known[name] for name in confine.FORBIDDEN_CALLS[machine]
    }


# what it does ----------------------------------------------------------------------------------------------------

RICH = tars.archive(
    tars.folder("d", mode=0o2750, uid=5, gid=6, xattrs={"user.a": b"\0\xff"}),
    tars.member("d/file", data=os.urandom(300_000), mode=0o4711, uid=7, gid=8, xattrs={"user.b": b"1"}),
    tars.member("implied/by/file", data=b"x", mode=0o600),
    tars.hardlink("d/hard", "d/file"),
    tars.symlink("d/link", "../implied", uid=9),
    tars.member("fifo", tars.FIFO, mode=0o620, uid=3, gid=4),
    tars.member("d/\udcff\udc80", data=b"no utf-8"),
    tars.member("gone/.wh.x"),
    tars.folder("opaque"),
    tars.member("opaque/.wh..wh..opq"),
    tars.member("opaque/new", data=b""),
    tars.symlink("gone", "else"),
    tars.folder("gone"),
)


@pytest.mark.parametrize("whiteouts", list(Whiteouts))
@pytest.mark.parametrize("idmap_start", [0, 0x20000000])
def test_the_result_is_that_of_the_same_work_done_here(
    tmp_path: Path, whiteouts: Whiteouts, idmap_start: int
) -> None:
    lower = tmp_path / "lower"
    (lower / "implied/by").mkdir(parents=True)
    (lower / "implied").chmod(0o711)
    os.chown(lower / "implied", 11, 12)
    prints = []
    for number, module in enumerate((apply, confined)):
        folder = tmp_path / f"t{number}"
        folder.mkdir()
        (folder / "opaque").mkdir()
        (folder / "opaque/old").touch()
        os.utime(folder / "opaque/old", (1, 1))
        result = module.apply_layer(
            io.BytesIO(RICH), folder, lowers=[lower], whiteouts=whiteouts, idmap_start=idmap_start
        )
        opaque = folder / "opaque"
        marks = os.listxattr(opaque)
        for item in (folder, folder / "implied/by", opaque):
            os.utime(item, (1, 1))
        prints.append((result, fingerprint(folder), marks))
    assert prints[0] == prints[1]
    if whiteouts is Whiteouts.OVERLAY:
        assert (tmp_path / "t1/implied").stat().st_mode & 0o7777 == 0o711
        assert "trusted.overlay.opaque" in prints[1][2]


def test_an_opaque_root_hides_what_lies_below(tmp_path: Path, target: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "old").mkdir(parents=True)
    confined.apply_layer(io.BytesIO(tars.archive(tars.member(".wh..wh..opq"))), target, lowers=[lower])
    assert (target / "old").is_char_device()


def test_entries_that_were_read_here_arrive_as_they_are(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for module, folder in zip((apply, confined), folders, strict=True):
        folder.mkdir()
        reader = TarReader(io.BytesIO(RICH), LAYER)
        assert module.extract_entries(reader, folder, LAYER, ROOTFS_POLICY).entries == 13
        os.utime(folder / "implied/by", (1, 1))
        os.utime(folder / "implied", (1, 1))
        os.utime(folder, (1, 1))
    assert fingerprint(folders[0]) == fingerprint(folders[1])


HOSTILE: dict[str, bytes] = {
    "climbs": tars.archive(tars.member("ok"), tars.member("../x", data=b"x")),
    "node": tars.archive(tars.member("n", tars.CHAR, major=1, minor=3)),
    "hard link": tars.archive(tars.hardlink("h", "/etc/passwd")),
    "circle": tars.archive(tars.symlink("a", "b"), tars.symlink("b", "a"), tars.member("a/x")),
    "deep": tars.archive(tars.folder("/".join(["d"] * 300))),
    "owner": tars.archive(tars.pax({"uid": str(2**32 - 1)}) + tars.block("f")),
    "cut": SMALL[:-1500],
    "junk": os.urandom(4096),
    "capability": tars.archive(tars.member("f", xattrs={"security.capability": b"short"})),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_refused_is_told_in_the_same_words(tmp_path: Path, data: bytes) -> None:
    told = []
    for number, module in enumerate((apply, confined)):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(BadArchive) as caught:
            module.extract(io.BytesIO(data), tmp_path / str(number))
        told.append((caught.value.message, caught.value.entry, caught.value.hint))
    assert told[0] == told[1]


@pytest.mark.parametrize("how", ["tar", "entries"])
def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path, how: str) -> None:
    """F-22: the job's own `ENOSPC` arrives as what it means."""
    disk = tmp_path / "disk"
    disk.mkdir()
    LinuxMounts().mount("none", str(disk), "tmpfs", 0, "size=256k")
    try:
        data = tars.archive(tars.member("big", data=bytes(3_000_000)))
        with pytest.raises(NoSpace) as caught:
            if how == "tar":
                extract(disk, data)
            else:
                confined.extract_entries(TarReader(io.BytesIO(data)), disk)
        assert caught.value.message == "no space left while writing 'big'"
        assert caught.value.hint
    finally:
        LinuxMounts().unmount(str(disk))


def test_a_read_only_place_is_told_as_the_kernel_does(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    LinuxMounts().mount("none", str(disk), "tmpfs", 1)
    try:
        with pytest.raises(OSError) as caught:
            extract(disk, SMALL)
        assert caught.value.errno == errno.EROFS
    finally:
        LinuxMounts().unmount(str(disk))


def test_files_are_made_by_the_ids_that_were_asked_for(target: Path) -> None:
    target.chmod(0o777)
    policy = replace(ROOTFS_POLICY, owners=False)
    extract(target, tars.archive(tars.member("f", mode=0o640)), policy=policy, owner=(4321, 4322))
    info = (target / "f").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (4321, 4322, 0o640)


def test_more_folders_than_fit_into_memory_are_refused(target: Path) -> None:
    """Folders are kept until the end, with all that belongs to them."""
    heavy = {"user.x": bytes(60_000)}
    data = tars.archive(*[tars.folder(f"d{index}", xattrs=heavy) for index in range(1000)])
    with altered_helper("unpacker.MEMORY_BYTES = 48 << 20"), pytest.raises(BadArchive, match="memory"):
        extract(target, data)


# led astray ------------------------------------------------------------------------------------------------------

NAIVE = (
    "apply.open_in_root = lambda root, path, flags, **_: os.open(path, flags, dir_fd=root); "
    "apply.clean_name = lambda name, **_: name.strip('/')"
)


def attacks(place: Path) -> dict[str, bytes]:
    """Archives that write into `place` where nobody resolves names inside of a root."""
    up = "../" * 30
    return {
        "absolute link": tars.archive(tars.symlink("d", str(place)), tars.member("d/etc/planted", data=b"x")),
        "relative link": tars.archive(
            tars.symlink("d", "../sentinel"), tars.member("d/etc/planted", data=b"x")
        ),
        "climbing name": tars.archive(tars.member("../sentinel/planted", data=b"x")),
        "from the top": tars.archive(tars.member(f"{up}{place}/planted", data=b"x")),
        "hard link": tars.archive(tars.hardlink("h", "../sentinel/etc/passwd")),
        "whiteout": tars.archive(tars.symlink("d", str(place)), tars.member("d/.wh.bin")),
        "folder's mode": tars.archive(tars.symlink("d", str(place)), tars.folder("d/etc", mode=0o777)),
    }


@pytest.mark.parametrize("attack", attacks(Path("/")))
def test_without_any_check_of_names_nothing_outside_is_reached(
    target: Path,
    sentinel: Path,  # noqa: F811
    attack: str,
) -> None:
    """The checks are taken away in the process that unpacks; its root is what still holds."""
    before = fingerprint(sentinel)
    with altered_helper(NAIVE), suppress(BadArchive, OSError):
        confined.apply_layer(io.BytesIO(attacks(sentinel)[attack]), target, whiteouts=Whiteouts.REMOVE)
    assert fingerprint(sentinel) == before


@pytest.mark.parametrize("attack", attacks(Path("/")))
def test_the_same_archives_reach_outside_without_checks_and_without_the_process(
    tmp_path: Path, target: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the test above would prove nothing."""
    place = make_sentinel(tmp_path / "sentinel")
    before = fingerprint(place)
    monkeypatch.setattr(
        apply, "open_in_root", lambda root, path, flags, **_: os.open(path, flags, dir_fd=root)
    )
    monkeypatch.setattr(apply, "clean_name", lambda name, **_: name.strip("/"))
    apply.apply_layer(io.BytesIO(attacks(place)[attack]), target, whiteouts=Whiteouts.REMOVE)
    assert fingerprint(place) != before


def test_without_the_root_a_climbing_name_does_reach_outside(tmp_path: Path, target: Path) -> None:
    """The other half of the proof: what held above was the root."""
    place = make_sentinel(tmp_path / "sentinel")
    before = fingerprint(place)
    with altered_helper(f"{NAIVE}; unpacker.confine.enter_root = lambda directory: None"):
        extract(target, attacks(place)["climbing name"])
    assert fingerprint(place) != before


def test_a_job_that_says_nonsense_is_ended(target: Path) -> None:
    code = "unpacker._say = lambda connection, value: connection.sendall(b'{]\\n') or time.sleep(60)"
    with altered_helper(code), pytest.raises(Unavailable):
        extract(target, SMALL)


# when it goes wrong ----------------------------------------------------------------------------------------------


def stopped() -> None:
    os.kill(the_job(), signal.SIGSTOP)


def test_a_job_that_stalls_is_killed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "STALL_S", 0.5)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="no progress") as caught:
        confined.extract(Interrupted(SMALL, stopped), target)
    assert caught.value.hint
    assert time.monotonic() - begun < 10


def test_a_job_that_shows_life_is_left_alone(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million folders are finished after the last byte has come: that takes time, and is told."""
    monkeypatch.setattr(job, "STALL_S", 1.0)
    code = (
        "unpacker._BEAT_S = 0.1; known = apply._Extractor._set_metadata; "
        "apply._Extractor._set_metadata = lambda *a: (time.sleep(0.01), known(*a))"
    )
    folders = tars.archive(*[tars.folder(f"d{index}") for index in range(200)])
    with altered_helper(code):
        assert extract(target, folders).entries == 200


def test_a_job_ends_at_its_limit_of_time(target: Path) -> None:
    with pytest.raises(BadArchive, match="time") as caught:
        confined.extract(Interrupted(SMALL, stopped), target, replace(UPLOAD, deadline_s=0.5))
    assert caught.value.hint


def test_a_stalled_job_can_be_cancelled(target: Path) -> None:
    class Stopped(Exception):
        pass

    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise Stopped

    def between() -> None:
        stopped()
        asked.set()

    with pytest.raises(Stopped):
        confined.extract(Interrupted(SMALL, between), target, check=check)


def test_a_source_that_fails_ends_the_job(target: Path) -> None:
    class Broken(Exception):
        pass

    def between() -> None:
        raise Broken

    with pytest.raises(Broken):
        confined.extract(Interrupted(SMALL, between), target)


@pytest.mark.parametrize("victim", ["job", "helper"])
def test_a_job_that_is_killed_is_one_clear_error(target: Path, victim: str) -> None:
    def between() -> None:
        working = process_id(the_job())
        assert working is not None
        os.kill(working.pid if victim == "job" else helper.start().process.pid, signal.SIGKILL)
        assert working.wait(10)

    with pytest.raises(Unavailable, match="was killed") as caught:
        confined.extract(Interrupted(SMALL, between), target)
    assert caught.value.retryable
    assert caught.value.hint
    helper.start()
    assert extract(target, SMALL).entries == 200  # the next one is served


def test_a_process_that_waits_and_is_killed_is_replaced(target: Path) -> None:
    extract(target, SMALL)
    helper_pid = helper.start().process.pid
    children = Path(f"/proc/{helper_pid}/task/{helper_pid}/children")
    assert wait_until(lambda: children.read_text().split(), 10)
    waiting = process_id(int(children.read_text()))
    assert waiting is not None
    assert waiting.send(signal.SIGKILL)
    assert waiting.wait(10)  # until then it may still be given the job
    assert extract(target, SMALL).entries == 200
    assert helper.start().process.pid == helper_pid


def test_a_fork_that_fails_is_tried_again(target: Path) -> None:
    code = (
        "real, tries = os.fork, []; "
        "refuse = lambda: os.open('/none', 0); "
        "os.fork = lambda: tries.append(1) or (real() if len(tries) > 3 else refuse())"
    )
    with altered_helper(code):
        assert extract(target, SMALL).entries == 200


def test_a_helper_that_cannot_start_is_one_clear_error(target: Path) -> None:
    with altered_helper("os._exit(3)"), pytest.raises(Unavailable) as caught:
        extract(target, SMALL)
    assert caught.value.hint


LIFE = """
import io, os, sys, time
from engine.layers import confined, helper
from tests.support import tars
from tests.support.unpacking import Interrupted, the_job
def between():
    pid = the_job()
    os.kill(pid, 19)
    print(helper.start().process.pid, pid, flush=True)
    time.sleep(60)
confined.extract(Interrupted(tars.archive(*[tars.member(f"f{i}") for i in range(100)]), between), sys.argv[1])
"""


def test_nothing_outlives_the_engine(target: Path) -> None:
    """The job is stopped when the engine is killed, so it cannot end by itself."""
    with subprocess.Popen(
        [sys.executable, "-c", LIFE, str(target)], stdout=subprocess.PIPE, cwd=ROOT
    ) as engine:
        assert engine.stdout is not None
        pids = [process_id(int(word)) for word in engine.stdout.readline().split()]
        assert all(isinstance(pid, ProcessId) and pid.alive for pid in pids)
        assert len(pids) == 2
        engine.kill()
    assert wait_until(lambda: not any(pid is not None and pid.alive for pid in pids), 10)


def test_fifty_jobs_at_once(tmp_path: Path) -> None:
    results: list[ApplyResult] = []
    start = threading.Barrier(50)

    def work(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        start.wait()
        results.append(extract(folder, SMALL))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.entries for result in results] == [200] * 50
    assert len(list(tmp_path.glob("*/d/f*"))) == 10_000


def test_a_fork_of_the_engine_has_a_helper_of_its_own(target: Path) -> None:
    extract(target, SMALL)
    ours = helper.start().process.pid
    pid = os.fork()
    if pid == 0:
        try:
            extract(target, SMALL)
            os._exit(0 if helper.start().process.pid != ours else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert helper.start().process.pid == ours
    assert extract(target, SMALL).entries == 200


def test_memory_stays_flat_for_a_large_file(target: Path) -> None:
    """The pipe holds a megabyte, and neither side holds more than a few."""
    size = 200_000_000
    head = tars.block("big", size=tars.octal(size, 12))

    class Endless(io.RawIOBase):
        left = [head, *[bytes(1_000_000)] * 200, bytes(-size % 512) + tars.END]

        def read(self, _: int = -1, /) -> bytes:
            return self.left.pop(0) if self.left else b""

    peaks: list[int] = []

    def check() -> None:
        for pid in job_processes():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    peaks.append(int(line.split()[1]))

    confined.extract(Endless(), target, check=check)
    assert (target / "big").stat().st_size == size
    assert 0 < max(peaks) < 30_000  # KiB


def test_a_job_survives_the_wire() -> None:
    sent = Job(LAYER, ROOTFS_POLICY, False, True, 7, (1, 2))
    assert Job.from_json(sent.to_json()) == sent

"""Hostile contexts through the whole way: uploaded by REST, refused by the worker with the entry's name, and nothing left."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.layers import helper
from engine.linux.process import wait_until
from tests.support import tars
from tests.support.platform import Answer, Platform
from tests.support.unpacking import is_confined

pytestmark = pytest.mark.root

DOCKERFILE = b"FROM scratch\nCOPY . /\n"


def tar(*members: bytes) -> bytes:
    return tars.archive(tars.member("Dockerfile", data=DOCKERFILE), *members)


def zipped(*entries: tuple[str, bytes, int]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content, mode in (("Dockerfile", DOCKERFILE, 0o100644), *entries):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def bomb() -> bytes:
    """10 GiB of zeros in 10 MB."""
    size = 160 * 64 * 2**20
    return (
        gzip.compress(tars.block("zeros", size=tars.octal(size, 12)), 1)
        + gzip.compress(bytes(2**26), 6) * 160
    )


def upload(server: Platform, context: bytes) -> Answer:
    return server.upload("/builds/?wait=120", {"tags": "hostile:1"}, context=context)


def leavings(server: Platform) -> list[str]:
    """What lies in the folders through which an upload goes."""
    folders = [server.config.data_root / "builds", server.config.run_root / "builds", server.home / "spool"]
    return [
        str(path) for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()
    ]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "tar: climbing name": (lambda: tar(tars.member("../../escaped", data=b"x")), "../../escaped"),
    "tar: device": (lambda: tar(tars.member("sda", tars.BLOCKDEV, major=8)), "sda"),
    "tar: hard link out": (lambda: tar(tars.hardlink("shadow", "/etc/shadow")), "shadow"),
    "tar: bomb": (bomb, "times"),
    "zip: climbing name": (lambda: zipped(("../../escaped", b"x", 0o100644)), "../../escaped"),
    "zip: backslash": (lambda: zipped(("..\\escaped", b"x", 0o100644)), "escaped"),
    "zip: drive letter": (lambda: zipped(("C:escaped", b"x", 0o100644)), "C:escaped"),
    "zip: data behind the end": (lambda: zipped() + b"x", "after the end"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_context_is_refused_by_name_and_leaves_nothing(server: Platform, case: str) -> None:
    """AR-01, AR-03, AR-06, AR-10, AR-11."""
    make, word = HOSTILE[case]
    answer = upload(server, make())
    text = str(answer.body)
    assert answer.status >= 400 or answer.body["status"] == "failed", answer.body
    assert word.replace("\\", "\\\\") in text or word in text, text
    assert str(server.home) not in text
    assert wait_until(lambda: not leavings(server), 10), leavings(
        server
    )  # the spool is emptied behind the answer


def test_links_of_a_zip_are_copied_and_lead_nowhere(server: Platform, tmp_path: Path) -> None:
    """AR-11: a link by its external attributes, and a file below it: all inside."""
    marker = tmp_path / "outside"
    marker.mkdir()
    context = zipped(("d", str(marker).encode(), 0o120777), ("d/planted", b"x", 0o100644))
    answer = upload(server, context)
    assert answer.status in (200, 201), answer.body
    assert list(marker.iterdir()) == []
    assert wait_until(lambda: not leavings(server), 10), leavings(
        server
    )  # the spool is emptied behind the answer


@pytest.mark.parametrize(
    "path",
    [
        "/v1.44/build?t=NoLowerCase",
        "/v1.44/images/create?fromSrc=-&repo=NoLowerCase&tag=1",
        "/v1.44/images/load?quiet=1",
    ],
)
def test_what_the_docker_command_uploads_is_not_kept_when_it_is_refused(server: Platform, path: str) -> None:
    rubbish = bytes(range(256)) * 64
    answer = server.call("POST", path, base="", raw=rubbish, Content_Type="application/x-tar")
    assert answer.status >= 400 or "error" in str(answer.body), answer.body
    assert wait_until(lambda: not leavings(server), 10), leavings(server)


def test_the_worker_keeps_a_helper_and_no_job(server: Platform) -> None:
    """D1: started with the worker, warm for the next archive; nobody unpacks between two."""
    assert upload(server, tar(tars.member("f", data=b"x"))).status in (200, 201)
    helpers = [pid for pid in helper_pids() if parent_name(pid)]
    assert helpers
    children = [Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in helpers]
    assert [child for group in children for child in group if is_confined(int(child))] == []


def helper_pids() -> list[int]:
    """Return the processes that were started as this checkout's helper."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words: list[Any] = (folder / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if helper._BOOT.encode() in words and str(helper._ROOT).encode() in words:
                found.append(int(folder.name))
    return found


def parent_name(pid: int) -> bool:
    """Tell whether the process's parent is a worker."""
    try:
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        return b"celery" in Path(f"/proc/{parent}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False

"""Bodies: read once, counted, strict; uploads go to the spool and leave nothing when they are refused."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from channels.db import database_sync_to_async
from django.conf import settings

from tests.support.web import token_for
from webapp.accounts.models import User
from webapp.asgi import application
from webapp.core import spool
from webapp.nodes.models import Node
from webapp.operations.models import Operation
from webapp.operations.sender import RecordingSender
from workers.contracts.builds import BuildRun
from workers.contracts.images import ImageLoad

pytestmark = pytest.mark.django_db(transaction=True)
HOST = "http://localhost"


@pytest.fixture
def spooled() -> list[Path]:
    folder = Path(settings.SPOOL) / "in"
    for path in folder.glob("*"):
        path.unlink()
    return list(folder.glob("*"))


def in_spool() -> list[Path]:
    return list((Path(settings.SPOOL) / "in").glob("*"))


async def call(user: User, method: str, path: str, *, scope: str = "admin", **request: Any) -> httpx.Response:
    token = await database_sync_to_async(token_for)(user, scope)
    headers = {"Authorization": f"Bearer {token}", **request.pop("headers", {})}
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
        return await client.request(method, f"/api/v1{path}", headers=headers, **request)


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"image": "nginx", "image": "evil"}', 400),
        (b'{"image": "nginx", "privileged": true, "privileged": false}', 400),
        (b'{"Image": "nginx"}', 400),
        (b'{"image": NaN}', 400),
        (b"[" * 10_000, 400),
        (b'{"image": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", 400),
        (b'{"image": "nginx"', 400),
        (b'{"image": "nginx"} {"image": "evil"}', 400),
        (b"\xff\xfe{}", 400),
        (b'["image"]', 400),
        (b'"text"', 400),
        (b"null", 400),
        (b'{"image": ["nginx"]}', 400),
    ],
)
async def test_confusing_bodies_are_refused(node: Node, alice: User, content: bytes, status: int) -> None:
    """AP-02."""
    answer = await call(alice, "POST", "/containers/", content=content, headers=JSON)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert not RecordingSender.sent


async def test_a_body_too_large_is_cut_whatever_its_header_says(node: Node, alice: User) -> None:
    """AP-02, CVE-2026-33034: counted while reading."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 65536

    answer = await call(
        alice, "POST", "/containers/", content=endless(), headers={**JSON, "Content-Length": "10"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "text/json"])
async def test_other_media_are_refused(node: Node, alice: User, media: str) -> None:
    """AP-06: a form of another site cannot post JSON."""
    answer = await call(
        alice, "POST", "/containers/", content=b'{"image": "nginx"}', headers={"Content-Type": media}
    )
    assert answer.status_code == 415


async def test_a_compressed_body_is_refused(node: Node, alice: User) -> None:
    """AP-02."""
    answer = await call(
        alice, "POST", "/containers/", content=b"\x1f\x8b...", headers={**JSON, "Content-Encoding": "gzip"}
    )
    assert answer.status_code == 415


# --- uploads ------------------------------------------------------------------------------------------------------


async def test_an_upload_lies_in_the_spool_for_the_node(node: Node, bob: User, spooled: object) -> None:
    content = b"tar" * 1_000_000
    answer = await call(
        bob, "POST", "/images/load/", content=content, headers={"Content-Type": "application/x-tar"}
    )
    assert answer.status_code == 202
    _, _, contract = RecordingSender.sent[0]
    assert isinstance(contract, ImageLoad)
    path = spool.path_in(contract.source)
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o640


async def test_an_upload_without_a_length_is_counted_and_whole(
    node: Node, bob: User, spooled: object
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(50):
            yield bytes([number]) * 50_000

    answer = await call(bob, "POST", "/images/load/", content=pieces())
    assert answer.status_code == 202
    assert in_spool()[0].stat().st_size == 2_500_000


@pytest.mark.parametrize("name", ["vera", "nobody"])
async def test_who_may_not_upload_fills_no_disk(
    node: Node,
    request: pytest.FixtureRequest,
    vera: User,
    spooled: object,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DS-07: judged before the body is read."""
    taken = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(20):
            taken += 1
            yield b"x" * 65536

    transport = httpx.ASGITransport(app=application)
    token = await database_sync_to_async(token_for)(vera) if name == "vera" else "wft_nothing"
    async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
        answer = await client.post(
            "/api/v1/images/load/", content=pieces(), headers={"Authorization": f"Bearer {token}"}
        )
    assert answer.status_code == (403 if name == "vera" else 401)
    assert not in_spool()


async def test_an_upload_over_the_limit_is_cut_and_removed(
    node: Node, bob: User, spooled: object, settings: Any
) -> None:
    """DS-07."""
    settings.MAX_UPLOAD_BYTES = 1_000_000
    answer = await call(bob, "POST", "/images/load/", content=b"x" * 1_000_001)
    assert answer.status_code == 413
    assert not in_spool()


async def test_a_full_disk_is_said(node: Node, bob: User, spooled: object, settings: Any) -> None:
    """F-22."""
    settings.MIN_FREE_BYTES = 1 << 60
    answer = await call(bob, "POST", "/images/load/", content=b"x")
    assert answer.status_code == 507
    assert answer.json()["code"] == "no_space"
    assert not in_spool()


async def test_an_empty_upload_is_refused(node: Node, bob: User, spooled: object) -> None:
    answer = await call(bob, "POST", "/images/load/", content=b"")
    assert answer.status_code == 400
    assert not in_spool()


async def test_an_upload_whose_request_fails_is_removed(node: Node, bob: User, spooled: object) -> None:
    answer = await call(bob, "PUT", "/containers/nothing/files/?path=/", content=b"tar")
    assert answer.status_code == 404
    answer = await call(bob, "POST", "/volumes/..%2fx/restore/", content=b"tar")
    assert answer.status_code in (400, 404)
    assert not in_spool()


async def test_too_many_uploads_at_once_are_told_to_wait(
    node: Node, bob: User, spooled: object, settings: Any
) -> None:
    """DS-07."""
    settings.MAX_UPLOADS_AT_ONCE = 2
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await gate.wait()

    waiting = [asyncio.create_task(call(bob, "POST", "/images/load/", content=slow())) for _ in range(2)]
    await asyncio.sleep(0.3)
    answer = await call(bob, "POST", "/images/load/", content=b"x")
    assert answer.status_code == 429
    assert answer.headers["retry-after"]
    gate.set()
    assert [(await task).status_code for task in waiting] == [202, 202]


async def test_a_stalled_upload_is_ended(
    node: Node, bob: User, spooled: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DS-07: never ending."""
    monkeypatch.setattr("webapp.core.asgi.STALL_S", 0.1)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(5)

    answer = await call(bob, "POST", "/images/load/", content=stuck())
    assert answer.status_code == 408
    assert not in_spool()


# --- builds -------------------------------------------------------------------------------------------------------


async def test_a_build_form_is_taken_apart(node: Node, bob: User, spooled: object) -> None:
    files = {
        "context": ("context.tar", io.BytesIO(b"tar" * 1000)),
        "dockerfile": ("Dockerfile", io.BytesIO(b"FROM scratch\n")),
    }
    data = {
        "tags": ["app:1", "team/app"],
        "build_args": json.dumps({"A": "1"}),
        "no_cache": "true",
        "secrets": '{"key": "s3cret"}',
    }
    answer = await call(bob, "POST", "/builds/", files=files, data=data)
    assert answer.status_code == 202, answer.text
    assert answer.json()["build"]["tags"] == ["app:1", "team/app:latest"]
    _, _, contract = RecordingSender.sent[0]
    assert isinstance(contract, BuildRun)
    assert contract.dockerfile == "FROM scratch\n"
    assert contract.tags == ["docker.io/library/app:1", "docker.io/team/app:latest"]
    assert (contract.build_args, contract.no_cache, contract.secrets) == (
        {"A": "1"},
        True,
        {"key": "czNjcmV0"},
    )
    assert [path.name for path in in_spool()] == [contract.context]
    assert spool.path_in(contract.context).read_bytes() == b"tar" * 1000


async def test_a_build_is_asked_for_all_that_its_contract_knows(
    node: Node, bob: User, spooled: object
) -> None:
    data = {
        "remote": "https://example.com/team/app.git#main:web",
        "no_cache_filter": ["tests"],
        "cache_from": ["app:1"],
        "extra_hosts": ["db:10.0.0.7"],
        "memory_bytes": 1 << 30,
        "pids_limit": 100,
        "disk_bytes": 1 << 33,
        "squash": True,
    }
    answer = await call(bob, "POST", "/builds/", json=data)
    assert answer.status_code == 202, answer.text
    _, _, contract = RecordingSender.sent[0]
    assert isinstance(contract, BuildRun)
    assert {name: getattr(contract, name) for name in data} == data


async def test_an_archive_can_be_the_whole_body_of_a_build(node: Node, bob: User, spooled: object) -> None:
    query = "?tags=app:1&tags=app:2&no_cache=true&target=web&memory_bytes=5&cache_from=x:1"
    answer = await call(
        bob, "POST", f"/builds/{query}", content=b"tar" * 1000, headers={"Content-Type": "application/x-tar"}
    )
    assert answer.status_code == 202, answer.text
    assert (answer.json()["build"]["tags"], answer.json()["build"]["context_size_bytes"]) == (
        ["app:1", "app:2"],
        3000,
    )
    _, _, contract = RecordingSender.sent[0]
    assert isinstance(contract, BuildRun)
    assert (contract.no_cache, contract.target, contract.memory_bytes, contract.cache_from) == (
        True,
        "web",
        5,
        ["x:1"],
    )
    assert spool.path_in(contract.context).read_bytes() == b"tar" * 1000
    assert [path.name for path in in_spool()] == [contract.context]


@pytest.mark.parametrize(
    ("query", "body", "media"),
    [
        ("?secrets={}", b"tar", "application/x-tar"),
        ("?no_cache=perhaps", b"tar", "application/x-tar"),
        ("?dockerfile_path=../x", b"tar", "application/x-tar"),
        ("?tags=UPPER/x y", b"tar", "application/zip"),
        ("?tags=a:1", b"", "application/x-tar"),
        ("?tags=a:1", b'{"dockerfile": "FROM a"}', "application/json"),
    ],
)
async def test_a_wrong_archive_leaves_nothing(
    node: Node, bob: User, spooled: object, query: str, body: bytes, media: str
) -> None:
    answer = await call(bob, "POST", f"/builds/{query}", content=body, headers={"Content-Type": media})
    assert answer.status_code == 400, answer.text
    assert not in_spool()
    assert not await Operation.objects.aexists()


@pytest.mark.parametrize(
    "remote",
    [
        "http://bob:secret@example.com/a.git",
        "git@example.com:a/b.git",
        "file:///etc",
        "ext::sh",
        "https://a b",
        "--upload-pack=x",
    ],
)
async def test_an_address_of_a_context_is_plain(node: Node, bob: User, spooled: object, remote: str) -> None:
    """BU-07, BU-10: no credentials in what is shown and kept, no protocol but two."""
    answer = await call(bob, "POST", "/builds/", json={"remote": remote})
    assert answer.status_code == 400, answer.text
    assert "secret@" not in answer.text
    assert not await Operation.objects.aexists()


async def test_a_build_without_a_length_is_parsed_too(node: Node, bob: User, spooled: object) -> None:
    body = b'--B\r\nContent-Disposition: form-data; name="dockerfile"\r\n\r\nFROM scratch\r\n--B--\r\n'

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:20]
        yield body[20:]

    answer = await call(
        bob, "POST", "/builds/", content=pieces(), headers={"Content-Type": "multipart/form-data; boundary=B"}
    )
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    "data",
    [
        {"tags": "x"},
        {"dockerfile": "FROM a", "tags": "UPPER/x y"},
        {"dockerfile": "FROM a", "dockerfile_path": "../../etc/passwd"},
        {"dockerfile": "FROM a", "dockerfile_path": "/etc/passwd"},
        {"dockerfile": "FROM a", "build_args": "{"},
        {"dockerfile": "FROM a", "build_args": '["x"]'},
        {"dockerfile": "FROM a", "nonsense": "1"},
        {"dockerfile": "FROM a", "no_cache": "perhaps"},
        {"dockerfile": "FROM a", "pids_limit": "-1"},
        {"dockerfile": "FROM a", "memory_bytes": "1e9"},
        {"dockerfile": "FROM a", "cache_from": "[1]"},
        {"dockerfile": "FROM a", "squash": "perhaps"},
        {"dockerfile": "FROM a", "remote": "https://example.com/app.git"},
    ],
)
async def test_bad_builds_are_refused_and_leave_nothing(
    node: Node, bob: User, spooled: object, data: dict[str, str]
) -> None:
    """BU-01."""
    files = {} if data == {"tags": "x"} else {"context": ("c.tar", io.BytesIO(b"tar"))}
    answer = await call(
        bob,
        "POST",
        "/builds/",
        files=files or None,
        data=data if files else None,
        **({} if files else {"json": data}),
    )
    assert answer.status_code == 400, answer.text
    assert not in_spool()
    assert not await Operation.objects.aexists()


async def test_a_multipart_bomb_is_cut(node: Node, bob: User, spooled: object) -> None:
    """DS-07 (CVE-2026-33033)."""
    body = (
        b"".join(
            b'--B\r\nContent-Disposition: form-data; name="x%d"\r\n\r\n1\r\n' % number
            for number in range(5000)
        )
        + b"--B--\r\n"
    )
    answer = await call(
        bob, "POST", "/builds/", content=body, headers={"Content-Type": "multipart/form-data; boundary=B"}
    )
    assert answer.status_code in (400, 413)
    assert not in_spool()


# --- names in paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/images/127.0.0.1%3A5000%2Fteam%2Fapp%3A1/", "127.0.0.1:5000/team/app:1"),
        ("/images/team%2Fhistory/", "team/history"),
        ("/images/team%2Fpush/history/", "team/push"),
        ("/images/team/app/", "team/app"),
    ],
)
async def test_encoded_references_reach_the_view_whole(
    node: Node, vera: User, path: str, wanted: str
) -> None:
    transport = httpx.ASGITransport(app=application)
    token = await database_sync_to_async(token_for)(vera)
    async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
        answer = await client.get(f"/api/v1{path}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 404
    assert repr(wanted) in answer.json()["detail"]

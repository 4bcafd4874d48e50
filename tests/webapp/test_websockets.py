"""Websockets: who may open them, what they say, and that they end with the login."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.test import Client

from tests.support.web import PASSWORD, FakeNode, actor_of, container_record, token_for
from tests.support.websocket import WebsocketClient
from webapp.accounts import services as accounts
from webapp.accounts.models import Token, User
from webapp.asgi import application
from webapp.audit.models import Entry, Recording
from webapp.audit.recordings import path_of
from webapp.nodes.models import Node
from webapp.nodes.system import check
from webapp.realtime import logins, sessions, wake
from webapp.realtime.hub import hub
from webapp.realtime.sockets import origin_fits
from webapp.realtime.streams import Chunk
from workers.contracts.problems import NodeError, Problem

pytestmark = pytest.mark.django_db(transaction=True)


class FakeStream:
    """A node's stream whose chunks the test gives; `typed` is what came in."""

    def __init__(self, chunks: list[Chunk], end: dict[str, Any] | None = None, *, hold: bool = False) -> None:
        self.chunks, self.end_facts, self.hold = chunks, end or {}, hold
        self.end: dict[str, Any] | None = None
        self.typed: list[bytes] = []
        self.sizes: list[tuple[int, int]] = []
        self.params: dict[str, Any] = {}
        self.kind = ""
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for chunk in self.chunks:
            yield chunk
        if self.hold:
            await asyncio.Event().wait()
        self.end = self.end_facts

    async def send(self, data: bytes) -> None:
        self.typed.append(data)

    async def resize(self, columns: int, rows: int) -> None:
        self.sizes.append((columns, rows))

    @asynccontextmanager
    async def open(
        self, node: str, kind: str, params: dict[str, Any] | None = None, **rest: Any
    ) -> AsyncIterator[FakeStream]:
        self.kind, self.params = kind, params or {}
        try:
            yield self
        finally:
            self.closed.set()

    async def follow(
        self, node: str, kind: str, params: dict[str, Any] | None = None, **rest: Any
    ) -> AsyncIterator[Chunk]:
        async with self.open(node, kind, params):
            async for chunk in self:
                yield chunk


def socket(
    path: str, *, token: str = "", cookie: str = "", origin: str | None = None, host: str = "localhost"
) -> WebsocketClient:
    headers = [(b"host", host.encode())]
    if token:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    if cookie:
        headers.append((b"cookie", cookie.encode()))
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    return WebsocketClient(application, path, headers)


@pytest.fixture
def cookie_of() -> Callable[[User], str]:
    def make(user: User) -> str:
        client = Client()
        assert client.post("/login/", {"username": user.username, "password": PASSWORD}).status_code == 302
        return f"wharfinger_session={client.cookies['wharfinger_session'].value}"

    return make


async def connected(communicator: WebsocketClient) -> bool:
    return await communicator.connect()


async def said(communicator: WebsocketClient) -> Any:
    return json.loads(await communicator.message())


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "fits"),
    [
        ("http://localhost", "localhost", True),
        ("http://localhost:8000", "localhost:8000", True),
        ("https://localhost", "localhost", True),
        ("https://localhost", "localhost:443", True),
        ("http://localhost", "localhost:8000", False),
        ("http://localhost:8001", "localhost:8000", False),
        ("null", "localhost", False),
        ("", "localhost", False),
        ("http://evil.example", "localhost", False),
        ("http://localhost.evil.example", "localhost", False),
        ("http://evillocalhost", "localhost", False),
        ("http://localhost@evil.example", "localhost", False),
        ("http://evil.example#localhost", "localhost", False),
        ("file://localhost", "localhost", False),
        ("http://localhost/x", "localhost", False),
        ("http://evil.example", "evil.example", False),
        ("http://localhost:99999", "localhost", False),
    ],
)
def test_origins(origin: str, host: str, fits: bool) -> None:
    """AP-07, AP-08."""
    assert origin_fits(origin, host, has_token=False, secure=False) is fits


def test_a_program_with_a_token_needs_no_origin() -> None:
    assert origin_fits("", "localhost", has_token=True, secure=False)
    assert not origin_fits("http://evil.example", "localhost", has_token=True, secure=False)


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://localhost.evil.example", "http://localhost:81"]
)
async def test_a_cookie_from_elsewhere_is_refused_before_accepting(
    node: Node, bob: User, cookie_of: Any, origin: str | None
) -> None:
    """AP-07."""
    cookie = await database_sync_to_async(cookie_of)(bob)
    assert not await connected(socket("/ws/events/", cookie=cookie, origin=origin))
    entry = await Entry.objects.alatest("seq")
    assert (entry.action, entry.target) == ("access.refused", "WS /ws/events/")


async def test_a_page_of_ours_may_listen(node: Node, vera: User, cookie_of: Any) -> None:
    cookie = await database_sync_to_async(cookie_of)(vera)
    communicator = socket("/ws/events/", cookie=cookie, origin="http://localhost")
    assert await connected(communicator)
    await communicator.leave()


@pytest.mark.parametrize(
    "path",
    [
        "/ws/events/",
        "/ws/stats/",
        "/ws/operations/x/",
        "/ws/containers/x/logs/",
        "/ws/containers/x/terminal/",
        "/ws/containers/x/stats/",
        "/ws/nothing/",
    ],
)
async def test_nobody_may_open_any(node: Node, path: str) -> None:
    """AP-01."""
    assert not await connected(socket(path, origin="http://localhost"))


async def test_a_viewer_opens_no_terminal(voice: FakeNode, vera: User) -> None:
    """AP-01."""
    token = await database_sync_to_async(token_for)(vera)
    assert not await connected(socket("/ws/containers/web/terminal/", token=token))


async def test_a_token_in_the_query_opens_nothing(node: Node, bob: User) -> None:
    """AP-05."""
    token = await database_sync_to_async(token_for)(bob)
    assert not await connected(socket(f"/ws/events/?token={token}", origin="http://localhost"))


async def test_connections_of_one_person_are_counted(
    node: Node, vera: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DS-06."""
    monkeypatch.setattr(logins, "MAX_A_USER", 2)
    token = await database_sync_to_async(token_for)(vera)
    open_ones = [socket("/ws/events/", token=token) for _ in range(2)]
    assert [await connected(one) for one in open_ones] == [True, True]
    assert not await connected(socket("/ws/events/", token=token))
    for one in open_ones:
        await one.leave()
    assert logins.count() == 0


# --- the end of a login -------------------------------------------------------------------------------------------


async def _closed_with(communicator: WebsocketClient) -> int:
    while True:
        message = await communicator.receive_output(5)
        if message["type"] == "websocket.close":
            return int(message["code"])


async def test_a_revoked_token_closes_its_sockets(node: Node, bob: User) -> None:
    """AP-05."""
    token = await database_sync_to_async(token_for)(bob)
    communicator = socket("/ws/events/", token=token)
    assert await connected(communicator)
    watching = asyncio.create_task(logins.watch())
    await asyncio.sleep(0.05)
    await database_sync_to_async(lambda: accounts.token_revoke(actor_of(bob), Token.objects.get()))()
    assert await _closed_with(communicator) == 4401
    watching.cancel()


@pytest.mark.parametrize(
    "change", [{"role": "viewer"}, {"is_active": False}, {"password": "another long password"}]
)
async def test_a_changed_account_closes_its_sockets(
    node: Node, alice: User, bob: User, cookie_of: Any, change: dict[str, Any]
) -> None:
    """AP-05: role lowered."""
    cookie = await database_sync_to_async(cookie_of)(bob)
    communicator = socket("/ws/events/", cookie=cookie, origin="http://localhost")
    assert await connected(communicator)
    await database_sync_to_async(accounts.user_update)(
        actor_of(alice), await User.objects.aget(pk=bob.pk), change
    )
    assert await logins.look() == 1
    assert await _closed_with(communicator) == 4401


async def test_signing_out_closes_its_sockets(node: Node, bob: User, cookie_of: Any) -> None:
    """AP-05."""
    cookie = await database_sync_to_async(cookie_of)(bob)
    communicator = socket("/ws/events/", cookie=cookie, origin="http://localhost")
    assert await connected(communicator)
    client = Client()
    client.cookies["wharfinger_session"] = cookie.partition("=")[2]
    await database_sync_to_async(client.post)("/logout/")
    assert await logins.look() == 1
    assert await _closed_with(communicator) == 4401


async def test_a_good_login_stays(node: Node, bob: User, cookie_of: Any) -> None:
    cookie = await database_sync_to_async(cookie_of)(bob)
    communicator = socket("/ws/events/", cookie=cookie, origin="http://localhost")
    assert await connected(communicator)
    assert await logins.look() == 0
    await communicator.leave()


# --- events -------------------------------------------------------------------------------------------------------


async def test_what_happens_is_told(voice: FakeNode, vera: User) -> None:
    communicator = socket("/ws/events/", token=await database_sync_to_async(token_for)(vera))
    assert await connected(communicator)
    await asyncio.sleep(0.05)
    await database_sync_to_async(voice.container)(container_record())
    event = await said(communicator)
    assert (event["type"], event["action"], event["subject"]) == ("container", "start", "c" * 64)
    assert "record" not in event["attributes"]
    assert "hunter2" not in json.dumps(event)
    await communicator.leave()


async def test_missed_events_are_told_again(voice: FakeNode, vera: User) -> None:
    await database_sync_to_async(voice.container)(container_record())
    communicator = socket("/ws/events/?after=0", token=await database_sync_to_async(token_for)(vera))
    assert await connected(communicator)
    event = await said(communicator)
    assert event["action"] == "start"
    await communicator.leave()


async def test_a_slow_reader_is_told_that_it_missed_something(node: Node, vera: User) -> None:
    """F-33: state never rests on a message."""
    async with hub.subscribe("events", size=3) as subscription:
        for number in range(10):
            wake.publish([wake.Note("events", {"type": "container", "n": number})])
        assert subscription.gap


# --- logs, stats, operations --------------------------------------------------------------------------------------


async def test_log_lines_come_with_time_and_cursor(
    voice: FakeNode, vera: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database_sync_to_async(voice.container)(container_record())
    lines = b'[1700000000123456789, 1, "one"]\n[1700000001000000000, 2, "two \\u001b[31m"]\n[17'
    stream = FakeStream(
        [Chunk(lines, cursor="5"), Chunk(b'00000002000000000, 1, "three"]\n', cursor="9", gap_bytes=77)]
    )
    monkeypatch.setattr("webapp.realtime.logs.follow", stream.follow)
    communicator = socket(
        "/ws/containers/web/logs/?tail=50", token=await database_sync_to_async(token_for)(vera)
    )
    assert await connected(communicator)
    first, second, last = [await said(communicator) for _ in range(3)]
    assert first["lines"][0] == {"time": "2023-11-14T22:13:20.123456789Z", "stream": "stdout", "text": "one"}
    assert first["lines"][1]["stream"] == "stderr"
    assert first["cursor"] == "5"
    assert (second["lines"][0]["text"], second["missed"]) == ("three", 77)
    assert last["end"] is True
    assert stream.params["tail"] == 50
    assert await _closed_with(communicator) == 1000


async def test_an_unknown_container_is_said(node: Node, vera: User) -> None:
    communicator = socket("/ws/containers/nope/logs/", token=await database_sync_to_async(token_for)(vera))
    assert await connected(communicator)
    assert (await said(communicator))["code"] == "container_not_found"
    assert await _closed_with(communicator) == 4404


async def test_an_operation_tells_its_log_and_its_end(
    voice: FakeNode, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await database_sync_to_async(check)(actor_of(bob))
    entries = [
        {"type": "message", "text": "hello", "stream": "note", "step": "", "at": 1.0},
        {"type": "layerprogress", "id": "l1", "status": "downloading", "current": 1, "total": 9},
        {"type": "layerprogress", "id": "l1", "status": "done", "current": 9, "total": 9},
    ]
    stream = FakeStream([Chunk("".join(json.dumps(entry) + "\n" for entry in entries).encode(), cursor="7")])
    monkeypatch.setattr("webapp.realtime.operations.follow", stream.follow)
    communicator = socket(
        f"/ws/operations/{operation.id}/", token=await database_sync_to_async(token_for)(bob)
    )
    assert await connected(communicator)
    assert (await said(communicator))["status"] == "queued"
    message = await said(communicator)
    assert message["lines"][0]["text"] == "hello"
    assert [entry["status"] for entry in message["progress"]] == ["done"]
    await database_sync_to_async(voice.end)(operation.id, result={"problems": []})
    last = await said(communicator)
    assert (last["status"], last["end"], last["error"]) == ("succeeded", True, None)


async def test_stats_are_passed_on(voice: FakeNode, vera: User, monkeypatch: pytest.MonkeyPatch) -> None:
    await database_sync_to_async(voice.container)(container_record())
    stream = FakeStream([Chunk(b'{"cpu_percent": 3}\n{"cpu')], hold=True)
    monkeypatch.setattr("webapp.realtime.stats.open_stream", stream.open)
    communicator = socket("/ws/containers/web/stats/", token=await database_sync_to_async(token_for)(vera))
    assert await connected(communicator)
    assert await said(communicator) == {"cpu_percent": 3}
    await communicator.leave()
    await asyncio.wait_for(stream.closed.wait(), 5)


# --- terminals ----------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeStream]:
    def make(*chunks: bytes, **options: Any) -> FakeStream:
        stream = FakeStream([Chunk(data, 1) for data in chunks], **options)
        monkeypatch.setattr("webapp.realtime.sessions.open_stream", stream.open)
        return stream

    return make


async def test_a_terminal_is_opened_typed_into_resized_and_recorded(
    voice: FakeNode, bob: User, terminal: Any
) -> None:
    """AP-13: terminal sessions are entries and keep their recording."""
    await database_sync_to_async(voice.container)(container_record())
    stream = terminal(b"$ ", "grün\r\n".encode(), end={"exit_code": 3})
    communicator = socket(
        "/ws/containers/web/terminal/?command=sh+-l&cols=100&rows=30",
        token=await database_sync_to_async(token_for)(bob),
    )
    assert await connected(communicator)
    assert (await said(communicator))["session"]
    shown = b""
    while True:
        message = await communicator.receive_output(5)
        if message.get("bytes"):
            shown += message["bytes"]
        elif (text := json.loads(message["text"])).get("type") == "exit":
            assert text["code"] == 3
            break
    assert shown == "$ grün\r\n".encode()
    assert (stream.params["command"], stream.params["width"], stream.params["tty"]) == (
        ["sh", "-l"],
        100,
        True,
    )
    await communicator.leave()
    recording = await Recording.objects.aget()
    lines = path_of(recording).read_text().splitlines()
    assert json.loads(lines[0])["width"] == 100
    assert "".join(json.loads(line)[2] for line in lines[1:]) == "$ grün\r\n"
    actions = [
        entry.action async for entry in Entry.objects.filter(action__startswith="terminal.").order_by("seq")
    ]
    assert actions == ["terminal.open", "terminal.close"]
    assert recording.sha256 in (await Entry.objects.alatest("seq")).body


async def test_a_cut_line_comes_back_to_the_same_session(voice: FakeNode, bob: User, terminal: Any) -> None:
    await database_sync_to_async(voice.container)(container_record())
    stream = terminal(b"hello", hold=True)
    token = await database_sync_to_async(token_for)(bob)
    first = socket("/ws/containers/web/terminal/", token=token)
    assert await connected(first)
    session = (await said(first))["session"]
    assert (await first.receive_output(5))["bytes"] == b"hello"
    cursor = (await said(first))["cursor"]
    await first.leave(1006)
    second = socket(f"/ws/containers/web/terminal/?session={session}&cursor={cursor}", token=token)
    assert await connected(second)
    assert (await said(second))["session"] == session
    await second.say(b"ls\n")
    await second.say(json.dumps({"type": "resize", "cols": 90, "rows": 20}))
    await asyncio.sleep(0.1)
    assert stream.typed == [b"ls\n"]
    assert stream.sizes == [(90, 20)]
    assert not stream.closed.is_set()
    await second.leave()
    await asyncio.wait_for(stream.closed.wait(), 5)
    assert await Recording.objects.acount() == 1


async def test_a_late_end_of_the_old_line_does_not_end_the_session(
    voice: FakeNode, bob: User, terminal: Any
) -> None:
    await database_sync_to_async(voice.container)(container_record())
    stream = terminal(b"hello", hold=True)
    token = await database_sync_to_async(token_for)(bob)
    first = socket("/ws/containers/web/terminal/", token=token)
    assert await connected(first)
    session = (await said(first))["session"]
    second = socket(f"/ws/containers/web/terminal/?session={session}&cursor=0", token=token)
    assert await connected(second)
    assert (await said(second))["session"] == session
    assert await _closed_with(first) == 1000
    await first.leave()
    await second.say(b"ls\n")
    await asyncio.sleep(0.1)
    assert stream.typed == [b"ls\n"]
    await second.leave()


async def test_a_session_of_another_does_not_exist(
    voice: FakeNode, bob: User, alice: User, terminal: Any
) -> None:
    """AP-04."""
    await database_sync_to_async(voice.container)(container_record())
    terminal(b"hello", hold=True)
    mine = socket("/ws/containers/web/terminal/", token=await database_sync_to_async(token_for)(bob))
    assert await connected(mine)
    session = (await said(mine))["session"]
    theirs = socket(
        f"/ws/containers/web/terminal/?session={session}",
        token=await database_sync_to_async(token_for)(alice),
    )
    assert await connected(theirs)
    assert (await said(theirs))["code"] == "session_not_found"
    await mine.leave()
    await theirs.leave()


@pytest.mark.parametrize(
    "size",
    [
        {"cols": -1, "rows": 5},
        {"cols": 65536, "rows": 5},
        {"cols": "x", "rows": 5},
        {"cols": True, "rows": 5},
        {"rows": 5},
        {"cols": 1.5, "rows": 2},
    ],
)
async def test_nonsense_sizes_are_refused(
    voice: FakeNode, bob: User, terminal: Any, size: dict[str, Any]
) -> None:
    """WB-03."""
    await database_sync_to_async(voice.container)(container_record())
    stream = terminal(hold=True)
    communicator = socket("/ws/containers/web/terminal/", token=await database_sync_to_async(token_for)(bob))
    assert await connected(communicator)
    await said(communicator)
    await communicator.say(json.dumps({"type": "resize", **size}))
    assert (await said(communicator))["type"] == "error"
    assert stream.sizes == []
    await communicator.leave()


async def test_a_terminal_that_the_node_refuses_says_why(
    voice: FakeNode, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database_sync_to_async(voice.container)(container_record())

    @asynccontextmanager
    async def refused(*args: Any, **rest: Any) -> AsyncIterator[None]:
        raise NodeError(Problem("command_failed", "no such program: nosuch", hint="try sh"))
        yield

    monkeypatch.setattr("webapp.realtime.sessions.open_stream", refused)
    communicator = socket(
        "/ws/containers/web/terminal/?command=nosuch", token=await database_sync_to_async(token_for)(bob)
    )
    assert await connected(communicator)
    message = await said(communicator)
    assert (message["type"], message["detail"]) == ("error", "no such program: nosuch")
    await communicator.leave()


async def test_a_terminal_ends_with_the_login(voice: FakeNode, bob: User, terminal: Any) -> None:
    """AP-05."""
    await database_sync_to_async(voice.container)(container_record())
    stream = terminal(b"$", hold=True)
    communicator = socket("/ws/containers/web/terminal/", token=await database_sync_to_async(token_for)(bob))
    assert await connected(communicator)
    await said(communicator)
    await database_sync_to_async(lambda: accounts.token_revoke(actor_of(bob), Token.objects.get()))()
    assert await logins.look() == 1
    await asyncio.wait_for(stream.closed.wait(), 5)
    assert not sessions.sessions


async def test_a_recording_stops_at_its_limit_and_the_session_does_not(
    voice: FakeNode, bob: User, terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.audit.recordings.MAX_BYTES", 300)
    await database_sync_to_async(voice.container)(container_record())
    terminal(b"x" * 1000, b"more", end={"exit_code": 0})
    communicator = socket("/ws/containers/web/terminal/", token=await database_sync_to_async(token_for)(bob))
    assert await connected(communicator)
    await said(communicator)
    assert (await communicator.receive_output(5))["bytes"].startswith(b"xxx")
    await asyncio.sleep(0.2)
    await communicator.leave()
    recording = await Recording.objects.aget()
    assert recording.truncated
    assert recording.size_bytes <= 300

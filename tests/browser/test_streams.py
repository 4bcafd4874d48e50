"""Logs, terminals, recordings, charts and builds in a real browser; the node's side of the sockets is played by the test."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

pytestmark = [pytest.mark.browser, pytest.mark.serial, pytest.mark.timeout(180)]

Open = Callable[..., Page]
BEGAN = 1764000000


def play(page: Page, path: str, greet: Callable[[WebSocketRoute], None]) -> list[Any]:
    """Answer the page's socket at `path` in the node's place; return what the page sends."""
    heard: list[Any] = []

    def answer(socket: WebSocketRoute) -> None:
        socket.on_message(lambda message: heard.append(message))
        greet(socket)

    page.route_web_socket(re.compile(re.escape(path)), answer)
    return heard


def log_lines(first: int, count: int, text: Callable[[int], str]) -> list[dict[str, str]]:
    return [
        {
            "time": f"2025-11-24T{(n // 3600) % 24:02d}:{(n // 60) % 60:02d}:{n % 60:02d}.{n % 1000:03d}000000Z",
            "stream": "stdout",
            "text": text(n),
        }
        for n in range(first, first + count)
    ]


def open_log(site: Any, open_page: Open, messages: list[dict[str, Any]], **options: Any) -> Page:
    page = open_page(site, "/keys/", **options)
    play(page, "/logs/", lambda socket: [socket.send(json.dumps(message)) for message in messages] and None)
    page.goto(f"/containers/{site.container('leafy-backend')}/")
    return page


def words(n: int) -> str:
    if n % 1000 == 7:
        return f"ERROR could not get a connection, order {n}"
    return f"GET /api/orders?page={n} 200 in {n % 40} ms"


def test_a_hundred_thousand_lines_stay_quick(shared_site: Any, open_page: Open, shoot: Any) -> None:
    messages = [{"lines": log_lines(part * 5000, 5000, words), "cursor": str(part)} for part in range(20)]
    page = open_log(shared_site, open_page, messages)
    expect(page.locator(".wf-log-lines")).to_contain_text("page=99999", timeout=15000)
    assert page.locator(".wf-line").count() < 600, "only the lines around the eye are elements"
    spent = page.evaluate(
        """() => { const place = document.querySelector(".wf-log-lines"); const began = performance.now();
                   place.scrollTop = place.scrollHeight / 2; place.dispatchEvent(new Event("scroll"));
                   return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)))); }"""
    )
    assert spent < 500
    expect(page.locator("[data-do=follow]")).to_have_attribute("aria-pressed", "false")
    shoot(page, "log-many-light", whole=False)


def test_search_counts_hits_and_walks_through_them(shared_site: Any, open_page: Open, shoot: Any) -> None:
    page = open_log(shared_site, open_page, [{"lines": log_lines(0, 5000, words)}])
    expect(page.locator(".wf-log-lines")).to_contain_text("page=4999")
    page.keyboard.press("/")
    page.keyboard.type("could not get")
    expect(page.locator("[data-do=hits]")).to_have_text("5 of 5")
    page.keyboard.press("Enter")
    expect(page.locator("[data-do=hits]")).to_have_text("1 of 5")
    expect(page.locator(".wf-line[aria-current] mark")).to_have_text("could not get")
    page.locator("button[data-level=error]").click()
    expect(page.locator(".wf-line")).to_have_count(5)
    shoot(page, "log-search-light", whole=False)


def test_lines_that_come_while_one_reads_are_counted_not_forced(shared_site: Any, open_page: Open) -> None:
    page = open_page(shared_site, "/keys/")
    sockets: list[WebSocketRoute] = []
    play(
        page,
        "/logs/",
        lambda socket: (
            sockets.append(socket),
            socket.send(json.dumps({"lines": log_lines(0, 2000, words)})),
        )[0],
    )
    page.goto(f"/containers/{shared_site.container('leafy-backend')}/")
    expect(page.locator(".wf-log-lines")).to_contain_text("page=1999")
    page.evaluate("document.querySelector('.wf-log-lines').scrollTop = 2000")
    expect(page.locator("[data-do=follow]")).to_have_attribute("aria-pressed", "false")
    sockets[0].send(json.dumps({"lines": log_lines(2000, 37, words)}))
    expect(page.locator("[data-do=follow]")).to_contain_text("+37")
    page.locator("[data-do=follow]").click()
    expect(page.locator(".wf-log-lines")).to_contain_text("page=2036")


def test_a_gap_is_said(shared_site: Any, open_page: Open) -> None:
    page = open_log(
        shared_site,
        open_page,
        [{"lines": log_lines(0, 3, words)}, {"lines": log_lines(9, 1, words), "missed": 214_000}],
    )
    expect(page.locator(".wf-log-note")).to_contain_text("214 KB of lines were not sent here")


def test_a_log_line_is_text_whatever_is_in_it(shared_site: Any, open_page: Open) -> None:
    """WB-01: markup and control sequences in a line do nothing."""
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\x1b[31mred\x1b[0m\x1b]0;title\x07"
    page = open_log(shared_site, open_page, [{"lines": log_lines(0, 1, lambda _: evil)}])
    line = page.locator(".wf-line p")
    expect(line).to_contain_text("<img src=x")
    expect(line.locator(".wf-ansi-r")).to_have_text("red")
    assert page.locator(".wf-line img").count() == 0
    assert page.title() != "owned"


def test_a_log_resumes_where_the_connection_broke(shared_site: Any, open_page: Open) -> None:
    page = open_page(shared_site, "/keys/")
    asked: list[str] = []

    def greet(socket: WebSocketRoute) -> None:
        asked.append(socket.url)
        if len(asked) == 1:
            socket.send(json.dumps({"lines": log_lines(0, 2, words), "cursor": "two"}))
            socket.close(code=1011)
        else:
            socket.send(json.dumps({"lines": log_lines(2, 1, words), "cursor": "three"}))

    play(page, "/logs/", greet)
    page.goto(f"/containers/{shared_site.container('leafy-backend')}/")
    expect(page.locator(".wf-line")).to_have_count(3, timeout=5000)
    assert "cursor=two" in asked[1]


def test_a_log_goes_on_when_its_container_starts_again(shared_site: Any, open_page: Open) -> None:
    page = open_page(shared_site, "/keys/")
    container = shared_site.container("leafy-backend")
    asked: list[str] = []
    events: list[WebSocketRoute] = []

    def greet(socket: WebSocketRoute) -> None:
        asked.append(socket.url)
        socket.send(json.dumps({"lines": log_lines(len(asked), 1, words), "cursor": f"c{len(asked)}"}))
        if len(asked) == 1:
            socket.send(json.dumps({"lines": [], "end": True}))
            socket.close(code=1000)

    play(page, "/logs/", greet)
    play(page, "/ws/events/", events.append)
    page.goto(f"/containers/{container}/")
    expect(page.locator("[data-do=state]")).to_have_text("It does not run; these are its last lines")
    events[0].send(
        json.dumps({"type": "container", "action": "start", "subject": container, "attributes": {}})
    )
    expect(page.locator(".wf-line")).to_have_count(2)
    expect(page.locator("[data-do=state]")).to_have_text("Live")
    assert "cursor=c1" in asked[1]


def test_a_terminal_writes_reads_and_tells_its_size(shared_site: Any, open_page: Open, shoot: Any) -> None:
    page = open_page(shared_site, "/keys/")

    def greet(socket: WebSocketRoute) -> None:
        socket.send(json.dumps({"session": "abc", "cursor": "0"}))
        socket.send(b"\x1b[32mpostgres@leafy\x1b[0m:~$ ")

    heard = play(page, "/terminal/", greet)
    page.goto(f"/containers/{shared_site.container('leafy-postgres')}/terminal/")
    page.get_by_role("button", name="Open a terminal").click()
    expect(page.locator(".xterm-rows")).to_contain_text("postgres@leafy")
    page.locator(".xterm-helper-textarea").type("ls\n")
    page.wait_for_timeout(200)
    typed = b"".join(message for message in heard if isinstance(message, bytes))
    assert typed == b"ls\r"
    resize = json.loads(next(message for message in heard if isinstance(message, str)))
    assert resize["type"] == "resize"
    assert resize["cols"] > 40
    assert page.problems == []  # type: ignore[attr-defined]
    shoot(page, "terminal-open-light", whole=False)


def test_a_recording_plays(shared_site: Any, open_page: Open, shoot: Any) -> None:
    from tests.support.sample_data import RECORDING

    page = open_page(shared_site, "/keys/", user="admin")
    page.route(
        re.compile(r"/api/v1/recordings/"),
        lambda route: route.fulfill(body=RECORDING, content_type="application/x-asciicast"),
    )
    page.goto(f"/audit/recordings/{'a' * 32}/")
    expect(page.locator(".xterm-rows")).to_contain_text("psql -d leafy", timeout=15000)
    assert page.problems == []  # type: ignore[attr-defined]
    shoot(page, "recording-playing-light", whole=False)


def test_charts_draw_what_the_node_samples(shared_site: Any, open_page: Open, shoot: Any) -> None:
    page = open_page(shared_site, "/keys/")

    def greet(socket: WebSocketRoute) -> None:
        for n in range(60):
            sample = {
                "container": "x", "time": BEGAN + n, "pids": 41, "cpu": {"usage_ns": int(n * 2e8 + (n % 9) * 4e7)},
                "memory": {"usage_bytes": 312_000_000 + n * 900_000, "limit_bytes": 536_870_912, "inactive_file_bytes": 0},
                "networks": {"eth0": {"rx_bytes": n * 40_000, "tx_bytes": n * 90_000}}, "block_io": {"read_bytes": 0, "write_bytes": n * 7_000},
            }  # fmt: skip
            socket.send(json.dumps(sample))

    play(page, "/stats/", greet)
    page.goto(f"/containers/{shared_site.container('leafy-backend')}/load/")
    expect(page.locator("#says-memory")).to_contain_text("MiB")
    expect(page.locator("#says-cpu")).to_contain_text("%")
    expect(page.locator("#says-network")).to_contain_text("KB/s")
    shoot(page, "load-drawn-light", whole=False)


# --- builds ---------------------------------------------------------------------------------------------------


def test_the_editor_marks_a_slip_at_its_line(shared_site: Any, open_page: Open, shoot: Any) -> None:
    page = open_page(shared_site, "/builds/new/")
    editor = page.locator(".cm-content")
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.type("FROM debian:12\nCOPPY . /app\nCMD run")
    message = page.locator(".wf-message[data-tone=fail]")
    expect(message).to_contain_text("line 2: unknown instruction COPPY; did you mean COPY?")
    expect(page.get_by_role("button", name="Build", exact=True)).to_be_disabled()
    shoot(page, "build-slip-light", whole=False)


def test_a_folder_is_packed_here_and_sent(site: Any, open_page: Open, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    (folder / "bin").mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (folder / "bin" / "run").write_text("#!/bin/sh\necho hi\n")
    (folder / "data.txt").write_text("x" * 70000)
    page = open_page(site, "/builds/new/")
    page.locator("input[webkitdirectory]").set_input_files(folder)
    expect(page.locator("[data-context-says]")).to_contain_text("3 files")
    expect(page.locator(".cm-content")).to_contain_text("FROM scratch")
    page.locator("input[name=tags]").fill("app:1")
    page.get_by_role("button", name="Build", exact=True).click()
    expect(page).to_have_url(re.compile("/builds/[0-9a-f]{32}/"))
    kind, contract = site.order("sent")[-1][1:]
    assert kind == "build.run"
    assert contract["tags"] == ["docker.io/library/app:1"]
    archive = Path(site.order("spooled", name=contract["context"]))
    with tarfile.open(archive) as found:
        modes = {member.name: member.mode for member in found}
        assert modes == {"Dockerfile": 0o644, "bin/run": 0o755, "data.txt": 0o644}
        assert found.extractfile("bin/run").read() == b"#!/bin/sh\necho hi\n"  # type: ignore[union-attr]


def test_a_running_build_shows_its_lines_as_they_come(shared_site: Any, open_page: Open, shoot: Any) -> None:
    page = open_page(shared_site, "/keys/")
    sockets: list[WebSocketRoute] = []
    build = shared_site.facts["builds"]["running"]
    play(page, f"/ws/operations/{build}", lambda socket: sockets.append(socket) or None)
    page.goto(f"/builds/{build}/")
    expect(page.locator("[data-key='step-1-2']")).to_be_visible()
    lines = [
        {"text": f"[INFO] Compiling file {n}\n", "stream": "stdout", "step": "1.2", "at": BEGAN + n}
        for n in range(3)
    ]
    sockets[0].send(json.dumps({"lines": lines, "cursor": "3"}))
    expect(page.locator("[data-step-log='1.2']")).to_contain_text("2.0 [INFO] Compiling file 2")
    shoot(page, "build-lines-light")

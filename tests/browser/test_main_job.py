"""The main job in a real browser against the whole platform: upload, watch, run, follow, stop, find it in the book."""

from __future__ import annotations

import io
import re
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.platform import PASSWORD, Platform, free_port

pytestmark = [pytest.mark.root, pytest.mark.browser]
PICTURES = Path(__file__).resolve().parents[2] / "test-output" / "main-job"

DOCKERFILE = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo tick $i; /bin/busybox sleep 0.5; done; /bin/busybox mkdir /www; echo hi > /www/index.html"]
EXPOSE 8080
CMD ["/bin/busybox", "httpd", "-f", "-v", "-p", "8080", "-h", "/www"]
"""


@pytest.fixture
def page(browser: Browser, server: Platform) -> Iterator[Page]:
    """A page signed in as the admin; what goes wrong in its scripts fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server.url}/login/")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", PASSWORD)
    page.click("button[type=submit]")
    expect(page.get_by_role("link", name="Containers").first).to_be_visible()
    yield page
    context.close()
    server.remove_containers()
    assert errors == []


def archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(DOCKERFILE)
        tar.addfile(entry, io.BytesIO(DOCKERFILE.encode()))
        tar.add("/bin/busybox", "busybox")
    return packed.getvalue()


def picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def answer_of(port: int) -> bytes:
    """Return what the program in the container says, once it listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return bytes(answer.read())
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_build_run_follow_stop_and_the_book(page: Page, server: Platform) -> None:
    # upload
    page.goto(f"{server.url}/builds/new/")
    page.locator('input[name="context"]').set_input_files(
        {"name": "context.tar", "mimeType": "application/x-tar", "buffer": archive()}
    )
    page.fill('input[name="tags"]', "seen:1")
    picture(page, "1-new-build")
    page.get_by_role("button", name="Build", exact=True).click()
    # lines appear while it runs
    page.wait_for_url(re.compile(r"/builds/[0-9a-f]+"))
    expect(page.get_by_text("tick 1").first).to_be_visible(timeout=15_000)
    assert page.get_by_text("tick 8").count() == 0
    picture(page, "2-build-running")
    expect(page.get_by_text("tick 8").first).to_be_visible(timeout=15_000)
    expect(page.get_by_text("Cancel build")).to_have_count(0, timeout=15_000)
    picture(page, "3-build-done")
    # run it from the image's page
    page.goto(f"{server.url}/images/seen:1/")
    picture(page, "4-image")
    page.get_by_role("link", name=re.compile("^Run")).first.click()
    port = free_port()
    page.fill('input[name="name"]', "watched")
    page.locator('#rows-ports input[name="port_host"]').first.fill(str(port))
    picture(page, "5-run")
    page.locator("button[form=run], form#run button[data-kind=primary]").first.click()
    page.wait_for_url(re.compile(r"/containers/(?!run)[^/]+/"), timeout=15_000)
    expect(page.get_by_text("Running").first).to_be_visible(timeout=15_000)
    # a request is seen in the log at once
    assert answer_of(port) == b"hi\n"
    expect(page.get_by_text("response:200").first).to_be_visible(timeout=5_000)
    picture(page, "6-container-log")
    # stop it, and see it without loading the page again
    page.evaluate("window.notReloaded = true")
    page.get_by_role("button", name="Stop", exact=True).first.click()
    expect(page.get_by_text(re.compile("Exited|Stopped")).first).to_be_visible(timeout=20_000)
    assert page.evaluate("window.notReloaded") is True
    picture(page, "7-stopped")
    # who did it
    page.goto(f"{server.url}/audit/")
    book = page.locator("main")
    for words in ("seen:1", "watched"):
        expect(book.get_by_text(words).first).to_be_visible()
    picture(page, "8-audit")
    actions = {entry["action"] for entry in server.get("/audit/").body["results"]}
    assert {"build.run", "container.create", "container.stop"} <= actions

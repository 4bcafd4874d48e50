"""A real browser (Debian's Chromium) against the site with sample records. Pictures go to test-output/screens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "test-output" / "screens"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--force-color-profile=srgb",
]
SIZES = {"desk": (1440, 900), "phone": (390, 844)}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only", default="", help="only the pages whose name holds this (test_screens)")


@pytest.fixture(scope="session")
def bundles() -> None:
    """The bundles as they are in the sources."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed, so the bundles cannot be made")
    if not (ROOT / "node_modules").is_dir():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["npm", "run", "--silent", "build"], cwd=ROOT, check=True, capture_output=True)


class Site:
    """The sample site in its own process; `order` makes something happen there."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.sample_site", *arguments],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.facts = self._read()
        self.url = str(self.facts["url"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the sample site ended"
        return dict(json.loads(line))

    def order(self, do: str, **what: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        assert answer["ok"], answer
        return answer["result"]

    def container(self, name: str) -> str:
        return str(self.facts["containers"][name][:12])

    def close(self) -> None:
        """End the site; a second time does nothing."""
        if self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def shared_site(bundles: None) -> Iterator[Site]:
    """One site for tests that only look."""
    site = Site()
    yield site
    site.close()


@pytest.fixture
def site(bundles: None) -> Iterator[Site]:
    """A site of the test's own, to change."""
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="module")
def empty_site(bundles: None) -> Iterator[Site]:
    site = Site("--empty")
    yield site
    site.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """`open_page(site, "/containers/", size="phone", theme="dark", user="viewer")`: a page of somebody who is signed in."""
    contexts: list[BrowserContext] = []

    def open_it(
        site: Site,
        path: str,
        *,
        size: str = "desk",
        theme: str = "light",
        user: str | None = "operator",
        scripts: bool = True,
    ) -> Page:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce", java_script_enabled=scripts,
            has_touch=size == "phone", is_mobile=size == "phone", timezone_id="UTC", base_url=site.url,
        )  # fmt: skip
        contexts.append(context)
        if user:
            context.add_cookies(
                [{"name": "wharfinger_session", "value": site.facts["sessions"][user], "url": site.url}]
            )
        page = context.new_page()
        page.problems = watch(page)  # type: ignore[attr-defined]
        page.goto(path)
        return page

    yield open_it
    for context in contexts:
        context.close()


def watch(page: Page) -> list[str]:
    """Collect what the browser complains of: script errors and refusals of the content policy. Sockets may be missing here."""
    problems: list[str] = []

    def said(message: Any) -> None:
        if message.type == "error" and not any(
            known in message.text
            for known in ("WebSocket", "status of 4", "status of 5", "ERR_NETWORK_CHANGED")
        ):
            problems.append(message.text)

    page.on("console", said)
    page.on("pageerror", lambda error: problems.append(str(error)))
    return problems


@pytest.fixture
def shoot() -> Callable[..., Path]:
    """`shoot(page, "containers-dark")` writes a picture of the whole page."""

    def take(page: Page, name: str, *, whole: bool = True) -> Path:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        page.wait_for_load_state("load")
        page.evaluate("document.fonts.ready")
        path = OUTPUT / f"{name}.png"
        page.screenshot(path=path, full_page=whole)
        return path

    return take

"""The application of `examples/leafy-like`, as `script/demo` runs it and as its visitors see it."""

from __future__ import annotations

import http.cookiejar
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from tests.support.platform import ROOT, Platform

DEMO = ROOT / "script/demo.py"
CONTAINERS = ("leafy-postgres", "leafy-backend", "leafy-front")


def demo(server: Platform, *argv: str) -> str:
    """Run `script/demo` against a server, asking no registry; return what it says."""
    done = subprocess.run(
        [sys.executable, str(DEMO), "--offline", *argv],
        env={**os.environ, "WHARFINGER_URL": server.url, "WHARFINGER_TOKEN": server.token},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Visitor:
    """A browser at the front end, with a cookie jar."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)

    def page(self, path: str = "/") -> str:
        with self._opener.open(self._address + path, timeout=10) as answer:
            return str(answer.read().decode())

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(self._address + path, data=data, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def sign_in(self) -> None:
        wanted = {"name": "gardener", "password": "grow slowly"}
        assert self.call("POST", "/api/sign-in", wanted) == (200, {"name": "gardener"})

    def write(self, text: str) -> None:
        status, note = self.call("POST", "/api/notes", {"text": text})
        assert (status, note["text"]) == (201, text)

    def notes(self, within_s: float = 60) -> list[str]:
        """Return the notes, newest first, once the tiers behind answer again."""
        deadline = time.monotonic() + within_s
        while True:
            status, answer = self.call("GET", "/api/notes")
            if status == 200:
                return [note["text"] for note in answer["notes"]]
            assert status in (502, 503, 504), answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)

"""Our side: a server of its own on a free port, and a small client that keeps its connection."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

IDLE_S = 2.0
ROOT = Path(__file__).resolve().parents[2]
_CHUNK = 256 * 1024


class Rest:
    """Calls of the REST API over one kept connection. `pid` is the server's first process."""

    def __init__(self, port: int, token: str, pid: int = 0) -> None:
        self.port = port
        self.pid = pid
        self.headers = {"Authorization": f"Bearer {token}"}
        self._token = token
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self._used = time.monotonic()

    def another(self) -> Rest:
        """Return a client with a connection of its own, for calls at the same time."""
        return Rest(self.port, self._token, self.pid)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: Any = None,
        content_type: str = "",
        chunked: bool = False,
    ) -> Any:
        """Send a call and return the parsed answer; an answer of 400 or more raises with its text."""
        headers = dict(self.headers)
        data = raw
        if body is not None:
            data, content_type = json.dumps(body), "application/json"
        if content_type:
            headers["Content-Type"] = content_type
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        if time.monotonic() - self._used > IDLE_S:
            self._connection.close()  # the server lets go of idle ones; the next request makes a new one
        try:
            self._connection.request(
                method, f"/api/v1{path}", body=data, headers=headers, encode_chunked=chunked
            )
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        self._used = time.monotonic()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:400]!r}")
        return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text

    def build(self, context: Path, tag: str, **fields: str) -> Any:
        """Build a folder, sending it while it is packed."""
        with subprocess.Popen(["tar", "-C", str(context), "-c", "."], stdout=subprocess.PIPE) as packing:
            assert packing.stdout is not None
            return self.send(iter(lambda: packing.stdout.read(_CHUNK), b""), tag, **fields)

    def send(self, archive: Iterator[bytes], tag: str, **fields: str) -> Any:
        """Build an archive that comes in pieces, as `curl --data-binary @-` sends it."""
        query = urlencode({"tags": tag, **fields, "wait": "600"})
        return self.call(
            "POST", f"/builds/?{query}", raw=archive, content_type="application/x-tar", chunked=True
        )

    def run(self, image: str, *command: str) -> Any:
        """Create, start, wait for the exit, remove."""
        made = self.call("POST", "/containers/?wait=60", {"image": image, "command": list(command)})
        identity = made["id"]
        while (seen := self.call("GET", f"/containers/{identity}/"))["status"] not in ("exited", "dead"):
            time.sleep(0.002)
        self.call("DELETE", f"/containers/{quote(identity)}/?wait=60")
        return seen


@contextlib.contextmanager
def server(home: Path) -> Iterator[tuple[Rest, int, str]]:
    """Start `script/server` on a free port; the block gets the client, the port and an admin's token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "WHARFINGER_HOME": str(home),
        "WHARFINGER_ADMIN_PASSWORD": "bench-only-password",
    }
    log = (home.parent / "server.log").open("wb")
    argv = [str(ROOT / "script" / "server"), "--port", str(port)]
    process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while b"\nready" not in (home.parent / "server.log").read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    "the server did not start: " + (home.parent / "server.log").read_text()[-800:]
                )
            time.sleep(0.1)
        made = subprocess.run(
            [str(ROOT / "script" / "manage"), "token", "create", "admin", "--name", "bench"],
            env={**environment, "WHARFINGER_PORT": str(port)},
            capture_output=True,
            text=True,
            check=True,
        )
        yield Rest(port, made.stdout.strip(), process.pid), port, made.stdout.strip()
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()

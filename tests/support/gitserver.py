"""A server of git repositories over HTTP: git's own `http-backend` behind a small server of the test."""

from __future__ import annotations

import base64
import gzip
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ADDRESS = "127.0.0.2"
_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": "1000000000 +0000",
    "GIT_COMMITTER_DATE": "1000000000 +0000",
}


@dataclass
class GitServer:
    """Repositories below `root`, served at `url`. `asked` are the paths that were asked for; `password` locks all of it;
    `redirects` maps a path to where it leads."""

    root: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)
    password: str = ""
    redirects: dict[str, str] = field(default_factory=dict)

    def commit(
        self, name: str, files: Mapping[str, str], *, branch: str = "main", message: str = "one"
    ) -> str:
        """Put files (text `->x` is a link) on a branch of the repository `name`; return the commit."""
        work = self.root.parent / "work" / name
        if not work.exists():
            work.mkdir(parents=True)
            self.git(work, "init", "-q", "-b", "main")
            self.git(self.root, "init", "-q", "--bare", "-b", "main", f"{name}.git")
            (self.root / f"{name}.git" / "git-daemon-export-ok").touch()
            self.git(self.root / f"{name}.git", "config", "uploadpack.allowAnySHA1InWant", "true")
        if branch != "main":
            self.git(work, "checkout", "-q", "-B", branch)
        for path, text in files.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            if text.startswith("->"):
                (work / path).symlink_to(text[2:])
            else:
                (work / path).write_text(text)
        self.git(work, "add", "-A")
        self.git(work, "commit", "-q", "--allow-empty", "-m", message)
        self.push(name)
        return self.git(work, "rev-parse", "HEAD").strip()

    def push(self, name: str) -> None:
        self.git(self.root.parent / "work" / name, "push", "-q", "--mirror", str(self.root / f"{name}.git"))

    def git(self, folder: Path, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *arguments],
            cwd=folder, env=_ENVIRONMENT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def work(self, name: str) -> Path:
        return self.root.parent / "work" / name


@contextmanager
def git_server(folder: Path, address: str = ADDRESS) -> Iterator[GitServer]:
    """Serve repositories on an address of the loopback network."""
    (folder / "served").mkdir()
    made = GitServer(folder / "served")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, made, b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = _chunked(self)
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            _answer(self, made, body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    made.url = f"http://{address}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _chunked(handler: http.server.BaseHTTPRequestHandler) -> bytes:
    data = b""
    while size := int(handler.rfile.readline().strip() or b"0", 16):
        data += handler.rfile.read(size)
        handler.rfile.readline()
    return data


def _answer(handler: http.server.BaseHTTPRequestHandler, served: GitServer, body: bytes) -> None:
    path, _, query = handler.path.partition("?")
    served.asked.append(handler.path)
    if path in served.redirects:
        handler.send_response(302)
        handler.send_header("Location", f"{served.redirects[path]}?{query}")
        handler.end_headers()
        return
    wanted = "Basic " + base64.b64encode(f"x-access-token:{served.password}".encode()).decode()
    if served.password and handler.headers.get("Authorization") != wanted:
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", 'Basic realm="x"')
        handler.end_headers()
        return
    environment = {
        **_ENVIRONMENT, "GIT_PROJECT_ROOT": str(served.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
        "QUERY_STRING": query, "REQUEST_METHOD": handler.command, "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)), "GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""), "REMOTE_ADDR": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        ["git", "http-backend"], input=body, env=environment, capture_output=True, check=False
    )
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
    handler.send_response(int(fields.pop("Status", "200").split()[0]))
    for name, value in fields.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)

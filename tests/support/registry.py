"""A real registry for the length of a test: Debian's `docker-registry` (distribution 2.8) on a loopback port.

with real_registry(tmp_path) as registry:
    reference = f"{registry.domain}/team/app:1"
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificates import ThrowawayCA

USERNAME = "alice"
PASSWORD = "throw-away-password"
# bcrypt of PASSWORD, the only hash that the registry reads
_HTPASSWD = f"{USERNAME}:$2b$05$crDxu4qoD/7./MB89EwCSeuDGwbwPq9gghvwLceUdc50Qc8jtTKUu\n"
_BINARIES = ("docker-registry", "registry")


@dataclass(frozen=True)
class RealRegistry:
    """Where a running registry is; `ca_pem` and the account are empty where it has none."""

    domain: str
    storage: Path
    log: Path
    ca_pem: str = ""
    ca_file: str = ""
    username: str = ""
    password: str = ""


@contextmanager
def real_registry(
    folder: Path, *, auth: bool = False, tls: bool = False, deletable: bool = False
) -> Iterator[RealRegistry]:
    """Run a registry whose files are in `folder`; skips where the program is not installed."""
    program = next(filter(None, map(shutil.which, _BINARIES)), None)
    if program is None:
        pytest.skip("docker-registry is not installed (Debian package docker-registry)")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    authority = ThrowawayCA(folder) if tls else None
    (folder / "config.yml").write_text(_config(folder, port, auth, authority, deletable))
    log = folder / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdout=output, stderr=output
        )
    try:
        _wait(process, port, tls, log)
        yield RealRegistry(
            domain=f"127.0.0.1:{port}",
            storage=folder / "storage",
            log=log,
            ca_pem=authority.pem if authority else "",
            ca_file=str(authority.file) if authority else "",
            username=USERNAME if auth else "",
            password=PASSWORD if auth else "",
        )
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """Return a loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _config(folder: Path, port: int, auth: bool, authority: ThrowawayCA | None, deletable: bool) -> str:
    lines = [
        "version: 0.1",
        "log: {level: info}",
        "storage:",
        f"  filesystem: {{rootdirectory: {folder / 'storage'}}}",
        f"  delete: {{enabled: {str(deletable).lower()}}}",
        "  cache: {blobdescriptor: inmemory}",
        "http:",
        f"  addr: 127.0.0.1:{port}",
        "  secret: not-secret",
    ]
    if authority:
        files = authority.issue("127.0.0.1", "localhost")
        lines += [f"  tls: {{certificate: {files.certificate}, key: {files.key}}}"]
    if auth:
        (folder / "htpasswd").write_text(_HTPASSWD)
        lines += ["auth:", f"  htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}"]
    return "\n".join(lines) + "\n"


def _wait(process: subprocess.Popen[bytes], port: int, tls: bool, log: Path) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as sock:
                if tls:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                    context.wrap_socket(sock).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"the registry did not start: {log.read_text()[-2000:]}")

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificates import ThrowawayCA

USERNAME = "alice"
PASSWORD = "throw-away-password"
# bcrypt of PASSWORD, the only hash that the registry reads
_HTPASSWD = f"{USERNAME}:$2b$05$crDxu4qoD/7./MB89EwCSeuDGwbwPq9gghvwLceUdc50Qc8jtTKUu\n"
_MEMORY = "  cache: {blobdescriptor: inmemory}"
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
    folder: Path,
    *,
    auth: bool = False,
    tls: bool = False,
    deletable: bool = False,
    port: int = 0,
    storage: Path | None = None,
    remembers: bool = True,
    inside: Sequence[str] = (),
) -> Iterator[RealRegistry]:
    """Run a registry whose files are in `folder`; skips where the program is not installed.

    Two with the same `storage` are one registry at two places; then none `remembers` which blobs there are. `inside` is a
    command that runs another in a network namespace of its own.
    """
    program = next(filter(None, map(shutil.which, _BINARIES)), None)
    if program is None:
        pytest.skip("docker-registry is not installed (Debian package docker-registry)")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    storage = storage or folder / "storage"
    authority = ThrowawayCA(folder) if tls else None
    config = _config(folder, storage, port, auth, authority, deletable)
    (folder / "config.yml").write_text(config if remembers else config.replace(_MEMORY, ""))
    log = folder / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*inside, program, "serve", str(folder / "config.yml")], stdout=output, stderr=output
        )
    try:
        if inside:
            _wait_for_its_word(process, log)
        else:
            _wait(process, port, tls, log)
        yield RealRegistry(
            domain=f"127.0.0.1:{port}",
            storage=storage,
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


def _config(
    folder: Path, storage: Path, port: int, auth: bool, authority: ThrowawayCA | None, deletable: bool
) -> str:
    lines = [
        "version: 0.1",
        "log: {level: info}",
        "storage:",
        f"  filesystem: {{rootdirectory: {storage}}}",
        f"  delete: {{enabled: {str(deletable).lower()}}}",
        _MEMORY,
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


def _wait_for_its_word(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a registry that cannot be connected to from here."""
    deadline = time.monotonic() + 15
    while b"listening on" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the registry did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)


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

"""A private Redis on a unix socket for tests: `with private_redis(folder) as server: server.url`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

WITH_US = ["setpriv", "--pdeathsig", "KILL"]  # a test run that is killed leaves no processes


@dataclass
class RedisServer:
    """A running redis-server; `kill` ends it with SIGKILL, `start` starts it on the same files."""

    folder: Path
    socket: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        argv = [
            *WITH_US,
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self.folder),
        ]
        argv += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--loglevel", "warning"]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False


@contextmanager
def private_redis() -> Iterator[RedisServer]:
    """Run a redis-server in a short folder of its own (a socket's path must be short) until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="wf-redis-"))
    server = RedisServer(folder, folder / "r.sock")
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)

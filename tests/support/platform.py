"""The whole platform as real processes: `script/serve.py` on a free port, with a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.linux.mount import LinuxMounts, unmount_below

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a password for tests only"
BUSYBOX = Path("/bin/busybox")


@dataclass
class Answer:
    """What the REST API answered: the status and the parsed body (text where it is no JSON)."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


class Platform:
    """A running server. `token` is an admin's; `arguments` are more of those that script/server takes."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.arguments = arguments
        self.scheme = "https" if any(argument.startswith("--tls") for argument in arguments) else "http"
        self.config = EngineConfig.from_home(home)
        self.log_path = home.parent / "server.log"
        self.port = free_port()
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "WHARFINGER_HOME": str(self.home),
            "WHARFINGER_ADMIN_PASSWORD": PASSWORD,
            "WHARFINGER_BIND_ROOTS": str(self.home.parent / "binds"),
            "WHARFINGER_PORT": str(self.port),
        }

    def start(self) -> None:
        """Start all processes and wait for `ready`."""
        (self.home.parent / "binds").mkdir(exist_ok=True)
        argv = [str(ROOT / ".venv/bin/python"), str(ROOT / "script/serve.py"), "--port", str(self.port)]
        argv += self.arguments
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                argv, env=self.environment, stdout=log, stderr=log, start_new_session=True, cwd=ROOT
            )
        deadline = time.monotonic() + 90
        while "\nready" not in "\n" + self.log():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log()[-3000:]}")
            time.sleep(0.05)
        if not self.token:
            self.token = self.manage("token", "create", "admin", "--name", "tests")

    def stop(self) -> None:
        """Stop the processes; containers go on."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        self._process = None

    def remove_containers(self) -> None:
        for item in self.get("/containers/").body["results"]:
            self.call("DELETE", f"/containers/{item['id']}/?force=true&volumes=true&wait=30")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def manage(self, *argv: str) -> str:
        """Run a manage.py command with the server's settings; return what it prints."""
        done = subprocess.run(
            [str(ROOT / "script/manage"), *argv],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pids(self, name: str) -> list[int]:
        """Return the processes of this server whose command line has `name`."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = Path(f"/proc/{entry}/environ").read_bytes()
                environment += f"WHARFINGER_HOME={self.home}\0".encode() if str(self.home) in line else b""
                if name in line and f"WHARFINGER_HOME={self.home}\0".encode() in environment + b"\0":
                    found.append(int(entry))
        return found

    # REST

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        raw: bytes | None = None,
        base: str = "/api/v1",
        **headers: str,
    ) -> Answer:
        """Send a call of the REST API (`path` below /api/v1)."""
        data = json.dumps(body).encode() if body is not None else raw
        values = {key.replace("_", "-"): value for key, value in headers.items()}
        if body is not None:
            values.setdefault("Content-Type", "application/json")
        bearer = self.token if token is None else token
        if bearer:
            values["Authorization"] = f"Bearer {bearer}"
        request = urllib.request.Request(f"{self.url}{base}{path}", data=data, method=method, headers=values)
        try:
            with _opener.open(request, timeout=120) as answer:
                return Answer(answer.status, _parsed(answer.read(), answer.headers), dict(answer.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _parsed(error.read(), error.headers), dict(error.headers))

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("POST", path, {} if body is None else body, **headers)

    def build(self, folder: Path, tag: str, **fields: str) -> Answer:
        """Upload a folder as a context and build it, waiting for the end."""
        packed = subprocess.run(["tar", "-C", str(folder), "-c", "."], capture_output=True, check=True).stdout
        return self.upload("/builds/?wait=120", {"tags": tag, **fields}, context=packed)

    def upload(self, path: str, fields: dict[str, str], **files: bytes) -> Answer:
        boundary = "tests-boundary-0"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        parts += [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode()
            + data
            + b"\r\n"
            for name, data in files.items()
        ]
        raw = b"".join(parts) + f"--{boundary}--\r\n".encode()
        return self.call("POST", path, raw=raw, Content_Type=f"multipart/form-data; boundary={boundary}")

    def engine_call(self, method: str, path: str, body: Any = None) -> Answer:
        """Send a call of the Docker Engine API."""
        return self.call(method, path, body, base="")

    # the docker command

    def docker_environment(self, token: str = "") -> dict[str, str]:
        """Return the environment in which `docker` speaks to this server under a token."""
        folder = self.home.parent / f"docker-{(token or self.token)[-8:]}"
        folder.mkdir(exist_ok=True)
        headers = {"HttpHeaders": {"Authorization": f"Bearer {token or self.token}"}}
        (folder / "config.json").write_text(json.dumps(headers))
        return {
            **os.environ,
            "DOCKER_HOST": f"tcp://127.0.0.1:{self.port}",
            "DOCKER_CONFIG": str(folder),
            "DOCKER_BUILDKIT": "0",
        }

    def docker(
        self,
        *argv: str,
        stdin: str | bytes | None = None,
        timeout_s: float = 60,
        cwd: Path | None = None,
        token: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run the docker command and return its end, output as text."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            ["docker", *argv], env=self.docker_environment(token), capture_output=True, timeout=timeout_s, cwd=cwd, check=False,
            input=given, stdin=subprocess.DEVNULL if given is None else None,
        )  # fmt: skip
        return subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def busybox_context(folder: Path, *, commands: str = "") -> Path:
    """Write a context that makes a whole small system of the machine's static busybox; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, folder / "busybox")
    (folder / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    (folder / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (folder / "Dockerfile").write_text(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY passwd group /etc/\n"
        'RUN ["/bin/busybox", "--install", "-s", "/bin"]\nRUN mkdir -p /tmp /root /var/run && chmod 1777 /tmp\n'
        + commands
        + 'CMD ["sh"]\n'
    )
    return folder


@contextlib.contextmanager
def running_platform(folder: Path, *arguments: str) -> Iterator[Platform]:
    """Give a running platform; afterwards its containers, mounts and folders are gone."""
    home = folder / "home"
    platform = Platform(home, *arguments)
    try:
        platform.start()
        yield platform
    finally:
        with contextlib.suppress(OSError, AssertionError, KeyError, TypeError):
            platform.remove_containers()
        platform.stop()
        _dismantle(platform.config)


def _dismantle(config: EngineConfig) -> None:
    from engine.engine import Engine

    engine = Engine(config)
    for item in engine.container_list():
        engine.remove(container=item.id, force=True, volumes=True)
    engine.network.dismantle()
    engine.parts.cgroups.remove(engine.parts.group)
    mounts = LinuxMounts()
    unmount_below(mounts, config.run_root)
    unmount_below(mounts, config.data_root)
    shutil.rmtree(config.run_root, ignore_errors=True)


def _unverified() -> ssl.SSLContext:
    context = (
        ssl.create_default_context()
    )  # this helper asks loopback; what verifies is tested with real clients
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


_opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_unverified())
)


def _parsed(data: bytes, headers: Any) -> Any:
    if "json" in (headers.get("Content-Type") or ""):
        return json.loads(data)
    return data.decode(errors="replace")

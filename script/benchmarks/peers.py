"""The peers: a real dockerd in namespaces of its own, Podman and Buildah with stores of their own."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


def run(
    *argv: str,
    stdin: object = subprocess.DEVNULL,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
) -> str:
    """Run a command and return its output; raises with its error text when it fails."""
    result = subprocess.run(
        argv,
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        timeout=timeout_s,
    )
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(argv[:4])} ...: {(result.stderr or result.stdout).strip()[-300:]}")
    return result.stdout


@functools.cache
def _builder() -> str:
    """Return a docker command that can ask for BuildKit: one of before 23, or one with its buildx plugin."""
    found = [shutil.which("docker", path=folder) for folder in os.environ["PATH"].split(":")]
    for command in dict.fromkeys(filter(None, found)):
        asked = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"version (\d+)", asked)
        if version is not None and int(version[1]) < 23:
            return command
        if subprocess.run([command, "buildx", "version"], capture_output=True, check=False).returncode == 0:
            return command
    raise RuntimeError("no docker command here can ask for BuildKit")


class Docker:
    """A dockerd in its own network and mount namespace; the command reaches it through a unix socket."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self.socket = folder / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        argv = ["dockerd", "--host", f"unix://{self.socket}", "--data-root", str(self._folder / "data")]
        argv += [
            "--exec-root",
            str(self._folder / "exec"),
            "--pidfile",
            str(self._folder / "pid"),
            "--log-level",
            "error",
        ]
        argv += ["--insecure-registry", "127.0.0.1:5055", *self._arguments]
        enter = 'ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; exec "$@"'
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--net", "--mount", "sh", "-c", enter, "sh", *argv],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):
                self.run("version")
                return
            time.sleep(0.2)
        raise RuntimeError("dockerd did not start: " + (self._folder / "log").read_text()[-400:])

    def inside(self, *argv: str) -> list[str]:
        """Return `argv` wrapped to run in dockerd's network namespace (a registry must be on its loopback)."""
        assert self._process is not None
        return ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", *argv]

    @property
    def pid(self) -> int:
        """The process of dockerd itself: `unshare` and `sh` became it."""
        assert self._process is not None
        return self._process.pid

    def run(
        self,
        *argv: str,
        cwd: Path | None = None,
        stdin: object = subprocess.DEVNULL,
        timeout_s: float | None = None,
    ) -> str:
        environment = {"DOCKER_HOST": f"unix://{self.socket}"}
        return run("docker", *argv, environment=environment, cwd=cwd, stdin=stdin, timeout_s=timeout_s)

    def build(self, *argv: str, cwd: Path) -> str:
        """Build with BuildKit, which dockerd has in it."""
        environment = {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "1"}
        return run(_builder(), "build", *argv, cwd=cwd, environment=environment)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            self._process.kill()
        subprocess.run(
            ["sh", "-c", 'umount -l "$1"/exec/netns/* 2>/dev/null; true', "sh", str(self._folder)],
            check=False,
        )
        shutil.rmtree(self._folder, ignore_errors=True)


class Podman:
    """Podman (and Buildah, on the same store) with a store of its own."""

    def __init__(self, folder: Path, program: str = "podman") -> None:
        self._folder = folder
        self._program = program

    def run(
        self,
        *argv: str,
        cwd: Path | None = None,
        stdin: object = subprocess.DEVNULL,
        timeout_s: float | None = None,
    ) -> str:
        return run(*self._command(*argv), cwd=cwd, stdin=stdin, timeout_s=timeout_s)

    def peak_bytes(self, *argv: str) -> float:
        """Run a command and return the most memory that its process had."""
        process = subprocess.Popen(self._command(*argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(argv[:4])} ...: exit {process.returncode}")
        return usage.ru_maxrss * 1024.0

    def _command(self, *argv: str) -> list[str]:
        if self._program == "podman" and argv[0] in ("run", "create"):
            # its default limits are above the hard ones of a host without CAP_SYS_RESOURCE
            argv = (argv[0], "--ulimit", "host", *argv[1:])
        stores = ["--root", str(self._folder / "root"), "--runroot", str(self._folder / "run")]
        options = (
            ["--runtime", shutil.which("runc") or "runc", "--cgroup-manager", "cgroupfs"]
            if self._program == "podman"
            else []
        )
        return [self._program, *stores, *options, *argv]

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.run("rm", "--all", "--force")
        subprocess.run(
            ["sh", "-c", 'umount -l "$1"/root/overlay 2>/dev/null; true', "sh", str(self._folder)],
            check=False,
        )
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def peers(folder: Path) -> Iterator[dict[str, Docker | Podman]]:
    """Start what is installed; the block gets the peers by name, afterwards all is stopped and removed."""
    found: dict[str, Docker | Podman] = {}
    if shutil.which("dockerd"):
        docker = Docker(folder / "docker")
        docker.start()
        found["docker"] = docker
    if shutil.which("podman"):
        found["podman"] = Podman(folder / "podman")
    if shutil.which("buildah"):
        found["buildah"] = Podman(folder / "podman", "buildah")
    try:
        yield found
    finally:
        for peer in found.values():
            peer.stop()

"""Running git as a stranger: its own ids, mounts, processes and network, a clean environment, a bound on time and disk."""

from __future__ import annotations

import os
import posixpath
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from engine.build.ops.gitrelay import Relay
from engine.errors import EngineError, InvalidInput, Unavailable
from engine.linux.process import CLEAN_ENV

MAX_ENTRIES = 2_000_000
DEADLINE_S = 1800.0
_LOOK_S = 2.0
_OUTPUT = 4 * 1024 * 1024
PLACE = "/tmp/git"  # where git sees the session's folder
_ALONE = (
    "set -e; umask 022; mount -t tmpfs -o mode=0755,size=64k tmpfs /tmp; mkdir /tmp/git; mount -c --bind . /tmp/git; "
    "for hidden in /home /media /mnt /opt /root /run /srv /var; do "
    '[ ! -d "$hidden" ] || mount -t tmpfs -o ro,size=4k tmpfs "$hidden"; done; cd /tmp/git; exec "$@"'
)

_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.attributesFile": "/dev/null",
    "core.logAllRefUpdates": "false",
    "core.symlinks": "true",
    "core.autocrlf": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "advice.detachedHead": "false",
    "init.defaultBranch": "main",
    "fetch.fsckObjects": "true",
    "transfer.bundleURI": "false",
    "submodule.fetchJobs": "1",
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": "60",
}

Check = Callable[[], None]


class GitFailed(Unavailable):
    """A git command ended with an error."""


@dataclass
class Git:
    """Runs git commands of one session, one after the other.

    `folder` stays ours: git owns only folders in it, so it can put nothing in the place of what we look at afterwards.
    """

    folder: Path
    netns: Path
    owner: int
    proxy: str
    remote: str
    relay: Relay
    limit_bytes: int
    check: Check
    _store: str = ""
    _helper: str = ""
    _deadline: float = field(default_factory=lambda: time.monotonic() + DEADLINE_S)

    def at(self, store: str) -> None:
        """Let the next commands work on the repository in `store` with its files in `tree`."""
        self._store = store

    def make(self, name: str) -> None:
        """Make a folder that git may write to."""
        place = self.folder / name
        place.mkdir(mode=0o700 if name == "home" else 0o755, exist_ok=True)
        os.chown(place, self.owner, self.owner)

    def trust(self, credentials: str) -> None:
        """Give git a line of credentials for the host of the repository."""
        descriptor = os.open(
            self.folder / "home" / "credentials", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "w") as file:
            file.write(credentials + "\n")
            os.fchown(file.fileno(), self.owner, self.owner)
        self._helper = f"store --file={PLACE}/home/credentials"

    def __call__(self, *arguments: str) -> str:
        """Run a command to its end and return its output. Raises `GitFailed`, or why the relay refused a connection."""
        argv = [
            "nsenter", f"--net={self.netns}", "--", "setpriv", "--pdeathsig=KILL", "--",
            "unshare", "--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
            "sh", "-c", _ALONE, "sh",
            "prlimit", f"--fsize={self.limit_bytes}", "--core=0", "--nofile=1024", "--",
            "setpriv", f"--reuid={self.owner}", f"--regid={self.owner}", "--clear-groups", "--no-new-privs",
            "--bounding-set=-all", "--inh-caps=-all", "--",
            "git", *arguments,
        ]  # fmt: skip
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            program = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self._environment(), cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
            try:
                self._wait(program)
            finally:
                _end(program)
            if program.returncode:
                raise self._failure(arguments[0], _said(err))
            return _said(out)

    def _environment(self) -> dict[str, str]:
        protocols = "https" if self.remote.startswith("https://") else "http:https"
        settings = {**_SETTINGS, "http.proxy": self.proxy}
        if self._helper:
            settings["credential.helper"] = self._helper
        environment = {
            **CLEAN_ENV, "HOME": f"{PLACE}/home", "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "GIT_ALLOW_PROTOCOL": protocols,
            "GIT_ATTR_NOSYSTEM": "1", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_CONFIG_COUNT": str(len(settings)),
        }  # fmt: skip
        if self._store:
            environment |= {"GIT_DIR": f"{PLACE}/{self._store}", "GIT_WORK_TREE": f"{PLACE}/tree"}
        for number, (name, value) in enumerate(settings.items()):
            environment[f"GIT_CONFIG_KEY_{number}"] = name
            environment[f"GIT_CONFIG_VALUE_{number}"] = value
        return environment

    def _wait(self, program: subprocess.Popen[bytes]) -> None:
        look = time.monotonic() + _LOOK_S
        while True:
            try:
                program.wait(0.05)
                return
            except subprocess.TimeoutExpired:
                self.check()
            if time.monotonic() > self._deadline:
                raise Unavailable(
                    f"fetching {shown(self.remote)} took longer than {DEADLINE_S:g} s", hint="try again later"
                )
            if time.monotonic() > look:
                self._measure()
                look = time.monotonic() + _LOOK_S

    def _measure(self) -> None:
        size = entries = 0
        for folder, names, files in os.walk(self.folder):
            entries += len(names) + len(files)
            for name in files:
                try:
                    size += os.lstat(posixpath.join(folder, name)).st_size
                except FileNotFoundError:
                    continue
            if size > 2 * self.limit_bytes or entries > MAX_ENTRIES:
                raise InvalidInput(
                    f"the repository {shown(self.remote)} is too large", hint="clone a part of it in a RUN"
                )

    def _failure(self, command: str, text: str) -> EngineError:
        if self.relay.refusal is not None:
            return self.relay.refusal
        lines = text.strip().splitlines()
        said = next((line for line in reversed(lines) if line.startswith(("fatal:", "error:"))), "") or (
            lines[-1] if lines else "no reason given"
        )
        return GitFailed(
            f"git {command} of {shown(self.remote)} failed: {said.partition(': ')[2][:300] or said[:300]}",
            hint="check the address; a token for a private repository is the build's secret GIT_AUTH_TOKEN",
        )


def _end(program: subprocess.Popen[bytes]) -> None:
    """Kill git and all that it started."""
    if program.poll() is None:
        os.killpg(program.pid, 9)
        program.wait()


def _said(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_OUTPUT).decode("utf-8", "replace")


def shown(remote: str) -> str:
    """Return an address without what is secret in it."""
    scheme, separator, rest = remote.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"[:200] if separator else remote[:200]

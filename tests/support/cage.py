"""A cage for a run of tests that may misbehave: control groups of its own, a largest file, a deadline; nothing stays behind.

The run and every container that it starts stand below limits of processes and memory (version 1, 2 or hybrid), so a guard can be
taken away from a test without harm to the machine. All that such a run can leave carries its engine's instance name.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.config import EngineConfig
from engine.linux.cgroup import Cgroups, Mode
from tests.support.containers import FOLDERS, clean_up
from tests.support.hostdiff import assert_nothing_left

MOST_PROCESSES = 400
MEMORY_BYTES = 1024 * 1024 * 1024
FILE_BYTES = 1025 * 1024 * 1024
_START = 'read -r go && ulimit -f "$0" && exec "$@"'  # waits until it stands in its group


@dataclass
class Cage:
    """Runs programs below limits; `instance` is the name that engines of the run take."""

    instance: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def groups(self) -> tuple[str, str]:
        """The group of all containers of the run, and the run's own: its end must not be the end of those who clean up."""
        return f"wharfinger-{self.instance}", f"wharfinger-test-{self.instance}"

    def run(
        self, argv: Sequence[str], *, environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and remove all that it left; raises `TimeoutExpired`, `AssertionError` for what stays."""
        cgroups = Cgroups()
        values = {**os.environ, **environment, "WHARFINGER_TEST_INSTANCE": self.instance}
        program = subprocess.Popen(
            ["sh", "-c", _START, str(FILE_BYTES // 512), *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env=values, cwd=Path.cwd(),
        )  # fmt: skip
        try:
            for group in self.groups:
                cgroups.move(group, program.pid)
                limit(cgroups, group)
            text, _ = program.communicate("go\n", timeout_s)
            return subprocess.CompletedProcess(argv, program.returncode, text)
        finally:
            self._end(cgroups, program)

    def _end(self, cgroups: Cgroups, program: subprocess.Popen[str]) -> None:
        with program:
            program.kill()
        cgroups.kill(self.groups[1])
        cgroups.remove(self.groups[1])
        bases = list(FOLDERS.glob(f"wf-test-{self.instance}-*"))
        config = EngineConfig(
            Path("/nonexistent"), Path("/run") / f"wharfinger-{self.instance}", self.instance
        )
        clean_up(config, *bases)
        assert_nothing_left(self.instance)
        assert not config.run_root.exists()
        assert not [base for base in bases if base.exists()]


def limit(cgroups: Cgroups, group: str) -> None:
    """Give a group limits of processes and memory; fails where the host cannot hold them."""
    if cgroups.mode is Mode.V2:
        root = cgroups.folder("", "")
        assert root is not None
        (root / "cgroup.subtree_control").write_text("+pids +memory")
        names = {"pids": "pids.max", "memory": "memory.max"}
    else:
        names = {"pids": "pids.max", "memory": "memory.limit_in_bytes"}
    for controller, name in names.items():
        folder = cgroups.folder(controller, group)
        assert folder is not None, f"no control group of {controller} on this host"
        value = str(MOST_PROCESSES if controller == "pids" else MEMORY_BYTES)
        (folder / name).write_text(value)
        assert (folder / name).read_text().strip() == value

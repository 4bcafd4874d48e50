"""The other runtime: the same tests where crun is chosen, in a mount namespace without the hybrid's second hierarchy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.linux.cgroup import Mode, detect
from engine.runtime.oci_runtime import probe

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("crun"), reason="crun is not installed")]

WITHOUT_HYBRID = """
if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
exec "$@"
"""
CHOSEN = "import sys; from pathlib import Path; from engine.config import EngineConfig; from engine.runtime.oci_runtime import probe; print(probe(EngineConfig(Path('/x'), Path(sys.argv[1]), '0' * 8)).name)"  # fmt: skip


def without_hybrid(*command: str, **options: int) -> subprocess.CompletedProcess[str]:
    argv = ["unshare", "--mount", "sh", "-c", WITHOUT_HYBRID, "sh", *command]
    return subprocess.run(
        argv, capture_output=True, text=True, cwd=Path.cwd(), check=False, timeout=110, **options
    )


def test_the_probe_takes_what_works_here(tmp_path: Path) -> None:
    config = EngineConfig(tmp_path, tmp_path, "0" * 8)
    assert probe(config).name == ("runc" if detect().mode is Mode.HYBRID else "crun")
    done = without_hybrid(sys.executable, "-c", CHOSEN, str(tmp_path))
    assert done.stdout.strip() == "crun", done.stderr


@pytest.mark.parametrize(
    "tests",
    [
        ["tests/engine/system/test_step.py"],
        ["tests/engine/system/test_containers_life.py", "-k", "exit_status or pause or after_the_grace"],
        ["tests/engine/system/test_containers_streams.py", "-k", "both_streams or terminal or attach_reads"],
        ["tests/engine/system/test_containers_security.py", "-k", "capabilities or masked or devices"],
    ],
    ids=["steps", "life", "streams", "security"],
)  # fmt: skip
def test_the_same_holds_with_crun(tests: list[str]) -> None:
    """Both runtimes, one suite."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = without_hybrid("env", *[f"{k}={v}" for k, v in environment.items() if k.startswith("WHARFINGER")],
                          sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]

"""The browser's modules that need no browser, and words that server and browser must say alike."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from webapp.core.templatetags import wf

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None, reason="Node is not installed, so the browser's modules cannot be run here"
)


def test_the_modules_pass_their_own_tests() -> None:
    done = subprocess.run(
        [str(NODE), "--test", "static/js/tests/"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_server_and_browser_say_amounts_and_spans_alike() -> None:
    seconds = [0, 1, 59, 60, 3599, 3600, 86399, 86400, 86400 * 364, 86400 * 366]
    amounts = [
        0,
        1,
        999,
        1000,
        1049,
        99_949,
        99_951,
        999_499,
        999_501,
        187_000_000,
        14_200_000_000,
        3 * 10**13,
    ]
    program = f"""
        import {{ memory, size, span }} from {json.dumps(str(ROOT / "static/js/times.js"))};
        const say = [{json.dumps(seconds)}.map(span), {json.dumps(amounts)}.map(size), {json.dumps(amounts)}.map(memory)];
        console.log(JSON.stringify(say));
    """
    done = subprocess.run(
        [str(NODE), "--input-type=module", "-e", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    spans, sizes, memories = json.loads(done.stdout)
    assert spans == [wf.span_text(value) for value in seconds]
    assert sizes == [wf.size_text(value) for value in amounts]
    assert memories == [wf.memory_text(value) for value in amounts]


def test_the_lock_file_names_no_place_to_fetch_from() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert all(
        package.get("integrity")
        for name, package in lock["packages"].items()
        if name and not package.get("link")
    )

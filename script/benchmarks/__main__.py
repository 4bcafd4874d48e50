"""`script/bench [SUBJECT ...]`: measure and write docs/figures.md. `WHARFINGER_BENCH_ROUNDS` changes how often the short ones run."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from script.benchmarks import builds, containers, contests, dockerapi, images, networks
from script.benchmarks.measure import Contest
from script.benchmarks.ours import server
from script.benchmarks.peers import peers

ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = (
    contests.SUBJECTS
    | builds.SUBJECTS
    | containers.SUBJECTS
    | dockerapi.SUBJECTS
    | images.SUBJECTS
    | networks.SUBJECTS
)
CONTESTANTS = ["engine", "rest", "docker API", "docker", "podman", "buildah", "tools"]


def main(wanted: list[str]) -> int:
    unknown = set(wanted) - set(SUBJECTS)
    if unknown:
        print(
            f"no such subject: {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped then too
    folder = Path(tempfile.mkdtemp(prefix="wharfinger-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    found: list[Contest] = []
    try:
        (folder / "served").mkdir(mode=0o755)
        with peers(folder) as others, server(folder / "served" / "home") as (rest, port, token):
            engine = contests.make_engine(folder / "alone")
            ring = contests.Ring(folder, engine, rest, _docker_environment(folder, port, token), others)
            ring.rounds = int(os.environ.get("WHARFINGER_BENCH_ROUNDS") or ring.rounds)
            contests.prepare(ring)
            for name, subject in SUBJECTS.items():
                if wanted and name not in wanted:
                    continue
                try:
                    measured = subject(ring)
                except Exception as error:  # one subject that cannot be measured does not end the run
                    measured = [
                        Contest(name, note=f"not measured: {type(error).__name__}: {str(error)[:200]}")
                    ]
                for contest in measured:
                    print(" | ".join(contest.row(CONTESTANTS)), flush=True)
                found += measured
                if (
                    not wanted
                ):  # kept as it grows: a run that is cut short has measured something all the same
                    (ROOT / "docs").mkdir(exist_ok=True)
                    (ROOT / "docs" / "figures.md").write_text(page(found, others))
            with contextlib.suppress(Exception):
                engine.network.dismantle()
    finally:
        with contextlib.suppress(Exception):  # the server is gone, its bridges and rules would stay
            contests.make_engine(folder / "served" / "home").network.dismantle()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def page(found: list[Contest], others: dict[str, object]) -> str:
    """Return the table with date and machine."""
    head = ["figure", *CONTESTANTS, "ours / best peer", "asked for", "note"]
    rows = [f"| {' | '.join(contest.row(CONTESTANTS))} |" for contest in found]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**30
    versions = "; ".join(filter(None, (_version(name) for name in others)))
    return "\n".join(
        [
            "# Figures",
            "",
            f"Measured by `script/bench` on {datetime.now(UTC):%Y-%m-%d} (Linux {platform.release()}, {os.cpu_count()} cores, {memory} GiB). "
            f"Peers: {versions or 'none installed'}.",
            "",
            "Medians in milliseconds of interleaved runs, whole process. `engine` is our engine in a warm process, `rest` our server through its "
            "REST API, `docker API` the unchanged `docker` command against our server; `docker`, `podman` and `buildah` are the peers by their own "
            "commands, `tools` Debian's own (tar, igzip). The machine is shared: read the ratios, not the single numbers.",
            "",
            f"| {' | '.join(head)} |",
            f"|{' --- |' * len(head)}",
            *rows,
            "",
        ]
    )


def _version(name: str) -> str:
    program = "dockerd" if name == "docker" else name
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""


def _docker_environment(folder: Path, port: int, token: str) -> dict[str, str]:
    config = folder / "docker-config"
    config.mkdir(exist_ok=True)
    (config / "config.json").write_text(f'{{"HttpHeaders": {{"Authorization": "Bearer {token}"}}}}')
    return {"DOCKER_HOST": f"tcp://127.0.0.1:{port}", "DOCKER_CONFIG": str(config), "DOCKER_BUILDKIT": "0"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

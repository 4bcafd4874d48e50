"""The processes of a container as `ps` shows them, on the host and by the host's own `ps`: nothing of the container is run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from engine.errors import BadSpec
from engine.linux.process import run

_ARGUMENTS = re.compile(r"[A-Za-z0-9 ,=_%:+.-]{0,200}\Z")


@dataclass(frozen=True)
class Processes:
    """The titles of the columns, and a row of texts for each process."""

    titles: list[str]
    processes: list[list[str]]


def list_processes(pids: set[int], ps_args: str = "-ef") -> Processes:
    """Return what `ps` says of these processes. `ps_args` are options of ps that keep a PID column; raises `BadSpec`."""
    if not _ARGUMENTS.match(ps_args):
        raise BadSpec(f"not arguments of ps: {ps_args[:64]!r}")
    done = run(["ps", *shlex.split(ps_args or "-ef")], check=False)
    if done.returncode != 0:
        raise BadSpec(f"ps: {done.stderr.decode(errors='replace').strip()[:200]}")
    lines = done.stdout.decode(errors="replace").splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise BadSpec("the output of ps has no column PID", hint="choose other columns")
    column, rows = titles.index("PID"), []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            rows.append(fields)
    return Processes(titles, rows)

"""The processes of a container as `ps` shows them, on the host and by the host's own `ps`: nothing of the container is run."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass

from engine.errors import BadSpec
from engine.linux.process import run

_ARGUMENTS = re.compile(r"[A-Za-z0-9 ,=_%:+.-]{0,200}\Z")

_USERS = {"UID", "USER", "RUSER", "EUSER", "RUID", "EUID"}


@dataclass(frozen=True)
class Processes:
    """The titles of the columns, and a row of texts for each process."""

    titles: list[str]
    processes: list[list[str]]


def list_processes(
    pids: set[int], ps_args: str = "-ef", *, id_start: int = 0, names: dict[int, str] | None = None
) -> Processes:
    """Return what `ps` says of these processes. `ps_args` are options of ps that keep a PID column; raises `BadSpec`.

    Users are shown as inside: by the `names` of the container's own ids, or by number; `id_start` is the first of its range.
    """
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
            rows.append(_with_users(titles, fields, int(fields[column]), id_start, names or {}))
    return Processes(titles, rows)


def _with_users(
    titles: list[str], fields: list[str], pid: int, id_start: int, names: dict[int, str]
) -> list[str]:
    """Put the container's own names in place of the host's ids."""
    if not id_start or not _USERS & set(titles):
        return fields
    try:
        uid = os.stat(f"/proc/{pid}").st_uid - id_start
    except FileNotFoundError:
        return fields
    shown = names.get(uid, str(uid))
    return [shown if title in _USERS else field for title, field in zip(titles, fields, strict=False)]

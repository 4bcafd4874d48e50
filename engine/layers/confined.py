"""Unpacking foreign archives in a process that can reach nothing but the target (D1): the verbs of `engine.layers.apply`.

A job runs in a mount namespace of its own with the target as its root, few capabilities, no way to start a program, bounded
resources and a deadline (`engine.layers.unpacker`). Here, on the engine's side, the bytes are unpacked and hashed before they
go down a pipe (D2), entries that an upload's own rules change are read and changed, `check` is called, and the job is killed
when it may not go on. When a verb returns or raises, the job's process is gone and holds nothing of the target open.

    apply_layer(stream, upper, lowers=..., check=cancel.check)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from engine.errors import BadArchive
from engine.layers.job import RunningJob
from engine.layers.limits import LAYER, UPLOAD, Limits
from engine.layers.names import shown
from engine.layers.policy import LAYER_POLICY, UPLOAD_POLICY, ApplyResult, EntryReader, Policy, Whiteouts
from engine.layers.tar import Kind, Readable
from engine.layers.wire import Job

_READ = 1024 * 1024


def apply_layer(
    stream: Readable,
    target: Path | int,
    *,
    limits: Limits = LAYER,
    whiteouts: Whiteouts = Whiteouts.OVERLAY,
    idmap_start: int = 0,
    lowers: Sequence[Path] = (),
    require_end: bool = False,
    check: Callable[[], None] | None = None,
) -> ApplyResult:
    """Unpack the layer `stream` (a tar, not packed) into the fresh folder `target`.

    `lowers` are the layers below, topmost first: a directory that the archive uses but does not contain gets the mode
    and owner that it has there. `require_end`: no digest says whether the archive is whole, so its end mark must. `check`
    is called now and then and may raise to stop (a `CancelToken.check`).
    """
    policy = replace(LAYER_POLICY, whiteouts=whiteouts, require_end=require_end)
    job = Job(limits, policy, has_lowers=bool(lowers), idmap_start=idmap_start)
    return _run(job, stream, target, lowers, check)


def extract(
    stream: Readable,
    target: Path | int,
    limits: Limits = UPLOAD,
    policy: Policy = UPLOAD_POLICY,
    *,
    idmap_start: int = 0,
    owner: tuple[int, int] | None = None,
    check: Callable[[], None] | None = None,
) -> ApplyResult:
    """Unpack an archive of people's files into the folder `target`, which may hold files already and be in use.

    `owner`: the ids of the machine that work on the files, where root is not mapped (see `engine.linux.identity`).
    """
    return _run(Job(limits, policy, idmap_start=idmap_start, owner=owner), stream, target, (), check)


def extract_entries(
    reader: EntryReader,
    target: Path | int,
    limits: Limits = UPLOAD,
    policy: Policy = UPLOAD_POLICY,
    *,
    owner: tuple[int, int] | None = None,
    check: Callable[[], None] | None = None,
) -> ApplyResult:
    """As `extract`, for entries that already come one by one; bounds on bytes and entries are the reader's to keep."""
    job = Job(limits, policy, is_tar=False, owner=owner)
    with RunningJob(job, target, (), check) as running:
        for entry in reader:
            running.entry(entry)
            if entry.kind is Kind.FILE:
                left = entry.size
                for chunk in reader.chunks():
                    left -= len(chunk)
                    running.content(chunk)
                if left:
                    raise BadArchive(f"{shown(entry.name)} is not as long as announced", entry=entry.name)
        running.end()
        return running.result()


def _run(
    job: Job,
    stream: Readable,
    target: Path | int,
    lowers: Sequence[Path],
    check: Callable[[], None] | None,
) -> ApplyResult:
    with RunningJob(job, target, lowers, check) as running:
        while data := stream.read(_READ):
            running.content(data)
        return running.result()

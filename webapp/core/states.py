"""What state a thing is in, as a page says it: a kind (which is a colour and a shape) and one or two words.

A colour means one thing everywhere: ok (alive and well, proven), fail (failed), warn (alive, but not well; refused),
work (being done), hold (held on purpose), rest (nothing runs, nothing was spent).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Q

TONES = ("ok", "fail", "warn", "work", "hold", "rest")
GLYPHS = {
    "ok": "done",
    "fail": "exited-failed",
    "warn": "unhealthy",
    "work": "creating",
    "hold": "paused",
    "rest": "exited-ok",
}
TONE_OF = {
    "running": "ok",
    "paused": "hold",
    "restarting": "warn",
    "exited-ok": "rest",
    "exited-failed": "fail",
    "creating": "work",
    "unhealthy": "warn",
    "removed": "rest",
}
ORDER = ("running", "exited-failed", "restarting", "unhealthy", "creating", "paused", "exited-ok")
WORDS = {
    "running": "running",
    "exited-failed": "failed",
    "restarting": "restarting",
    "unhealthy": "unhealthy",
    "creating": "creating",
    "paused": "paused",
    "exited-ok": "at rest",
}
ATTENTION = ("exited-failed", "restarting", "unhealthy")
KILLED_ON_REQUEST = (137, 143)  # SIGKILL and SIGTERM: what a stop ends with


@dataclass(frozen=True)
class Shown:
    kind: str
    words: str
    glyph: str = ""


def kind_of(container: Any) -> str:  # any object with a container's fields
    """Return one of `ORDER` (or `removed`) for a container."""
    status = container.status
    if status == "running":
        return "unhealthy" if container.health == "unhealthy" else "running"
    if status in ("paused", "restarting"):
        return str(status)
    if status == "creating":
        return "creating"
    if status == "removing":
        return "removed"
    if status == "created":
        return "exited-failed" if container.error else "exited-ok"
    return "exited-failed" if has_failed(container) else "exited-ok"


def has_failed(container: Any) -> bool:
    """Say whether a stopped container ended badly: with an error, or killed for memory; ending by a stop's signal is no failure."""
    if container.status == "dead" or container.oom_killed or container.error:
        return True
    return bool(container.exit_code) and container.exit_code not in KILLED_ON_REQUEST


def failed_query() -> Q:
    """Return the same as a condition of a query."""
    ended_badly = Q(status="exited") & Q(exit_code__isnull=False) & ~Q(exit_code__in=(0, *KILLED_ON_REQUEST))
    return (
        Q(status="dead")
        | ended_badly
        | (Q(status__in=("exited", "created")) & (Q(oom_killed=True) | ~Q(error="")))
    )


def query_of(kind: str) -> Q:
    """Return the condition that a container is of this kind (see `ORDER`), for filters and counts."""
    return {
        "running": Q(status="running") & ~Q(health="unhealthy"),
        "unhealthy": Q(status="running", health="unhealthy"),
        "restarting": Q(status="restarting"),
        "creating": Q(status="creating"),
        "paused": Q(status="paused"),
        "exited-failed": failed_query(),
        "exited-ok": Q(status__in=("exited", "created", "removing")) & ~failed_query(),
        "attention": failed_query() | Q(status="restarting") | Q(status="running", health="unhealthy"),
        "stopped": Q(status__in=("exited", "created", "dead")),
    }[kind]


def of_container(container: Any) -> Shown:
    kind = kind_of(container)
    status = container.status
    if kind == "unhealthy":
        return Shown(kind, "Unhealthy")
    if status == "running":
        return Shown(
            kind,
            {"healthy": "Running, healthy", "starting": "Running, health starts"}.get(
                container.health, "Running"
            ),
        )
    if status == "restarting":
        return Shown(
            kind, f"Restarting, try {container.restart_count}" if container.restart_count else "Restarting"
        )
    if status == "exited":
        if container.oom_killed:
            return Shown(kind, "Killed for memory")
        return Shown(kind, f"Exited {container.exit_code if container.exit_code is not None else ''}".strip())
    if status == "created":
        return Shown(kind, "Not started" if container.error else "Created")
    return Shown(
        kind,
        {"creating": "Creating", "paused": "Paused", "removing": "Removing", "dead": "Dead"}.get(
            status, status
        ),
    )


_OPERATION = {
    "queued": Shown("rest", "Waits", "wait"),
    "running": Shown("work", "Running"),
    "succeeded": Shown("ok", "Done"),
    "failed": Shown("fail", "Failed"),
    "cancelled": Shown("rest", "Cancelled", "removed"),
}
_OUTCOME = {
    "accepted": Shown("rest", "Accepted", "wait"),
    "succeeded": Shown("rest", "Done", "done"),
    "failed": Shown("fail", "Failed"),
    "cancelled": Shown("rest", "Cancelled", "removed"),
    "interrupted": Shown("fail", "Interrupted"),
    "refused": Shown("warn", "Refused"),
}


def of_operation(operation: Any) -> Shown:
    if operation.status == "running" and operation.cancel_requested_at:
        return Shown("work", "Stopping")
    return _OPERATION[operation.status]


def of_outcome(outcome: str) -> Shown:
    return _OUTCOME.get(outcome, Shown("rest", outcome))


_VERBS = {
    "container.create": ("Create", "Creating"),
    "container.start": ("Start", "Starting"),
    "container.stop": ("Stop", "Stopping"),
    "container.restart": ("Restart", "Restarting"),
    "container.kill": ("Kill", "Killing"),
    "container.pause": ("Pause", "Pausing"),
    "container.unpause": ("Resume", "Resuming"),
    "container.rename": ("Rename", "Renaming"),
    "container.update": ("Change", "Changing"),
    "container.remove": ("Remove", "Removing"),
    "kept_log.remove": ("Remove the kept log of", "Removing the kept log of"),
    "container.commit": ("Commit", "Committing"),
    "container.exec": ("Run a command in", "Running a command in"),
    "container.prune": ("Remove stopped containers", "Removing stopped containers"),
    "container.files_put": ("Copy files into", "Copying files into"),
    "image.pull": ("Pull", "Pulling"),
    "image.push": ("Push", "Pushing"),
    "image.tag": ("Tag", "Tagging"),
    "image.untag": ("Untag", "Untagging"),
    "image.names_protect": ("Protect names", "Telling the node of protected names"),
    "image.remove": ("Remove image", "Removing image"),
    "image.load": ("Load images", "Loading images"),
    "image.import": ("Import", "Importing"),
    "image.save": ("Save", "Saving"),
    "image.prune": ("Remove unused images", "Removing unused images"),
    "build.run": ("Build", "Building"),
    "build_cache.prune": ("Empty the build cache", "Emptying the build cache"),
    "network.create": ("Make network", "Making network"),
    "network.remove": ("Remove network", "Removing network"),
    "network.connect": ("Connect", "Connecting"),
    "network.disconnect": ("Disconnect", "Disconnecting"),
    "network.prune": ("Remove unused networks", "Removing unused networks"),
    "volume.create": ("Make volume", "Making volume"),
    "volume.remove": ("Remove volume", "Removing volume"),
    "volume.backup": ("Back up", "Backing up"),
    "volume.restore": ("Restore", "Restoring"),
    "backup.remove": ("Remove backup", "Removing backup"),
    "volume.prune": ("Remove unused volumes", "Removing unused volumes"),
    "system.prune": ("Free space", "Freeing space"),
    "system.check": ("Check the node", "Checking the node"),
    "system.repair": ("Repair the node", "Repairing the node"),
}


def verb(kind: str) -> str:
    """Return an operation's kind as a verb: `container.start` → `Start`."""
    return _VERBS.get(kind, (kind.replace(".", " ").capitalize(), ""))[0]


def doing(kind: str) -> str:
    """Return an operation's kind as what is going on: `container.start` → `Starting`."""
    known = _VERBS.get(kind)
    return known[1] if known else f"{verb(kind)}, running"

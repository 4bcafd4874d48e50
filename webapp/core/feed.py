"""What the team did lately, said in words: the audit book as the overview shows it."""

from __future__ import annotations

from typing import Any

from webapp.audit.models import Entry, Face, Outcome
from webapp.core import states

QUIET = ("session.open", "session.close", "audit.read")
_PAST = {
    "container.create": "ran", "container.start": "started", "container.stop": "stopped", "container.restart": "restarted", "container.kill": "killed",
    "container.pause": "paused", "container.unpause": "resumed", "container.remove": "removed", "kept_log.remove": "removed the kept log of", "container.rename": "renamed",
    "container.update": "changed the limits of", "container.commit": "committed", "container.exec": "ran a command in", "container.files_put": "copied files into",
    "image.pull": "pulled", "image.push": "pushed", "image.tag": "tagged", "image.remove": "removed image", "image.load": "loaded images", "image.import": "imported",
    "build.run": "built", "terminal.open": "opened a terminal in", "volume.backup": "backed up", "volume.restore": "restored", "volume.create": "made volume",
    "volume.remove": "removed volume", "backup.remove": "removed a backup of", "network.create": "made network", "network.remove": "removed network", "network.connect": "connected",
    "network.disconnect": "disconnected", "user.create": "added", "user.update": "changed", "token.create": "made token", "token.revoke": "ended token",
    "registry.save": "saved the account at", "registry.remove": "removed the account at", "system.prune": "freed space on", "operation.cancel": "cancelled", "operation.retry": "repeated",
}  # fmt: skip


def recent(limit: int = 8) -> list[dict[str, Any]]:
    """Return the newest things that people did, each once: an outcome does not follow its request as a line of its own."""
    told, seen = [], set()
    for entry in Entry.objects.exclude(action__in=QUIET).exclude(face=Face.SYSTEM)[: limit * 4]:
        if entry.operation and entry.operation in seen:
            continue
        seen.add(entry.operation)
        told.append(line(entry))
        if len(told) == limit:
            break
    return told


def line(entry: Entry) -> dict[str, Any]:
    """Return one entry as who, verb and object, with a note where it did not go well."""
    verb = _PAST.get(entry.action, f"did {entry.action} to")
    note = ""
    if entry.outcome == Outcome.REFUSED:
        verb, note = f"was refused: {states.verb(entry.action).lower()}", entry.detail
    elif entry.outcome in (Outcome.FAILED, Outcome.INTERRUPTED):
        verb, note = f"tried to {states.verb(entry.action).lower()}", entry.detail or "it failed"
    return {
        "seq": entry.seq,
        "who": entry.actor or "somebody",
        "kind": "token" if entry.token else "person",
        "verb": verb,
        "object": entry.target or entry.target_id[:12],
        "note": note,
        "at": entry.at,
    }

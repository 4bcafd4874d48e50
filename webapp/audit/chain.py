"""The hash chain of the book: how a link is made, and how the whole is checked.

An entry's hash is SHA-256 over the hash before it and the entry's own fields. The head (last number and hash) is kept
in a row of its own with a seal (HMAC with a key outside the database) and once more in a *witness* file outside the database.
So an edited, dropped, inserted or reordered entry breaks the chain; a cut tail disagrees with the head; a forged head
has no seal; and an old head that was put back with its seal disagrees with the witness.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from webapp.audit.models import Entry, Head
from webapp.core.keys import read_or_make_key

START = "0" * 64
_HASHED = (
    "seq", "actor", "actor_id", "token", "token_id", "address", "face", "action", "target_type", "target_id", "target",
    "node", "outcome", "operation", "detail", "body",
)  # fmt: skip


def canonical(value: Any) -> str:
    """Return JSON that is the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def link_hash(entry: Entry) -> str:
    """Return the hash that an entry must carry."""
    fields = {name: getattr(entry, name) for name in _HASHED}
    fields["at"] = entry.at.isoformat(timespec="microseconds")
    return hashlib.sha256(f"{entry.previous}{canonical(fields)}".encode()).hexdigest()


def append(entry: Entry) -> Entry:
    """Give `entry` its number and hash and store it, in the running transaction (the head's row is locked in it)."""
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("an audit entry belongs into the transaction of what it tells of")
    head = Head.objects.select_for_update().get_or_create(pk=1)[0]
    entry.seq = head.seq + 1
    entry.at = timezone.now()
    entry.previous = head.hash
    entry.hash = link_hash(entry)
    entry.save(force_insert=True)
    head.seq, head.hash = entry.seq, entry.hash
    head.seal = seal(head.seq, head.hash)
    head.save()
    transaction.on_commit(lambda: write_witness(entry.seq, entry.hash))
    return entry


def seal(seq: int, last_hash: str) -> str:
    """Return the seal of a head."""
    key = read_or_make_key(settings.KEYS / "audit")
    return hmac.digest(key.encode(), f"{seq}:{last_hash}".encode(), hashlib.sha256).hex()


# --- the witness ------------------------------------------------------------------------------------------------


def witness_path() -> Path:
    return Path(settings.WEB_HOME) / "audit.head"


def write_witness(seq: int, last_hash: str) -> None:
    """Note the newest head outside the database; never goes back."""
    descriptor = os.open(witness_path(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        known = os.pread(descriptor, 200, 0).split()
        if not known or int(known[0]) < seq:
            os.pwrite(descriptor, f"{seq:020d} {last_hash}\n".encode(), 0)
    finally:
        os.close(descriptor)


def read_witness() -> tuple[int, str] | None:
    """Return the head that the witness knows; None: it knows none."""
    try:
        seq, last_hash = witness_path().read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(seq), last_hash


# --- checking ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verification:
    """`ok`, or the first entry at which the book is not what was written, and why."""

    ok: bool
    entries: int
    head: str
    broken_at: int | None = None
    reason: str = ""


def verify() -> Verification:
    """Read the whole book and check every link, the head, its seal and the witness."""
    witness = read_witness()
    head = Head.objects.filter(pk=1).first() or Head()
    count, last, problem = _walk(
        Entry.objects.order_by("seq").filter(seq__lte=max(head.seq, 0)).iterator(chunk_size=2000)
    )
    if problem is not None:
        return Verification(False, count, last, *problem)
    if extra := Entry.objects.filter(seq__gt=head.seq).order_by("seq").first():
        newer = Head.objects.filter(pk=1).first()
        if newer is None or newer.seq == head.seq:
            return Verification(False, count, last, extra.seq, "entry stands after the head of the chain")
    end = _check_end(head, count, last, witness)
    return end or Verification(True, count, last)


def _walk(entries: Iterable[Entry]) -> tuple[int, str, tuple[int, str] | None]:
    expected, previous = 1, START
    for entry in entries:
        if entry.seq != expected:
            return expected - 1, previous, (expected, f"entry {expected} is missing")
        if entry.previous != previous:
            return expected - 1, previous, (entry.seq, "entry does not follow the one before it")
        if link_hash(entry) != entry.hash:
            return expected - 1, previous, (entry.seq, "entry was changed after it was written")
        expected, previous = expected + 1, entry.hash
    return expected - 1, previous, None


def _check_end(head: Head, count: int, last: str, witness: tuple[int, str] | None) -> Verification | None:
    if head.seq != count or head.hash != last:
        return Verification(
            False, count, last, count + 1, f"the newest entries are gone: the head says {head.seq}"
        )
    if head.seq and not hmac.compare_digest(head.seal, seal(head.seq, head.hash)):
        return Verification(
            False, count, last, count, "the head of the chain is not sealed by this installation"
        )
    if witness is None:
        return None
    seq, known = witness
    if seq > count:
        return Verification(False, count, last, count + 1, f"the newest entries are gone: {seq} were written")
    found = Entry.objects.filter(seq=seq).values_list("hash", flat=True).first() if seq else START
    if found != known:
        return Verification(False, count, last, seq, "the chain was written anew")
    return None

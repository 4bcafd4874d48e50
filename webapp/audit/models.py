"""The book: entries that are only ever added, each carrying the hash of the one before.

The database refuses UPDATE, DELETE and TRUNCATE by triggers (migration 0002); who gets around these still has to forge
the chain, whose last link is sealed with a key outside the database (`audit.chain`).
"""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class Outcome(models.TextChoices):
    ACCEPTED = "accepted", "Accepted"  # an intent: the outcome follows in an entry of its own
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"
    INTERRUPTED = "interrupted", "Interrupted"
    REFUSED = "refused", "Refused"


class Face(models.TextChoices):
    PAGE = "page", "Page"
    REST = "rest", "REST"
    DOCKER = "docker", "Docker"
    COMMAND = "command", "Command line"
    SYSTEM = "system", "Wharfinger"


class Entry(models.Model):
    """Who did what to what, when, from where, and how it ended. Plain values, no foreign keys: nothing can pull a line."""

    seq = models.BigIntegerField(primary_key=True)  # 1, 2, 3 ... without a gap
    at = models.DateTimeField()
    actor = models.CharField(max_length=64)  # user name; empty: nobody signed in
    actor_id = models.BigIntegerField(null=True)
    token = models.CharField(max_length=120, blank=True, default="")  # name and hint
    token_id = models.BigIntegerField(null=True)
    address = models.CharField(max_length=45, blank=True, default="")
    face = models.CharField(max_length=10, choices=Face.choices)
    action = models.CharField(max_length=60)  # "container.create", "session.open" ...
    target_type = models.CharField(max_length=20, blank=True, default="")
    target_id = models.CharField(max_length=128, blank=True, default="")
    target = models.CharField(max_length=300, blank=True, default="")  # the name at that time
    node = models.CharField(max_length=64, blank=True, default="")
    outcome = models.CharField(max_length=12, choices=Outcome.choices)
    operation = models.CharField(max_length=32, blank=True, default="")
    detail = models.TextField(blank=True, default="")  # why it was refused, how it failed
    body = models.TextField(default="{}")  # canonical JSON, secrets masked
    previous = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        ordering = ["-seq"]
        indexes = [
            models.Index(fields=["actor", "seq"]),
            models.Index(fields=["action", "seq"]),
            models.Index(fields=["target_type", "target_id", "seq"]),
            models.Index(fields=["outcome", "seq"]),
            models.Index(fields=["operation"]),
            models.Index(fields=["at"]),
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.actor} {self.action} {self.target} {self.outcome}"


class Head(models.Model):
    """The last link of the chain, sealed; the one row also serialises the writers."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    seq = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, default="0" * 64)
    seal = models.CharField(max_length=64, default="")

    def __str__(self) -> str:
        return f"{self.seq} {self.hash[:12]}"


class Recording(models.Model):
    """A terminal session as an asciicast file in the web account's folder; `sha256` is in its closing audit entry."""

    id = models.CharField(max_length=32, primary_key=True)
    username = models.CharField(max_length=64)
    container_id = models.CharField(max_length=64, db_index=True)
    container_name = models.CharField(max_length=128)
    command = models.TextField(blank=True, default="")
    face = models.CharField(max_length=10, choices=Face.choices, default=Face.PAGE)
    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)
    columns = models.PositiveIntegerField(default=80)
    rows = models.PositiveIntegerField(default=24)
    size_bytes = models.BigIntegerField(default=0)
    truncated = models.BooleanField(default=False)
    sha256 = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return f"{self.username} in {self.container_name}"

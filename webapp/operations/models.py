"""Work that was asked for. The row is the truth about it: queue and stream only carry it there and back.

`queued` rows without `sent_at` are the outbox. A sent row has a lease; who sends signs of life prolongs it, and what
stays silent is sent again with a higher `fence` (a late writer of the older one is refused) or ended as interrupted.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from webapp.core.ids import new_id


class Status(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"

    @property
    def is_final(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class Operation(models.Model):
    id = models.CharField(max_length=32, primary_key=True, default=new_id)
    kind = models.CharField(max_length=40)  # "container.start": the contract's KIND
    node = models.ForeignKey("nodes.Node", on_delete=models.PROTECT, related_name="operations")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    target_type = models.CharField(max_length=20, blank=True, default="")
    target_id = models.CharField(max_length=128, blank=True, default="")
    target = models.CharField(max_length=300, blank=True, default="")
    payload = models.JSONField(default=dict)  # the contract's fields, without secrets
    sealed_payload = models.BinaryField(default=b"")  # fields that are secrets, encrypted; emptied at the end
    created_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    heard_at = models.DateTimeField(null=True, blank=True)  # last sign of life
    fence = models.PositiveIntegerField(default=1)
    attempts = models.PositiveIntegerField(default=0)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    progress = models.JSONField(default=dict)
    result = models.JSONField(default=dict)
    error = models.JSONField(default=dict)  # {code, detail, hint, context}; empty: none
    retry_of = models.CharField(max_length=32, blank=True, default="")
    uploads = models.JSONField(default=list)  # spool files to remove at the end
    # who asked; copied into the outcome's audit entry
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="operations"
    )
    actor = models.JSONField(default=dict)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="operation_newest"),
            models.Index(fields=["status", "created_at"]),
            models.Index(fields=["target_type", "target_id", "-created_at"], name="operation_target"),
            models.Index(fields=["kind", "-created_at"], name="operation_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.target} {self.status}"

    @property
    def is_final(self) -> bool:
        return Status(self.status).is_final

    @property
    def url(self) -> str:
        return f"/api/v1/operations/{self.id}/"


class IdempotencyKey(models.Model):
    """The first answer to a request that may be repeated; written in the transaction that accepted the request."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    key = models.CharField(max_length=200)
    fingerprint = models.CharField(
        max_length=64
    )  # of method, path and body: the same key for other work is refused
    operation = models.ForeignKey(Operation, null=True, on_delete=models.CASCADE)
    status = models.PositiveSmallIntegerField(default=0)
    response = models.JSONField(null=True)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "key"], name="idempotency_once")]

    def __str__(self) -> str:
        return self.key

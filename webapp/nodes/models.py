"""Machines that run containers, and the events that they told of."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

OFFLINE_AFTER_S = 15


class Node(models.Model):
    """One machine. Its agent's last sign of life and the last event applied from its stream are kept here."""

    name = models.CharField(max_length=64, unique=True)
    is_default = models.BooleanField(default=False)
    is_enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)
    seen_at = models.DateTimeField(null=True, blank=True)
    info = models.JSONField(default=dict)  # versions, runtime, storage driver, cpus, memory: as the node says
    epoch = models.CharField(
        max_length=32, blank=True, default=""
    )  # of its journal: a new one starts at 1 again
    seq = models.BigIntegerField(default=0)  # last event applied
    stream_id = models.CharField(max_length=40, blank=True, default="0-0")  # position in the Redis stream
    confirmed_at = models.DateTimeField(null=True, blank=True)  # last full comparison of records

    class Meta:
        ordering = ["-is_default", "name"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_online(self) -> bool:
        return self.seen_at is not None and (timezone.now() - self.seen_at).total_seconds() < OFFLINE_AFTER_S


class Event(models.Model):
    """An event of a node as it was applied, without the big record. `id` orders events of all nodes for replay."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="events")
    epoch = models.CharField(max_length=32)
    seq = models.BigIntegerField()
    at = models.DateTimeField()
    type = models.CharField(max_length=20)
    action = models.CharField(max_length=60)
    subject = models.CharField(max_length=128)
    attributes = models.JSONField(default=dict)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["node", "epoch", "seq"], name="event_once")]
        indexes = [models.Index(fields=["type", "subject", "id"]), models.Index(fields=["at"])]

    def __str__(self) -> str:
        return f"{self.type} {self.action} {self.subject[:12]}"

"""Volumes, their backups, and the schedules that make backups."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from webapp.core.ids import new_id


class Volume(models.Model):
    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="volumes")
    name = models.CharField(max_length=128)
    driver = models.CharField(max_length=20, default="local")
    anonymous = models.BooleanField(default=False)
    labels = models.JSONField(default=dict)
    project = models.CharField(max_length=128, blank=True, default="", db_index=True)
    size_bytes = models.BigIntegerField(null=True, blank=True)  # None: not measured yet
    measured_at = models.DateTimeField(null=True, blank=True)
    used_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    record = models.JSONField(default=dict)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["node", "name"], name="volume_name")]

    def __str__(self) -> str:
        return self.name


class BackupSchedule(models.Model):
    """Back a volume up every so many hours; keep the newest few, and the newest of some days, weeks and months."""

    volume = models.ForeignKey(Volume, on_delete=models.CASCADE, related_name="schedules")
    every_hours = models.PositiveIntegerField(default=24)
    keep = models.PositiveIntegerField(default=7)
    keep_daily = models.PositiveIntegerField(default=0)
    keep_weekly = models.PositiveIntegerField(default=0)
    keep_monthly = models.PositiveIntegerField(default=0)
    compression = models.CharField(max_length=4, default="zstd")
    is_enabled = models.BooleanField(default=True)
    next_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.volume} every {self.every_hours} h"


class Backup(models.Model):
    """A backup kept on the node; `proven` means that it was read back whole and every digest in it agreed."""

    id = models.CharField(max_length=32, primary_key=True, default=new_id)
    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="+")
    volume = models.CharField(max_length=128, db_index=True)  # a name: the backup outlives the volume
    schedule = models.ForeignKey(BackupSchedule, null=True, on_delete=models.SET_NULL, related_name="backups")
    operation = models.CharField(max_length=32, blank=True, default="", db_index=True)
    status = models.CharField(max_length=10, default="making")  # making, ready, failed, removed
    proven = models.BooleanField(default=False)
    size_bytes = models.BigIntegerField(default=0)
    content_bytes = models.BigIntegerField(default=0)
    entries = models.BigIntegerField(default=0)
    digest = models.CharField(max_length=71, blank=True, default="")
    compression = models.CharField(max_length=4, default="zstd")
    location = models.TextField(blank=True, default="")  # on the node
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.volume} {self.created_at:%Y-%m-%d %H:%M}"

"""Builds: what was asked, and what the node said about each step."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from webapp.operations.models import Operation


class Build(models.Model):
    """A build has the id of its operation, and its status."""

    operation = models.OneToOneField(
        Operation, on_delete=models.CASCADE, primary_key=True, related_name="build"
    )
    dockerfile = models.TextField(blank=True, default="")  # empty: the one in the context
    dockerfile_path = models.CharField(max_length=500, default="Dockerfile")
    context_size_bytes = models.BigIntegerField(default=0)
    tags = models.JSONField(default=list)
    build_args = models.JSONField(default=dict)  # values that look secret are masked
    target = models.CharField(max_length=128, blank=True, default="")
    no_cache = models.BooleanField(default=False)
    labels = models.JSONField(default=dict)
    plan = models.JSONField(default=list)  # stages, as the engine's `Plan` report
    steps = models.JSONField(default=list)  # last state of each step, as the engine's `StepProgress` report
    advice = models.JSONField(default=list)
    image_id = models.CharField(max_length=71, blank=True, default="", db_index=True)
    size_bytes = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at", "-operation_id"]

    def __str__(self) -> str:
        return ", ".join(self.tags) or self.operation_id[:12]

"""Networks as their nodes last said that they are."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone


class Network(models.Model):
    id = models.CharField(max_length=64, primary_key=True)
    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="networks")
    name = models.CharField(max_length=128)
    driver = models.CharField(max_length=20, default="bridge")
    subnet = models.CharField(max_length=50, blank=True, default="")
    gateway = models.CharField(max_length=50, blank=True, default="")
    internal = models.BooleanField(default=False)
    ipv6 = models.BooleanField(default=False)
    labels = models.JSONField(default=dict)
    project = models.CharField(max_length=128, blank=True, default="", db_index=True)
    created_at = models.DateTimeField(default=timezone.now)
    record = models.JSONField(default=dict)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["node", "name"], name="network_name")]

    def __str__(self) -> str:
        return self.name

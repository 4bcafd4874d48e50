"""Accounts at registries. The secret goes in and never comes out again."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone


class Registry(models.Model):
    """How the team talks to one registry host. `sealed_secret` is encrypted with a key outside the database."""

    class UsableBy(models.TextChoices):
        OPERATORS = "operators", "Operators and admins"
        ADMINS = "admins", "Admins only"

    host = models.CharField(max_length=255, unique=True)  # "docker.io", "127.0.0.1:5000"
    username = models.CharField(max_length=255, blank=True, default="")
    sealed_secret = models.BinaryField(default=b"")
    secret_kind = models.CharField(max_length=10, default="password")  # password or token (identity token)
    usable_by = models.CharField(max_length=10, choices=UsableBy.choices, default=UsableBy.OPERATORS)
    insecure = models.BooleanField(
        default=False
    )  # plain HTTP or an unchecked certificate: an admin's decision
    ca_pem = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    used_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["host"]
        verbose_name_plural = "registries"

    def __str__(self) -> str:
        return self.host

    @property
    def has_secret(self) -> bool:
        return bool(self.sealed_secret)

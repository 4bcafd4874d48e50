"""Images as their nodes last said that they are."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone


class Image(models.Model):
    """One image on one node; `image_id` is the digest of its configuration."""

    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="images")
    image_id = models.CharField(max_length=71)
    size_bytes = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)  # as the image says
    added_at = models.DateTimeField(default=timezone.now)
    platform = models.CharField(max_length=60, blank=True, default="")
    summary = models.JSONField(default=dict)  # names, digests, labels ...: see images.records
    record = models.JSONField(default=dict)
    confirmed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["node", "image_id"], name="image_once")]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="image_newest"),
            models.Index(fields=["image_id"]),
        ]

    def __str__(self) -> str:
        return self.image_id

    @property
    def names(self) -> list[str]:
        return list(self.summary.get("names", []))

    @property
    def shown_name(self) -> str:
        return self.names[0] if self.names else self.image_id.removeprefix("sha256:")[:12]


class ImageName(models.Model):
    """A name of an image, whole (`docker.io/library/nginx:latest`) and as people write it (`nginx:latest`)."""

    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="+")
    image = models.ForeignKey(Image, on_delete=models.CASCADE, related_name="name_rows")
    name = models.CharField(max_length=300)
    familiar = models.CharField(max_length=300, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "name"], name="image_name")]

    def __str__(self) -> str:
        return self.familiar


class ProtectedName(models.Model):
    """A pattern of whole names that stay with their images until an admin removes the row; see `images.protection`."""

    pattern = models.CharField(max_length=300, unique=True)
    note = models.CharField(max_length=300, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["pattern"]

    def __str__(self) -> str:
        return self.pattern

"""Containers as their nodes last said that they are."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone


class Status(models.TextChoices):
    """The states of a container and the verbs that each allows (the node judges again)."""

    CREATING = "creating", "Creating"
    CREATED = "created", "Created"
    RUNNING = "running", "Running"
    PAUSED = "paused", "Paused"
    RESTARTING = "restarting", "Restarting"
    EXITED = "exited", "Exited"
    REMOVING = "removing", "Removing"
    DEAD = "dead", "Dead"

    @property
    def can_start(self) -> bool:
        return self in (Status.CREATED, Status.EXITED)

    @property
    def can_stop(self) -> bool:
        return self in (Status.RUNNING, Status.PAUSED, Status.RESTARTING)

    @property
    def can_restart(self) -> bool:
        return self in (Status.RUNNING, Status.EXITED, Status.CREATED, Status.RESTARTING)

    @property
    def can_kill(self) -> bool:
        return self in (Status.RUNNING, Status.PAUSED)

    @property
    def can_pause(self) -> bool:
        return self is Status.RUNNING

    @property
    def can_unpause(self) -> bool:
        return self is Status.PAUSED

    @property
    def can_exec(self) -> bool:
        return self is Status.RUNNING

    @property
    def can_remove(self) -> bool:
        """Without force; a living one needs force."""
        return self in (Status.CREATED, Status.EXITED, Status.DEAD, Status.CREATING)

    @property
    def is_alive(self) -> bool:
        return self in (Status.RUNNING, Status.PAUSED)


class Container(models.Model):
    """`record` is the engine's whole record, `summary` the few facts of it that lists show."""

    id = models.CharField(max_length=64, primary_key=True)
    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="containers")
    name = models.CharField(max_length=128)
    image = models.CharField(max_length=300, blank=True, default="")  # as it was asked for
    image_id = models.CharField(max_length=71, blank=True, default="", db_index=True)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.CREATING)
    health = models.CharField(max_length=10, blank=True, default="")  # "", starting, healthy, unhealthy
    exit_code = models.IntegerField(null=True, blank=True)
    oom_killed = models.BooleanField(default=False)
    error = models.TextField(blank=True, default="")
    restart_count = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    project = models.CharField(max_length=128, blank=True, default="", db_index=True)  # Compose's label
    service = models.CharField(max_length=128, blank=True, default="")
    summary = models.JSONField(
        default=dict
    )  # command, ports, networks, mounts, labels ...: see containers.records
    record = models.JSONField(default=dict)
    generation = models.BigIntegerField(default=0)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["node", "name"], name="container_name")]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="container_newest"),
            models.Index(fields=["status"]),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> Status:
        return Status(self.status)


class ContainerNetwork(models.Model):
    """Membership of a network, kept as rows so that a network's members are one query."""

    container = models.ForeignKey(Container, on_delete=models.CASCADE, related_name="memberships")
    network_id = models.CharField(max_length=64, db_index=True)
    network = models.CharField(max_length=128)

    def __str__(self) -> str:
        return f"{self.container_id[:12]} on {self.network}"


class ContainerVolume(models.Model):
    """Use of a named or anonymous volume."""

    container = models.ForeignKey(Container, on_delete=models.CASCADE, related_name="volume_uses")
    volume = models.CharField(max_length=128, db_index=True)
    target = models.TextField()
    read_only = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"{self.container_id[:12]} uses {self.volume}"

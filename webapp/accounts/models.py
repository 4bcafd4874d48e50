"""People, their tokens, and the failed sign-ins that slow a guesser down."""

from __future__ import annotations

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.utils import timezone

from webapp.accounts.permissions import Right, Role, Scope


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str) -> User:
        return self.get(username=username)


class User(AbstractBaseUser):
    """A person (or a robot with a name). Names never change hands: who leaves is made inactive, not deleted."""

    username = models.CharField(max_length=64, unique=True)
    display_name = models.CharField(max_length=100, blank=True, default="")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.VIEWER)
    right_host_mounts = models.BooleanField(default=False)
    right_privileged = models.BooleanField(default=False)
    right_host_namespaces = models.BooleanField(default=False)
    right_devices = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    unix_uid = models.BigIntegerField(
        null=True, blank=True, unique=True
    )  # names the person behind docker.sock
    created_at = models.DateTimeField(default=timezone.now)
    sessions_valid_after = models.DateTimeField(default=timezone.now)  # "sign out everywhere" moves it

    objects = UserManager()
    USERNAME_FIELD = "username"

    class Meta:
        ordering = ["username"]

    def __str__(self) -> str:
        return self.username

    @property
    def rights(self) -> frozenset[Right]:
        """The risky rights that this person has; an admin has them all."""
        if self.role == Role.ADMIN:
            return frozenset(Right)
        return frozenset(right for right in Right if getattr(self, f"right_{right.value}"))

    @property
    def shown_name(self) -> str:
        return self.display_name or self.username


class TokenKind(models.TextChoices):
    SECRET = "secret", "Secret"
    CERTIFICATE = "certificate", "Certificate"


class Token(models.Model):
    """A key for programs. Only the SHA-256 of it is kept; `hint` (its first letters) tells tokens apart.

    The key is a secret that the program sends, or a TLS client certificate that it shows: then the digest is the
    certificate's fingerprint.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=12, choices=TokenKind.choices, default=TokenKind.SECRET)
    scope = models.CharField(max_length=10, choices=Scope.choices, default=Scope.OPERATE)
    digest = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=12)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    parent = models.ForeignKey(
        "self", null=True, on_delete=models.SET_NULL, related_name="children"
    )  # made with it

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    @property
    def is_valid(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())


class SignInFailure(models.Model):
    """One failed sign-in; old ones are forgotten by the reaper."""

    username = models.CharField(max_length=64)
    address = models.CharField(max_length=45)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["username", "address", "at"]), models.Index(fields=["address", "at"])]

    def __str__(self) -> str:
        return f"{self.username} from {self.address}"

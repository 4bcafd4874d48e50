from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_save


class ImagesConfig(AppConfig):
    name = "webapp.images"
    label = "images"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        post_save.connect(_tell_of_protection, sender="nodes.Node", dispatch_uid="protected-names")


def _tell_of_protection(instance: Any, created: bool, update_fields: frozenset[str] | None, **_: Any) -> None:
    """A node that is new, or was switched on again, hears which names are protected."""
    from webapp.accounts.actor import SYSTEM
    from webapp.images.protection import tell_node

    if instance.is_enabled and (created or "is_enabled" in (update_fields or ())):
        tell_node(SYSTEM, instance)

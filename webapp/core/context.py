"""What every template may use."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from webapp.accounts.actor import NOBODY
from webapp.accounts.permissions import Permission
from webapp.core.version import VERSION
from webapp.nodes.selectors import replay_from


def wharfinger(request: HttpRequest) -> dict[str, Any]:
    """`actor`, what it `may` do, and the version."""
    actor = getattr(request, "actor", NOBODY)
    return {
        "actor": actor,
        "may": {
            "operate": actor.can(Permission.OPERATE),
            "admin": actor.can(Permission.ADMIN),
            **{right.value: True for right in actor.rights},
        },
        "version": VERSION,
        "replay_from": replay_from,  # asked only by pages that listen
    }

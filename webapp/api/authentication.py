"""DRF learns who asks from the middleware, which has judged already."""

from __future__ import annotations

from typing import Any

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request


class ActorAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        actor = request._request.actor  # type: ignore[attr-defined]
        return (actor.user, actor.token) if actor.user is not None else None

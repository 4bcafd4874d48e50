"""The base of all websockets: who may connect, how long, and how an end is told.

Before the handshake is answered: the `Origin` header is that of this site (a program with a bearer token needs none), the
login is good, the permission is there, and there are not too many connections. Afterwards the connection is closed with
`LOGIN_ENDED` within seconds of the end of the login or token.

Close codes: 1000 it ended by itself · 4401 the login ended · 4403 not allowed · 4404 no such thing · 4500 the node did not
answer (try again) · 1009 a message was too large.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from webapp.accounts.actor import Actor
from webapp.accounts.permissions import Permission
from webapp.accounts.scopes import actor_of_scope, header
from webapp.api.renderers import dumps
from webapp.audit import services as audit
from webapp.core.errors import AppError, Conflict, Denied, Missing, NodeProblem
from webapp.core.threads import in_thread
from webapp.realtime import logins
from webapp.realtime.streams import StreamBroken
from workers.client import BrokerDown
from workers.contracts.problems import NodeError
from workers.contracts.values import ContractError

logger = logging.getLogger(__name__)

ENDED, LOGIN_ENDED, FORBIDDEN, NOT_FOUND, NODE_GONE = 1000, 4401, 4403, 4404, 4500


class LiveConsumer(AsyncWebsocketConsumer):
    """A subclass says `permission`, finds its thing in `prepare` (a thread, may use the database) and works in `run`."""

    permission: ClassVar[Permission] = Permission.VIEW

    actor: Actor
    query: dict[str, str]
    _work: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Find what the connection is about; raises `AppError`."""

    async def run(self) -> None:
        """Do the connection's work; when it returns the connection is closed with 1000."""

    async def connect(self) -> None:
        self.query = {
            name: values[-1]
            for name, values in parse_qs(self.scope["query_string"].decode("latin-1")).items()
        }
        problem = await in_thread(self._judge)()
        if problem is not None:
            await self.close()  # before accepting: the handshake is answered with 403
            return
        try:
            logins.enter(self, self.actor, self._login_ended)
        except logins.TooManyConnections:
            await self.close()
            return
        await self.accept()
        self._work = asyncio.create_task(self._run_to_end())

    def _judge(self) -> str | None:
        """Return why the connection is refused; None: it is not."""
        has_token = bool(header(self.scope, "authorization"))
        try:
            self.actor = actor_of_scope(self.scope)
        except AppError as error:
            audit.refuse(Actor(), "access.refused", error.detail, target=f"WS {self.scope['path']}"[:300])
            return error.detail
        origin = header(self.scope, "origin")
        if not origin_fits(
            origin, header(self.scope, "host"), has_token=has_token, secure=self.scope.get("scheme") == "wss"
        ):
            audit.refuse(
                self.actor,
                "access.refused",
                f"origin {origin[:200]!r}",
                target=f"WS {self.scope['path']}"[:300],
            )
            return "origin"
        if not self.actor.can(self.permission):
            if self.actor.is_signed_in:
                reason = f"needs the permission {self.permission.value}"
                audit.refuse(self.actor, "access.refused", reason, target=f"WS {self.scope['path']}"[:300])
            return "permission"
        return None

    async def _run_to_end(self) -> None:
        try:
            await in_thread(self.prepare)()
            await self.run()
            await self._close(ENDED)
        except AppError as error:
            await self._tell(error)
        except NodeError as error:
            await self._tell(NodeProblem(error.problem))
        except (StreamBroken, BrokerDown, OSError) as error:
            await self._close(NODE_GONE, str(error)[:100])
        except ContractError as error:
            await self._close(1008, str(error)[:100])
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("websocket %s failed", self.scope["path"])
            await self._close(1011)

    async def _tell(self, error: AppError) -> None:
        await self.say({"type": "error", "code": error.code, "detail": error.detail, "hint": error.hint})
        if isinstance(error, Missing) or error.status == 404:
            code = NOT_FOUND
        elif isinstance(error, Denied | Conflict) or error.status in (400, 403, 409, 422):
            code = FORBIDDEN
        else:
            code = NODE_GONE
        await self._close(code, error.detail[:100])

    async def say(self, message: dict[str, Any]) -> None:
        """Send one JSON message; one that cannot be sent any more is dropped."""
        with contextlib.suppress(RuntimeError, OSError):
            await self.send(text_data=dumps(message).decode())

    async def _close(self, code: int, reason: str = "") -> None:
        logins.leave(self)
        with contextlib.suppress(RuntimeError, OSError):
            await self.close(code=code, reason=reason or None)

    async def _login_ended(self) -> None:
        await self._close(LOGIN_ENDED, "the login or token has ended")
        if self._work is not None:
            self._work.cancel()

    async def disconnect(self, code: int) -> None:
        logins.leave(self)
        if self._work is not None and not self._work.done():
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work


class UnknownSocket(LiveConsumer):
    """Whatever is no route of ours: refused before the handshake."""

    async def connect(self) -> None:
        await self.close()


def origin_fits(origin: str, host: str, *, has_token: bool, secure: bool) -> bool:
    """Say whether a handshake comes from a page of this site; without an `Origin` it must carry a token, not a cookie."""
    name, _ = split_domain_port(host)
    if not name or not validate_host(name, settings.ALLOWED_HOSTS):
        return False
    if not origin:
        return has_token
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or parts.path or parts.query or parts.username is not None:
        return False
    default = 443 if parts.scheme == "https" else 80
    wanted = split_domain_port(host)
    wanted_port = int(wanted[1]) if wanted[1] else (443 if secure or parts.scheme == "https" else 80)
    hostname = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return hostname == wanted[0] and (port or default) == wanted_port

"""The Docker Engine API as an ASGI application, and who comes to it.

Identity, the first of: a bearer token (from `HttpHeaders` of the command's configuration), a TLS client certificate that is
registered as somebody's, or the uid of the peer on the unix socket, which names the person whose `unix_uid` it is. No
identity, no access; only `/_ping` answers everybody.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from webapp.accounts import authentication
from webapp.accounts.actor import NOBODY, Actor
from webapp.accounts.models import User
from webapp.accounts.permissions import Permission
from webapp.audit import services as audit
from webapp.audit.models import Face
from webapp.core.errors import AppError, Denied, NodeProblem, NotSignedIn
from webapp.dockerapi import attachws, routes
from webapp.dockerapi.call import Call, in_thread
from webapp.dockerapi.documents.system import API_VERSION, MIN_API_VERSION
from webapp.dockerapi.errors import DockerError
from webapp.dockerapi.protocol import PEER_CERTIFICATE, PEER_UID
from webapp.dockerapi.streaming import stop
from webapp.dockerapi.work import docker_error
from webapp.realtime import logins
from webapp.realtime.streams import StreamBroken
from workers.contracts.problems import NodeError, NodeSilent

logger = logging.getLogger(__name__)

LASTING_S = 2.0  # a call that takes longer is watched: it may not outlive who asked
_VERSIONED = re.compile(r"/v(\d+)\.(\d+)(/.*)\Z")
Receive, Send = Callable[[], Awaitable[dict[str, Any]]], Callable[[dict[str, Any]], Awaitable[None]]


def is_docker_call(scope: dict[str, Any]) -> bool:
    """Tell whether a request is the engine API's: a versioned path, one of its own, or anything on the unix socket."""
    if scope["type"] != "http":
        return False
    path = scope["path"]
    return (
        PEER_UID in scope.get("extensions", {}) or bool(_VERSIONED.match(path)) or routes.is_docker_path(path)
    )


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Serve one call, or one attach over a websocket."""
    if scope["type"] == "websocket":
        await attachws.serve(scope, receive, send, _identify_scope)
        return
    call = Call(scope, receive, send, NOBODY, scope["method"], *_path_of(scope))
    try:
        await _serve(call)
    except (AppError, DockerError, NodeError, NodeSilent, StreamBroken) as error:
        await _refuse(call, _as_docker(error))
    except ConnectionResetError:
        logger.debug("%s %s: the client has gone", call.method, call.path)
    except Exception:
        logger.exception("%s %s failed", call.method, call.path)
        await _refuse(call, DockerError("internal error; the server's log has more", 500))


def _path_of(scope: dict[str, Any]) -> tuple[str, tuple[int, int]]:
    raw = scope.get("raw_path") or scope["path"].encode()
    path = unquote(raw.decode("latin-1"))
    if found := _VERSIONED.match(path):
        return found[3], (int(found[1]), int(found[2]))
    return path, _version(API_VERSION)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


async def _serve(call: Call) -> None:
    route, call.parameters, known = routes.find(call.method, call.path)
    if call.version > _version(API_VERSION):
        wanted = ".".join(map(str, call.version))
        raise DockerError(
            f"client version {wanted} is too new. Maximum supported API version is {API_VERSION}", 400
        )
    if call.version < _version(MIN_API_VERSION):
        wanted = ".".join(map(str, call.version))
        text = f"client version {wanted} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade your client to a newer version"
        raise DockerError(text, 400)
    if route is None:
        raise DockerError("method not allowed" if known else "page not found", 405 if known else 404)
    if route.permission is not Permission.PUBLIC:
        call.actor = await in_thread(_admit, call, route.permission)
    await _as_long_as_the_login_lasts(call, asyncio.ensure_future(route.handler(call)))


async def _as_long_as_the_login_lasts(call: Call, work: asyncio.Future[None]) -> None:
    """Await a call; one that lasts (logs, attach, events ...) ends when the token, certificate or person behind it does."""

    async def close() -> None:
        nonlocal ended
        ended = True
        work.cancel()

    ended = False
    try:
        if not (await asyncio.wait((work,), timeout=LASTING_S))[0]:
            logins.watch_over(work, call.actor, close)
            await asyncio.wait((work,))
    finally:
        logins.leave(work)
        await stop(work)
    if ended:
        raise NotSignedIn("the login behind this call has ended", code="not_signed_in")
    work.result()


def _admit(call: Call, needed: Permission) -> Actor:
    """Return who calls, when they may; else raise."""
    actor = _identify_scope(call.scope, call.headers)
    _judge(actor, call, needed)
    return actor


def _identify_scope(scope: dict[str, Any], headers: dict[str, str]) -> Actor:
    """Return who calls, else raise `NotSignedIn`."""
    client = scope.get("client")
    address = authentication.address_of(client[0] if client else "", headers.get("x-forwarded-for", ""))
    secret = authentication.bearer_secret(headers.get("authorization", ""))
    if secret is not None:
        return authentication.actor_of_token(secret, face=Face.DOCKER, address=address)
    peer = {**scope.get("state", {}), **scope.get("extensions", {})}
    if fingerprint := peer.get(PEER_CERTIFICATE):
        return authentication.actor_of_certificate(fingerprint, face=Face.DOCKER, address=address)
    if (uid := peer.get(PEER_UID)) is not None:
        user = User.objects.filter(unix_uid=uid, is_active=True).first()
        if user is not None:
            return Actor(user=user, face=Face.DOCKER, address="")
        raise NotSignedIn(f"no person has the uid {uid}: an admin sets it under People", code="not_signed_in")
    raise NotSignedIn(
        "who are you? put a token into the command's configuration: script/manage docker-config USER writes it",
        code="not_signed_in",
    )


def _judge(actor: Actor, call: Call, needed: Permission) -> None:
    if actor.can(needed):
        return
    audit.refuse(
        actor,
        "docker.request",
        f"needs the permission {needed.value}",
        target=f"{call.method} {call.path}"[:300],
    )
    raise Denied(f"{actor.name} lacks the permission {needed.value!r}", needs=needed.value)


def _as_docker(error: Exception) -> DockerError:
    if isinstance(error, DockerError):
        return error
    if isinstance(error, AppError):
        return docker_error(error)
    if isinstance(error, NodeError):
        return docker_error(NodeProblem(error.problem))
    return DockerError(f"the node does not answer: {error}", 503)


async def _refuse(call: Call, error: DockerError) -> None:
    """Answer an error, in-band when the answer has begun already."""
    if call.started:
        logger.info(
            "%s %s ended with an error after its answer began: %s", call.method, call.path, error.message
        )
        if not call.can_hijack():
            await call.end()
        return
    await call.answer({"message": error.message}, error.status)

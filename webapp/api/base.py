"""The base of all REST views.

A view declares `permissions` (method to permission) and, for each method, the query parameters it knows in `query`; anything
else in the query string is refused, so nothing reaches the ORM by accident. A POST may carry `Idempotency-Key`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, ClassVar

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from webapp.accounts.actor import Actor, Idempotency
from webapp.accounts.permissions import Permission
from webapp.api.renderers import dumps
from webapp.core.errors import Invalid, NodeProblem, error_response
from webapp.core.pagination import Window, paginate
from webapp.core.routes import Route
from webapp.core.uploads import give_back
from webapp.operations import selectors as operations
from webapp.operations import services
from webapp.operations.models import Operation, Status
from webapp.operations.waiting import wait_then

WAIT_MAX_S = 300
KEY_MAX = 200
WRITE_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
ALWAYS_KNOWN = frozenset({"node"})


class WharfingerView(APIView):
    """See the module. `direct`: the method changes only the database, in one transaction, and answers at once."""

    permissions: ClassVar[dict[str, Permission]] = {}
    query: ClassVar[dict[str, tuple[str, ...]]] = {}
    upload: ClassVar[bool] = False
    direct: ClassVar[frozenset[str]] = frozenset()
    secret_answer: ClassVar[bool] = (
        False  # the answer holds a secret and is never kept for a repeated request
    )

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponse]:
        view = super().as_view(**initkwargs)
        view.csrf_exempt = False  # the middleware checks sessions and skips bearer tokens
        view.wf_route = Route(cls.permissions, cls.upload)  # type: ignore[attr-defined]
        return view

    @property
    def actor(self) -> Actor:
        return self._actor

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self._actor = with_idempotency(request._request)
        services.replay(self._actor)
        known = set(self.query.get(request.method or "", ())) | ALWAYS_KNOWN
        if request.method in WRITE_METHODS:
            known.add("wait")
        for name in request.query_params:
            if name not in known:
                raise Invalid(
                    f"unknown parameter {name[:60]!r}",
                    fields={name[:60]: ["unknown"]},
                    hint=f"known: {', '.join(sorted(known))}",
                )

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method not in self.direct:
            return super().dispatch(request, *args, **kwargs)
        try:
            with transaction.atomic():
                return self._dispatch_and_remember(request, *args, **kwargs)
        except services.Replayed as replayed:  # the same request was just done by another thread
            return self._replay(replayed)

    def _dispatch_and_remember(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = super().dispatch(request, *args, **kwargs)
        actor: Actor | None = getattr(self, "_actor", None)
        if response.status_code < 400 and actor is not None and not getattr(response, "replayed", False):
            kept = {"secret": True} if self.secret_answer else getattr(response, "data", None)
            services.remember_response(actor, response.status_code, _json(kept))
        return response

    def handle_exception(self, exc: Exception) -> HttpResponse:
        give_back(self.request._request)
        if isinstance(exc, services.Replayed):
            return self._replay(exc)
        return super().handle_exception(exc)

    def _replay(self, replayed: services.Replayed) -> HttpResponse:
        if replayed.operation is not None:
            return self.accepted(replayed.operation)
        if replayed.response == {"secret": True}:
            problem = Invalid(
                "this request was done before; its answer held a secret and is not kept",
                code="already_answered",
            )
            problem.status = 409
            return error_response(self.request._request, problem)
        response = Response(replayed.response, status=replayed.status)
        response.replayed = True  # type: ignore[attr-defined]
        return self.finalize_response(self.request, response)

    # --- answers

    def listing(
        self,
        queryset: Any,
        show: Callable[[Any], dict[str, Any]],
        *,
        keys: tuple[str, ...] = ("created_at", "id"),
    ) -> Response:
        """Answer one page of a list."""
        page = paginate(queryset, Window.of(self.request.query_params), keys=keys)
        return Response({"results": [show(row) for row in page.rows], "next": page.next})

    def accepted(
        self, operation: Operation, done: Callable[[Operation], tuple[int, Any]] | None = None, **more: Any
    ) -> HttpResponse:
        """Answer 202 with the operation; with `?wait=` the final answer: what `done` makes of it, or the problem."""
        seconds = wait_seconds(self.request.query_params.get("wait", ""))
        finish = done or _default_done
        if operation.is_final:
            return self._final(operation, finish)
        response = Response({"operation": operations.brief(operation), **more}, status=202)
        response["Location"] = operation.url
        if seconds > 0:
            response.wf_later = wait_then(  # type: ignore[attr-defined]
                operation.id, seconds, lambda ended: self._final(ended, finish), response
            )
        return response

    def _final(self, operation: Operation, finish: Callable[[Operation], tuple[int, Any]]) -> HttpResponse:
        request = self.request._request
        if operation.status != Status.SUCCEEDED:
            problem = NodeProblem.from_json(operation.error)
            problem.extra["operation"] = operations.brief(operation)
            return error_response(request, problem)
        status, body = finish(operation)
        if isinstance(body, dict) and "operation" not in body:
            body = {**body, "operation": operations.brief(operation)}
        return HttpResponse(dumps(body), status=status, content_type="application/json")


def _default_done(operation: Operation) -> tuple[int, Any]:
    return 200, {"operation": operations.to_json(operation, whole=True), **operation.result}


def wait_seconds(text: str) -> float:
    """Return the seconds that `?wait=` asks for (none: 0, at most `WAIT_MAX_S`), else raise `Invalid`."""
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise Invalid("wait must be a number of seconds", fields={"wait": ["no number"]})
    return min(seconds, float(WAIT_MAX_S))


def with_idempotency(request: HttpRequest) -> Actor:
    """Return the request's actor, with the idempotency key of a POST."""
    actor: Actor = request.actor  # type: ignore[attr-defined]
    key = request.headers.get("Idempotency-Key", "")
    if not key or request.method != "POST" or actor.user is None:
        return actor
    if len(key) > KEY_MAX or not key.isprintable():
        raise Invalid(
            f"an idempotency key has at most {KEY_MAX} printable letters",
            fields={"Idempotency-Key": ["not valid"]},
        )
    fingerprint = hashlib.sha256(f"{request.method} {request.path}\n".encode())
    if not hasattr(request, "wf_spool"):
        fingerprint.update(request.body if request.content_type == "application/json" else b"")
    return Actor(
        user=actor.user,
        face=actor.face,
        address=actor.address,
        token=actor.token,
        session_key=actor.session_key,
        idempotency=Idempotency(key, fingerprint.hexdigest()),
    )


def _json(value: Any) -> Any:
    return json.loads(dumps(value)) if value is not None else None

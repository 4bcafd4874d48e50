"""Errors of the web side: a class says what the caller can do, and carries what an RFC 9457 problem document shows.

```text
AppError (status, code, detail, hint, extra)
├── Invalid 400        the request can never succeed as it is; `fields` says where
├── NotSignedIn 401    who are you?
├── Denied 403         you may not; `needs` names the missing permission or right
├── Missing 404        no such thing (that you may see)
├── Conflict 409       the name is taken, or its state forbids it
├── TooLarge 413 · WrongMedia 415 · TooMany 429
├── NodeProblem        what a node answered, with the status that fits its code
└── Unavailable 503    not now; trying again may help
```
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from workers.contracts.problems import Problem

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"


class AppError(Exception):
    """Root of the errors that people are told about. The message is one sentence in lower case that names the thing."""

    status: int = 400
    code: str = "invalid_input"
    title: ClassVar[str] = "The request could not be done"

    def __init__(
        self, detail: str, *, hint: str = "", code: str = "", **extra: Any
    ) -> None:  # any JSON values
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.code = code or type(self).code
        self.extra = extra

    def document(self) -> dict[str, Any]:
        """Return the problem document."""
        return {
            "type": f"urn:wharfinger:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "hint": self.hint,
            **self.extra,
        }


class Invalid(AppError):
    title = "The request is not valid"

    def __init__(self, detail: str, *, fields: dict[str, Any] | None = None, **extra: Any) -> None:
        super().__init__(detail, **extra, **({"fields": fields} if fields else {}))


class NotSignedIn(AppError):
    status, code, title = 401, "not_signed_in", "Sign in first"


class Denied(AppError):
    """`recorded`: the service that refused has written it into the book already."""

    status, code, title = 403, "denied", "You may not do this"

    def __init__(self, detail: str, *, recorded: bool = False, hint: str = "", **extra: Any) -> None:
        super().__init__(detail, hint=hint, **extra)
        self.recorded = recorded


class Missing(AppError):
    status, code, title = 404, "not_found", "Not found"


class Conflict(AppError):
    status, code, title = 409, "conflict", "It cannot be done in this state"


class TooLarge(AppError):
    status, code, title = 413, "too_large", "The request is too large"


class WrongMedia(AppError):
    status, code, title = 415, "wrong_media_type", "The content type is not accepted here"


class TooMany(AppError):
    """Tried too often; `retry_after_s` seconds later it may work."""

    status, code, title = 429, "too_many_requests", "Too many requests"

    def __init__(self, detail: str, *, retry_after_s: int, hint: str = "", **extra: Any) -> None:
        super().__init__(detail, hint=hint, retry_after_s=retry_after_s, **extra)
        self.retry_after_s = retry_after_s


class Unavailable(AppError):
    status, code, title = 503, "unavailable", "Not possible just now"


def busy_error(error: BaseException) -> Unavailable | None:
    """Return what a database that is locked or away means for people; None: the error means something else."""
    words = ("locked", "busy", "deadlock", "timeout", "connection")
    if not isinstance(error, OperationalError) or not any(word in str(error) for word in words):
        return None
    logger.warning("the database is busy: %s", error)
    return Unavailable("the database is busy", code="busy", hint="try again in a moment")


class NodeProblem(AppError):
    """A node refused or failed. Its words are passed on, the status is chosen by its code."""

    title = "The node could not do it"

    def __init__(self, problem: Problem) -> None:
        self.status = status_of(problem.code)
        extra: dict[str, Any] = {"context": problem.context} if problem.context else {}
        super().__init__(problem.detail, hint=problem.hint, code=problem.code, **extra)

    @classmethod
    def from_json(cls, error: dict[str, Any]) -> NodeProblem:
        """Return the error of a failed operation (its row's `error`)."""
        return cls(
            Problem(
                code=str(error.get("code") or "internal_error"),
                detail=str(error.get("detail") or "the node gave no reason"),
                hint=str(error.get("hint") or ""),
                context=error.get("context") or {},
            )
        )


_STATUS = {
    "already_exists": 409,
    "wrong_state": 409,
    "in_use": 409,
    "denied": 403,
    "name_protected": 403,
    "unsupported": 422,
    "unavailable": 503,
    "registry_error": 502,
    "no_space": 507,
    "cancelled": 409,
    "node_silent": 503,
    "interrupted": 500,
    "deadline_exceeded": 504,
    "command_failed": 500,
    "corrupt": 500,
    "internal_error": 500,
    "refused": 500,
    "dockerfile_error": 400,
}


def status_of(code: str) -> int:
    """Return the HTTP status for an error code of a node."""
    if code in _STATUS:
        return _STATUS[code]
    if code.endswith("not_found"):
        return 404
    if code.startswith("registry_"):
        return 502
    if code.startswith(("bad_", "invalid_")):
        return 400
    return 500


def is_api(request: HttpRequest) -> bool:
    """Say whether a program asks (it gets problem documents) or a browser (it gets pages)."""
    return request.path.startswith("/api/")


def error_response(request: HttpRequest, error: AppError) -> HttpResponse:
    """Return the answer that tells of `error`: a problem document, or the error page."""
    response: HttpResponse
    if is_api(request):
        response = JsonResponse(error.document(), status=error.status, content_type=PROBLEM_TYPE)
    else:
        response = render(
            request, "error.html", {"error": error, "problem": error.document()}, status=error.status
        )
    if isinstance(error, TooMany):
        response["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, NotSignedIn):
        response["WWW-Authenticate"] = "Bearer"
    return response


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a state-changing request that carries a cookie but no CSRF token."""
    from webapp.audit import services as audit

    audit.refused(request, "the request carried no valid CSRF token")
    return error_response(
        request,
        Denied("the form's protection token is missing or old", code="csrf", hint="load the page again"),
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return error_response(request, Missing(f"no page or endpoint at {request.path[:200]}"))


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return error_response(request, Invalid("the request cannot be understood", code="bad_request"))


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return error_response(request, Denied("this is not for you"))


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer after a bug of ours; the traceback is in the log."""
    error = AppError(
        "something went wrong on our side", code="internal_error", hint="the server's log has the details"
    )
    error.status = 500
    return error_response(request, error)

"""Every error of REST is an RFC 9457 problem document with `code`, `detail` and `hint`."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import RequestDataTooBig, TooManyFilesSent
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from webapp.audit import services as audit
from webapp.core.errors import (
    AppError,
    Denied,
    Invalid,
    Missing,
    TooLarge,
    WrongMedia,
    busy_error,
    error_response,
)
from workers.contracts.values import ContractError


def exception_handler(error: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """Return the problem document for `error`; None lets a bug of ours through to the log."""
    request = context["request"]._request
    problem = translate(error)
    if problem is None:
        return None
    if isinstance(problem, Denied) and not problem.recorded:
        audit.refused(request, problem.detail)
    return error_response(request, problem)


def translate(error: Exception) -> AppError | None:
    """Return the error of ours that says what `error` says; None: it is a bug."""
    if isinstance(error, AppError):
        return error
    if isinstance(error, exceptions.ValidationError):
        return Invalid(_first(error.detail) or "the request is not valid", fields=_fields(error.detail))
    if isinstance(error, exceptions.UnsupportedMediaType):
        return WrongMedia(str(error.detail))
    if isinstance(error, exceptions.APIException):
        problem = AppError(str(error.detail), code=str(error.default_code))
        problem.status = error.status_code
        return problem
    if isinstance(error, ContractError):
        return Invalid(str(error))
    if isinstance(error, Http404):
        return Missing("no such thing")
    if isinstance(error, RequestDataTooBig | TooManyFilesSent):
        return TooLarge("the body is too large")
    return busy_error(error)


def _fields(detail: Any) -> dict[str, Any]:
    return detail if isinstance(detail, dict) else {"": detail}


def _first(detail: Any, where: str = "") -> str:
    """Return the first thing that is wrong as one sentence that names the field."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            if inner:
                return _first(inner, f"{where}.{name}".strip(".") if name != "non_field_errors" else where)
    if isinstance(detail, list):
        for inner in detail:
            if inner:
                return _first(inner, where)
        return ""
    return f"{where}: {detail}" if where else str(detail)

"""REST of operations."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts.permissions import Permission
from webapp.api import docs, shapes
from webapp.api.base import WharfingerView, wait_seconds
from webapp.api.docs import describe
from webapp.api.renderers import dumps
from webapp.core.flags import flag
from webapp.operations import selectors, services
from webapp.operations.logs import log_response
from webapp.operations.models import Operation
from webapp.operations.waiting import wait_then

FILTERS = ("kind", "status", "target_type", "target", "user", "active", "limit", "cursor")


class OperationsView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": FILTERS}

    @describe("List operations", answer=docs.page_of(shapes.OPERATION), query=FILTERS)
    def get(self, request: Request) -> Response:
        query = request.query_params
        names = ("kind", "status", "target_type", "target", "user", "node")
        wanted = selectors.OperationFilter(
            **{name: query.get(name, "") for name in names}, active=flag(query, "active")
        )
        return self.listing(selectors.operation_list(wanted), selectors.to_json)


class OperationView(WharfingerView):
    """Reading never fails because the operation did: its status and error are in the answer."""

    permissions = {"GET": Permission.VIEW}
    query = {"GET": ("wait",)}

    @describe(
        "An operation; with `?wait=` as it is when it has ended", answer=shapes.OPERATION, query=("wait",)
    )
    def get(self, request: Request, ref: str) -> HttpResponse:
        operation = selectors.operation_get(ref)
        seconds = wait_seconds(request.query_params.get("wait", ""))
        response = Response(selectors.to_json(operation, whole=True))
        if seconds > 0 and not operation.is_final:
            response.wf_later = wait_then(operation.id, seconds, _shown, response)  # type: ignore[attr-defined]
        return response


def _shown(operation: Operation) -> HttpResponse:
    return HttpResponse(dumps(selectors.to_json(operation, whole=True)), content_type="application/json")


class CancelView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe("Ask an operation to stop", answer=shapes.OPERATION, status=202)
    def post(self, request: Request, ref: str) -> HttpResponse:
        operation = services.cancel(self.actor, selectors.operation_get(ref))
        seconds = wait_seconds(request.query_params.get("wait", ""))
        response = Response(
            selectors.to_json(operation, whole=True), status=200 if operation.is_final else 202
        )
        if seconds > 0 and not operation.is_final:
            response.wf_later = wait_then(operation.id, seconds, _shown, response)  # type: ignore[attr-defined]
        return response


class RetryView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe("Do the same work again", work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        return self.accepted(services.retry(self.actor, selectors.operation_get(ref)))


class OperationLogView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": ("follow", "format")}

    @describe("What an operation said", answer=docs.TEXT, query=("follow", "format"), media="text/plain")
    def get(self, request: Request, ref: str) -> HttpResponse:
        return log_response(request._request, selectors.operation_get(ref))

"""REST of logs that were kept when their containers were removed."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts.permissions import Permission
from webapp.api import docs, shapes
from webapp.api.base import WharfingerView
from webapp.api.docs import describe
from webapp.containers.apis import LOG_QUERY, log_params
from webapp.containers.kept_logs import kept_log_get, kept_log_list, kept_log_remove
from webapp.nodes.selectors import node_for
from webapp.realtime.responses import stream_later

READ_QUERY = ("node", *(name for name in LOG_QUERY if name != "follow"))


class KeptLogsView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": ("node",)}

    @describe(
        "Logs that were kept when their containers were removed",
        answer=docs.page_of(shapes.KEPT_LOG),
        query=("node",),
    )
    def get(self, request: Request) -> Response:
        node = node_for(request.query_params.get("node", ""))
        return Response({"results": [log.to_json(node) for log in kept_log_list(node)], "next": None})


class KeptLogView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "DELETE": Permission.OPERATE}
    query = {"GET": READ_QUERY, "DELETE": ("node",)}

    @describe("What a container wrote that is gone", answer=docs.TEXT, query=READ_QUERY, media="text/plain")
    def get(self, request: Request, ref: str) -> HttpResponse:
        node = node_for(request.query_params.get("node", ""))
        log = kept_log_get(node, ref)
        params = {**log_params("", request.query_params), "kept": log.id, "follow": False}
        media = "application/x-ndjson" if params["format"] == "json" else "text/plain; charset=utf-8"
        return stream_later(request._request, node.name, "logs", params, content_type=media)

    @describe(
        "Remove a kept log for good",
        answer=docs.shape(id=docs.TEXT, name=docs.TEXT),
        query=("node",),
        work=True,
    )
    def delete(self, request: Request, ref: str) -> HttpResponse:
        node = node_for(request.query_params.get("node", ""))
        log = kept_log_get(node, ref)
        operation = kept_log_remove(self.actor, node, log)
        return self.accepted(operation, lambda ended: (200, {"id": log.id, "name": log.name}))

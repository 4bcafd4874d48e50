"""REST of nodes, their events, and the system as a whole."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts.permissions import Permission
from webapp.api import docs, shapes
from webapp.api.base import WharfingerView
from webapp.api.docs import Strict, describe
from webapp.core.errors import Invalid
from webapp.nodes import selectors, services, system
from webapp.nodes.selectors import node_for

EVENT_FILTERS = ("after", "type", "subject", "limit")


class SystemView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("Version, node, runtime and storage", answer=docs.ANY)
    def get(self, request: Request) -> Response:
        return Response(system.info(node_for(request.query_params.get("node", ""))))


class UsageView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("What takes how much room", answer=docs.ANY)
    def get(self, request: Request) -> Response:
        return Response(system.usage(node_for(request.query_params.get("node", ""))))


class PruneWish(Strict):
    images = serializers.ChoiceField(choices=("dangling", "unused", "all"), required=False)
    containers = serializers.BooleanField(required=False)
    volumes = serializers.BooleanField(required=False)
    networks = serializers.BooleanField(required=False)
    build_cache = serializers.BooleanField(required=False)
    older_than_s = serializers.FloatField(required=False, min_value=0)
    labels = serializers.ListField(child=serializers.CharField(), required=False)


class PruneView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe("Remove what nobody uses", body=PruneWish, answer=docs.ANY, work=True)
    def post(self, request: Request) -> HttpResponse:
        wanted = PruneWish.read(request.data)
        if not any(
            wanted.get(name) for name in ("images", "containers", "volumes", "networks", "build_cache")
        ):
            raise Invalid(
                "say what to remove", fields={"": ["images, containers, volumes, networks or build_cache"]}
            )
        operation = system.prune(self.actor, **wanted, node=node_for(request.query_params.get("node", "")))
        return self.accepted(operation, lambda ended: (200, ended.result))


class CheckWish(Strict):
    deep = serializers.BooleanField(required=False, default=False)


class CheckView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe("Compare disk, database and kernel", body=CheckWish, answer=docs.ANY, work=True)
    def post(self, request: Request) -> HttpResponse:
        wanted = CheckWish.read(request.data)
        operation = system.check(
            self.actor, deep=wanted["deep"], node=node_for(request.query_params.get("node", ""))
        )
        return self.accepted(operation, lambda ended: (200, ended.result))


class RepairWish(Strict):
    problems = serializers.ListField(child=serializers.CharField(), required=False)


class RepairView(WharfingerView):
    permissions = {"POST": Permission.ADMIN}

    @describe("Mend what a check found", body=RepairWish, answer=docs.ANY, work=True)
    def post(self, request: Request) -> HttpResponse:
        wanted = RepairWish.read(request.data)
        node = node_for(request.query_params.get("node", ""))
        operation = system.repair(self.actor, wanted.get("problems"), node=node)
        return self.accepted(operation, lambda ended: (200, ended.result))


class NodeWish(Strict):
    name = serializers.CharField()


class NodeChange(Strict):
    is_enabled = serializers.BooleanField(required=False)
    is_default = serializers.BooleanField(required=False)


class NodesView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "POST": Permission.ADMIN}
    direct = frozenset({"POST"})
    query = {"GET": ("limit", "cursor")}

    @describe("List nodes", answer=docs.page_of(shapes.NODE))
    def get(self, request: Request) -> Response:
        return self.listing(selectors.node_list(), selectors.node_json)

    @describe("Make another machine known", body=NodeWish, answer=shapes.NODE, status=201)
    def post(self, request: Request) -> Response:
        return Response(
            selectors.node_json(services.node_create(self.actor, NodeWish.read(request.data)["name"])),
            status=201,
        )


class NodeView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "PATCH": Permission.ADMIN}

    @describe("One node", answer=shapes.NODE)
    def get(self, request: Request, name: str) -> Response:
        return Response(selectors.node_json(selectors.node_get(name)))

    @describe("Switch a node on or off, or make it the default", body=NodeChange, answer=shapes.NODE)
    def patch(self, request: Request, name: str) -> Response:
        node = services.node_update(self.actor, selectors.node_get(name), NodeChange.read(request.data))
        return Response(selectors.node_json(node))


class EventsView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": EVENT_FILTERS}

    @describe(
        "What happened on the nodes after `after`, oldest first",
        answer=docs.page_of(shapes.EVENT),
        query=EVENT_FILTERS,
    )
    def get(self, request: Request) -> Response:
        query = request.query_params
        after, limit = query.get("after", "0"), query.get("limit", "500")
        if not after.isdecimal() or not limit.isdecimal() or not 1 <= int(limit) <= 5000:
            raise Invalid(
                "after and limit must be numbers, limit at most 5000", fields={"limit": ["out of range"]}
            )
        found = selectors.event_list(
            after=int(after), type=query.get("type", ""), subject=query.get("subject", "")
        )
        rows = list(found[: int(limit) + 1])
        shown = rows[: int(limit)]
        return Response(
            {
                "results": [selectors.event_json(row) for row in shown],
                "next": str(shown[-1].id) if len(rows) > len(shown) else None,
            }
        )

"""REST of networks."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts.permissions import Permission
from webapp.api import docs, shapes
from webapp.api.base import WharfingerView
from webapp.api.docs import Strict, describe
from webapp.containers.selectors import container_get
from webapp.networks import selectors, services
from webapp.networks.models import Network
from webapp.nodes.selectors import node_for
from webapp.operations.models import Operation

FILTERS = ("name", "driver", "project", "label", "limit", "cursor")


class NetworkWish(Strict):
    name = serializers.CharField()
    driver = serializers.CharField(required=False)
    internal = serializers.BooleanField(required=False)
    attachable = serializers.BooleanField(required=False)
    ipv6 = serializers.BooleanField(required=False)
    subnet = serializers.CharField(
        required=False, allow_blank=True, help_text="short for one entry of `subnets`"
    )
    gateway = serializers.CharField(required=False, allow_blank=True)
    ip_range = serializers.CharField(required=False, allow_blank=True)
    subnets = serializers.ListField(child=serializers.DictField(), required=False)
    options = serializers.DictField(child=serializers.CharField(allow_blank=True), required=False)
    labels = serializers.DictField(child=serializers.CharField(allow_blank=True), required=False)
    node = serializers.CharField(required=False)


class NetworksView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "POST": Permission.OPERATE}
    query = {"GET": FILTERS}

    @describe("List networks", answer=docs.page_of(shapes.NETWORK), query=FILTERS)
    def get(self, request: Request) -> Response:
        query = request.query_params
        wanted = {name: query.get(name, "") for name in ("name", "driver", "project", "label", "node")}
        return self.listing(selectors.network_list(**wanted).defer("record"), selectors.to_json)

    @describe("Make a network", body=NetworkWish, answer=shapes.NETWORK_DETAIL, status=201, work=True)
    def post(self, request: Request) -> HttpResponse:
        wanted = NetworkWish.read(request.data)
        node = node_for(wanted.pop("node", "") or request.query_params.get("node", ""))
        one = {name: value for name in ("subnet", "gateway", "ip_range") if (value := wanted.pop(name, ""))}
        if one:
            wanted["subnets"] = [one, *wanted.get("subnets", [])]
        _, operation = services.network_create(self.actor, **wanted, node=node)
        return self.accepted(operation, lambda ended: (201, _shown(ended)))


class NetworkView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "DELETE": Permission.OPERATE}

    @describe("Everything about a network, and who is on it", answer=shapes.NETWORK_DETAIL)
    def get(self, request: Request, ref: str) -> Response:
        return Response(selectors.detail_json(selectors.network_get(ref)))

    @describe("Remove a network", answer=docs.shape(id=docs.TEXT), work=True)
    def delete(self, request: Request, ref: str) -> HttpResponse:
        network = selectors.network_get(ref)
        operation = services.network_remove(self.actor, network)
        return self.accepted(operation, lambda ended: (200, {"id": network.id, "name": network.name}))


class ConnectWish(Strict):
    container = serializers.CharField()
    aliases = serializers.ListField(child=serializers.CharField(), required=False)
    ipv4_address = serializers.CharField(required=False, allow_blank=True)
    ipv6_address = serializers.CharField(required=False, allow_blank=True)
    mac_address = serializers.CharField(required=False, allow_blank=True)
    driver_opts = serializers.DictField(child=serializers.CharField(), required=False)


class ConnectView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe("Join a container to a network", body=ConnectWish, answer=shapes.NETWORK_DETAIL, work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        wanted = ConnectWish.read(request.data)
        container = container_get(wanted.pop("container"))
        operation = services.network_connect(self.actor, selectors.network_get(ref), container, wanted)
        return self.accepted(operation, lambda ended: (200, _shown(ended)))


class DisconnectWish(Strict):
    container = serializers.CharField()
    force = serializers.BooleanField(required=False, default=False)


class DisconnectView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe("Take a container off a network", body=DisconnectWish, answer=shapes.NETWORK_DETAIL, work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        wanted = DisconnectWish.read(request.data)
        container = container_get(wanted["container"])
        operation = services.network_disconnect(
            self.actor, selectors.network_get(ref), container, force=wanted["force"]
        )
        return self.accepted(operation, lambda ended: (200, _shown(ended)))


class ProbeWish(Strict):
    container = serializers.CharField()
    name = serializers.CharField()
    port = serializers.IntegerField(required=False, default=0)


class ProbeView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe("What a process inside a container sees of a name and port", body=ProbeWish, answer=docs.ANY)
    def post(self, request: Request) -> Response:
        wanted = ProbeWish.read(request.data)
        return Response(services.probe(container_get(wanted["container"]), wanted["name"], wanted["port"]))


def _shown(operation: Operation) -> dict[str, Any]:
    network: Network | None = selectors.network_list().filter(pk=operation.target_id).first()
    return selectors.detail_json(network) if network else {"network": (operation.result or {}).get("network")}

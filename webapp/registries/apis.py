"""REST of registry accounts."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts.permissions import Permission
from webapp.api import docs, shapes
from webapp.api.base import WharfingerView
from webapp.api.docs import Strict, describe
from webapp.registries import selectors, services


class RegistryChange(Strict):
    username = serializers.CharField(required=False, allow_blank=True)
    secret = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False, write_only=True)
    secret_kind = serializers.ChoiceField(choices=("password", "token"), required=False)
    usable_by = serializers.ChoiceField(choices=("operators", "admins"), required=False)
    insecure = serializers.BooleanField(required=False)
    ca_pem = serializers.CharField(required=False, allow_blank=True)


class RegistryWish(RegistryChange):
    host = serializers.CharField()


class RegistriesView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "POST": Permission.ADMIN}
    direct = frozenset({"POST"})
    query = {"GET": ("limit", "cursor")}

    @describe("List registry accounts (never their secrets)", answer=docs.page_of(shapes.REGISTRY))
    def get(self, request: Request) -> Response:
        return self.listing(selectors.registry_list(), selectors.to_json)

    @describe("Add an account at a registry", body=RegistryWish, answer=shapes.REGISTRY, status=201)
    def post(self, request: Request) -> Response:
        wanted = RegistryWish.read(request.data)
        registry = services.registry_create(self.actor, wanted.pop("host"), **wanted)
        return Response(selectors.to_json(registry), status=201)


class RegistryView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "PATCH": Permission.ADMIN, "DELETE": Permission.ADMIN}

    @describe("One account", answer=shapes.REGISTRY)
    def get(self, request: Request, host: str) -> Response:
        return Response(selectors.to_json(selectors.registry_get(host)))

    @describe(
        "Change an account; a secret that is not given stays", body=RegistryChange, answer=shapes.REGISTRY
    )
    def patch(self, request: Request, host: str) -> Response:
        registry = services.registry_update(
            self.actor, selectors.registry_get(host), **RegistryChange.read(request.data)
        )
        return Response(selectors.to_json(registry))

    @describe("Forget an account", status=204)
    def delete(self, request: Request, host: str) -> Response:
        services.registry_remove(self.actor, selectors.registry_get(host))
        return Response(status=204)

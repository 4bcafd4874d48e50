"""REST of people and tokens."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts import selectors, services
from webapp.accounts.permissions import Permission, Role, Scope
from webapp.api import docs, shapes
from webapp.api.base import WharfingerView
from webapp.api.docs import Strict, describe
from webapp.core.errors import NotSignedIn


class Rights(Strict):
    host_mounts = serializers.BooleanField(required=False)
    privileged = serializers.BooleanField(required=False)
    host_namespaces = serializers.BooleanField(required=False)
    devices = serializers.BooleanField(required=False)


class UserWish(Strict):
    username = serializers.CharField()
    password = serializers.CharField(trim_whitespace=False, write_only=True)
    role = serializers.ChoiceField(choices=Role.choices, required=False, default=Role.VIEWER)
    display_name = serializers.CharField(required=False, allow_blank=True, max_length=100)
    rights = Rights(required=False)
    unix_uid = serializers.IntegerField(required=False, allow_null=True)


class UserChange(Strict):
    password = serializers.CharField(trim_whitespace=False, write_only=True, required=False)
    role = serializers.ChoiceField(choices=Role.choices, required=False)
    display_name = serializers.CharField(required=False, allow_blank=True, max_length=100)
    rights = Rights(required=False)
    is_active = serializers.BooleanField(required=False)
    unix_uid = serializers.IntegerField(required=False, allow_null=True)


class UsersView(WharfingerView):
    permissions = {"GET": Permission.ADMIN, "POST": Permission.ADMIN}
    direct = frozenset({"POST"})
    query = {"GET": ("limit", "cursor")}

    @describe("List people", answer=docs.page_of(shapes.USER))
    def get(self, request: Request) -> Response:
        return self.listing(selectors.user_list(), selectors.user_json)

    @describe("Add a person", body=UserWish, answer=shapes.USER, status=201)
    def post(self, request: Request) -> Response:
        user = services.user_create(self.actor, **UserWish.read(request.data))
        return Response(selectors.user_json(user), status=201)


class MeView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "PATCH": Permission.SELF}

    @describe("Who one is, and what one may do", answer=docs.ANY)
    def get(self, request: Request) -> Response:
        if self.actor.user is None:
            raise NotSignedIn("sign in first")
        return Response(
            {
                **selectors.user_json(self.actor.user),
                "permissions": sorted(permission.value for permission in self.actor.permissions),
                "effective_rights": sorted(right.value for right in self.actor.rights),
                "token": selectors.token_json(self.actor.token) if self.actor.token else None,
            }
        )

    @describe(
        "Change one's own name; nothing else is one's own to change",
        body=docs.shape(display_name=docs.TEXT),
        answer=shapes.USER,
    )
    def patch(self, request: Request) -> Response:
        return Response(selectors.user_json(services.profile_update(self.actor, dict(request.data))))


class UserView(WharfingerView):
    permissions = {"GET": Permission.ADMIN, "PATCH": Permission.ADMIN}

    @describe("One person", answer=shapes.USER)
    def get(self, request: Request, username: str) -> Response:
        return Response(selectors.user_json(selectors.user_get(username)))

    @describe("Change a person; `is_active: false` shuts the door", body=UserChange, answer=shapes.USER)
    def patch(self, request: Request, username: str) -> Response:
        user = services.user_update(self.actor, selectors.user_get(username), UserChange.read(request.data))
        return Response(selectors.user_json(user))


class TokenWish(Strict):
    name = serializers.CharField(max_length=100)
    scope = serializers.ChoiceField(choices=Scope.choices, required=False, default=Scope.OPERATE)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    user = serializers.CharField(required=False, help_text="an admin may make tokens for others")
    certificate = serializers.CharField(
        required=False,
        help_text="a TLS client certificate (PEM) of an authority that this server believes; it is the token then, without a secret",
    )


class TokensView(WharfingerView):
    permissions = {"GET": Permission.SELF, "POST": Permission.SELF}
    direct = frozenset({"POST"})
    secret_answer = True
    query = {"GET": ("user", "limit", "cursor")}

    @describe(
        "List one's own tokens (an admin: `?user=`)", answer=docs.page_of(shapes.TOKEN), query=("user",)
    )
    def get(self, request: Request) -> Response:
        name = request.query_params.get("user", "")
        user = selectors.user_get(name) if name and self.actor.is_admin else self.actor.user
        assert user is not None  # SELF is never given to nobody
        return self.listing(selectors.token_list(user), selectors.token_json)

    @describe(
        "Make a token; `secret` is shown this once (null where a certificate is registered)",
        body=TokenWish,
        answer=docs.shape(**shapes.TOKEN["properties"], secret=shapes.MAYBE_TEXT),
        status=201,
    )
    def post(self, request: Request) -> Response:
        wanted = TokenWish.read(request.data)
        name = wanted.pop("user", "")
        user = selectors.user_get(name) if name and self.actor.is_admin else None
        if name and user is None and name != self.actor.name:
            user = selectors.user_get(name)  # the service refuses, and writes it down
        secret = None
        if pem := wanted.pop("certificate", ""):
            token = services.certificate_register(self.actor, user=user, pem=pem, **wanted)
        else:
            token, secret = services.token_create(self.actor, user=user, **wanted)
        return Response({**selectors.token_json(token), "secret": secret}, status=201)


class TokenView(WharfingerView):
    permissions = {"GET": Permission.SELF, "DELETE": Permission.SELF}

    @describe("One token", answer=shapes.TOKEN)
    def get(self, request: Request, pk: int) -> Response:
        return Response(selectors.token_json(selectors.token_get(self.actor, pk)))

    @describe("End a token, and those made with it", answer=shapes.TOKEN)
    def delete(self, request: Request, pk: int) -> Response:
        return Response(
            selectors.token_json(services.token_revoke(self.actor, selectors.token_get(self.actor, pk)))
        )

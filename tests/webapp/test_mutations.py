"""Each guard taken away makes its test red (H14): AP-01 to AP-07 and RT-07.

A test that stays green without the guard proves nothing about it. Here the guard is replaced by one that lets everything
pass, and the very function that guards it must fail then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from channels.db import database_sync_to_async
from django.middleware.csrf import CsrfViewMiddleware
from django.test import Client

from tests.dockerapi import test_documents as docker_documents
from tests.support import sample_data
from tests.support.sample_site import session_of
from tests.support.web import Api, actor_of, token_for
from tests.webapp import test_accounts as accounts_tests
from tests.webapp import test_bodies as bodies
from tests.webapp import test_policy as policies
from tests.webapp import test_routes as routes
from tests.webapp import test_websockets as websockets
from webapp.accounts import authentication, middleware, selectors, services
from webapp.accounts.models import Token, User
from webapp.api import parsers
from webapp.asgi import application
from webapp.containers import policy
from webapp.containers.services import container_create
from webapp.core.errors import Denied
from webapp.dockerapi import app as docker_app
from webapp.dockerapi import create
from webapp.nodes.models import Node
from webapp.realtime import logins, sockets

pytestmark = pytest.mark.django_db(transaction=True)
RED = (AssertionError, pytest.fail.Exception)
ApiOf = Callable[..., Api]


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return monkeypatch.setattr


def passes(*args: Any, **kwargs: Any) -> None:
    """A guard that lets everything through."""


async def docker_call(
    secret: str, method: str, path: str, content: bytes = b"", **headers: str
) -> httpx.Response:
    """Send a call of the Docker Engine API to the application itself."""
    values = {name.replace("_", "-"): value for name, value in headers.items()}
    if secret:
        values["Authorization"] = f"Bearer {secret}"
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, path, content=content, headers=values)


# AP-01: who may call what


def test_ap01_rest_without_the_guard(mutate: Callable[..., None], node: Node) -> None:
    routes.test_nobody_gets_nothing(node)
    mutate(middleware.GuardMiddleware, "process_view", passes)
    with pytest.raises((*RED, KeyError)):  # the first pages that are let in are not ready for nobody
        routes.test_nobody_gets_nothing(node)


def test_ap01_roles_without_their_differences(
    request: pytest.FixtureRequest, mutate: Callable[..., None], node: Node, api: ApiOf
) -> None:
    mutate(middleware.GuardMiddleware, "process_view", passes)
    with pytest.raises(RED):
        routes.test_each_may_do_exactly_what_the_table_says(
            request, node, api, "vera", "admin", {"public", "view", "self"}
        )


async def docker_refuses_a_viewer_and_nobody(vera: User) -> None:
    secret = await database_sync_to_async(token_for)(vera)
    for method, path in (
        ("POST", "/v1.44/containers/no-such/kill"),
        ("POST", "/v1.44/images/no-such/tag?repo=x"),
        ("DELETE", "/v1.44/networks/no-such"),
    ):
        assert (await docker_call(secret, method, path)).status_code == 403, path
        assert (await docker_call("", method, path)).status_code == 401, path


async def test_ap01_docker_without_the_judge(mutate: Callable[..., None], node: Node, vera: User) -> None:
    await docker_refuses_a_viewer_and_nobody(vera)
    mutate(docker_app, "_judge", passes)
    with pytest.raises(RED):
        await docker_refuses_a_viewer_and_nobody(vera)


async def test_ap01_docker_where_nobody_is_somebody(
    mutate: Callable[..., None], node: Node, vera: User, alice: User
) -> None:
    mutate(docker_app, "_identify_scope", lambda scope, headers: middleware.Actor(user=alice))
    with pytest.raises(RED):
        await docker_refuses_a_viewer_and_nobody(vera)


# AP-02: one reading of a body


@pytest.mark.parametrize(
    "body",
    [{"Image": "x", "hostconfig": {"Privileged": True}}, {"Image": "x", "HostConfig": {"privileged": True}}],
)
def test_ap02_docker_without_the_check_of_keys(mutate: Callable[..., None], body: dict[str, Any]) -> None:
    check = docker_documents.test_a_body_that_would_be_judged_as_less_than_it_means_is_refused
    check(body)
    mutate(create, "check_keys", passes)
    with pytest.raises(RED):
        check(body)


async def docker_refuses_a_key_that_stands_twice(alice: User) -> None:
    secret = await database_sync_to_async(token_for)(alice)
    content = b'{"Image": "none-such", "Image": "none-such"}'
    answer = await docker_call(
        secret, "POST", "/v1.44/containers/create", content, Content_Type="application/json"
    )
    assert answer.status_code == 400


async def test_ap02_docker_with_a_lenient_parser(
    mutate: Callable[..., None], node: Node, alice: User
) -> None:
    from webapp.dockerapi import call

    await docker_refuses_a_key_that_stands_twice(alice)
    mutate(call, "parse_json", lambda body: json.loads(body or b"{}"))
    with pytest.raises(RED):
        await docker_refuses_a_key_that_stands_twice(alice)


async def test_ap02_rest_with_a_lenient_parser(mutate: Callable[..., None], node: Node, alice: User) -> None:
    mutate(parsers, "loads", json.loads)
    with pytest.raises(RED):
        await bodies.test_confusing_bodies_are_refused(
            node, alice, b'{"image": "nginx", "image": "evil"}', 400
        )


# AP-03, RT-07: the same power by any door


def test_rt07_without_the_policy(
    mutate: Callable[..., None], node: Node, voice: Any, alice: User, bob: User, api: ApiOf
) -> None:
    mutate(policy, "require", lambda actor, needed, **what: sorted(right.value for right in actor.rights))
    with pytest.raises(RED):
        policies.test_operators_need_the_right_and_admins_have_it(
            None, alice, bob, api, "privileged", {"privileged": True}
        )


def test_ap03_without_the_policy(
    mutate: Callable[..., None], node: Node, voice: Any, bob: User, api: ApiOf
) -> None:
    mutate(policy, "require", lambda actor, needed, **what: [])
    with pytest.raises(RED):
        policies.test_services_refuse_whichever_face_calls(None, bob)
    with pytest.raises(RED):
        policies.test_a_build_is_no_way_either(
            node, bob, api, {"network_mode": "host", "dockerfile": "FROM scratch"}
        )


@pytest.mark.parametrize("host", [{"Privileged": True}, {"CapAdd": ["SYS_ADMIN"]}, {"PidMode": "host"}])
def test_rt07_docker_where_a_field_is_lost(
    mutate: Callable[..., None], node: Node, bob: User, host: dict[str, Any]
) -> None:
    """A field that the translation drops would be judged as absent."""

    def is_seen() -> None:
        spec = create.spec_of({"Image": "x", "HostConfig": host})
        with pytest.raises(Denied):
            container_create(actor_of(bob), spec)

    is_seen()
    for table in ("_HOST_TRUTHS", "_HOST_LISTS", "_HOST_TEXT"):
        kept = {theirs: ours for theirs, ours in getattr(create, table).items() if theirs not in host}
        mutate(create, table, kept)
    with pytest.raises(RED):
        is_seen()


# AP-04: what is another's does not exist


def test_ap04_without_the_owner_in_the_question(
    mutate: Callable[..., None], node: Node, bob: User, vera: User, api: ApiOf
) -> None:
    mutate(selectors, "token_get", lambda actor, token_id: Token.objects.get(pk=token_id))
    with pytest.raises(RED):
        accounts_tests.test_tokens_of_others_do_not_exist(node, bob, vera, api)


# AP-05: tokens


@pytest.mark.parametrize(
    "check", [accounts_tests.test_an_expired_token_is_nobody, accounts_tests.test_a_revoked_token_is_nobody]
)
def test_ap05_where_tokens_are_valid_for_ever(
    mutate: Callable[..., None], node: Node, bob: User, api: ApiOf, check: Callable[..., None]
) -> None:
    mutate(Token, "is_valid", True)
    with pytest.raises(RED):
        check(node, bob, api)


def test_ap05_where_a_small_token_mints_others(
    mutate: Callable[..., None], node: Node, alice: User, api: ApiOf
) -> None:
    mutate(services, "_check_may_make_token", passes)
    mutate(middleware.GuardMiddleware, "process_view", passes)
    with pytest.raises(RED):
        accounts_tests.test_a_small_token_mints_no_token(node, alice, api, "read")


def test_ap05_where_the_secret_itself_is_kept(mutate: Callable[..., None], bob: User) -> None:
    mutate(services, "digest_of", lambda secret: secret)
    with pytest.raises(RED):
        accounts_tests.test_only_a_hash_of_a_token_is_kept(bob)


async def test_ap05_where_nobody_watches_over_live_sockets(
    mutate: Callable[..., None], node: Node, bob: User
) -> None:
    mutate(logins, "still_valid", set)
    with pytest.raises((*RED, asyncio.TimeoutError)):
        await asyncio.wait_for(websockets.test_a_revoked_token_closes_its_sockets(node, bob), 3)


# AP-06: forms of other sites


def test_ap06_without_the_csrf_check(mutate: Callable[..., None], db: None) -> None:
    sample = sample_data.fill()
    path = f"/containers/{sample['containers']['leafy-front'].pk[:12]}/stop/"

    def is_refused() -> None:
        client = Client(enforce_csrf_checks=True)
        client.cookies["wharfinger_session"] = session_of(sample["people"]["operator"].pk)
        assert client.post(path).status_code == 403

    is_refused()
    mutate(CsrfViewMiddleware, "process_view", passes)
    with pytest.raises(RED):
        is_refused()


async def docker_refuses_what_a_form_can_post(alice: User) -> None:
    secret = await database_sync_to_async(token_for)(alice)
    body = b'{"Image": "none-such"}'
    answer = await docker_call(secret, "POST", "/v1.44/containers/create", body, Content_Type="text/plain")
    assert answer.status_code == 415


async def test_ap06_docker_where_the_media_type_is_not_looked_at(
    mutate: Callable[..., None], node: Node, alice: User
) -> None:
    from webapp.dockerapi import call

    async def careless(self: call.Call) -> dict[str, Any]:
        return create.parse_json(b"".join([part async for part in self.body()]))

    await docker_refuses_what_a_form_can_post(alice)
    mutate(call.Call, "json", careless)
    with pytest.raises(RED):
        await docker_refuses_what_a_form_can_post(alice)


# AP-07: websockets of other sites


def _cookie_of(user: User) -> str:
    return f"wharfinger_session={session_of(user.pk)}"


async def test_ap07_without_the_origin(mutate: Callable[..., None], node: Node, bob: User) -> None:
    mutate(sockets, "origin_fits", lambda *args, **kwargs: True)
    with pytest.raises(RED):
        await websockets.test_a_cookie_from_elsewhere_is_refused_before_accepting(
            node, bob, _cookie_of, "http://evil.example"
        )


# the third way of identity


def test_a_certificate_that_nobody_registered(mutate: Callable[..., None], bob: User) -> None:
    def is_nobodys() -> None:
        with pytest.raises(authentication.NotSignedIn):
            authentication.actor_of_certificate("0" * 64, face="docker", address="")

    is_nobodys()
    mutate(authentication, "_holder", lambda *args, **kwargs: middleware.Actor(user=bob))
    with pytest.raises(RED):
        is_nobodys()

"""REST of builds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts.permissions import Permission
from webapp.api import docs, shapes
from webapp.api.base import WharfingerView
from webapp.api.docs import Strict, describe
from webapp.api.parsers import RawParser, StrictJSONParser
from webapp.builds import selectors, services
from webapp.builds.models import Build
from webapp.core.asgi import take_body
from webapp.core.errors import Invalid
from webapp.core.flags import flag
from webapp.core.uploads import SpooledFile
from webapp.nodes.selectors import node_for
from webapp.operations.logs import log_response
from webapp.operations.models import Operation
from workers.contracts.values import ContractError, loads

FIELDS = frozenset(
    {"dockerfile", "context", "remote", "tags", "build_args", "target", "no_cache", "dockerfile_path", "secrets", "labels", "platform", "pull", "network_mode", "node"}
)  # fmt: skip
LISTS = ("no_cache_filter", "cache_from", "extra_hosts")
NUMBERS = ("memory_bytes", "pids_limit", "shm_size_bytes", "disk_bytes")
MORE = frozenset({*LISTS, *NUMBERS, "squash"})
_MANY = ("tags", *LISTS)
QUERY = ("tags", "build_args", "target", "no_cache", "dockerfile_path", "labels", "platform", "pull", "network_mode", *LISTS, *NUMBERS, "squash")  # fmt: skip
"""What may stand in the query beside an archive: no secrets, which would stand in logs."""
FORMS = ("multipart/form-data", "application/json", "")
_LARGEST = 2**53


class ArchiveParser(RawParser):
    """For a body that is the context: `application/x-tar`, `application/zip` and the like."""

    media_type = "application/*"


class BuildForm(Strict):
    """The parts of `POST /builds/` (multipart form, or JSON when there is no context)."""

    dockerfile = serializers.CharField(required=False, help_text="the Dockerfile, as text or as a file")
    context = serializers.FileField(required=False, help_text="tar, tar.gz, tar.zst or zip")
    remote = serializers.CharField(
        required=False,
        help_text="instead of a context: address of a git repository, an archive or a Dockerfile",
    )
    tags = serializers.ListField(child=serializers.CharField(), required=False)
    build_args = serializers.JSONField(required=False, help_text='{"NAME": "value"}')
    target = serializers.CharField(required=False)
    no_cache = serializers.BooleanField(required=False)
    dockerfile_path = serializers.CharField(required=False, help_text="of the Dockerfile in the context")
    secrets = serializers.JSONField(required=False, help_text='{"id": "text"}')
    labels = serializers.JSONField(required=False)
    platform = serializers.CharField(required=False)
    pull = serializers.BooleanField(required=False, help_text="look for newer base images")
    network_mode = serializers.CharField(required=False)
    node = serializers.CharField(required=False)
    no_cache_filter = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="stages that are built anew"
    )
    cache_from = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="images whose layers may be used"
    )
    extra_hosts = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="name:address"
    )
    memory_bytes = serializers.IntegerField(required=False, help_text="of one step")
    pids_limit = serializers.IntegerField(required=False, help_text="of one step")
    shm_size_bytes = serializers.IntegerField(required=False, help_text="of one step")
    disk_bytes = serializers.IntegerField(required=False, help_text="of context and layers together")
    squash = serializers.BooleanField(required=False, help_text="one layer of all that is built")


class BuildsView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "POST": Permission.OPERATE}
    query = {"GET": ("status", "tag", "limit", "cursor"), "POST": QUERY}
    upload = True
    parser_classes = (MultiPartParser, StrictJSONParser, ArchiveParser)

    @describe("List builds", answer=docs.page_of(shapes.BUILD), query=("status", "tag", "limit", "cursor"))
    def get(self, request: Request) -> Response:
        query = request.query_params
        found = selectors.build_list(status=query.get("status", ""), tag=query.get("tag", ""))
        return self.listing(found, selectors.to_json, keys=("created_at", "operation_id"))

    @describe(
        "Build an image: a form, or the context's archive as the body and the rest in the query",
        query=QUERY,
        body=BuildForm,
        body_media="multipart/form-data",
        answer=shapes.BUILD_DETAIL,
        status=201,
        work=True,
    )
    def post(self, request: Request) -> HttpResponse:
        if request.content_type.partition(";")[0] in FORMS:
            if given := sorted(set(request.query_params) & set(QUERY)):
                raise Invalid(f"{given[0]} belongs into the form", fields={given[0]: ["not in the query"]})
            wish, node = read_wish(request.data, request.query_params.get("node", ""))
        else:
            wish, node = self._of_archive(request)
        build, operation = services.build_create(self.actor, wish, node=node)
        return self.accepted(operation, self.built, build=selectors.to_json(build))

    def _of_archive(self, request: Request) -> tuple[services.BuildWish, Any]:
        """Read a request whose body is the context: it is kept as it comes, without being taken apart."""
        query = request.query_params
        data = {
            name: query.getlist(name) if name in _MANY else query[name] for name in QUERY if name in query
        }
        wish, node = read_wish(data, query.get("node", ""), with_context=False)
        context = take_body(request._request)
        size = request._request.wf_spool.size  # type: ignore[attr-defined]
        return replace(wish, context=context, context_size_bytes=size), node

    def built(self, operation: Operation) -> tuple[int, Any]:
        return 201, selectors.detail_json(selectors.build_get(operation.id), self.actor)

    def accepted(self, operation: Operation, done: Any = None, **more: Any) -> HttpResponse:
        if not more and (build := Build.objects.filter(pk=operation.pk).first()):
            more = {"build": selectors.to_json(build)}
        return super().accepted(operation, done or self.built, **more)


def read_wish(data: Any, node_name: str = "", *, with_context: bool = True) -> tuple[services.BuildWish, Any]:
    """Return what a form (or JSON) asks to build, and the node; an uploaded context is taken from the spool.

    Without `with_context` the context comes another way, and is looked for by nobody.
    """
    if unknown := sorted(set(data) - FIELDS - MORE):
        raise Invalid(f"unknown field {unknown[0][:60]!r}", fields={unknown[0][:60]: ["unknown field"]})
    context = data.get("context")
    if context not in (None, "") and not isinstance(context, SpooledFile):
        raise Invalid("the context must be a file", fields={"context": ["not a file"]})
    node = node_for(str(data.get("node") or node_name))
    wish = services.BuildWish(
        dockerfile=_dockerfile(data.get("dockerfile")),
        dockerfile_path=str(data.get("dockerfile_path") or "Dockerfile"),
        remote=str(data.get("remote") or "").strip(),
        tags=_texts(data, "tags"),
        build_args=_object(data, "build_args"),
        target=str(data.get("target") or ""),
        platform=str(data.get("platform") or ""),
        no_cache=_flag(data, "no_cache"),
        pull=_flag(data, "pull"),
        labels=_object(data, "labels"),
        network_mode=str(data.get("network_mode") or ""),
        secrets={name: str(text).encode() for name, text in _object(data, "secrets").items()},
        context=context.spool_id if isinstance(context, SpooledFile) else "",
        context_size_bytes=context.size or 0 if isinstance(context, SpooledFile) else 0,
        more=_more(data),
    )
    services.check(wish if with_context else replace(wish, context="body"))
    if isinstance(context, SpooledFile):
        context.take()
    return wish, node


def _dockerfile(value: Any) -> str:
    if isinstance(value, SpooledFile):
        data = value.read(services.MAX_DOCKERFILE_BYTES + 1)
        if len(data) > services.MAX_DOCKERFILE_BYTES:
            raise Invalid("the Dockerfile is longer than 1 MiB", fields={"dockerfile": ["too long"]})
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Invalid("the Dockerfile is not UTF-8 text", fields={"dockerfile": ["not text"]}) from error
    return str(value or "")


def _more(data: Any) -> dict[str, Any]:
    """Return the fields of the contract that are passed on as they are, those alone that were given."""
    found: dict[str, Any] = {name: _texts(data, name) for name in LISTS}
    found |= {name: _number(data, name) for name in NUMBERS}
    found["squash"] = _flag(data, "squash")
    return {name: value for name, value in found.items() if value}


def _number(data: Any, name: str) -> int:
    value = data.get(name)
    if value in (None, ""):
        return 0
    if isinstance(value, bool) or not str(value).isdigit() or int(value) > _LARGEST:
        raise Invalid(f"{name} must be a number", fields={name: ["not a number"]})
    return int(value)


def _texts(data: Any, name: str) -> list[str]:
    values = data.getlist(name) if hasattr(data, "getlist") else data.get(name) or []
    if isinstance(values, str):
        values = [values]
    if len(values) == 1 and str(values[0]).startswith("["):
        values = _parse(name, str(values[0]))
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise Invalid(f"{name} must be texts", fields={name: ["wrong type"]})
    return [item.strip() for item in values if item.strip()]


def _object(data: Any, name: str) -> dict[str, Any]:
    value = data.get(name)
    if isinstance(value, str):
        value = _parse(name, value) if value.strip() else {}
    if value in (None, ""):
        return {}
    if not isinstance(value, dict) or not all(
        item is None or isinstance(item, str | int | float) for item in value.values()
    ):
        raise Invalid(f"{name} must be a JSON object of texts", fields={name: ["wrong type"]})
    return {
        key: item if item is None or isinstance(item, str) else json.dumps(item)
        for key, item in value.items()
    }


def _parse(name: str, text: str) -> Any:
    try:
        return loads(text)
    except ContractError as error:
        raise Invalid(f"{name}: {error}", fields={name: ["no valid JSON"]}) from error


def _flag(data: Any, name: str) -> bool:
    value = data.get(name)
    return value if isinstance(value, bool) else flag({name: str(value or "")}, name) if value else False


class BuildView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("Everything about a build", answer=shapes.BUILD_DETAIL)
    def get(self, request: Request, ref: str) -> Response:
        return Response(selectors.detail_json(selectors.build_get(ref), self.actor))


class BuildLogView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": ("follow", "format")}

    @describe("What a build said", answer=docs.TEXT, query=("follow", "format"), media="text/plain")
    def get(self, request: Request, ref: str) -> HttpResponse:
        return log_response(request._request, selectors.build_get(ref).operation)

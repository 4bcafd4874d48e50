"""REST of images. `ref` is a name (slashes percent-encoded), an id or a unique start of one."""

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
from webapp.api.parsers import RawParser
from webapp.audit import services as audit
from webapp.containers.selectors import image_use_counts
from webapp.core.asgi import take_body
from webapp.core.errors import Invalid
from webapp.core.flags import flag
from webapp.core.names import Names
from webapp.images import protection, selectors, services
from webapp.images.models import Image
from webapp.images.records import familiar
from webapp.nodes.selectors import node_for
from webapp.operations.models import Operation
from webapp.realtime.responses import stream_later

MOST_SAVED = 100
FILTERS = ("name", "search", "label", "dangling", "limit", "cursor")


def _one(request: Request, ref: str) -> Image:
    return selectors.image_get(ref, request.query_params.get("node", ""))


class ImagesView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": FILTERS}

    @describe("List images", answer=docs.page_of(shapes.IMAGE), query=FILTERS)
    def get(self, request: Request) -> Response:
        query = request.query_params
        wanted = selectors.ImageFilter(
            name=query.get("name", ""),
            search=query.get("search", ""),
            label=query.get("label", ""),
            node=query.get("node", ""),
            dangling=flag(query, "dangling") if "dangling" in query else None,
        )
        used, names = image_use_counts(), Names()
        rows = selectors.rows_of(selectors.image_list(wanted))
        return self.listing(rows, lambda row: selectors.row_json(row, names, used[row.image_id]))


class ImageView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "DELETE": Permission.OPERATE}
    query = {"DELETE": ("force",)}

    @describe("Everything about an image", answer=shapes.IMAGE_DETAIL)
    def get(self, request: Request, ref: str) -> Response:
        image = _one(request, ref)
        return Response(selectors.detail_json(image, image_use_counts()[image.image_id]))

    @describe(
        "Remove an image, or only this name of it when it has others",
        answer=docs.shape(removed=docs.many(docs.WORDS)),
        query=("force",),
        work=True,
    )
    def delete(self, request: Request, ref: str) -> HttpResponse:
        image = _one(request, ref)
        operation = services.image_remove(
            self.actor, image, ref=ref, force=flag(request.query_params, "force")
        )
        return self.accepted(operation, lambda ended: (200, ended.result))


class HistoryView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("How an image came about", answer=docs.ANY)
    def get(self, request: Request, ref: str) -> Response:
        return Response(services.history(_one(request, ref)))


class LayersView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("The layers of an image, with sizes and what later layers hide", answer=docs.ANY)
    def get(self, request: Request, ref: str) -> Response:
        return Response(services.layers(_one(request, ref)))


class LayerFilesView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("The files of one layer; 0 is the lowest", answer=docs.ANY)
    def get(self, request: Request, ref: str, index: int) -> Response:
        return Response(services.layer_files(_one(request, ref), index))


class PullWish(Strict):
    reference = serializers.CharField()
    all_tags = serializers.BooleanField(required=False)
    platform = serializers.CharField(required=False, allow_blank=True)
    node = serializers.CharField(required=False)


class PullView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe("Fetch an image from a registry", body=PullWish, answer=shapes.IMAGE_DETAIL, work=True)
    def post(self, request: Request) -> HttpResponse:
        wanted = PullWish.read(request.data)
        node = node_for(wanted.get("node") or request.query_params.get("node", ""))
        operation = services.image_pull(
            self.actor,
            wanted["reference"],
            platform=wanted.get("platform", ""),
            all_tags=wanted.get("all_tags", False),
            node=node,
        )
        return self.accepted(operation, _image_of)


class PushWish(Strict):
    reference = serializers.CharField(required=False, allow_blank=True)
    compression = serializers.ChoiceField(choices=services.COMPRESSIONS, required=False)
    all_platforms = serializers.BooleanField(required=False)


class PushView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe(
        "Send an image to a registry",
        body=PushWish,
        answer=docs.shape(reference=docs.TEXT, digest=docs.TEXT, size_bytes=docs.NUMBER),
        work=True,
    )
    def post(self, request: Request, ref: str) -> HttpResponse:
        wanted = PushWish.read(request.data)
        image = _one(request, ref)
        if not wanted.get("reference") and not services.is_id(ref, image):
            wanted["reference"] = ref
        return self.accepted(
            services.image_push(self.actor, image, **wanted), lambda ended: (200, ended.result)
        )


class TagWish(Strict):
    reference = serializers.CharField()


class TagView(WharfingerView):
    permissions = {"POST": Permission.OPERATE, "DELETE": Permission.OPERATE}
    query = {"DELETE": ("reference",)}

    @describe("Give an image a further name", body=TagWish, answer=shapes.IMAGE_DETAIL, status=201, work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        operation = services.image_tag(
            self.actor, _one(request, ref), TagWish.read(request.data)["reference"]
        )
        return self.accepted(operation, lambda ended: (201, _image_of(ended)[1]))

    @describe(
        "Take one name of an image away",
        answer=docs.shape(reference=docs.TEXT),
        query=("reference",),
        work=True,
    )
    def delete(self, request: Request, ref: str) -> HttpResponse:
        reference = request.query_params.get("reference", "")
        if not reference:
            raise Invalid("say which name", fields={"reference": ["missing"]})
        operation = services.image_untag(self.actor, _one(request, ref), reference)
        return self.accepted(operation, lambda ended: (200, ended.result))


class ProtectWish(Strict):
    pattern = serializers.CharField(max_length=300)
    note = serializers.CharField(required=False, allow_blank=True, max_length=300)


class ProtectedView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "POST": Permission.ADMIN, "DELETE": Permission.ADMIN}
    query = {"GET": ("limit", "cursor"), "DELETE": ("pattern",)}

    @describe("List protected names", answer=docs.page_of(shapes.PROTECTED_NAME))
    def get(self, request: Request) -> Response:
        return self.listing(protection.protected_list(), protection.to_json)

    @describe(
        "Protect the names that fit a pattern: they neither move to another image nor go",
        body=ProtectWish,
        answer=shapes.PROTECTED_NAME,
        status=201,
        work=True,
    )
    def post(self, request: Request) -> HttpResponse:
        row, told = protection.protect(self.actor, **ProtectWish.read(request.data))
        return self._told(told, protection.to_json(row), 201)

    @describe("Lift a protection", answer=docs.shape(pattern=docs.TEXT), query=("pattern",), work=True)
    def delete(self, request: Request) -> HttpResponse:
        pattern = request.query_params.get("pattern", "")
        if not pattern:
            raise Invalid("say which pattern", fields={"pattern": ["missing"]})
        told = protection.unprotect(self.actor, pattern)
        return self._told(told, {"pattern": pattern}, 200)

    def _told(self, told: list[Operation], answer: dict[str, Any], status: int) -> HttpResponse:
        """Answer when the first node has heard of it; with no node at all there is nothing to wait for."""
        if not told:
            return Response(answer, status=status)
        return self.accepted(told[0], lambda ended: (status, answer))


class ArchiveView(WharfingerView):
    permissions = {"GET": Permission.OPERATE}

    @describe(
        "The image as an archive (OCI layout and docker-archive in one)",
        answer=docs.BINARY,
        media="application/x-tar",
    )
    def get(self, request: Request, ref: str) -> HttpResponse:
        image = _one(request, ref)
        audit.record(
            self.actor,
            "image.save",
            target_type="image",
            target_id=image.image_id,
            target=image.shown_name,
            node=image.node.name,
        )
        name = familiar(ref) if not services.is_id(ref, image) else image.shown_name
        return stream_later(
            request._request,
            image.node.name,
            "image.save",
            {"images": [image.image_id if services.is_id(ref, image) else ref]},
            content_type="application/x-tar",
            filename=f"{name.replace('/', '_').replace(':', '_')}.tar",
        )


class ArchivesView(WharfingerView):
    permissions = {"GET": Permission.OPERATE}
    query = {"GET": ("ref",)}

    @describe(
        "Several images as one archive: `ref` once for each",
        answer=docs.BINARY,
        media="application/x-tar",
        query=("ref",),
    )
    def get(self, request: Request) -> HttpResponse:
        refs = request.query_params.getlist("ref")
        if not 1 <= len(refs) <= MOST_SAVED:
            raise Invalid(f"say which images, 1 to {MOST_SAVED}", fields={"ref": ["missing or too many"]})
        images = [_one(request, ref) for ref in refs]
        if len({image.node_id for image in images}) > 1:
            raise Invalid("the images are on several nodes", fields={"ref": ["on one node"]})
        for image in images:
            audit.record(
                self.actor,
                "image.save",
                target_type="image",
                target_id=image.image_id,
                target=image.shown_name,
                node=image.node.name,
            )
        wanted = [
            image.image_id if services.is_id(ref, image) else ref
            for ref, image in zip(refs, images, strict=True)
        ]
        return stream_later(
            request._request,
            images[0].node.name,
            "image.save",
            {"images": wanted},
            content_type="application/x-tar",
            filename="images.tar",
        )


class LoadView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}
    upload = True
    parser_classes = (RawParser,)

    @describe(
        "Load an archive",
        body=docs.BINARY,
        body_media="application/x-tar",
        answer=docs.shape(images=docs.many(docs.ANY)),
        status=201,
        work=True,
    )
    def post(self, request: Request) -> HttpResponse:
        node = node_for(request.query_params.get("node", ""))
        operation = services.image_load(self.actor, take_body(request._request), node=node)
        return self.accepted(operation, lambda ended: (201, ended.result))


class ImportView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}
    query = {"POST": ("reference", "message", "change", "platform")}
    upload = True
    parser_classes = (RawParser,)

    @describe(
        "Make an image of a root file system",
        body=docs.BINARY,
        body_media="application/x-tar",
        query=("reference", "message", "change", "platform"),
        answer=shapes.IMAGE_DETAIL,
        status=201,
        work=True,
    )
    def post(self, request: Request) -> HttpResponse:
        query = request.query_params
        operation = services.image_import(
            self.actor,
            take_body(request._request),
            reference=query.get("reference", ""),
            message=query.get("message", ""),
            changes=query.getlist("change"),
            platform=query.get("platform", ""),
            node=node_for(query.get("node", "")),
        )
        return self.accepted(operation, lambda ended: (201, _image_of(ended)[1]))


class SearchView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": ("term", "limit")}

    @describe("Search the registries", answer=docs.ANY, query=("term", "limit"))
    def get(self, request: Request) -> Response:
        query = request.query_params
        limit = query.get("limit", "25")
        if not limit.isdecimal() or not 1 <= int(limit) <= 100:
            raise Invalid("limit must be a number from 1 to 100", fields={"limit": ["out of range"]})
        node = node_for(query.get("node", ""))
        return Response(services.search(self.actor, query.get("term", ""), limit=int(limit), node=node))


class RemoteTagsView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": ("reference",)}

    @describe(
        "The tags of a repository at its registry",
        answer=docs.shape(repository=docs.TEXT, tags=docs.many(docs.TEXT)),
        query=("reference",),
    )
    def get(self, request: Request) -> Response:
        query = request.query_params
        if not query.get("reference"):
            raise Invalid("say which repository", fields={"reference": ["missing"]})
        node = node_for(query.get("node", ""))
        return Response(services.remote_tags(self.actor, query["reference"], node=node))


def _image_of(operation: Operation) -> tuple[int, Any]:
    """Return the image that an operation's result names, from our records if they have it."""
    record = operation.result.get("image") or {}
    image = (
        Image.objects.select_related("node")
        .filter(node=operation.node, image_id=record.get("id", ""))
        .first()
    )
    return 200, selectors.detail_json(image, image_use_counts()[image.image_id]) if image else {
        "image": record
    }

"""REST of volumes and backups."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts.actor import Actor
from webapp.accounts.permissions import Permission
from webapp.api import docs, shapes
from webapp.api.base import WharfingerView
from webapp.api.docs import Strict, describe
from webapp.api.parsers import RawParser, StrictJSONParser
from webapp.audit import services as audit
from webapp.core.asgi import take_body
from webapp.core.errors import Conflict, Invalid, Missing
from webapp.core.flags import flag
from webapp.nodes.selectors import node_for
from webapp.operations.models import Operation
from webapp.realtime.responses import stream_later
from webapp.volumes import selectors, services
from webapp.volumes.models import BackupSchedule, Volume

FILTERS = ("name", "project", "label", "dangling", "limit", "cursor")
MEDIA = {"gzip": "application/gzip", "zstd": "application/zstd"}


class VolumeWish(Strict):
    name = serializers.CharField(required=False, allow_blank=True)
    driver = serializers.CharField(required=False)
    options = serializers.DictField(child=serializers.CharField(allow_blank=True), required=False)
    labels = serializers.DictField(child=serializers.CharField(allow_blank=True), required=False)
    node = serializers.CharField(required=False)


def _one(request: Request, name: str) -> Volume:
    return selectors.volume_get(name, request.query_params.get("node", ""))


class VolumesView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "POST": Permission.OPERATE}
    query = {"GET": FILTERS}

    @describe("List volumes", answer=docs.page_of(shapes.VOLUME), query=FILTERS)
    def get(self, request: Request) -> Response:
        query = request.query_params
        wanted = {name: query.get(name, "") for name in ("name", "project", "label", "node")}
        dangling = flag(query, "dangling") if "dangling" in query else None
        found = selectors.volume_list(**wanted, dangling=dangling).defer("record")
        return self.listing(found, selectors.to_json)

    @describe("Make a volume", body=VolumeWish, answer=shapes.VOLUME_DETAIL, status=201, work=True)
    def post(self, request: Request) -> HttpResponse:
        wanted = VolumeWish.read(request.data)
        node = node_for(wanted.pop("node", "") or request.query_params.get("node", ""))
        return self.accepted(
            services.volume_create(self.actor, **wanted, node=node), lambda ended: (201, _shown(ended))
        )


class VolumeView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "DELETE": Permission.OPERATE}
    query = {"DELETE": ("force",)}

    @describe("Everything about a volume, who uses it, its backups", answer=shapes.VOLUME_DETAIL)
    def get(self, request: Request, name: str) -> Response:
        return Response(selectors.detail_json(_one(request, name)))

    @describe(
        "Remove a volume and its content", answer=docs.shape(name=docs.TEXT), query=("force",), work=True
    )
    def delete(self, request: Request, name: str) -> HttpResponse:
        volume = _one(request, name)
        operation = services.volume_remove(self.actor, volume, force=flag(request.query_params, "force"))
        return self.accepted(operation, lambda ended: (200, {"name": volume.name}))


class FilesView(WharfingerView):
    permissions = {"GET": Permission.OPERATE}
    query = {"GET": ("path",)}

    @describe("What lies in a folder of the volume", answer=docs.ANY, query=("path",))
    def get(self, request: Request, name: str) -> Response:
        return Response(services.browse(_one(request, name), request.query_params.get("path", "/")))


class FileView(WharfingerView):
    permissions = {"GET": Permission.OPERATE}
    query = {"GET": ("path",)}

    @describe("One file of the volume", answer=docs.BINARY, query=("path",), media="application/octet-stream")
    def get(self, request: Request, name: str) -> HttpResponse:
        volume = _one(request, name)
        path = request.query_params.get("path", "")
        if not path or "\0" in path:
            raise Invalid("say which file", fields={"path": ["missing"]})
        _read_entry(self.actor, "volume.file", volume, {"path": path})
        params = {"volume": volume.name, "path": path}
        return stream_later(
            request._request,
            volume.node.name,
            "volume.file",
            params,
            content_type="application/octet-stream",
            filename=path.rstrip("/").rpartition("/")[2] or "file",
        )


class BackupWish(Strict):
    compression = serializers.ChoiceField(choices=services.COMPRESSIONS, required=False, default="zstd")
    directory = serializers.CharField(required=False, default="", allow_blank=True, max_length=4000)


class BackupView(WharfingerView):
    """GET: a fresh backup as a download. POST: one that is kept on the node."""

    permissions = {"GET": Permission.OPERATE, "POST": Permission.OPERATE}
    query = {"GET": ("compression",)}

    @describe(
        "Download the volume's content as an archive",
        answer=docs.BINARY,
        query=("compression",),
        media="application/gzip",
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        volume = _one(request, name)
        compression = request.query_params.get("compression", "gzip")
        if compression not in services.COMPRESSIONS:
            raise Invalid(f"no compression {compression[:20]!r}", fields={"compression": ["gzip or zstd"]})
        _read_entry(self.actor, "volume.download", volume, {"compression": compression})
        return stream_later(
            request._request,
            volume.node.name,
            "volume.backup",
            {"volume": volume.name, "compression": compression},
            content_type=MEDIA[compression],
            filename=f"{volume.name}.{services.ENDINGS[compression]}",
        )

    @describe(
        "Make a proven backup that is kept on the node",
        answer=shapes.BACKUP,
        body=BackupWish,
        status=201,
        work=True,
    )
    def post(self, request: Request, name: str) -> HttpResponse:
        wanted = BackupWish.read(request.data)
        backup, operation = services.volume_backup(self.actor, _one(request, name), **wanted)
        shown = selectors.backup_json(backup)
        return self.accepted(
            operation,
            lambda ended: (201, selectors.backup_json(selectors.backup_get(backup.id))),
            backup=shown,
        )


class RestoreView(WharfingerView):
    """The body is an archive, or JSON `{"backup": id, "files": []}` to take a kept one."""

    permissions = {"POST": Permission.OPERATE}
    query = {"POST": ("file",)}
    upload = True
    parser_classes = (StrictJSONParser, RawParser)

    @describe(
        "Fill a volume from an archive, all or nothing",
        body=docs.BINARY,
        body_media="application/gzip",
        query=("file",),
        answer=shapes.VOLUME_DETAIL,
        work=True,
    )
    def post(self, request: Request, name: str) -> HttpResponse:
        query = request.query_params
        if request.content_type == "application/json":
            wanted = dict(request.data)
            backup = selectors.backup_get(str(wanted.get("backup", "")))
            if backup.status != "ready":
                raise Conflict(f"the backup is {backup.status}", code="wrong_state")
            files = [str(item) for item in wanted.get("files") or []]
            operation = services.volume_restore(self.actor, name, backup=backup, files=files)
        else:
            operation = services.volume_restore(
                self.actor,
                name,
                spool_id=take_body(request._request),
                files=query.getlist("file"),
                node=node_for(query.get("node", "")),
            )
        return self.accepted(operation, lambda ended: (200, _shown(ended)))


class BackupsView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": ("volume", "limit", "cursor")}

    @describe(
        "List backups that are kept", answer=docs.page_of(shapes.BACKUP), query=("volume", "limit", "cursor")
    )
    def get(self, request: Request) -> Response:
        return self.listing(
            selectors.backup_list(request.query_params.get("volume", "")), selectors.backup_json
        )


class BackupItemView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "DELETE": Permission.OPERATE}

    @describe("One backup that is kept", answer=shapes.BACKUP)
    def get(self, request: Request, pk: str) -> Response:
        return Response(selectors.backup_json(selectors.backup_get(pk)))

    @describe("Remove a kept backup from its node", answer=docs.shape(id=docs.TEXT), work=True)
    def delete(self, request: Request, pk: str) -> HttpResponse:
        backup = selectors.backup_get(pk)
        return self.accepted(services.backup_remove(self.actor, backup), lambda ended: (200, {"id": pk}))


class BackupFileView(WharfingerView):
    permissions = {"GET": Permission.OPERATE}

    @describe("Download a kept backup", answer=docs.BINARY, media="application/zstd")
    def get(self, request: Request, pk: str) -> HttpResponse:
        backup = selectors.backup_get(pk)
        if backup.status != "ready":
            raise Conflict(f"the backup is {backup.status}", code="wrong_state")
        audit.record(
            self.actor,
            "backup.download",
            target_type="backup",
            target_id=backup.id,
            target=backup.volume,
            node=backup.node.name,
        )
        directory, _, file_name = backup.location.rpartition("/")
        return stream_later(
            request._request,
            backup.node.name,
            "backup.file",
            {"directory": directory, "file_name": file_name},
            content_type=MEDIA[backup.compression],
            filename=file_name,
        )


class ScheduleWish(Strict):
    every_hours = serializers.IntegerField(required=False, default=24)
    keep = serializers.IntegerField(required=False, default=7)
    keep_daily = serializers.IntegerField(required=False, default=0)
    keep_weekly = serializers.IntegerField(required=False, default=0)
    keep_monthly = serializers.IntegerField(required=False, default=0)
    compression = serializers.ChoiceField(choices=services.COMPRESSIONS, required=False, default="zstd")


class SchedulesView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "POST": Permission.OPERATE}
    direct = frozenset({"POST"})

    @describe("When a volume is backed up", answer=docs.shape(results=docs.many(shapes.SCHEDULE)))
    def get(self, request: Request, name: str) -> Response:
        found = selectors.schedule_list(_one(request, name))
        return Response({"results": [selectors.schedule_json(item) for item in found], "next": None})

    @describe("Back a volume up regularly", body=ScheduleWish, answer=shapes.SCHEDULE, status=201)
    def post(self, request: Request, name: str) -> Response:
        schedule = services.schedule_create(
            self.actor, _one(request, name), **ScheduleWish.read(request.data)
        )
        return Response(selectors.schedule_json(schedule), status=201)


class ScheduleView(WharfingerView):
    permissions = {"DELETE": Permission.OPERATE}

    @describe("Stop backing a volume up regularly", status=204)
    def delete(self, request: Request, name: str, pk: int) -> Response:
        schedule = (
            BackupSchedule.objects.select_related("volume").filter(volume=_one(request, name), pk=pk).first()
        )
        if schedule is None:
            raise Missing(f"no schedule {pk}")
        services.schedule_remove(self.actor, schedule)
        return Response(status=204)


def _read_entry(actor: Actor, action: str, volume: Volume, body: dict[str, Any]) -> None:
    audit.record(
        actor,
        action,
        target_type="volume",
        target_id=volume.name,
        target=volume.name,
        node=volume.node.name,
        body=body,
    )


def _shown(operation: Operation) -> dict[str, Any]:
    name = ((operation.result or {}).get("volume") or {}).get("name") or operation.target_id
    volume = selectors.volume_list().filter(node=operation.node, name=name).first()
    return selectors.detail_json(volume) if volume else {"volume": (operation.result or {}).get("volume")}

"""REST of containers."""

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
from webapp.containers import policy, selectors, services
from webapp.containers.models import Container
from webapp.core.asgi import take_body
from webapp.core.errors import Invalid
from webapp.core.flags import flag
from webapp.core.names import Names
from webapp.core.times import parse_moment
from webapp.nodes.selectors import node_for
from webapp.operations.models import Operation
from webapp.realtime.responses import stream_later

FILTERS = (
    "status",
    "name",
    "image",
    "project",
    "network",
    "volume",
    "health",
    "search",
    "label",
    "limit",
    "cursor",
)
LOG_QUERY = ("tail", "since", "until", "follow", "search", "timestamps", "stdout", "stderr", "format")


class ContainerWish(Strict):
    """What `POST /containers/` takes; every field of the canonical spec besides the short ways to say things."""

    image = serializers.CharField()
    name = serializers.CharField(required=False, allow_blank=True)
    command = serializers.JSONField(
        required=False, help_text="a list of words, or a line that is split like a shell does"
    )
    entrypoint = serializers.JSONField(required=False)
    env = serializers.JSONField(required=False, help_text='{"NAME": "value"} or ["NAME=value"]')
    env_file = serializers.JSONField(
        required=False,
        help_text="the text of a file of NAME=VALUE lines, or a list of such texts; env wins over it",
    )
    ports = serializers.ListField(required=False, help_text='"8080:80", "127.0.0.1:8080:80/udp", or objects')
    mounts = serializers.ListField(
        required=False, help_text='"data:/var/lib/data", "/srv:/srv:ro", or objects'
    )
    networks = serializers.ListField(required=False, help_text="names, or objects with addresses and aliases")
    aliases = serializers.ListField(child=serializers.CharField(), required=False)
    restart = serializers.JSONField(
        required=False, help_text='"no", "on-failure:3", "always", "unless-stopped"'
    )
    memory_bytes = serializers.IntegerField(required=False)
    cpus = serializers.FloatField(required=False)
    pids_limit = serializers.IntegerField(required=False)
    user = serializers.CharField(required=False, allow_blank=True)
    workdir = serializers.CharField(required=False, allow_blank=True)
    tty = serializers.BooleanField(required=False)
    stdin_open = serializers.BooleanField(required=False)
    labels = serializers.DictField(child=serializers.CharField(allow_blank=True), required=False)
    privileged = serializers.BooleanField(required=False)
    start = serializers.BooleanField(required=False, default=True)
    pull = serializers.ChoiceField(choices=services.PULL, required=False)
    platform = serializers.CharField(required=False, allow_blank=True)
    node = serializers.CharField(required=False)


class ContainersView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "POST": Permission.OPERATE}
    query = {"GET": FILTERS}

    @describe("List containers, stopped ones too", answer=docs.page_of(shapes.CONTAINER), query=FILTERS)
    def get(self, request: Request) -> Response:
        query = request.query_params
        names = ("status", "name", "image", "project", "network", "volume", "health", "node", "search")
        wanted = selectors.ContainerFilter(
            **{name: query.get(name, "") for name in names}, labels=query.getlist("label")
        )
        names = Names()
        rows = selectors.rows_of(selectors.container_list(wanted))
        return self.listing(rows, lambda row: selectors.row_json(row, names))

    @describe(
        "Make a container and start it",
        body=ContainerWish,
        answer=shapes.CONTAINER_DETAIL,
        status=201,
        work=True,
    )
    def post(self, request: Request) -> HttpResponse:
        wanted = _object(request.data)
        start, pull, platform = (
            wanted.pop("start", True),
            wanted.pop("pull", "missing"),
            wanted.pop("platform", ""),
        )
        node = node_for(str(wanted.pop("node", "") or request.query_params.get("node", "")))
        if not isinstance(start, bool) or not isinstance(pull, str) or not isinstance(platform, str):
            raise Invalid(
                "start must be true or false, pull and platform text", fields={"start": ["wrong type"]}
            )
        container, operation = services.container_create(
            self.actor, wanted, node=node, start=start, pull=pull, platform=platform
        )
        return self.accepted(operation, self.made, container=selectors.to_json(container))

    def made(self, operation: Operation) -> tuple[int, Any]:
        return 201, _shown(self, operation)

    def accepted(self, operation: Operation, done: Any = None, **more: Any) -> HttpResponse:
        if done is None and not more:  # a repeated request: show what the first one made
            container = (
                Container.objects.select_related("node", "created_by").filter(pk=operation.target_id).first()
            )
            more = {"container": selectors.to_json(container)} if container else {}
        return super().accepted(operation, done or self.made, **more)


class ContainerView(WharfingerView):
    permissions = {"GET": Permission.VIEW, "DELETE": Permission.OPERATE}
    query = {"DELETE": ("force", "volumes", "keep_log")}

    @describe("Everything about a container", answer=shapes.CONTAINER_DETAIL)
    def get(self, request: Request, ref: str) -> Response:
        return Response(selectors.detail_json(selectors.container_get(ref), self.actor))

    @describe(
        "Remove a container",
        answer=docs.shape(id=docs.TEXT),
        query=("force", "volumes", "keep_log"),
        work=True,
    )
    def delete(self, request: Request, ref: str) -> HttpResponse:
        query = request.query_params
        container = selectors.container_get(ref)
        operation = services.container_remove(
            self.actor, container, force=flag(query, "force"), volumes=flag(query, "volumes"),
            keep_log=flag(query, "keep_log"),
        )  # fmt: skip
        return self.accepted(operation, lambda ended: (200, {"id": container.id, "name": container.name}))


class _VerbView(WharfingerView):
    """One verb on one container; the final answer is the container."""

    permissions = {"POST": Permission.OPERATE}
    wish: type[Strict] = Strict

    def post(self, request: Request, ref: str) -> HttpResponse:
        container = selectors.container_get(ref)
        operation = self.act(container, self.wish.read(_object(request.data)))
        return self.accepted(operation, lambda ended: (200, _shown(self, ended)))

    def act(self, container: Container, wanted: dict[str, Any]) -> Operation:
        raise TypeError("a verb says what it does")


class StopWish(Strict):
    timeout_s = serializers.FloatField(required=False, allow_null=True, min_value=-1, max_value=3600)
    signal = serializers.CharField(required=False, allow_blank=True)


class KillWish(Strict):
    signal = serializers.CharField(required=False, default="SIGKILL")


class RenameWish(Strict):
    name = serializers.CharField()


class StartView(_VerbView):
    @describe("Start a container", answer=shapes.CONTAINER_DETAIL, work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        return super().post(request, ref)

    def act(self, container: Container, wanted: dict[str, Any]) -> Operation:
        return services.container_start(self.actor, container)


class StopView(_VerbView):
    wish = StopWish

    @describe(
        "Stop a container: its signal, its grace time, then kill",
        body=StopWish,
        answer=shapes.CONTAINER_DETAIL,
        work=True,
    )
    def post(self, request: Request, ref: str) -> HttpResponse:
        return super().post(request, ref)

    def act(self, container: Container, wanted: dict[str, Any]) -> Operation:
        return services.container_stop(self.actor, container, **wanted)


class RestartView(_VerbView):
    wish = StopWish

    @describe("Stop and start a container", body=StopWish, answer=shapes.CONTAINER_DETAIL, work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        return super().post(request, ref)

    def act(self, container: Container, wanted: dict[str, Any]) -> Operation:
        return services.container_restart(self.actor, container, **wanted)


class KillView(_VerbView):
    wish = KillWish

    @describe("Send a signal to a container", body=KillWish, answer=shapes.CONTAINER_DETAIL, work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        return super().post(request, ref)

    def act(self, container: Container, wanted: dict[str, Any]) -> Operation:
        return services.container_kill(self.actor, container, **wanted)


class PauseView(_VerbView):
    @describe("Freeze a container", answer=shapes.CONTAINER_DETAIL, work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        return super().post(request, ref)

    def act(self, container: Container, wanted: dict[str, Any]) -> Operation:
        return services.container_pause(self.actor, container)


class UnpauseView(_VerbView):
    @describe("Let a frozen container go on", answer=shapes.CONTAINER_DETAIL, work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        return super().post(request, ref)

    def act(self, container: Container, wanted: dict[str, Any]) -> Operation:
        return services.container_unpause(self.actor, container)


class RenameView(_VerbView):
    wish = RenameWish

    @describe("Give a container another name", body=RenameWish, answer=shapes.CONTAINER_DETAIL, work=True)
    def post(self, request: Request, ref: str) -> HttpResponse:
        return super().post(request, ref)

    def act(self, container: Container, wanted: dict[str, Any]) -> Operation:
        return services.container_rename(self.actor, container, wanted["name"])


class UpdateView(_VerbView):
    @describe(
        "Change limits and the restart policy", body=docs.ANY, answer=shapes.CONTAINER_DETAIL, work=True
    )
    def post(self, request: Request, ref: str) -> HttpResponse:
        container = selectors.container_get(ref)
        wanted = _object(request.data)
        restart = wanted.pop("restart", None)
        resources = {**(wanted.pop("resources", None) or {}), **wanted}
        operation = services.container_update(self.actor, container, resources, restart)
        return self.accepted(operation, lambda ended: (200, _shown(self, ended)))


class CommitWish(Strict):
    reference = serializers.CharField(required=False, allow_blank=True)
    message = serializers.CharField(required=False, allow_blank=True)
    author = serializers.CharField(required=False, allow_blank=True)
    changes = serializers.ListField(child=serializers.CharField(), required=False)
    pause = serializers.BooleanField(required=False, default=True)


class CommitView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe(
        "Make an image of a container's changes",
        body=CommitWish,
        answer=docs.shape(image=docs.ANY),
        status=201,
        work=True,
    )
    def post(self, request: Request, ref: str) -> HttpResponse:
        container = selectors.container_get(ref)
        operation = services.container_commit(self.actor, container, **CommitWish.read(_object(request.data)))
        return self.accepted(operation, lambda ended: (201, ended.result))


class ExecWish(Strict):
    command = serializers.JSONField(help_text="a list of words")
    env = serializers.JSONField(required=False)
    user = serializers.CharField(required=False, allow_blank=True)
    workdir = serializers.CharField(required=False, allow_blank=True)
    tty = serializers.BooleanField(required=False)
    privileged = serializers.BooleanField(required=False)
    detach = serializers.BooleanField(required=False)


class ExecView(WharfingerView):
    permissions = {"POST": Permission.OPERATE}

    @describe(
        "Run a command in a running container",
        body=ExecWish,
        answer=docs.shape(
            exec_id=docs.TEXT, exit_code=docs.NUMBER, stdout=docs.TEXT, stderr=docs.TEXT, truncated=docs.FLAG
        ),
        work=True,
    )
    def post(self, request: Request, ref: str) -> HttpResponse:
        container = selectors.container_get(ref)
        wanted = ExecWish.read(_object(request.data))
        command = wanted.pop("command")
        if isinstance(command, str):
            command = ["/bin/sh", "-c", command]
        if not isinstance(command, list):
            raise Invalid("command must be a list of words", fields={"command": ["wrong type"]})
        exec_id, operation = services.container_exec(self.actor, container, command, **wanted)
        return self.accepted(operation, lambda ended: (200, ended.result), exec_id=exec_id)


class LogsView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": LOG_QUERY}

    @describe("What a container wrote", answer=docs.TEXT, query=LOG_QUERY, media="text/plain")
    def get(self, request: Request, ref: str) -> HttpResponse:
        container = selectors.container_get(ref)
        params = log_params(container.id, request.query_params)
        as_json = params["format"] == "json"
        content_type = "application/x-ndjson" if as_json else "text/plain; charset=utf-8"
        return stream_later(request._request, container.node.name, "logs", params, content_type=content_type)


def log_params(container_id: str, query: Any) -> dict[str, Any]:
    """Return the parameters of a `logs` stream from a query string."""
    tail = query.get("tail", "all") or "all"
    if tail != "all" and not tail.isdecimal():
        raise Invalid("tail must be a number of lines, or all", fields={"tail": ["no number"]})
    form = query.get("format", "") or "raw"
    if form not in ("raw", "json"):
        raise Invalid("format must be raw or json", fields={"format": ["raw or json"]})
    since, until = parse_moment(query.get("since", "")), parse_moment(query.get("until", ""), field="until")
    params: dict[str, Any] = {
        "container": container_id,
        "stdout": flag(query, "stdout", default=True),
        "stderr": flag(query, "stderr", default=True),
        "follow": flag(query, "follow"),
        "timestamps": flag(query, "timestamps"),
        "search": query.get("search", ""),
        "format": form,
    }
    if tail != "all":
        params["tail"] = int(tail)
    if since:
        params["since"] = since.timestamp()
    if until:
        params["until"] = until.timestamp()
    return params


class StatsView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("Use of CPU, memory, network and disk, just now", answer=docs.ANY)
    def get(self, request: Request, ref: str) -> Response:
        return Response(services.stats(selectors.container_get(ref)))


class ProcessesView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": ("ps_args",)}

    @describe("The processes of a container", answer=docs.ANY, query=("ps_args",))
    def get(self, request: Request, ref: str) -> Response:
        return Response(
            services.processes(selectors.container_get(ref), request.query_params.get("ps_args", ""))
        )


class ChangesView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("Files added, changed and deleted since the image", answer=docs.ANY)
    def get(self, request: Request, ref: str) -> Response:
        return Response(services.changes(selectors.container_get(ref)))


class TimelineView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": ("limit",)}

    @describe("What happened to a container, oldest first", answer=docs.ANY, query=("limit",))
    def get(self, request: Request, ref: str) -> Response:
        limit = request.query_params.get("limit", "500")
        if not limit.isdecimal() or not 1 <= int(limit) <= 5000:
            raise Invalid("limit must be a number from 1 to 5000", fields={"limit": ["out of range"]})
        return Response(services.ask(selectors.container_get(ref), "timeline", limit=int(limit)))


class FilesView(WharfingerView):
    """A path of the container as a tar, out and in."""

    permissions = {"GET": Permission.OPERATE, "PUT": Permission.OPERATE}
    query = {"GET": ("path",), "PUT": ("path", "no_overwrite_dir_non_dir", "copy_uid_gid")}
    upload = True
    parser_classes = (RawParser,)

    @describe("Fetch a path as a tar", answer=docs.BINARY, query=("path",), media="application/x-tar")
    def get(self, request: Request, ref: str) -> HttpResponse:
        container = selectors.container_get(ref)
        path = services.path_of(request.query_params.get("path", ""))
        policy.judge_exec(self.actor, container, privileged=False)
        audit.record(
            self.actor,
            "container.files_get",
            target_type="container",
            target_id=container.id,
            target=container.name,
            node=container.node.name,
            body={"path": path},
        )
        name = f"{path.rstrip('/').rpartition('/')[2] or container.name}.tar"
        params = {"container": container.id, "path": path}
        return stream_later(
            request._request,
            container.node.name,
            "container.archive",
            params,
            content_type="application/x-tar",
            filename=name,
        )

    @describe(
        "Unpack a tar into a folder of the container",
        body=docs.BINARY,
        body_media="application/x-tar",
        query=("path",),
        work=True,
        answer=docs.ANY,
    )
    def put(self, request: Request, ref: str) -> HttpResponse:
        container = selectors.container_get(ref)
        query = request.query_params
        operation = services.container_files_put(
            self.actor,
            container,
            query.get("path", ""),
            take_body(request._request),
            no_overwrite_dir_non_dir=flag(query, "no_overwrite_dir_non_dir"),
            copy_uid_gid=flag(query, "copy_uid_gid"),
        )
        return self.accepted(operation, lambda ended: (200, _shown(self, ended)))


class ExportView(WharfingerView):
    permissions = {"GET": Permission.OPERATE}

    @describe("The container's whole file system as a tar", answer=docs.BINARY, media="application/x-tar")
    def get(self, request: Request, ref: str) -> HttpResponse:
        container = selectors.container_get(ref)
        policy.judge_exec(self.actor, container, privileged=False)
        audit.record(
            self.actor,
            "container.export",
            target_type="container",
            target_id=container.id,
            target=container.name,
            node=container.node.name,
        )
        return stream_later(
            request._request,
            container.node.name,
            "container.export",
            {"container": container.id},
            content_type="application/x-tar",
            filename=f"{container.name}.tar",
        )


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise Invalid("the body must be a JSON object", code="bad_json")
    return dict(data)


def _shown(view: WharfingerView, operation: Operation) -> dict[str, Any]:
    """Return the container that an operation was about, as it is now (or as the node left it, if it is gone again)."""
    container = Container.objects.select_related("node", "created_by").filter(pk=operation.target_id).first()
    if container is not None:
        return selectors.detail_json(container, view.actor)
    return {
        "id": operation.target_id,
        "name": operation.target,
        "status": "removed",
        **_last_state(operation),
    }


def _last_state(operation: Operation) -> dict[str, Any]:
    record = (operation.result or {}).get("container") or {}
    return {"exit_code": record["exit_code"]} if "exit_code" in record else {}

"""Every endpoint there is, with the permission that it needs. What is not here is 404 and goes nowhere (D4)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from webapp.accounts.permissions import Permission
from webapp.dockerapi.call import Call
from webapp.dockerapi.handlers import builds, containers, images, networks, streams, system

Handler = Callable[[Call], Awaitable[None]]

PUBLIC, VIEW, OPERATE = Permission.PUBLIC, Permission.VIEW, Permission.OPERATE


@dataclass(frozen=True)
class DockerRoute:
    """`template`: `{ref}` is one part of the path, `{name}` of an image may hold slashes, encoded or not."""

    method: str
    template: str
    permission: Permission
    handler: Handler

    @property
    def pattern(self) -> re.Pattern[str]:
        text = (
            re.escape(self.template).replace(r"\{ref\}", "(?P<ref>[^/]+)").replace(r"\{id\}", "(?P<id>[^/]+)")
        )
        return re.compile(
            text.replace(r"\{name\}", "(?P<name>.+)").replace(r"\{rest\}", "(?P<rest>.*)") + r"\Z"
        )


ROUTES = [
    DockerRoute(method, template, permission, handler)
    for method, template, permission, handler in [
        ("GET", "/_ping", PUBLIC, system.ping),
        ("HEAD", "/_ping", PUBLIC, system.ping),
        ("GET", "/version", VIEW, system.version),
        ("GET", "/info", VIEW, system.info),
        ("GET", "/events", VIEW, system.events),
        ("GET", "/system/df", VIEW, system.disk_usage),
        ("POST", "/auth", OPERATE, system.auth),
        ("GET", "/containers/json", VIEW, containers.listing),
        ("POST", "/containers/create", OPERATE, containers.create),
        ("POST", "/containers/prune", OPERATE, containers.prune),
        ("GET", "/containers/{ref}/json", VIEW, containers.inspect),
        ("GET", "/containers/{ref}/top", VIEW, containers.top),
        ("GET", "/containers/{ref}/logs", VIEW, streams.logs),
        ("GET", "/containers/{ref}/changes", VIEW, containers.changes),
        ("GET", "/containers/{ref}/export", OPERATE, streams.export),
        ("GET", "/containers/{ref}/stats", VIEW, containers.stats),
        ("POST", "/containers/{ref}/resize", OPERATE, streams.resize),
        ("POST", "/containers/{ref}/start", OPERATE, containers.start),
        ("POST", "/containers/{ref}/stop", OPERATE, containers.stop),
        ("POST", "/containers/{ref}/restart", OPERATE, containers.restart),
        ("POST", "/containers/{ref}/kill", OPERATE, containers.kill),
        ("POST", "/containers/{ref}/update", OPERATE, containers.update),
        ("POST", "/containers/{ref}/rename", OPERATE, containers.rename),
        ("POST", "/containers/{ref}/pause", OPERATE, containers.pause),
        ("POST", "/containers/{ref}/unpause", OPERATE, containers.unpause),
        ("POST", "/containers/{ref}/attach", OPERATE, streams.attach),
        ("POST", "/containers/{ref}/wait", VIEW, containers.wait),
        ("DELETE", "/containers/{ref}", OPERATE, containers.remove),
        ("HEAD", "/containers/{ref}/archive", OPERATE, streams.archive_stat),
        ("GET", "/containers/{ref}/archive", OPERATE, streams.archive_get),
        ("PUT", "/containers/{ref}/archive", OPERATE, streams.archive_put),
        ("POST", "/containers/{ref}/exec", OPERATE, streams.exec_create),
        ("POST", "/exec/{id}/start", OPERATE, streams.exec_start),
        ("POST", "/exec/{id}/resize", OPERATE, streams.exec_resize),
        ("GET", "/exec/{id}/json", OPERATE, streams.exec_inspect),
        ("POST", "/commit", OPERATE, containers.commit),
        ("GET", "/images/json", VIEW, images.listing),
        ("GET", "/images/search", VIEW, images.search),
        ("GET", "/images/get", OPERATE, images.save),
        ("POST", "/images/create", OPERATE, images.create),
        ("POST", "/images/load", OPERATE, images.load),
        ("POST", "/images/prune", OPERATE, images.prune),
        ("GET", "/images/{name}/json", VIEW, images.inspect),
        ("GET", "/images/{name}/history", VIEW, images.history),
        ("GET", "/images/{name}/get", OPERATE, images.save),
        ("POST", "/images/{name}/push", OPERATE, images.push),
        ("POST", "/images/{name}/tag", OPERATE, images.tag),
        ("DELETE", "/images/{name}", OPERATE, images.remove),
        ("GET", "/distribution/{name}/json", VIEW, images.distribution),
        ("POST", "/build", OPERATE, builds.build),
        ("POST", "/build/prune", OPERATE, builds.prune),
        ("GET", "/networks", VIEW, networks.network_listing),
        ("POST", "/networks/create", OPERATE, networks.network_create),
        ("POST", "/networks/prune", OPERATE, networks.network_prune),
        ("GET", "/networks/{ref}", VIEW, networks.network_inspect),
        ("DELETE", "/networks/{ref}", OPERATE, networks.network_remove),
        ("POST", "/networks/{ref}/connect", OPERATE, networks.network_connect),
        ("POST", "/networks/{ref}/disconnect", OPERATE, networks.network_disconnect),
        ("GET", "/volumes", VIEW, networks.volume_listing),
        ("POST", "/volumes/create", OPERATE, networks.volume_create),
        ("POST", "/volumes/prune", OPERATE, networks.volume_prune),
        ("GET", "/volumes/{name}", VIEW, networks.volume_inspect),
        ("DELETE", "/volumes/{name}", OPERATE, networks.volume_remove),
        ("POST", "/session", VIEW, system.no_session),
        ("POST", "/grpc", VIEW, system.no_session),
        ("PUT", "/volumes/{name}", OPERATE, system.no_cluster_volume),
        ("GET", "/plugins", VIEW, system.no_plugins),
        *[
            (method, "/plugins/{rest}", VIEW if method == "GET" else OPERATE, system.no_plugin)
            for method in ("GET", "POST", "DELETE")
        ],
        *[
            (method, f"/{part}{rest}", VIEW if method == "GET" else OPERATE, system.no_swarm)
            for method in ("GET", "POST", "DELETE")
            for part in ("swarm", "nodes", "services", "tasks", "secrets", "configs")
            for rest in ("", "/{rest}")
        ],
    ]
]

_TABLE = [(route, route.pattern) for route in ROUTES]


def find(method: str, path: str) -> tuple[DockerRoute | None, dict[str, str], bool]:
    """Return the route of a call, the named parts of its path, and whether the path exists at all (for 405)."""
    known = False
    for route, pattern in _TABLE:
        if found := pattern.match(path):
            if route.method == method:
                return route, found.groupdict(), True
            known = True
    return None, {}, known


def is_docker_path(path: str) -> bool:
    """Tell whether a path without a version is one of the engine's (pages end in a slash, these never do)."""
    return not path.endswith("/") and any(pattern.match(path) for _, pattern in _TABLE)

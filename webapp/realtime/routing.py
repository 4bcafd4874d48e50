"""Which consumer a websocket goes to. Names may be ids, unique starts of ids, or names."""

from __future__ import annotations

from channels.routing import URLRouter
from django.urls import path, re_path

from webapp.dockerapi.app import application as docker_api
from webapp.dockerapi.attachws import PATTERN as DOCKER_ATTACH
from webapp.realtime.events import EventsConsumer
from webapp.realtime.logs import ContainerLogsConsumer
from webapp.realtime.operations import OperationConsumer
from webapp.realtime.sockets import UnknownSocket
from webapp.realtime.stats import AllStatsConsumer, StatsConsumer
from webapp.realtime.terminal import TerminalConsumer

ROUTES = [
    path("ws/events/", EventsConsumer.as_asgi()),
    path("ws/stats/", AllStatsConsumer.as_asgi()),
    path("ws/operations/<str:ref>/", OperationConsumer.as_asgi()),
    path("ws/containers/<str:ref>/logs/", ContainerLogsConsumer.as_asgi()),
    path("ws/containers/<str:ref>/terminal/", TerminalConsumer.as_asgi()),
    path("ws/containers/<str:ref>/stats/", StatsConsumer.as_asgi()),
    re_path(DOCKER_ATTACH, docker_api),
    path("<path:anything>", UnknownSocket.as_asgi()),
]

websockets = URLRouter(ROUTES)

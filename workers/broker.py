"""How everybody of ours talks to Redis: one place for the address and for Celery's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio

from workers.keys import home_folder

if TYPE_CHECKING:
    from celery import Celery

# An unacknowledged task comes back after this long. Short, because a second delivery costs nothing here (the node's table of
# operations knows it) while tasks that a killed worker had reserved wait for it.
VISIBILITY_TIMEOUT_S = float(os.environ.get("WHARFINGER_VISIBILITY_TIMEOUT_S") or 60)

MOST_CONNECTIONS = 64  # of one event loop; each call holds one for a moment only
CONNECTION_WAIT_S = 30


def redis_url(home: Path | None = None) -> str:
    """Return `REDIS_URL`, else the private Redis on its unix socket: `unix:///var/lib/wharfinger/redis/redis.sock`."""
    return os.environ.get("REDIS_URL") or f"unix://{(home or home_folder()) / 'redis' / 'redis.sock'}"


def connect(url: str = "") -> redis.Redis:
    """Return a client for threads; it makes connections as needed and speaks bytes."""
    return redis.Redis.from_url(url or redis_url(), socket_timeout=30, socket_connect_timeout=5)


def connect_async(url: str = "") -> redis.asyncio.Redis:
    """Return a client for one event loop; it speaks bytes. Who finds all its connections taken waits for one.

    (The plain pool raises then: of a hundred streams that write at once, some would end without a word.)
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url or redis_url(),
        max_connections=MOST_CONNECTIONS,
        timeout=CONNECTION_WAIT_S,
        socket_timeout=30,
        socket_connect_timeout=5,
    )
    return redis.asyncio.Redis.from_pool(pool)


def make_app(name: str, url: str = "", **settings: Any) -> Celery:  # settings: Celery's own names
    """Return a Celery application on our broker: JSON only, no results (outcomes are events), tasks acknowledged late."""
    from celery import (
        Celery,
    )  # here: whoever never sends a task (the agent, as a rule) does without its 15 MB

    # without fixups: where DJANGO_SETTINGS_MODULE is set, Celery would load the web site into the root worker
    app = Celery(name, set_as_current=False, fixups=[])
    app.conf.update(
        broker_url=_celery_url(url or redis_url()),
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_interval": min(5.0, VISIBILITY_TIMEOUT_S),  # seconds; by default a hundred
            "unacked_restore_throttle": 1,
            "unacked_restore_limit": 100,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=False,
        task_create_missing_queues=True,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        enable_utc=True,
        **settings,
    )
    return app


def _celery_url(url: str) -> str:
    """Celery names a Redis on a unix socket `redis+socket://`, everybody else `unix://`."""
    return "redis+socket://" + url.removeprefix("unix://") if url.startswith("unix://") else url

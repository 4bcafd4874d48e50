"""The worker's Celery application.

    celery -A workers.celery_app worker -Q node.local --pool threads --concurrency 16
    celery -A workers.celery_app worker -Q node.local.bulk --pool threads --concurrency 4

Two queues a node: `node.<name>` for what answers in moments, `node.<name>.bulk` for builds, transfers and archives, each
with a worker process of its own, so that five thousand builds never keep a container from starting, and Python's interpreter
lock is not shared between them.
"""

from __future__ import annotations

import warnings

from celery.platforms import SecurityWarning

from workers.broker import make_app

# Celery warns of workers that run as root. Ours must: they mount file systems; and they accept signed JSON only.
warnings.filterwarnings("ignore", category=SecurityWarning)

app = make_app(
    "wharfinger",
    imports=("workers.tasks",),
    worker_proc_alive_timeout=60,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)

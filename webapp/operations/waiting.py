"""`?wait=SECONDS`: the answer comes when the work is done. Runs on the server's event loop (see `core.later`)."""

from __future__ import annotations

import time
from collections.abc import Callable

from channels.db import database_sync_to_async
from django.http import HttpResponse

from webapp.core.later import Later
from webapp.operations.models import Operation, Status
from webapp.realtime.hub import hub

LOOK_AGAIN_S = 1.0  # should a wake-up be lost
LOOK_AGAIN_MAX_S = 5.0


def wait_then(
    operation_id: str, seconds: float, finish: Callable[[Operation], HttpResponse], otherwise: HttpResponse
) -> Later:
    """Return what a view puts into `wf_later`: waits up to `seconds`, then `finish` makes the answer (in a thread).

    When the work has not ended by then the answer is `otherwise`.
    """

    async def later() -> HttpResponse:
        if not await wait_for(operation_id, seconds):
            return otherwise
        return await database_sync_to_async(_finished)(operation_id, finish, otherwise)

    return later


async def wait_for(operation_id: str, seconds: float, *, in_request: bool = True) -> bool:
    """Wait until an operation has ended; return whether it has. A lost wake-up costs a moment, not the answer.

    Outside of a request (`in_request` false) the database is asked in a thread of the pool.
    """
    deadline = time.monotonic() + seconds
    is_final = database_sync_to_async(
        _is_final, thread_sensitive=in_request
    )  # holds no connection while it waits
    pause_s = LOOK_AGAIN_S
    async with hub.subscribe(f"operation:{operation_id}") as subscription:
        while True:
            if await is_final(operation_id):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            while (message := await subscription.get(min(left, pause_s))) is not None:
                if (
                    message[1].get("status") != Status.RUNNING
                ):  # a start alone is no reason to ask the database
                    break
            if message is None:
                pause_s = min(pause_s * 1.5, LOOK_AGAIN_MAX_S)


def _is_final(operation_id: str) -> bool:
    status = Operation.objects.filter(pk=operation_id).values_list("status", flat=True).first()
    return status is None or Status(status).is_final


def _finished(
    operation_id: str, finish: Callable[[Operation], HttpResponse], otherwise: HttpResponse
) -> HttpResponse:
    operation = Operation.objects.select_related("node", "user").filter(pk=operation_id).first()
    return otherwise if operation is None or not operation.is_final else finish(operation)

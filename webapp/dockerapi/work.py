"""Asking for work and waiting for its end, with errors in the words that Docker's clients know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from webapp.accounts.actor import Actor
from webapp.containers.models import Container
from webapp.containers.selectors import container_get
from webapp.core import spool
from webapp.core.errors import AppError, Missing, NodeProblem
from webapp.dockerapi.call import in_thread
from webapp.dockerapi.errors import DockerError
from webapp.operations.models import Operation, Status
from webapp.operations.waiting import wait_for
from webapp.realtime.hub import hub

LONGEST_WAIT_S = 24 * 3600.0
RECORDS_BEHIND_S = 1.0  # our records follow the node within this, or something is wrong
ALIVE = ("running", "paused")
T = TypeVar("T")


async def done(service: Callable[..., Any], *args: Any, **kwargs: Any) -> Operation:
    """Call a service and wait until its operation has ended well; return it. Raises `AppError` as the node had it."""
    accepted = await in_thread(service, *args, **kwargs)
    return await finished(operation_in(accepted))


async def handed_over(spool_id: str, service: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a service that takes an uploaded file over; when it refuses the file is removed."""
    try:
        return await in_thread(service, *args, **kwargs)
    except Exception:
        if spool_id:
            await in_thread(spool.discard, spool_id)
        raise


def operation_in(accepted: Any) -> Operation:
    """Return the operation in what a service gave: itself, or the last of a tuple."""
    operation = accepted[-1] if isinstance(accepted, tuple) else accepted
    assert isinstance(operation, Operation)
    return operation


async def finished(operation: Operation) -> Operation:
    if not await wait_for(operation.id, LONGEST_WAIT_S):
        raise DockerError("the operation has not ended", 504)
    ended = await in_thread(Operation.objects.select_related("node").get, pk=operation.pk)
    if ended.status != Status.SUCCEEDED:
        raise NodeProblem.from_json(ended.error)
    return ended


async def container(actor: Actor, ref: str) -> Container:
    """Return the container that a path names, else answer as the engine does."""
    return await in_thread(container_of, ref)


def container_of(ref: str) -> Container:
    """As `container`, for code that runs in a thread."""
    try:
        return container_get(ref)
    except Missing:
        raise DockerError(f"No such container: {ref}", 404) from None


async def until_recorded(container_id: str, *, gone: bool) -> None:
    """Wait until our records know that a container has ended (or is `gone`), which the node itself has just told.

    Then whoever heard of the end can remove the container, or use its name again. Does not wait for ever.
    """

    def is_known() -> bool:
        status = Container.objects.filter(pk=container_id).values_list("status", flat=True).first()
        return status is None or (not gone and status not in ALIVE)

    deadline = time.monotonic() + RECORDS_BEHIND_S
    async with hub.subscribe("events") as told:
        while not await in_thread(is_known) and time.monotonic() < deadline:
            while (message := await told.get(0.2)) is not None and message[1].get("subject") != container_id:
                pass


def docker_error(error: AppError) -> DockerError:
    """Return an error of ours as the API says it. The status is the engine's where clients look at it."""
    message = error.detail
    if error.hint and error.status in (401, 403):
        message = f"{message} ({error.hint})"
    status = 500 if error.status in (422, 502, 507) else error.status
    return DockerError(message, status)

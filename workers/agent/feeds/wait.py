"""Waiting for a container: `not-running`, `next-exit` or `removed`. The waiter is registered before `opened` is sent."""

from __future__ import annotations

import asyncio
from typing import Any

from engine.containers.model import Container
from engine.errors import ContainerNotFound
from workers.agent.feeds import params as p
from workers.agent.feeds.follow import Sources
from workers.agent.journal import wait_for_growth
from workers.agent.stream import NodeStream
from workers.contracts.values import ContractError

CONDITIONS = ("not-running", "next-exit", "removed")


async def wait(stream: NodeStream, sources: Sources) -> dict[str, Any]:
    """End with the exit code when the condition holds."""
    condition = p.text(stream.params, "condition", "not-running")
    if condition not in CONDITIONS:
        raise ContractError(f"condition must be one of {', '.join(CONDITIONS)}")
    grown = sources.journal.subscribe()
    try:
        first = last = sources.engine.container_get(ref=p.text(stream.params, "container"))
        await stream.opened(container=first.id)
        while not stream.closed.is_set():
            try:
                last = await asyncio.to_thread(sources.engine.container_get, ref=first.id)
            except ContainerNotFound:  # it may have ended and gone since we looked
                told = await asyncio.to_thread(sources.engine.last_record, container=first.id)
                return _facts(told or last)
            if _holds(condition, first, last):
                return _facts(last)
            await wait_for_growth(grown)
    finally:
        sources.journal.unsubscribe(grown)
    return {}


def _holds(condition: str, first: Container, now: Container) -> bool:
    if condition == "removed":
        return False
    ended = not now.status.is_alive() and now.status not in ("creating", "created", "restarting")
    if condition == "not-running":
        return ended or (not now.status.is_alive() and now.status != "restarting")
    return now.finished_at > first.finished_at and (ended or now.restart_count > first.restart_count)


def _facts(container: Container) -> dict[str, Any]:
    return {"exit_code": container.exit_code, "error": container.error, "oom_killed": container.oom_killed}

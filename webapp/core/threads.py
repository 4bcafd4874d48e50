"""Database work of long-lived coroutines: in a thread of the pool, with a connection that is looked after.

A websocket has no end of a request at which Django closes what is stale; so each piece of work begins and ends as a request does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async

P = ParamSpec("P")
R = TypeVar("R")


def in_thread(function: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """Return `function` as a coroutine function that runs in a pool thread."""
    wrapped: Callable[P, Awaitable[R]] = database_sync_to_async(function, thread_sensitive=False)
    return wrapped

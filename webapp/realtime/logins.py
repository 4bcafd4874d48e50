"""Live connections end when the login or token behind them does: at once on a wake-up, else within some seconds.

One look at the database judges all live connections of the process.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from django.db import DatabaseError

from webapp.accounts.actor import Actor
from webapp.accounts.authentication import still_valid
from webapp.core.threads import in_thread
from webapp.realtime.hub import hub
from webapp.realtime.wake import LOGINS

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 4.0
MAX_TOTAL = 2000
MAX_A_USER = 200
MAX_AN_ADDRESS = 500

Close = Callable[[], Awaitable[None]]

_live: dict[Any, tuple[Actor, Close]] = {}
_uncounted: set[Any] = set()


class TooManyConnections(Exception):
    """The person, the address or the server has as many live connections as are allowed."""


def enter(key: Any, actor: Actor, close: Close) -> None:
    """Watch over a connection; `close` is called when its login ends. Raises `TooManyConnections`."""
    counted = [other for held, (other, _) in _live.items() if held not in _uncounted]
    users = Counter(other.user.pk for other in counted if other.user)
    addresses = Counter(other.address for other in counted)
    mine = users[actor.user.pk] if actor.user else 0
    if len(counted) >= MAX_TOTAL or mine >= MAX_A_USER or addresses[actor.address] >= MAX_AN_ADDRESS:
        raise TooManyConnections
    _live[key] = (actor, close)


def watch_over(key: Any, actor: Actor, close: Close) -> None:
    """Watch over a call that lasts (a docker command's); a script may have many, so these are not limited."""
    _uncounted.add(key)
    _live[key] = (actor, close)


def leave(key: Any) -> None:
    _live.pop(key, None)
    _uncounted.discard(key)


def count() -> int:
    return len(_live)


async def watch() -> None:
    """Look again and again, for ever."""
    async with hub.subscribe(LOGINS, size=8) as subscription:
        while True:
            await subscription.get(LOOK_EVERY_S)
            try:
                await look()
            except DatabaseError as error:
                logger.warning("live logins were not judged: %s", error)


async def look() -> int:
    """Close the connections whose login has ended; return how many."""
    watched = dict(_live)
    if not watched:
        return 0
    valid = await in_thread(still_valid)([actor for actor, _ in watched.values()])
    ended = [(key, close) for key, (actor, close) in watched.items() if actor not in valid]
    for key, close in ended:
        leave(key)
        await close()
    return len(ended)

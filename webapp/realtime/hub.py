"""What wakes waiting requests and live pages in this process.

One subscription to Redis serves the whole process (`listen`, run by the ASGI lifespan). A subscriber has a bounded
queue: when it is full the message is dropped and `gap` set, and the reader is told to look at everything again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from django.conf import settings
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

QUEUE_SIZE = 256


class Subscription:
    """Messages on some topics, in order. `gap` says that messages were dropped since it was last cleared."""

    def __init__(self, topics: Iterable[str], size: int = QUEUE_SIZE) -> None:
        self.topics = tuple(topics)
        self.gap = False
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(size)

    def offer(self, topic: str, data: dict[str, Any]) -> None:
        """Put a message in from any thread."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._put(topic, data)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, topic, data)

    def _put(self, topic: str, data: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait((topic, data))
        except asyncio.QueueFull:
            self.gap = True

    async def get(self, timeout_s: float | None = None) -> tuple[str, dict[str, Any]] | None:
        """Return the next message, or None after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._queue.get()
        except TimeoutError:
            return None


class Hub:
    """Topics to subscriptions. Thread-safe; subscriptions belong to the loop that made them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_topic: dict[str, set[Subscription]] = {}
        self.connected = False

    @asynccontextmanager
    async def subscribe(self, *topics: str, size: int = QUEUE_SIZE) -> AsyncIterator[Subscription]:
        subscription = Subscription(topics, size)
        with self._lock:
            for topic in topics:
                self._by_topic.setdefault(topic, set()).add(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                for topic in topics:
                    self._by_topic[topic].discard(subscription)
                    if not self._by_topic[topic]:
                        del self._by_topic[topic]

    def deliver(self, messages: Iterable[list[Any] | tuple[str, dict[str, Any]]]) -> None:
        """Hand messages to the subscriptions of this process."""
        for topic, data in messages:
            with self._lock:
                interested = list(self._by_topic.get(topic, ()))
            for subscription in interested:
                subscription.offer(topic, data)

    def mark_gap(self) -> None:
        """Tell every subscriber that messages may be missing (Redis was away)."""
        with self._lock:
            everybody = {subscription for group in self._by_topic.values() for subscription in group}
        for subscription in everybody:
            subscription.gap = True
            subscription.offer("gap", {})

    async def listen(self) -> None:
        """Pass on what Redis brings, for ever; reconnects by itself."""
        pause_s = 0.1
        while True:
            try:
                await self._listen_once()
                pause_s = 0.1
            except (RedisError, OSError) as error:
                if self.connected:
                    logger.warning("live updates: Redis is gone (%s)", error)
                self.connected = False
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 2.0)

    async def _listen_once(self) -> None:
        from webapp.realtime.wake import CHANNEL

        client = redis.asyncio.Redis.from_url(settings.REDIS_URL, health_check_interval=10)
        try:
            async with client.pubsub() as pubsub:
                await pubsub.subscribe(CHANNEL)
                self.mark_gap()
                self.connected = True
                async for message in pubsub.listen():
                    if message["type"] == "message":
                        self.deliver(json.loads(message["data"]))
        finally:
            await client.aclose()


hub = Hub()

"""Watches over the operations that this process holds: renews leases, hears cancellations, minds deadlines.

One thread for all of them. Celery's own time limits and revocations need processes of their own or remote control; with a pool
of threads an operation is stopped through its `CancelToken`, which all long work of the engine looks at every second.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import threading
import time
from dataclasses import dataclass

import redis

from engine.errors import EngineError
from engine.progress import CancelToken
from workers.contracts import names
from workers.contracts.signing import NodeKey
from workers.ledger import RENEW_EVERY_S, Claim, Ledger

logger = logging.getLogger(__name__)

POLL_S = 0.4

REQUESTED = "requested"
DEADLINE = "deadline"
FENCED = "fenced"
SHUTDOWN = "shutdown"


@dataclass
class Held:
    """An operation under watch. `reason` says why its token was cancelled."""

    claim: Claim
    token: CancelToken
    deadline: float  # time.monotonic()
    reason: str = ""

    def stop(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.token.cancel()


class Keeper:
    """Holds the table of running operations of this process."""

    def __init__(self, ledger: Ledger, connection: redis.Redis, key: NodeKey) -> None:
        self._ledger = ledger
        self._redis = connection
        self._key = key
        self._held: dict[str, Held] = {}
        self._guard = threading.Lock()
        self._arrived = threading.Event()
        self._stop_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def watch(self, claim: Claim, deadline_s: float) -> Held:
        """Begin to watch; the token of the answer is cancelled when the work must stop."""
        held = Held(claim, CancelToken(), time.monotonic() + deadline_s)
        with self._guard:
            self._held[claim.holder] = held
        self._arrived.set()
        return held

    def forget(self, held: Held) -> None:
        with self._guard:
            self._held.pop(held.claim.holder, None)

    def stop_all(self, *, after_s: float) -> None:
        """Let what runs end within `after_s`, then stop it because this process ends; the next one does it again."""
        with self._guard:
            self._stop_at = time.monotonic() + after_s

    def is_cancelled(self, operation_id: str) -> bool:
        """Tell whether somebody asked to stop an operation, in a way that only a holder of the node's key can."""
        try:
            return self._is_wish(operation_id, self._redis.get(names.cancel_key(operation_id)))
        except (redis.RedisError, OSError):
            return False

    def _is_wish(self, operation_id: str, text: object) -> bool:
        wanted = self._key.sign("cancel", operation_id.encode()).encode()
        return isinstance(text, bytes) and hmac.compare_digest(text, wanted)

    def _current(self) -> list[Held]:
        with self._guard:
            return list(self._held.values())

    def _run(self) -> None:
        renewed = time.monotonic()
        while True:
            if not self._current():
                self._arrived.clear()
                self._arrived.wait(timeout=5)
            time.sleep(POLL_S)
            current = self._current()
            self._hear(current)
            now = time.monotonic()
            for held in current:
                if now > self._stop_at:
                    held.stop(SHUTDOWN)
                elif now > held.deadline:
                    held.stop(DEADLINE)
            if now - renewed >= RENEW_EVERY_S or now < renewed:
                renewed = now
                self._renew(current)

    def _hear(self, current: list[Held]) -> None:
        if not current:
            return
        with contextlib.suppress(redis.RedisError, OSError):  # a wish waits in Redis until it is back
            wishes = self._redis.mget([names.cancel_key(held.claim.id) for held in current])
            for held, text in zip(current, wishes, strict=True):
                if self._is_wish(held.claim.id, text):
                    held.stop(REQUESTED)

    def _renew(self, current: list[Held]) -> None:
        try:
            lost = {claim.holder for claim in self._ledger.renew([held.claim for held in current])}
        except EngineError as error:
            logger.warning("leases were not renewed: %s", error)
            return
        for held in current:
            if held.claim.holder in lost and held in self._current():
                held.stop(FENCED)

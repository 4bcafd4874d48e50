"""When to try again, and after how long."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    A request is sent at most `attempts` times; a transfer that brought at least `progress_bytes` starts to count anew.
    `max_retry_after_s` is the longest `Retry-After` that is waited for; a registry that asks for more gets an error.
    """

    attempts: int = 5
    base_s: float = 0.5
    cap_s: float = 20.0
    max_retry_after_s: float = 60.0
    progress_bytes: int = 1024 * 1024

    def delay_s(self, attempt: int) -> float:
        """Return the pause after the failed attempt number `attempt`, counted from 1."""
        ceiling = min(self.cap_s, self.base_s * 2 ** (attempt - 1))
        return float(ceiling / 2 + random.uniform(0, ceiling / 2))


@dataclass(frozen=True)
class Timeouts:
    """Seconds without any byte, and the slowest transfer that is still worth waiting for."""

    connect_s: float = 15.0
    read_s: float = 30.0
    min_bytes_per_s: int = 2048
    rate_window_s: float = 30.0


def retry_after_s(header: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for (a number or a date), None where it says nothing."""
    text = (header or "").strip()[:64]
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None

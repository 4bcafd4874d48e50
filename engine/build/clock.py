"""When a build must stop: on request, when its time is over, or because another of its stages failed."""

from __future__ import annotations

import time

from engine.errors import Cancelled, Unavailable
from engine.progress import CancelToken


class BuildClock(CancelToken):
    """A token that also listens to the caller's token and to the clock."""

    def __init__(self, outer: CancelToken, limit_s: float) -> None:
        super().__init__()
        self._outer = outer
        self._limit_s = limit_s
        self.began = time.monotonic()

    @property
    def cancelled(self) -> bool:
        return super().cancelled or self._outer.cancelled or self.is_over

    @property
    def is_over(self) -> bool:
        return bool(self._limit_s) and time.monotonic() - self.began > self._limit_s

    @property
    def asked_by_caller(self) -> bool:
        return self._outer.cancelled

    def check(self) -> None:
        """Raise `Cancelled` if somebody asked to stop, `Unavailable` when the time is over."""
        self._outer.check()
        if super().cancelled:
            raise Cancelled("another part of the build failed")
        if self.is_over:
            raise Unavailable(
                f"the build took longer than {self._limit_s:.0f} s",
                hint="raise its limit, or split it into stages",
            )

    def wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not self.cancelled and (left := deadline - time.monotonic()) > 0:
            super().wait(min(left, 0.2))
        return self.cancelled

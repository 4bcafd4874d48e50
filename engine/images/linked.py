"""A token for the parts of one piece of work: set when the whole is cancelled, or when one part has failed."""

from __future__ import annotations

import time

from engine.errors import Cancelled
from engine.progress import CancelToken

_POLL_S = 0.1


class LinkedToken(CancelToken):
    """Cancelled when it is or when `parent` is; cancelling it leaves `parent` alone."""

    def __init__(self, parent: CancelToken) -> None:
        super().__init__()
        self._parent = parent

    @property
    def cancelled(self) -> bool:
        return self._event.is_set() or self._parent.cancelled

    def check(self) -> None:
        """Raise `Cancelled` if the whole or another part was stopped."""
        if self.cancelled:
            raise Cancelled("cancelled on request")

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`; return True at once when cancelled, a moment later when the parent is."""
        end = time.monotonic() + timeout_s
        while not self._parent.cancelled:
            left = end - time.monotonic()
            if self._event.wait(max(0.0, min(left, _POLL_S))):
                return True
            if left <= 0:
                return False
        return True

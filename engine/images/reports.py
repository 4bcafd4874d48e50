"""Progress of many layers told by many threads: one line at a time, and not more often than people can see."""

from __future__ import annotations

import threading
import time

from engine.progress import LayerProgress, Message, Reporter

_INTERVAL_S = 0.1


class LayerReports:
    """Passes on what the layers of one transfer do. A change of status is always told, a count at most ten times a second."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._last: dict[str, tuple[str, int, float]] = {}

    def layer(self, name: str, status: str, current: int = 0, total: int = 0) -> None:
        """Tell the state of the layer `name` (12 hex digits of its blob's digest)."""
        now = time.monotonic()
        with self._lock:
            last_status, last_current, last_time = self._last.get(name, ("", 0, 0.0))
            complete = 0 < total <= current
            soon = now - last_time < _INTERVAL_S and not complete
            if status == last_status and (current == last_current or soon):
                return
            self._last[name] = (status, current, now)
            self._report(LayerProgress(name, status, current, total))

    def note(self, text: str) -> None:
        with self._lock:
            self._report(Message(text))
